"""Fixtures that several folders of tests use. tests/lab has its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sidespawn import presets
from sidespawn.core.policy import Policy
from sidespawn.engines import control_groups
from tests.unit.shipped import preset

SOURCE = Path(presets.__file__).parent.parent.parent

# On a host where other tests run as well, the time of an example has no meaning.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


# They boot machines, which takes minutes, or need what labs lack.
ONLY_WHEN_NAMED = tuple(Path(__file__).parent / name for name in ("host", "machine", "kubernetes/node"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave those folders out of a plain `./dev test`; `./dev vm test` names them."""
    named = [Path(config.invocation_params.dir, argument.partition("::")[0]).resolve() for argument in config.args]
    for folder in ONLY_WHEN_NAMED:
        if collection_path == folder and not any(path.is_relative_to(folder) for path in named):
            return True
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also what takes many minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `long` unless they were asked for, with `--all` or by name."""
    if config.getoption("--all") or any("::" in argument for argument in config.args):
        return
    left_out = [each for each in items if each.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [each for each in items if each not in left_out]


@pytest.fixture(scope="session")
def neutron_dhcp() -> Policy:
    """Return the shipped policy neutron-dhcp-dnsmasq, unchanged."""
    return preset("neutron-dhcp-dnsmasq")


@pytest.fixture
def a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a host with all controllers, and with systemd's limits."""
    (tmp_path / "controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "limits").write_text("Limit Soft Limit Hard Limit Units\nMax processes  63311  63311  processes\n")
    monkeypatch.setattr(control_groups, "CONTROLLERS", tmp_path / "controllers")
    monkeypatch.setattr(control_groups, "PID_1_LIMITS", tmp_path / "limits")
    return tmp_path


@pytest.fixture
def apart(tmp_path: Path) -> Callable[[str], str]:
    """Run Python statements as PID 1 of separate mount, pid and network namespaces, and return their output.

    They see `tmp_path`, and their mounts disappear with them. A failed assertion fails the test.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root for a mount namespace of its own")

    def run(statements: str) -> str:
        code = f"from pathlib import Path\ntmp_path = Path({str(tmp_path)!r})\n{statements}"
        apart = ("/usr/bin/unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
        done = subprocess.run(
            [*apart, sys.executable, "-W", "error", "-c", code],
            capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": str(SOURCE)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
