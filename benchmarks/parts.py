"""The measured parts, and their rounds."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from benchmarks import older
from benchmarks.processes import load, memory_of, parent_of
from benchmarks.ways import Sidespawn, Way
from tests.lab.networks import Network, dnsmasqs

BURSTS = (10, 50, 100, 200, 1000)
NETWORKS = 200
SYNC_THREADS = 4  # Neutron's num_sync_threads: networks that a DHCP agent works on side by side
OLDER_ROUNDS = 3  # of the older patterns, which take their time
HELD = 20  # side containers whose memory is measured
REST = 1.0  # seconds in which nothing runs before a cold start, the bare engine's as well
RESIDENT = 7.0  # seconds after the service itself has ended, which is 10 after the last request
APPEARS = 2.0  # seconds until a program that was started must be seen: `podman run` returns just before it is executed
Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    what: str
    size: int = 1
    cold: bool = False
    loaded: bool = False
    stop: bool = False
    memory: bool = False
    at_once: int | None = None  # requests of an agent that are under way at a time; None: all
    older: tuple[str, ...] = ()  # the older patterns that are measured, too
    docker: bool = True  # whether docker is
    seconds: float | None = None  # for all its rounds, in the short form; else as many as the caller says


PATTERNS = (older.Tripleo.name, older.Nsenter.name)


def burst(size: int) -> Part:
    patterns = PATTERNS if size <= 50 else ()
    return Part(
        name=f"burst-{size}", what=f"{size} requests at once, to the last one running", size=size, older=patterns
    )


PARTS = (
    Part(name="warm", what="one request while the service runs", older=PATTERNS),
    Part(name="cold", what="one request when nothing has run for a while", cold=True),
    Part(name="stop", what="ending one, until everything of it is gone", stop=True),
    Part(name="loaded-warm", what="as warm, all processors busy", loaded=True),
    Part(name="loaded-cold", what="as cold, all processors busy", cold=True, loaded=True),
    Part(name="loaded-burst-10", what="10 requests at once, all processors busy", size=10, loaded=True),
    Part(name="memory", what=f"beside the program, for each of {HELD} side containers", size=HELD, memory=True),
    *map(burst, BURSTS),
    Part(
        name=f"restart-{NETWORKS}",
        what=f"an agent with {NETWORKS} networks starts and nothing has run for a while, to the last one running",
        size=NETWORKS,
        at_once=SYNC_THREADS,
        cold=True,
        docker=False,
        older=(older.Nsenter.name,),
    ),
)
# Most of the time goes to the part whose rounds differ most, and rest before each start.
QUICK = (
    Part(name="warm", what="one request while the service runs", seconds=12),
    Part(name="cold", what="one request when nothing has run for a while", cold=True, docker=False, seconds=24),
    Part(name="burst", what="12 requests at once, to the last one running", size=12, docker=False, seconds=12),
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    part: str
    way: str
    reference: str
    size: int
    round: int
    seconds: float
    lost: int
    wrapper: float = 0.0  # seconds of processor time per request, in the agent
    service: float | None = None  # the same, of the service on the host
    commands: float | None = None  # the same, of the engine's commands that the service ran
    peak: int | None = None  # bytes, of the service
    memory: float | None = None  # bytes beside the program, per side container
    resident: bool | None = None  # whether anything of the service runs when nothing is asked


def measure(
    part: Part,
    ways: Sequence[Way],
    networks: Sequence[Network],
    rounds: int,
    limit: float,
    order: random.Random,
    note: Note,
) -> Iterator[Sample]:
    """Rounds of one part; fewer when they take more than `limit` seconds."""
    began = time.monotonic()
    for number in range(rounds):
        if number and (time.monotonic() - began) * (number + 1) / number > limit:
            note(f"{part.name}: {number} of {rounds} rounds, its time is over")
            return
        note(f"{part.name}: round {number + 1} of {rounds}")
        shuffled = [each for each in ways if not each.is_older or (each.name in part.older and number < OLDER_ROUNDS)]
        shuffled = [each for each in shuffled if part.docker or "docker" not in each.name]
        order.shuffle(shuffled)
        for way in shuffled:
            yield from sample(part, way, networks[: part.size], number)


def sample(part: Part, way: Way, networks: Sequence[Network], number: int) -> Iterator[Sample]:
    """Take one measurement, and remove everything that it started."""
    try:
        way.prepare(cold=part.cold)
        if part.cold:
            time.sleep(REST)
        with load(2 * (os.cpu_count() or 1)) if part.loaded else nullcontext():
            found = way.start(networks, part.at_once)
        lost = max(found.lost, len(networks) - running(networks))
        seconds, memory, resident = found.seconds, None, None
        if part.stop:
            ended = way.stop(networks[0])
            if ended is None:
                return
            seconds = ended.seconds
        if part.memory:
            memory = memory_beside(way, networks)
            if isinstance(way, Sidespawn):
                way.service.wait_until_idle()
                time.sleep(RESIDENT)
                resident = way.is_resident()
            if memory is None:
                return
        usage, size = found.usage, len(networks)
        yield Sample(
            part=part.name,
            way=way.name,
            reference=way.reference,
            size=size,
            round=number,
            seconds=seconds,
            lost=lost,
            wrapper=found.processor,
            service=None if usage is None else usage.processor / size,
            commands=None if usage is None else usage.commands / size,
            peak=None if usage is None else usage.peak,
            memory=memory,
            resident=resident,
        )
    finally:
        way.clear(networks)


def running(networks: Sequence[Network]) -> int:
    """Return how many of them have their program, as a way claims when it succeeds."""
    give_up = time.monotonic() + APPEARS
    while True:
        lines = dnsmasqs()
        found = sum(any(network.id in line for line in lines) for network in networks)
        if found == len(networks) or time.monotonic() > give_up:
            return found
        time.sleep(0.01)


def memory_beside(way: Way, networks: Sequence[Network]) -> float | None:
    """Return the mean memory of the programs' parents, except PID 1, which exists anyway."""
    pids = [way.pid(each) for each in networks]
    held = []
    for pid in pids:
        if pid is None:
            return None
        parent = parent_of(pid)
        held.append(memory_of(parent) if parent > 1 else 0)
    return statistics.mean(held)
