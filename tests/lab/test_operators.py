"""Operators do not wait for agents, whatever an agent's requests take: the command returns at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, SLOWNESS, Network, Service, command, wait_until
from tests.lab.test_load import request_line

MOST = 20 * SLOWNESS  # seconds; 2 is the aim, and behind those starts it would be 150
STARTS = 60
PRESET = "neutron-dhcp-dnsmasq"


@pytest.fixture
def agents() -> Iterator[tuple[Service, Service]]:
    """Make two agents, of which one is hostile."""
    made = new_service(), new_service()
    for each in made:
        each.enable(f"--preset={PRESET}", f"--set=state_on_host={each.state}")
    yield made
    for each in made:
        each.clean()


def ask_for(networks: list[Network]) -> None:
    """Send all requests at once, and wait for no answer."""
    service = networks[0].service
    lines = []
    for network in networks:
        environment = {"PROCESS_TAG": f"dnsmasq-{network.id}"}
        argv = ["dnsmasq", *network.options()]
        lines.append(request_line({"op": "start", "argv": argv, "netns": network.netns, "env": environment}))
    (service.places.spool / "new").write_bytes(b"".join(lines))
    (service.places.spool / "new").rename(service.places.spool / "processes")
    service.places.doorbell.write_bytes(b"\n")


@contextmanager
def took(times: dict[str, float], what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    times[what] = time.monotonic() - began


def sidespawn(*arguments: str) -> str:
    return command(*SIDESPAWN, *arguments).stdout


@pytest.mark.slow
def test_an_operator_waits_for_none_of_60_starts_that_never_become_ready(
    agents: tuple[Service, Service], capsys: pytest.CaptureFixture[str]
) -> None:
    hostile, quiet = agents
    victims = [hostile.network() for _ in range(5)]
    for network in victims:
        assert network.start().returncode == 0
    neighbour = quiet.network()
    ask_for([hostile.network_that_is_never_ready() for _ in range(STARTS)])
    ours = {network.container for network in victims}
    wait_until(lambda: len(hostile.containers(every=False).keys() - ours) >= 4)
    times: dict[str, float] = {}
    with took(times, "ps"):
        assert victims[0].container in sidespawn("ps", hostile.name)
    with took(times, "signal"):
        sidespawn("signal", hostile.name, victims[0].netns, "HUP")
    for number, network in enumerate(victims[:3]):
        with took(times, f"stop {number + 1}"):
            sidespawn("stop", hostile.name, network.netns)
        assert network.container not in hostile.containers()
    # Also a program that is starting right now: one that has just come, since each is given up after ten seconds.
    before = hostile.containers(every=False).keys()
    come: set[str] = set()

    def comes() -> bool:
        come.update(hostile.containers(every=False).keys() - before)
        return bool(come)

    wait_until(comes, patience=60)
    starting = come.pop()
    with took(times, "stop of one that is being started"):
        sidespawn("stop", hostile.name, starting)
    assert starting not in hostile.containers(every=False)
    with took(times, "neighbour's start"):
        assert neighbour.start().returncode == 0
    with took(times, "neighbour's stop"):
        assert neighbour.kill("TERM").returncode == 0
    with took(times, "check"):
        command(*SIDESPAWN, "check", hostile.name, check=False)
    # There are starts under way all the time.
    wait_until(lambda: len(json.loads(sidespawn("ps", hostile.name, "--json"))) > 2)
    with took(times, "disable"):
        hostile.disable()
    with capsys.disabled():
        print("\n" + ", ".join(f"{what} {seconds:.2f} s" for what, seconds in times.items()), end=" ")
    del times["disable"]  # it ends each side container itself, whatever agent asked for it
    assert {what: seconds for what, seconds in times.items() if seconds > MOST} == {}
