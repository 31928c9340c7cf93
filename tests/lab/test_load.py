"""Many requests, and a hostile agent beside a working one: no request is lost, and response times stay acceptable.

Times are printed, and compared only with generous bounds, since machines are shared.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.synchronize import Event

import pytest

from sidespawn.agent import wrapper
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, SLOWNESS, Network, Service, command

FULL = bool(os.environ.get("SIDESPAWN_LOAD"))  # 1,000 requests from four agents, and 10,000 in ten minutes
AT_ONCE = 1000 if FULL else 120
TRICKLE, SECONDS = (10_000, 600) if FULL else (300, 15)
ROUNDS = 24 if FULL else 4
GENEROUS = 5  # factor over the time without load; 2 is the aim
STOP_SECONDS = 20  # seconds until an operator's stop is done; 2 is the aim, on an otherwise idle host
PRESET = "neutron-dhcp-dnsmasq"
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def agents() -> Iterator[list[Service]]:
    made = [new_service() for _ in range(4)]
    for each in made:
        each.enable(f"--preset={PRESET}", f"--set=state_on_host={each.state}")
    yield made
    for each in made:
        each.clean()


@contextmanager
def hostile_agent() -> Iterator[Service]:
    """Make one agent for each kind of attack: the one that floods its spool is served again only after minutes."""
    made = new_service()
    try:
        made.enable(f"--preset={PRESET}", f"--set=state_on_host={made.state}")
        yield made
        assert command("systemctl", "is-active", f"sidespawn@{made.name}.socket").stdout == "active\n"
    finally:
        made.clean()


def settings_of(service: Service) -> dict[str, object]:
    """Return the wrapper's settings of the service."""
    namespace: dict[str, object] = {"__name__": "wrapper", "__file__": str(service.wrapper)}
    exec(compile(service.wrapper.read_text(), str(service.wrapper), "exec"), namespace)
    settings = namespace["SETTINGS"]
    assert isinstance(settings, dict)
    return settings


def status_of(reply: dict[str, object]) -> str:
    return str(reply["status"])


