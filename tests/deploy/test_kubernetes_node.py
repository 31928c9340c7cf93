"""The role `kubernetes`: a node's files, with the configuration as containerd itself reads it."""

from __future__ import annotations

import json
import os
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines.agent_runtime import LIST, read_list
from sidespawn.host_report.kubernetes import AGENT_RUNTIME, RUNTIME, handler_of
from sidespawn.setup.systemd import PACKAGE
from sidespawn.system.oci import RUNC
from tests.deploy.conftest import CHECKOUT, Ansible, Ran
from tests.lab.networks import command

CONTAINERD = {version: CHECKOUT / f".cache/containerd-{version}/usr/bin/containerd" for version in ("1.7", "2")}
ROLE: list[dict[str, Any]] = [
    {"name": "Prepare", "ansible.builtin.include_role": {"name": "sidespawn.host.kubernetes"}}
]
LINE = Path("/etc/tmpfiles.d/sidespawn-agents.conf")
OTHER = """\
version = {version}
[plugins."{plugin}".containerd.runtimes.other.options]
BinaryName = "/other"
"""
ELSEWHERE = """\
[plugins."{plugin}"]
netns_mounts_under_state_dir = true
"""
OLD, NEW = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"


@pytest.fixture(params=CONTAINERD)
def containerd(request: pytest.FixtureRequest) -> Path:
    if not CONTAINERD[request.param].exists():
        pytest.skip("needs containerd in .cache, which ./dev test deploy unpacks")
    return CONTAINERD[request.param]


