"""What docs/kubernetes.md says to write into containerd's configuration, as containerd itself reads it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sidespawn.host_report.kubernetes import handler_of
from tests.kubernetes.containerds import CHECKOUT, PROGRAMS, VERSIONS
from tests.lab.networks import command

OLD, NEW = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"
OTHERS = """\
[plugins."{plugin}".containerd.runtimes.other]
  runtime_type = "io.containerd.runc.v2"
  [plugins."{plugin}".containerd.runtimes.other.options]
    BinaryName = "/other"
"""


def documented(name: str) -> str:
    """The lines for a handler."""
    text = (CHECKOUT / "docs/kubernetes.md").read_text(encoding="utf-8")
    found = re.search(rf"^    \[plugins\.\S+\.runtimes\.{name}\]\n(?:    .*\n)+", text, re.MULTILINE)
    assert found is not None
    return found[0]


def settings(version: str) -> tuple[int, str]:
    """The version of the configuration's form, and the plugin's name in it."""
    if not (PROGRAMS[version] / "containerd").exists():
        pytest.skip("needs containerd in .cache, which ./dev test kubernetes unpacks")
    return (3, NEW) if version == "2" else (2, OLD)


def handlers(version: str, path: Path) -> dict[str, str]:
    done = command(f"{PROGRAMS[version]}/containerd", f"--config={path}", "config", "dump")
    names = ("other", "sidespawn", "sidespawn-agent")
    return {name: str(handler_of(tomllib.loads(done.stdout), name).get("BinaryName", "")) for name in names}


def ours(plugin: str) -> str:
    return (documented("sidespawn") + documented("sidespawn-agent")).replace(OLD, plugin)


EVERY = {
    "other": "/other",
    "sidespawn": "/usr/share/sidespawn/sidespawn/engines/kubernetes-runtime",
    "sidespawn-agent": "/usr/share/sidespawn/sidespawn/engines/agent-runtime",
}


@pytest.mark.parametrize("version", VERSIONS)
def test_handlers_are_appended_to_the_others(version: str, tmp_path: Path) -> None:
    form, plugin = settings(version)
    path = tmp_path / "config.toml"
    path.write_text(f"version = {form}\n{OTHERS.format(plugin=plugin)}{ours(plugin)}")
    assert handlers(version, path) == EVERY


@pytest.mark.parametrize("version", VERSIONS)
def test_an_imported_file_keeps_the_others_from_containerd_2_on(version: str, tmp_path: Path) -> None:
    form, plugin = settings(version)
    path, imported = tmp_path / "config.toml", tmp_path / "imported.toml"
    path.write_text(f'version = {form}\nimports = ["{imported}"]\n{OTHERS.format(plugin=plugin)}')
    imported.write_text(f"version = {form}\n{ours(plugin)}")
    assert handlers(version, path) == EVERY | ({} if version == "2" else {"other": ""})