@pytest.mark.slow
def test_four_agents_at_once(agents: list[Service], capsys: pytest.CaptureFixture[str]) -> None:
    """Send starts on a few networks of each, and requests about running ones, all at the same moment."""
    networks = {each.name: [each.network() for _ in range(5)] for each in agents}

    def ask(number: int) -> str:
        service = agents[number % 4]
        network = networks[service.name][number // 4 % 5]
        environment = {"PROCESS_TAG": f"dnsmasq-{network.id}"}
        argv = ["dnsmasq", *network.options()]
        return status_of(wrapper.start(settings[service.name], argv, network.netns, environment))

    settings = {each.name: settings_of(each) for each in agents}
    began = time.monotonic()
    with ThreadPoolExecutor(min(AT_ONCE, 250)) as threads:
        outcomes = Counter(threads.map(ask, range(AT_ONCE)))
    with capsys.disabled():
        print(f"\n{AT_ONCE} requests from four agents: {time.monotonic() - began:.1f} s, {dict(outcomes)}", end=" ")
    assert outcomes == {"running": AT_ONCE}
    for each in agents:
        assert set(each.containers(every=False)) == {network.container for network in networks[each.name]}
        assert len(each.journal(event="started")) == 5


@pytest.mark.slow
def test_a_trickle_that_never_lets_the_service_rest(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    network = service.network()
    assert network.start().returncode == 0
    settings, pid, took = settings_of(service), network.pid, []
    began = time.monotonic()

    def ask(number: int) -> str:
        time.sleep(max(0.0, began + number * SECONDS / TRICKLE - time.monotonic()))
        sent = time.monotonic()
        status = status_of(wrapper.signal(settings, "HUP" if number % 10 == 0 else "0", pid))
        took.append(time.monotonic() - sent)
        return status

    with ThreadPoolExecutor(64) as threads:
        outcomes = Counter(threads.map(ask, range(TRICKLE)))
    with capsys.disabled():
        print(f"\n{TRICKLE} requests in {time.monotonic() - began:.0f} s: {dict(outcomes)}, median", end=" ")
        print(f"{statistics.median(took) * 1000:.0f} ms, longest {max(took) * 1000:.0f} ms", end=" ")
    assert outcomes == {"done": TRICKLE}


# ---------------------------------------------------------------- beside a hostile agent


# Takes the event that ends it. Hostile agents run in separate processes: as threads, they would take time from the
# process that measures.
Misbehaviour = Callable[[Event], None]


def flood(service: Service) -> Misbehaviour:
    """Keep the spool full of files, and of lines that are not requests."""
    spool = service.places.spool

    def loop(stop: Event) -> None:
        while not stop.is_set():
            with suppress(OSError):
                (spool / "new").write_bytes(b"x" * 100 + b"\n" + b"{}\n" * 300_000)
                os.rename(spool / "new", spool / "processes")
            wrapper.ring(str(service.places.doorbell))
            for number in range(100):
                with suppress(OSError):
                    (spool / f"file{number}").touch()
            time.sleep(0.02)

    return loop


def hold_the_lock(service: Service) -> Misbehaviour:
    """Create, write and lock every request file, and never unlock it."""
    path = service.places.spool / "processes"

    def loop(stop: Event) -> None:
        while not stop.is_set():
            with suppress(OSError), path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.write(request_line({"op": "signal", "signal": "0", "pid": 4711}))
                file.flush()
                wrapper.ring(str(service.places.doorbell))
                stop.wait(3)

    return loop


def never_read(service: Service) -> Misbehaviour:
    """Send well-formed requests that are not allowed, as fast as they can be written, and wait for no answer."""
    body = {"op": "start", "argv": ["dnsmasq", "--dhcp-script=/tmp/x"], "netns": f"qdhcp-{'0' * 8}", "env": {}}

    def loop(stop: Event) -> None:
        while not stop.is_set():
            line = request_line(body)
            with suppress(OSError, wrapper.Unavailable):
                wrapper.try_to_hand_over(str(service.places.spool), str(service.places.doorbell), line, "nobody")

    return loop


def crash_loop(service: Service) -> Misbehaviour:
    """Request programs that cannot start, again and again, on several networks."""
    networks = [service.network() for _ in range(4)]
    for network in networks:
        (network.home / "leases").unlink()
        (network.home / "leases").mkdir()

    def ask(network: Network) -> None:
        network.start()

    return partial(on_each, networks, ask)


def start_what_is_never_ready(service: Service) -> Misbehaviour:
    """Start programs that time out before they are ready, on more networks than are served in parallel."""
    networks = [service.network_that_is_never_ready() for _ in range(12)]

    def ask(network: Network) -> None:
        said = network.start().stderr
        assert "(not-ready)" in said or "(backing-off)" in said, said

    return partial(on_each, networks, ask)


def on_each(networks: list[Network], ask: Callable[[Network], None], stop: Event) -> None:
    def loop(network: Network) -> None:
        while not stop.is_set():
            ask(network)

    with ThreadPoolExecutor(len(networks)) as threads:
        list(threads.map(loop, networks))


HOSTILE: dict[str, Callable[[Service], Misbehaviour]] = {
    "floods its spool": flood,
    "holds the lock": hold_the_lock,
    "never reads replies": never_read,
    "crash-loops its program": crash_loop,
    "starts what is never ready": start_what_is_never_ready,
}


def request_line(body: Mapping[str, object]) -> bytes:
    deadline = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + 60_000
    return json.dumps({"v": 1, "id": os.urandom(16).hex(), "deadline": deadline, **body}).encode() + b"\n"


def in_a_session(misbehaviour: Misbehaviour, stop: Event) -> None:
    os.setsid()
    misbehaviour(stop)


@contextmanager
def misbehaving(service: Service, how: Callable[[Service], Misbehaviour]) -> Iterator[None]:
    """Let it misbehave in a separate session: like containers, sessions share the processors evenly."""
    stop = FORK.Event()
    agent = FORK.Process(target=in_a_session, args=(how(service), stop), daemon=True)
    agent.start()
    try:
        time.sleep(2)
        assert agent.is_alive()
        yield
    finally:
        stop.set()
        agent.join()
    assert agent.exitcode == 0


def measure(network: Network) -> float:
    """Return the median time in seconds of a start and a stop together. No request may fail."""
    took = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        for done in (network.start(), network.kill("TERM")):
            assert (done.returncode, done.stderr) == (0, "")
        took.append(time.monotonic() - began)
    return statistics.median(took)


def measure_stop(network: Network) -> float:
    """Return the seconds until the operator has ended a side container of the hostile agent itself."""
    began = time.monotonic()
    done = command(*SIDESPAWN, "stop", network.service.name, network.container)
    took = time.monotonic() - began
    assert network.container in done.stdout
    assert network.container not in network.service.containers(every=False)
    return took


@pytest.mark.slow
def test_a_quiet_agent_beside_hostile_ones(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    network = service.network()
    measure(network)  # all caches are warm
    for what, how in HOSTILE.items():
        alone = measure(network)
        with hostile_agent() as hostile:
            bait = hostile.network()
            assert bait.start().returncode == 0
            with misbehaving(hostile, how):
                beside = measure(network)
                stopped = measure_stop(bait)
        with capsys.disabled():
            print(f"\na start and a stop: {alone * 1000:.0f} ms alone,", end=" ")
            print(f"{beside * 1000:.0f} ms beside one that {what}: {beside / alone:.2f} times, lost 0;", end=" ")
            print(f"its operator's stop: {stopped:.1f} s", end=" ")
        assert beside < GENEROUS * alone, what
        assert stopped < STOP_SECONDS * SLOWNESS, what
