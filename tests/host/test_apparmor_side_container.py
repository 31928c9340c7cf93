"""The side containers' profile denies what docs/security.md says, and each engine can start, signal and stop one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sidespawn.setup.security_modules import SETS_PROFILES
from sidespawn.setup.systemd import version
from tests.attacks import inside
from tests.attacks.stage import AGENT_IMAGE, Attacker
from tests.attacks.test_escape import ATTEMPTS
from tests.host import tries
from tests.host.containers import run_inside
from tests.host.victims import victims
from tests.lab import dockers
from tests.lab.conftest import new_service
from tests.lab.networks import NEUTRON, SIDESPAWN, Service, command, wait_until_gone

DOCS = Path(__file__).parents[2] / "docs/security.md"
PROFILE = "sidespawn-side-container"
NAMED = f'[side_container]\napparmor = "{PROFILE}"\n'
EVERYTHING = (
    *("--cap-add=ALL", "--security-opt=seccomp=unconfined", "--security-opt=unmask=ALL", "--pid=host"),
    *("--network=none", "--volume=/sys:/sys:rw,rslave", "--read-only", "--tmpfs=/tmp"),
)


# ---------------------------------------------------------------- with any other confinement


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, dict[str, str]]]:
    """Return the result of each attempt, by profile."""
    service = new_service()
    try:
        service.enable_with(NAMED)
        with victims(service) as given:
            yield {profile: result_of(service.name, profile, given) for profile in ("unconfined", PROFILE)}
    finally:
        service.clean()


def result_of(name: str, profile: str, given: dict[str, Any]) -> dict[str, str]:
    options = (*EVERYTHING, f"--security-opt=apparmor={profile}", f"--name={name}")
    command("podman", "run", "--detach", "--pull=never", *options, AGENT_IMAGE, "sleep", "infinity")
    try:
        arguments = ("SIDE_CONTAINER", json.dumps(given))
        found: dict[str, str] = run_inside(name, inside, tries, arguments=arguments)
        return found
    finally:
        command("podman", "rm", "--force", "--time=0", name)


@pytest.mark.parametrize("name", tries.SIDE_CONTAINER)
def test_it_works_unconfined_and_is_denied_by_the_profile(found: dict[str, dict[str, str]], name: str) -> None:
    assert found["unconfined"][name] == "worked"
    assert found[PROFILE][name] != "worked"


def test_the_docs_name_all_of_it() -> None:
    rows = re.findall(r"^\| ([^|]+) \| AppArmor \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [*tries.SIDE_CONTAINER]


# ---------------------------------------------------------------- the engines' own


@pytest.fixture(scope="module", params=["podman", "docker"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Enable a service. The systemd engine is left out, since it cannot set a profile where /proc is missing."""
    with ExitStack() as stack:
        if request.param == "docker":
            stack.enter_context(dockers.running_docker(dockers.HELPERS))
        made = new_service(engine=request.param)
        stack.callback(made.clean)
        engine = f'engine = "{request.param}"\n' if request.param != "podman" else ""
        made.engine = "podman"  # otherwise enable_with names it a second time
        made.enable_with(NAMED + engine)
        made.engine = request.param
        yield made


def test_it_starts_is_signalled_and_stops(service: Service) -> None:
    network = service.network()
    done = network.start()
    assert (done.returncode, done.stderr) == (0, "")
    label = Path(f"/proc/{network.pid}/attr/apparmor/current").read_text().split()[0]
    assert PROFILE in label.split("//&")
    pid = network.pid
    assert network.kill("HUP").returncode == 0
    assert network.start().returncode == 0
    assert network.pid == pid
    assert network.kill("15").returncode == 0
    wait_until_gone(pid)
    assert network.start().returncode == 0
    pid = network.pid
    assert network.kill("9").returncode == 0
    wait_until_gone(pid)


def test_check_says_whether_systemd_can_set_it() -> None:
    service = new_service()
    try:
        service.enable_with(f'{NAMED}engine = "systemd"\n')
        said, network = command(*SIDESPAWN, "check", check=False).stdout, service.network()
        done = network.start()
        if version() >= SETS_PROFILES:
            assert "leave `apparmor` out" not in said
            assert Path(f"/proc/{network.pid}/attr/apparmor/current").read_text().strip() == f"{PROFILE} (enforce)"
            return
        assert "nothing will start; leave `apparmor` out" in said
        assert done.returncode != 0
        assert "status 231" in done.stderr  # EXIT_APPARMOR_PROFILE of systemd.exec(5)
    finally:
        service.clean()


@pytest.fixture(scope="module")
def exploited() -> Iterator[dict[str, str]]:
    """Return the results of a program in a side container with all tools; see tests/attacks/test_escape.py."""
    service = new_service()
    try:
        service.enable_with(f'image = "{AGENT_IMAGE}"\n\n{NAMED}')
        network = service.network()
        assert network.start().returncode == 0
        attacker = Attacker(network.container, NEUTRON)
        try:
            found: dict[str, str] = attacker(inside.tries)
            # Processes in a side container may signal each other, as haproxy and keepalived need.
            found["signal a process of its own"] = str(attacker(inside.run, ["kill", "-CONT", "1"])[0])
        finally:
            attacker.close()
        yield found
    finally:
        service.clean()


@pytest.mark.parametrize("number", ATTEMPTS)
def test_an_exploited_program_tries_to_get_out(exploited: dict[str, str], number: int) -> None:
    assert [each for each in ATTEMPTS[number] if exploited[each] == "worked"] == []


def test_an_exploited_program_keeps_what_it_is_for(exploited: dict[str, str]) -> None:
    assert exploited["raw socket"] == "worked"
    assert exploited["signal a process of its own"] == "0"
