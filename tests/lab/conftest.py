"""Tests with a real systemd, podman and network namespaces. `./dev test` runs them in a lab if needed."""

from __future__ import annotations

import pwd
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sidespawn.host import labels
from sidespawn.setup.services import services_with_policy
from sidespawn.setup.systemd import INSTALLED
from sidespawn.system.places import RUN
from tests.lab.networks import ENGINE, NEUTRON, Service, command, command_lines, wait_until

# Options for a service's unit.
DropIn = Callable[[str, str], None]


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Check that the tests left no container, mount, namespace, unit, directory or process behind."""
    before = traces()
    yield
    assert_nothing_is_left(before)


def assert_nothing_is_left(before: dict[str, set[str]]) -> None:
    """Wait for that, if necessary. Leftovers of earlier tests may have disappeared in the meantime."""
    with suppress(AssertionError):
        wait_until(lambda: not new_since(before))
    assert new_since(before) == {}


def new_since(before: dict[str, set[str]]) -> dict[str, set[str]]:
    return {what: new for what, found in traces().items() if (new := found - before[what])}


def traces() -> dict[str, set[str]]:
    def lines(*argv: str) -> set[str]:
        return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())

    listed = lines("systemctl", "list-units", "--all", "--plain", "--no-legend", "sidespawn*")
    units = {line.split()[0] for line in listed}
    for name in (enabled := services_with_policy()):  # systemd starts its units at any time
        units = {unit for unit in units if f"@{name}." not in unit}
    if enabled:  # the last one that is disabled stops their slice
        units.discard("sidespawn.slice")
    return {
        "containers": lines("podman", "ps", "--all", "--format={{.Names}}"),
        "mounted images": lines("podman", "image", "mount"),
        "accounts": {each.pw_name for each in pwd.getpwall() if each.pw_name.startswith("sidespawn")},
        "namespaces": {line.split()[0] for line in lines("ip", "netns", "list")},
        "mounts": {line for line in Path("/proc/self/mounts").read_text().splitlines() if "sidespawn" in line},
        "services": set(enabled),
        "units": units,
        "unit files": {path.name for path in Path("/etc/systemd/system").rglob("sidespawn*")},
        "directories": {str(path) for path in (RUN, Path("/etc/sidespawn")) if path.exists()},
        "processes": {line for line in command_lines().values() if line.startswith(("/usr/sbin/", "/usr/bin/conmon"))},
    }


@pytest.fixture(scope="module")
def engine() -> str:
    """Return the engine that starts the side containers; a module may run its tests with several."""
    return ENGINE


@pytest.fixture
def service(engine: str) -> Iterator[Service]:
    """Enable a service with the shipped preset for each test, and remove everything of it afterwards."""
    made = new_service(engine=engine)
    made.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={made.state}")
    yield made
    made.clean()


@pytest.fixture
def drop_in(service: Service) -> Iterator[DropIn]:
    """Give a service's unit more options, as an operator does."""
    written = []

    def write(unit: str, options: str) -> None:
        path = INSTALLED / f"{unit}.d" / "test.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"[Service]\n{options}\n")
        written.append(path)
        command("systemctl", "daemon-reload")

    yield write
    for path in written:
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    command("systemctl", "daemon-reload")


@pytest.fixture(scope="module")
def shared_service(engine: str) -> Iterator[Service]:
    """Enable one service for a module's tests that do not change it."""
    made = new_service(engine=engine)
    made.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={made.state}")
    yield made
    made.clean()


def new_service(program: str = "dnsmasq", engine: str = ENGINE) -> Service:
    name = f"test-{uuid.uuid4().hex[:8]}"
    # In a directory that only root can write, like a host's /var/lib.
    state = Path("/var/lib") / f"sidespawn-{name}"
    state.mkdir()
    command("chown", f"{NEUTRON}:{NEUTRON}", str(state))
    labels.label(state, labels.WRITABLE)  # on SELinux hosts, as docs/selinux.md says
    return Service(name=name, state=state, program=program, engine=engine)
