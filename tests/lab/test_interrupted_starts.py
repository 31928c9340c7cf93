"""podman's service or our run is killed during starts, or exits because it is idle just as a request comes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from sidespawn.setup.systemd import podman_units
from tests.lab.lives import (
    RUNNING,
    STOPPED,
    Answers,
    Life,
    assert_in_order,
    drop_in_of,
    main_pid,
    options_for,
    restless_service,
    settle,
)
from tests.lab.networks import Service, command, dnsmasqs, starts

KILLS = int(os.environ.get("SIDESPAWN_KILLS", "10"))  # for each of the two
REQUESTS = int(os.environ.get("SIDESPAWN_REQUESTS", "96"))
PODMANS, OURS = "podman's service", "the service"
AT_ONCE = 8  # twice as many as a service handles in parallel
MOST = 4  # kills during the same starts


def podman_unit(service: Service) -> str:
    return podman_units(service.name)[1]


@dataclass
class Ground:
    """A service, its networks, and the requests made of it."""

    service: Service
    lives: list[Life]
    answers: Answers
    threads: ThreadPoolExecutor
    sent: int = 0
    moments: random.Random = field(default_factory=lambda: random.Random(7))

    def all_start(self, unit: str = "", pauses: Sequence[float] = ()) -> tuple[float, int]:
        """Start all of them at once, and kill the unit's main process after each pause, if it runs by then.

        Return the seconds that the starts took, and how often one of them was waiting when the process was killed.
        """
        began, kills = time.monotonic(), 0
        work = [self.threads.submit(life.network.start, *life.plans[0]) for life in self.lives]
        for pause in pauses:
            time.sleep(pause)
            if pid := main_pid(unit):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += not all(each.done() for each in work)
        for life, each in zip(self.lives, work, strict=True):
            life.note("start", each.result())
            life.state = RUNNING
        self.sent += len(work)
        return time.monotonic() - began, kills

    def all_stop(self) -> None:
        work = [self.threads.submit(life.network.kill, "TERM") for life in self.lives]
        for life, each in zip(self.lives, work, strict=True):
            life.note("TERM", each.result())
            life.state = STOPPED
        self.sent += len(self.lives)

    def assert_each_runs_once(self) -> None:
        lines = dnsmasqs()
        assert [sum(life.network.id in line for line in lines) for life in self.lives] == [1] * len(self.lives)

    def assert_all_is_well(self) -> str:
        """Check the state, and return requests and answers as text for people."""
        settle(self.service)
        counted = self.answers.count()
        twice = sum(count > 1 for count in counted.values())
        said = f"{self.sent} requests, {len(counted) - twice} answered once, {twice} twice"
        assert (len(counted), twice) == (self.sent, 0), said
        assert_in_order(self.service, self.lives)
        return said


@pytest.fixture
def ground() -> Iterator[Ground]:
    with restless_service() as service, ThreadPoolExecutor(AT_ONCE) as threads:
        lives = [Life(service.network(), seed) for seed in range(AT_ONCE)]
        yield Ground(service=service, lives=lives, answers=Answers(service), threads=threads)


@pytest.mark.slow
@pytest.mark.parametrize("whose", [PODMANS, OURS])
def test_killed_in_the_middle_of_starts(ground: Ground, whose: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Kill while starts wait for their answers; all of them are answered, and each program runs once."""
    unit = podman_unit(ground.service) if whose == PODMANS else ground.service.unit
    kills, tries = 0, 0
    usual, _ = ground.all_start()
    ground.all_stop()
    while kills < KILLS:
        tries += 1
        assert tries < 20 + 10 * KILLS, "the process is never there when a start waits"
        pauses = [ground.moments.uniform(0, usual) for _ in range(min(MOST, KILLS - kills))]
        kills += ground.all_start(unit, pauses)[1]
        ground.assert_each_runs_once()
        ground.all_stop()
        assert not any(life.network.id in line for line in dnsmasqs() for life in ground.lives)
    said = ground.assert_all_is_well()
    with capsys.disabled():
        print(f"\n{kills} kills of {whose} while starts were waiting: {said}", end=" ")


@pytest.mark.slow
def test_requests_while_both_end_because_they_are_idle(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    """Starts and stops, which both need podman, come in groups. A pause is about as long as either idle timeout."""
    service, done = ground.service, Counter[str]()
    units = {OURS: service.unit, PODMANS: podman_unit(service)}
    idle = "/usr/bin/podman system service --time=2"  # the smallest number of whole seconds above the service's
    options_for(units[PODMANS], "ExecStart=", f"ExecStart={idle}")
    try:
        before = {who: starts(service, unit) for who, unit in units.items()}
        while ground.sent < REQUESTS:
            time.sleep(ground.moments.choice((1.0, 2.0)) + ground.moments.uniform(-0.3, 0.7))
            group = [ground.threads.submit(step, life, ground.moments.uniform(0, 0.2)) for life in ground.lives]
            for each in group:
                done[each.result()] += 1
            ground.sent += len(group)
        ends = {who: starts(service, unit) - before[who] for who, unit in units.items()}
        said = ground.assert_all_is_well()
    finally:
        shutil.rmtree(drop_in_of(units[PODMANS]).parent)
        command("systemctl", "daemon-reload")
    with capsys.disabled():
        print(f"\n{dict(done)} across {ends[OURS]} runs of the service and", end=" ")
        print(f"{ends[PODMANS]} of podman's: {said}", end=" ")
    assert min(ends.values()) > REQUESTS / AT_ONCE / 10, "they were meant to end and start in between"


def step(life: Life, after: float) -> str:
    """Start it, or stop it if it is running."""
    time.sleep(after)
    what = "TERM" if life.state is RUNNING else "start"
    life.note(what, life.network.kill("TERM") if what == "TERM" else life.network.start(*life.plans[0]))
    life.state = not life.state
    return what
