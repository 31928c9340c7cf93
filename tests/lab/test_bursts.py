"""No request is lost: tests for the failures of the first implementation of this pattern.

Its wrapper and host locked different files (45 of 50 requests lost), a start limit stopped the .path unit (3 of 8), and
an edge-triggered watch missed requests that came while the service ran (2 of 25).
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.attacks.catalogue import attack
from tests.lab.conftest import new_service
from tests.lab.networks import Network, Service, command, command_lines, unit_state

AT_ONCE = 200
SPACED = 300
LONGEST_PAUSE = 0.3  # seconds
WAYS = ("doorbell", "path")  # those that wake the service


def woken_service(wake: str, more: str = "") -> Iterator[Service]:
    """Make a service that its doorbell wakes, or only a path unit, since there is no doorbell to ring."""
    made = new_service()
    made.enable_with(f'[agent]\nwake = "{wake}"\n{more}')
    if wake == "path":
        made.places.doorbell.unlink()
    yield made
    made.clean()


@pytest.fixture(params=WAYS)
def impatient_service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Make a service whose runs do not wait for more requests, so that it starts and ends as often as possible."""
    yield from woken_service(request.param, "[pace]\nlinger = 0\n")


@pytest.fixture(params=WAYS)
def woken(request: pytest.FixtureRequest) -> Iterator[Service]:
    yield from woken_service(request.param)


@attack(26)
@pytest.mark.slow
def test_200_wrappers_at_once_in_200_namespaces(woken: Service) -> None:
    service = woken
    networks = [service.network() for _ in range(AT_ONCE)]
    began = time.monotonic()
    wrappers = [subprocess.Popen(network.call(), stderr=subprocess.PIPE, text=True) for network in networks]
    outcomes = Counter((wrapper.communicate(timeout=300)[1], wrapper.returncode) for wrapper in wrappers)
    print(f"{AT_ONCE} wrappers at once: {time.monotonic() - began:.1f} s")
    assert outcomes == {("", 0): AT_ONCE}
    assert_each_runs_once(service, networks)
    assert len(service.journal(event="started")) == AT_ONCE
    assert unit_state(f"sidespawn@{service.name}.socket") == "active"


@attack(103, 104)
@pytest.mark.slow
def test_300_requests_at_random_moments_while_the_service_comes_and_goes(impatient_service: Service) -> None:
    """Start, reload, start again and stop on 30 networks, with 0 to 300 ms between requests."""
    service = impatient_service
    networks = [service.network() for _ in range(30)]
    moments = random.Random(20200501)  # the same values on each run
    before: dict[str, Future[Outcome]] = {}
    outcomes: list[Future[Outcome]] = []
    with ThreadPoolExecutor(len(networks)) as threads:
        for number in range(SPACED):
            time.sleep(moments.uniform(0, LONGEST_PAUSE))
            network = networks[number % len(networks)]
            step = LIFE[number // len(networks) % len(LIFE)]
            before[network.id] = threads.submit(take, step, network, before.get(network.id))
            outcomes.append(before[network.id])
    assert Counter((each.result().returncode, each.result().stderr) for each in outcomes) == {(0, ""): SPACED}
    assert_each_runs_once(service, networks)
    answered = answers(service)
    assert (len(answered), max(answered.values())) == (SPACED, 1), "each request is answered once"
    crashes = command("systemctl", "show", "--property=NRestarts", "--value", service.unit).stdout.strip()
    assert crashes == "0"
    runs = runs_of(service)
    print(f"{SPACED} requests, served by {runs} runs of the service")
    assert runs > SPACED / 20, "the service was meant to end and start in between"
    assert unit_state(f"sidespawn@{service.name}.socket") == "active"


Outcome = subprocess.CompletedProcess[str]
LIFE: tuple[Callable[[Network], Outcome], ...] = (
    Network.start,
    lambda network: network.kill("HUP"),
    Network.start,
    lambda network: network.kill("15"),
    Network.start,
)


def take(step: Callable[[Network], Outcome], network: Network, before: Future[Outcome] | None) -> Outcome:
    """Take one step of a network's life, after the previous one."""
    if before is not None:
        before.result()
    return step(network)


def answers(service: Service) -> Counter[str]:
    """Return how often each request of the service was answered, by id."""
    events = ("started", "answered", "signalled", "stopped", "rejected", "failed", "expired")
    return Counter(each["SIDESPAWN_REQUEST"] for each in service.journal() if each["SIDESPAWN_EVENT"] in events)


def runs_of(service: Service) -> int:
    log = command("journalctl", "--quiet", "--output=cat", f"UNIT={service.unit}", "JOB_TYPE=start").stdout
    return log.count("Started ")


def assert_each_runs_once(service: Service, networks: list[Network]) -> None:
    running = service.containers(every=False)
    assert set(running) == {network.container for network in networks}
    assert set(service.containers()) == set(running), "a container that does not run was left"
    processes = list(command_lines().values())
    for network in networks:
        assert running[network.container].pid == network.pid
        assert sum(f"{network.id}/host " in line for line in processes) == 1


CYCLES = int(os.environ.get("SIDESPAWN_CYCLES", "100"))


@pytest.mark.slow
def test_a_program_is_replaced_again_and_again(service: Service) -> None:
    """Check that each start finds the name free and its pid file written, and that nothing piles up."""
    network = service.network()
    pids = set()
    for number in range(CYCLES):
        plan = network.options() + (["--log-dhcp"] if number % 2 else [])
        done = network.start(*plan)
        assert (done.returncode, done.stderr) == (0, ""), f"cycle {number}"
        assert f"{network.id}/host" in command_lines()[network.pid]
        pids.add(network.pid)
    assert len(pids) == CYCLES
    assert_each_runs_once(service, [network])
    assert list(service.places.pins.iterdir()) == []