@pytest.fixture
def configuration(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "config.toml"
    LINE.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        os.chown("/run/netns", 0, 0)
        os.chmod("/run/netns", 0o755)
    Path(LIST).unlink(missing_ok=True)
    if Path(LIST).parent.exists():
        Path(LIST).parent.rmdir()


def prepare(ansible: Ansible, containerd: Path, configuration: Path, *options: str, **more: object) -> Ran:
    variables = {
        "kubernetes_configuration": str(configuration),
        "kubernetes_containerd": str(containerd),
        "kubernetes_package": str(PACKAGE),
        "kubernetes_restart": False,
    }
    return ansible.play(ROLE, *options, check=False, variables=variables | more)


def handlers(containerd: Path, configuration: Path) -> dict[str, Any]:
    done = command(str(containerd), f"--config={configuration}", "config", "dump")
    return {name: handler_of(tomllib.loads(done.stdout), name) for name in ("other", "sidespawn", "sidespawn-agent")}


def owner_and_mode() -> tuple[int, int, int]:
    found = Path("/run/netns").stat()
    return found.st_uid, found.st_gid, found.st_mode & 0o7777


def test_the_role_is_documented(ansible: Ansible) -> None:
    told = ansible.call("ansible-doc", "--type=role", "--json", "sidespawn.host.kubernetes").stdout
    assert "kubernetes_agents" in told


def test_a_node_for_agents_is_prepared_and_put_back(ansible: Ansible, containerd: Path, configuration: Path) -> None:
    version, plugin = (3, NEW) if containerd == CONTAINERD["2"] else (2, OLD)
    before = OTHER.format(version=version, plugin=plugin) + ELSEWHERE.format(plugin=plugin)
    configuration.write_text(before)
    agents = {"kubernetes_agents": ["openstack/dhcp", "openstack/init"]}
    dry = prepare(ansible, containerd, configuration, "--check", "--diff", **agents)
    assert configuration.read_text() == before
    done = prepare(ansible, containerd, configuration, "--diff", **agents)
    assert done.code == 0, done.output
    assert dry.changed == done.changed
    found = handlers(containerd, configuration)
    assert found["other"]["BinaryName"] == "/other"
    assert (found["sidespawn"]["BinaryName"], found["sidespawn"]["Root"]) == (str(RUNTIME), RUNC)
    assert found["sidespawn-agent"]["BinaryName"] == str(AGENT_RUNTIME)
    assert found["sidespawn"]["SystemdCgroup"] is found["sidespawn-agent"]["SystemdCgroup"] is True
    assert read_list(LIST) == {"openstack/dhcp", "openstack/init"}
    assert LINE.read_text() == "d /run/netns 2775 root 42435\n"
    assert owner_and_mode() == (0, 42435, 0o2775)
    assert not any(prepare(ansible, containerd, configuration, **agents).changed.values())
    done = prepare(ansible, containerd, configuration, kubernetes_state="absent")
    assert done.code == 0, done.output
    assert tomllib.loads(configuration.read_text()) == tomllib.loads(before)
    assert not Path(LIST).exists()
    assert not LINE.exists()
    assert owner_and_mode() == (0, 0, 0o755)


def test_a_node_whose_agents_could_replace_the_names_of_pods(
    ansible: Ansible, containerd: Path, configuration: Path
) -> None:
    version, plugin = (3, NEW) if containerd == CONTAINERD["2"] else (2, OLD)
    agents = {"kubernetes_agents": ["openstack/dhcp"]}
    for text in ("", OTHER.format(version=version, plugin=plugin)):
        configuration.unlink(missing_ok=True)
        if text:
            configuration.write_text(text)
        done = prepare(ansible, containerd, configuration, **agents)
        assert done.code != 0
        assert "netns_mounts_under_state_dir" in done.output
        assert (configuration.read_text() if text else "") == text
        assert not Path(LIST).exists()
    done = prepare(ansible, containerd, configuration, kubernetes_share_pods_names=True, **agents)
    assert done.code == 0, done.output
    assert read_list(LIST) == {"openstack/dhcp"}


def test_a_node_with_a_newer_form_of_the_configuration(ansible: Ansible, configuration: Path) -> None:
    """Version 4 is of containerd 2.3, which is not here: a dry run, which has no containerd check it."""
    configuration.write_text(OTHER.format(version=4, plugin=NEW))
    dry = prepare(ansible, CONTAINERD["2"], configuration, "--check", "--diff")
    assert dry.code == 0, dry.output
    assert f'plugins."{NEW}".containerd.runtimes.sidespawn' in dry.output


def test_a_node_without_agents_and_without_a_configuration(
    ansible: Ansible, containerd: Path, configuration: Path
) -> None:
    dry = prepare(ansible, containerd, configuration, "--check", "--diff")
    assert dry.code == 0, dry.output
    assert not configuration.exists()
    done = prepare(ansible, containerd, configuration, "--diff")
    assert done.code == 0, done.output
    assert dry.changed == done.changed
    found = handlers(containerd, configuration)
    assert found["sidespawn"]["BinaryName"] == str(RUNTIME)
    assert found["sidespawn-agent"] == {}
    assert not Path(LIST).exists()


def test_containerd_is_restarted_if_it_has_not_read_its_configuration(
    ansible: Ansible, containerd: Path, configuration: Path
) -> None:
    """An earlier run may not have restarted it."""
    unit, restart = (
        f"test-containerd-{uuid.uuid4().hex[:6]}.service",
        "sidespawn.host.kubernetes : Have containerd read it",
    )
    given = {"kubernetes_unit": unit, "kubernetes_restart": True}

    def pid() -> str:
        return command("systemctl", "show", "--property=MainPID", "--value", unit).stdout

    def play(*options: str) -> tuple[bool, bool]:
        """Return whether anything is said to change, and whether it was restarted."""
        before = pid()
        done = prepare(ansible, containerd, configuration, *options, **given)
        assert done.code == 0, done.output
        assert done.changed.get(restart, False) or not any(done.changed.values())
        return done.changed.get(restart, False), pid() != before

    assert not prepare(ansible, containerd, configuration, **given).changed.get(restart, False)  # it does not run
    configuration.unlink()
    command("systemd-run", "--quiet", f"--unit={unit}", "sleep", "600")
    try:
        assert play("--check") == (True, False)
        assert prepare(ansible, containerd, configuration, kubernetes_unit=unit).code == 0  # writes, without a restart
        assert play("--check") == (True, False)
        assert play() == (True, True)
        assert play() == play("--check") == (False, False)
    finally:
        command("systemctl", "stop", unit)


@pytest.mark.parametrize("text", ["", 'version = 2\n[plugins."io.containerd.grpc.v1.cri"\n'], ids=["old", "torn"])
def test_a_configuration_that_cannot_be_changed_is_left(ansible: Ansible, configuration: Path, text: str) -> None:
    if not CONTAINERD["1.7"].exists():
        pytest.skip("needs containerd in .cache, which ./dev test deploy unpacks")
    configuration.write_text(text)
    done = prepare(ansible, CONTAINERD["1.7"], configuration)
    assert done.code != 0
    assert json.dumps(configuration.read_text()) == json.dumps(text)
