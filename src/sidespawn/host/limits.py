"""Limits of a service: rate of requests, number of side containers, restarts of programs that keep exiting.

Bucket and falls persist across runs, in small files that may be lost or torn.  Then the limit starts afresh, and no
request is lost or refused.  Times are seconds of CLOCK_BOOTTIME, which cannot be set back.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidespawn.core.reconcile import STEADY_SECONDS
from sidespawn.engines import Engine, Found
from sidespawn.errors import Denied, LaunchError, Reason
from sidespawn.host.ledger import Ledger
from sidespawn.system.processes import Process

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")  # per second, as in a process's start time
# Each start costs the host a fifth of a second, and a neighbour waits for half of it: with pauses that only doubled,
# its starts took 1.66 times as long beside four crash loops.
FREE_FALLS, GROWTH = 2, 4.0
SUFFIX = ".falls"


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_numbers(path: Path) -> tuple[float, float] | None:
    """Return the two numbers in a file, or None if it is missing or torn."""
    with suppress(OSError, ValueError):
        first, second, end = path.read_text(encoding="ascii").split(" ")
        if end == "\n":
            return float(first), float(second)
    return None


class Bucket:
    """Allows `burst` requests at once, then `rate` a second. If it is empty, requests wait; none is refused."""

    def __init__(self, path: Path, burst: int, rate: int) -> None:
        self.path, self.burst, self.rate = path, burst, rate
        self.left, self.at = read_numbers(path) or (float(burst), now())

    def closed_for(self) -> float:
        """Return the seconds until a request may be taken; 0 if one may be taken now."""
        moment = now()
        self.left = min(float(self.burst), self.left + max(0.0, moment - self.at) * self.rate)
        self.at = moment
        return max(0.0, (1 - self.left) / self.rate)

    def take(self, requests: int) -> None:
        self.left -= requests  # a claim may hold more requests than tokens; it is charged in full anyway
        self.path.write_text(f"{self.left:.3f} {self.at:.3f} \n", encoding="ascii")


class Listing:
    """Asks the engine what runs, at most once a second, whatever pids an agent guesses."""

    def __init__(self, service: str, engine: Engine, before: Callable[[], None]) -> None:
        self.service, self.engine, self.before = service, engine, before
        self.lock = threading.Lock()
        self.tried = self.asked = 0.0  # the second: with success
        self.listed: tuple[Found, ...] = ()

    def since(self, process: Process) -> tuple[Found, ...]:
        """Return what ran at a moment when the process existed; `before` is called before the engine is asked."""
        with self.lock:
            if (process.started + 1) / CLOCK_TICKS >= self.asked:
                time.sleep(max(0.0, self.tried + 1 - now()))
                asked = self.tried = now()
                self.before()
                self.listed, self.asked = self.engine.list(self.service), asked
            return self.listed


class Falls:
    """Counts how often in a row each instance's program ended right after its start.

    The files are beside the ledger's records. The caller serialises work on one instance.
    """

    def __init__(self, path: Path, longest: int) -> None:
        self.path, self.longest = path, longest

    def note(self, instance: str) -> None:
        """Record that its program ended, or was not ready in time, less than STEADY_SECONDS after its start."""
        count, at = read_numbers(self.path / f"{instance}{SUFFIX}") or (0.0, 0.0)
        recently = now() - at < self.longest + STEADY_SECONDS
        text = f"{count + 1 if recently else 1:.0f} {now():.3f} \n"
        (self.path / f"{instance}{SUFFIX}").write_text(text, encoding="ascii")

    def pause(self, instance: str) -> tuple[int, float]:
        """Return how often it fell, and the seconds until it may be restarted: 1, 4, 16 … from the second fall on."""
        count, at = read_numbers(self.path / f"{instance}{SUFFIX}") or (0.0, 0.0)
        if count < FREE_FALLS:
            return int(count), 0.0
        pause = min(float(self.longest), GROWTH ** min(count - FREE_FALLS, 16))
        return int(count), max(0.0, at + pause - now())

    def check(self, instance: str, name: str, hint: str) -> None:
        """Raise LaunchError while the instance must wait."""
        count, pause = self.pause(instance)
        if pause > 0:
            message = f"{name} ended right after its start {count} times; not started again for {pause:.0f} s"
            raise LaunchError(Reason.BACKING_OFF, message, hint)

    def expire(self) -> None:
        """Forget counts that no longer apply."""
        for path in self.path.glob(f"*{SUFFIX}"):
            _, at = read_numbers(path) or (0.0, 0.0)
            if now() - at >= self.longest + STEADY_SECONDS:
                path.unlink(missing_ok=True)


class Room:
    """Limits how many instances exist at a time: those with a record, and those being started."""

    def __init__(self, service: str, ledger: Ledger, most: int) -> None:
        self.service, self.ledger, self.most = service, ledger, most
        self.lock = threading.Lock()
        self.starting: set[str] = set()

    @contextmanager
    def for_one_more(self, instance: str) -> Iterator[None]:
        """Count the instance while in the context. Raises Denied if there are too many others."""
        with self.lock:
            if len((self.starting | self.ledger.keys()) - {instance}) >= self.most:
                hint = "raise `instances` in its [limits]; what ended by itself counts until the next sweep"
                message = f"instance limit reached: {self.service} has {self.most} side containers"
                raise Denied(Reason.INSTANCE_LIMIT, message, hint)
            self.starting.add(instance)
        try:
            yield
        finally:
            with self.lock:
                self.starting.discard(instance)
