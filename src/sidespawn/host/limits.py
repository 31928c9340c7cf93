"""Limits of a service: requests that are taken, side containers, starts of what keeps ending.

Bucket and falls remember across runs, in small files that may be lost or torn: the limit then begins again, and no
request is lost or refused for it.  Times are seconds of CLOCK_BOOTTIME, which nothing can turn back.
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

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")  # a second, as of a process's start
# Each start costs the host a fifth of a second, and a neighbour waits for the half of it: pauses that only doubled made
# its starts 1.66 times as long beside four that fall.
FREE_FALLS, GROWTH = 2, 4.0
SUFFIX = ".falls"


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_numbers(path: Path) -> tuple[float, float] | None:
    """The two numbers of a file, or None when it is not there or torn."""
    with suppress(OSError, ValueError):
        first, second, end = path.read_text(encoding="ascii").split(" ")
        if end == "\n":
            return float(first), float(second)
    return None


class Bucket:
    """`burst` requests at once, `rate` a second after that. Who finds it empty waits; nothing is refused for it."""

    def __init__(self, path: Path, burst: int, rate: int) -> None:
        self.path, self.burst, self.rate = path, burst, rate
        self.left, self.at = read_numbers(path) or (float(burst), now())

    def closed_for(self) -> float:
        """Seconds until a request may be taken; 0 when one may be now."""
        moment = now()
        self.left = min(float(self.burst), self.left + max(0.0, moment - self.at) * self.rate)
        self.at = moment
        return max(0.0, (1 - self.left) / self.rate)

    def take(self, requests: int) -> None:
        self.left -= requests  # a claim may hold more than there is; it is paid in full all the same
        self.path.write_text(f"{self.left:.3f} {self.at:.3f} \n", encoding="ascii")


class Listing:
    """The engine's word on what runs, asked for once a second at most, whatever pids an agent guesses."""

    def __init__(self, service: str, engine: Engine, before: Callable[[], None]) -> None:
        self.service, self.engine, self.before = service, engine, before
        self.lock = threading.Lock()
        self.asked = 0.0
        self.listed: tuple[Found, ...] = ()

    def since(self, process: Process) -> tuple[Found, ...]:
        """Return what ran at a moment when the process was there; `before` is called first when the engine is asked."""
        with self.lock:
            if (process.started + 1) / CLOCK_TICKS >= self.asked:
                time.sleep(max(0.0, self.asked + 1 - now()))
                asked = now()
                self.before()
                self.listed, self.asked = self.engine.list(self.service), asked
            return self.listed


class Falls:
    """How often each instance's program ended right after its start, one time after the other.

    Files lie beside the ledger's records. Equal instances are the caller's to keep in order.
    """

    def __init__(self, path: Path, longest: int) -> None:
        self.path, self.longest = path, longest

    def note(self, instance: str) -> None:
        """Its program ended, or was not ready in time, less than STEADY_SECONDS after its start."""
        count, at = read_numbers(self.path / f"{instance}{SUFFIX}") or (0.0, 0.0)
        recently = now() - at < self.longest + STEADY_SECONDS
        text = f"{count + 1 if recently else 1:.0f} {now():.3f} \n"
        (self.path / f"{instance}{SUFFIX}").write_text(text, encoding="ascii")

    def pause(self, instance: str) -> tuple[int, float]:
        """How often it fell, and the seconds until it may be started again: 1, 4, 16 … from the second fall on."""
        count, at = read_numbers(self.path / f"{instance}{SUFFIX}") or (0.0, 0.0)
        if count < FREE_FALLS:
            return int(count), 0.0
        pause = min(float(self.longest), GROWTH ** min(count - FREE_FALLS, 16))
        return int(count), max(0.0, at + pause - now())

    def check(self, instance: str, name: str, hint: str) -> None:
        """Raises LaunchError while the instance must wait."""
        count, pause = self.pause(instance)
        if pause > 0:
            message = f"{name} ended right after its start {count} times; not started again for {pause:.0f} s"
            raise LaunchError(Reason.BACKING_OFF, message, hint)

    def expire(self) -> None:
        """Forget those that have no meaning any more."""
        for path in self.path.glob(f"*{SUFFIX}"):
            _, at = read_numbers(path) or (0.0, 0.0)
            if now() - at >= self.longest + STEADY_SECONDS:
                path.unlink(missing_ok=True)


class Room:
    """How many instances there may be at a time: those with a record, and those that are being started."""

    def __init__(self, service: str, ledger: Ledger, most: int) -> None:
        self.service, self.ledger, self.most = service, ledger, most
        self.lock = threading.Lock()
        self.starting: set[str] = set()

    @contextmanager
    def for_one_more(self, instance: str) -> Iterator[None]:
        """While in the context the instance counts. Raises Denied when there are too many others."""
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
