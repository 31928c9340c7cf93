"""Reports how much of its limits a service uses, and which requests they hold back."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidespawn.host.ledger import Ledger
from sidespawn.host.limits import SUFFIX, Bucket, Falls
from sidespawn.host.policies import load_policy
from sidespawn.host.spool import REQUESTS
from sidespawn.system.places import Places


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Usage of a service's limits."""

    service: str
    instances: int
    most_instances: int
    requests_left: int  # requests that would be taken at once; negative after a flood
    burst: int
    rate: int
    waiting: int  # bytes in the spool
    backing_off: dict[str, float]  # instance to seconds

    @property
    def held_back(self) -> list[str]:
        found = [f"{name} keeps exiting; not started again for {wait:.0f} s" for name, wait in self.backing_off.items()]
        if self.instances >= self.most_instances:
            found.append(f"instance limit reached ({self.most_instances} side containers)")
        if self.requests_left < 1:
            found.append(f"rate limit reached ({self.rate} requests/s); {self.waiting} bytes of requests queued")
        return found


def usage(places: Places) -> Usage:
    limits = load_policy(places).limits
    bucket = Bucket(places.bucket, limits.burst, limits.rate)
    bucket.closed_for()
    there = places.ledger.is_dir()
    return Usage(
        service=places.service,
        instances=len(Ledger(places.ledger).keys()) if there else 0,
        most_instances=limits.instances,
        requests_left=int(bucket.left),
        burst=limits.burst,
        rate=limits.rate,
        waiting=bytes_waiting(places.spool),
        backing_off=backing_off(places, limits.backoff) if there else {},
    )


def bytes_waiting(spool: Path) -> int:
    """Return the size of queued requests. Do not open other things that an agent put there: they might block."""
    with suppress(OSError):
        status = os.lstat(spool / REQUESTS)
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    return 0


def backing_off(places: Places, longest: int) -> dict[str, float]:
    falls = Falls(places.ledger, longest)
    pauses = {path.stem: falls.pause(path.stem)[1] for path in places.ledger.glob(f"*{SUFFIX}")}
    return {instance: round(pause, 1) for instance, pause in sorted(pauses.items()) if pause > 0}
