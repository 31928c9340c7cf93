"""How the units are confined: the rating of `systemd-analyze security`, and the effect on running processes.

All other tests in this folder run with the same units, which shows that engines have what they need.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sidespawn.host.policies import load_policy, policy_of
from sidespawn.loading.parse import ENGINES
from sidespawn.setup import hardening
from tests.lab.networks import SIDESPAWN, Service, command, unit_state, wait_until

# From 0.0 (confined) to 10.0 (not at all); without any option it is 9.6. units/ENGINE.conf says what keeps each up.
CEILINGS = {"podman": 3.9, "docker": 3.9, "systemd": 3.9, "kubernetes": 4.0}
SPOOL_CEILING = 3.8
PODMAN_CEILING = 6.1 if hardening.has_selinux() else 6.0  # with SELinux, podman must be able to change its domain


@pytest.fixture(params=ENGINES)
def confined_for(request: pytest.FixtureRequest, shared_service: Service) -> Iterator[str]:
    """Install the service's units as they would be with this engine, which need not be running."""
    text = f'{shared_service.places.policy.read_text()}\n[side_container]\nengine = "{request.param}"\n'
    path = hardening.drop_in(shared_service.name)
    before = path.read_text()
    path.write_text(hardening.text_of(policy_of(shared_service.places, text)))
    command("systemctl", "daemon-reload")
    yield str(request.param)
    path.write_text(before)
    command("systemctl", "daemon-reload")


def exposure(unit: str) -> float:
    last = command("systemd-analyze", "security", "--no-pager", unit).stdout.strip().splitlines()[-1]
    return float(last.partition(f"{unit}: ")[2].split()[0])


def units(service: Service) -> tuple[str, str]:
    return service.unit, f"sidespawn-spool@{service.name}.service"


def test_no_unit_is_more_exposed_than_its_engine_needs(confined_for: str, shared_service: Service) -> None:
    found = {unit: exposure(unit) for unit in units(shared_service)}
    print(f"{confined_for}: {found}")
    for score, most in zip(found.values(), (CEILINGS[confined_for], SPOOL_CEILING), strict=True):
        assert most - 0.4 < score <= most  # a much higher ceiling would check nothing


def test_a_services_podman_is_no_more_exposed_than_it_needs(shared_service: Service) -> None:
    assert PODMAN_CEILING - 0.4 < exposure(podman_unit(shared_service)) <= PODMAN_CEILING


def podman_unit(service: Service) -> str:
    return f"sidespawn-podman@{service.name}.service"


def test_systemd_knows_every_option(confined_for: str, shared_service: Service) -> None:
    for unit in (*units(shared_service), podman_unit(shared_service)):
        done = command("systemd-analyze", "verify", "--man=no", unit, check=False)
        assert "sidespawn" not in done.stderr, f"{confined_for}: {done.stderr}"


def status_of(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def test_the_service_is_confined_and_sees_the_hosts_mounts(service: Service) -> None:
    network = service.network()
    assert network.start().returncode == 0
    host = Path("/proc/1/ns/mnt").readlink()
    policy = load_policy(service.places)
    for unit, kind in ((service.unit, ""), (podman_unit(service), "podman-service")):
        pid = int(command("systemctl", "show", "--property=MainPID", "--value", unit).stdout)
        status = status_of(pid)
        privileges = "0" if kind and hardening.has_selinux() else "1"
        assert (status["NoNewPrivs"], status["Seccomp"]) == (privileges, "2")
        lines = hardening.text_of(policy, kind).splitlines()
        bounds = [line.partition("=")[2] for line in lines if line.startswith("CapabilityBoundingSet=")]
        given = set(" ".join(bounds).split())
        assert ({f"CAP_{each}" for each in policy.side_container.capabilities} <= given) is bool(kind)
        assert int(status["CapBnd"], 16).bit_count() <= len(given)
        assert Path(f"/proc/{pid}/ns/mnt").readlink() == host
    # conmon would keep a mount namespace of podman alive, with a copy of all mounts in it.
    seen = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # it has ended
            if comm.read_text() == "conmon\n":
                seen.add(comm.parent.joinpath("ns/mnt").readlink())
    assert seen == {host}


def test_a_side_container_cannot_make_a_user_namespace(service: Service) -> None:
    """podman's own profile allows it; the filter that the service passes on does not."""
    network = service.network()
    network.start()
    filters = status_of(network.pid)["Seccomp_filters"]
    assert int(filters) > 1


def test_a_changed_policy_is_noticed_until_it_is_enabled_again(service: Service) -> None:
    policy = service.places.policy
    policy.write_text(policy.read_text() + '\n[side_container]\ncapabilities = ["NET_RAW"]\n')
    checked = command(*SIDESPAWN, "check", "--json", service.name).stdout
    assert any("sidespawn enable" in each for each in json.loads(checked)[0]["warnings"])
    service.enable()
    checked = command(*SIDESPAWN, "check", "--json", service.name).stdout
    assert not any("the unit's confinement is stale" in each for each in json.loads(checked)[0]["warnings"])
    assert "CAP_NET_ADMIN" not in hardening.drop_in(service.name, hardening.PODMAN).read_text()


def test_what_an_operator_put_beside_the_drop_in_stays(service: Service) -> None:
    own = hardening.drop_in(service.name).with_name("own.conf")
    own.write_text("[Service]\nNice=5\n")
    try:
        service.disable()
        assert not hardening.drop_in(service.name).exists()
        assert own.exists()
    finally:
        own.unlink()
        own.parent.rmdir()


def test_the_operators_own_options_hold(service: Service) -> None:
    own = hardening.drop_in(service.name).with_name("own.conf")
    own.write_text("[Service]\nCapabilityBoundingSet=~CAP_KILL\n")
    service.wait_until_idle()
    try:
        command("systemctl", "daemon-reload")
        network = service.network()
        assert network.start().returncode == 0
        assert "(internal)" in network.kill("HUP").stderr  # so the limit works
    finally:
        own.unlink()
        command("systemctl", "daemon-reload")
        wait_until(lambda: unit_state(service.unit) != "active", patience=20)
        assert network.kill("TERM").returncode == 0
