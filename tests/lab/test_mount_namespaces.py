"""The whole host sees what the units mount: none of them runs in another mount namespace than PID 1.

Which options imply a namespace depends on systemd's version, so the tests check running processes, not unit files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from sidespawn.host.policies import policy_of
from sidespawn.loading.parse import ENGINES
from sidespawn.setup import hardening
from tests.lab.before import unpack
from tests.lab.conftest import DropIn, new_service
from tests.lab.networks import Service, command, wait_until

HOST = Path("/proc/1/ns/mnt")
FIRST_TO_IMPLY_ONE = 254  # systemd versions: with PrivateNetwork=yes


@pytest.fixture(scope="module")
def service(shared_service: Service) -> Service:
    """Return one for all tests; only the last one changes more of the host than a unit's options."""
    return shared_service


def spool_unit(service: Service) -> str:
    return f"sidespawn-spool@{service.name}.service"


def namespace_of_the_spool_unit(service: Service, drop_in: DropIn, tmp_path: Path, options: str = "") -> str:
    """Have another process of the unit report it, since the unit's own process has ended once it is active."""
    seen = tmp_path / "namespace"
    drop_in(spool_unit(service), f"{options}\nExecReload=/bin/sh -c 'readlink /proc/self/ns/mnt >{seen}'")
    command("systemctl", "reload", spool_unit(service))
    return seen.read_text().strip()


def namespace_of_the_service(service: Service) -> str:
    """Ring until it is seen running: a run stays a second, which can be over before an emulated systemctl answers."""
    seen: list[Path] = []

    def look() -> bool:
        with service.places.doorbell.open("w") as doorbell:
            doorbell.write("\n")
        pid = command("systemctl", "show", "--property=MainPID", "--value", service.unit).stdout.strip()
        with suppress(OSError):  # it has ended, or pid is 0
            seen.append(Path(f"/proc/{pid}/ns/mnt").readlink())
        return bool(seen)

    wait_until(look)
    return str(seen[0])


def systemd_version() -> int:
    found = re.match(r"systemd (\d+)", command("systemctl", "--version").stdout)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("confinement", ENGINES)
def test_the_service_sees_the_hosts_mounts_and_the_host_sees_its(service: Service, confinement: str) -> None:
    """Try each engine's drop-in; the engine itself need not be installed."""
    service.wait_until_idle()  # a run of the engine before
    text = f'{service.places.policy.read_text()}\n[side_container]\nengine = "{confinement}"\n'
    hardening.drop_in(service.name).write_text(hardening.text_of(policy_of(service.places, text)))
    command("systemctl", "daemon-reload")
    assert namespace_of_the_service(service) == str(HOST.readlink())


def test_the_directories_are_made_where_the_host_sees_them(service: Service, drop_in: DropIn, tmp_path: Path) -> None:
    assert namespace_of_the_spool_unit(service, drop_in, tmp_path) == str(HOST.readlink())
    mounted = {line.split()[4] for line in Path("/proc/1/mountinfo").read_text().splitlines()}
    assert {str(path) for path in (service.places.home, service.places.spool, service.places.replies)} <= mounted


def test_the_option_that_0_1_0_had_would_hide_them(service: Service, drop_in: DropIn, tmp_path: Path) -> None:
    """Check that the previous test finds what went unnoticed with systemd 252 and shows with later versions."""
    found = namespace_of_the_spool_unit(service, drop_in, tmp_path, "PrivateNetwork=yes")
    assert (found != str(HOST.readlink())) == (systemd_version() >= FIRST_TO_IMPLY_ONE)


def test_an_option_that_implies_one_in_every_version_is_found(
    service: Service, drop_in: DropIn, tmp_path: Path
) -> None:
    assert namespace_of_the_spool_unit(service, drop_in, tmp_path, "PrivateMounts=yes") != str(HOST.readlink())


@pytest.fixture
def service_of_0_1_0(drop_in: DropIn, tmp_path: Path) -> Iterator[Service]:
    """Enable the service with that version, with its own units; afterwards with `drop_in`, which enables ours."""
    made = new_service()
    unpack(tmp_path).enable(made.name, "--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={made.state}")
    yield made
    made.clean()


def test_with_0_1_0s_own_units_the_test_above_fails_where_they_are_hidden(
    service_of_0_1_0: Service, drop_in: DropIn, tmp_path: Path
) -> None:
    hidden = systemd_version() >= FIRST_TO_IMPLY_ONE
    with pytest.raises(AssertionError) if hidden else nullcontext():
        test_the_directories_are_made_where_the_host_sees_them(service_of_0_1_0, drop_in, tmp_path)
    done = service_of_0_1_0.network().start()
    assert (done.returncode != 0) == hidden
