"""Expires the copies of answers that agents read, and finds copies that the service did not write.

Root's own record says what was answered. An agent with CAP_SYS_ADMIN can make its view of the copies writable, so a
copy is compared with its record once. Then the record's modification time is set to the copy's last change of any kind
(st_ctime, which no one can set). While both are equal, nothing needs to be read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sidespawn.core.wire import LINE_BYTES
from sidespawn.host import spool
from sidespawn.system.files import directory, entries_of, read_regular_beneath
from sidespawn.system.places import Places

SETTLED_NS = 100_000_000  # longer than a clock tick, in which a second change leaves no trace
REMOVED = 1024  # names read at a time in a foreign directory


def expire(places: Places, most: int, seconds: float, needed: Callable[[str], bool]) -> list[str]:
    """Remove old answers, the oldest beyond `most`, and copies that the service did not write; keep those `needed`.

    Return the names of copies that the service did not write.
    """
    copies = listing(places.replies, 8 * most)  # first, since a copy is made after its record
    records = listing(places.answers, 8 * most)
    limit = time.time() - seconds
    aged = sorted((status.st_mtime, name) for name, status in records.items())
    old = {name for number, (age, name) in enumerate(aged) if age < limit or number < len(aged) - most}
    forged = []
    budget = iter(range(REMOVED))
    with directory(places.answers) as answers, directory(places.replies) as held:
        for name, status in copies.items():
            if is_needed(places, name, needed):
                continue
            if not is_copy(answers, held, status, name):
                forged.append(name)
            elif name not in old:
                continue
            spool.remove(held, name, budget)
        for name in old:
            if not is_needed(places, name, needed):
                spool.unlink(answers, name)
    return forged


def listing(path: Path, most: int) -> dict[str, os.stat_result]:
    """Return at most that many names, since an agent can make any number of them."""
    found = {}
    with directory(path) as held, entries_of(held, most) as entries:
        for entry in entries:
            with suppress(OSError):
                found[entry.name] = entry.stat(follow_symlinks=False)
    return found


def is_needed(places: Places, name: str, needed: Callable[[str], bool]) -> bool:
    return name == places.doorbell.name or needed(name.lstrip(".").partition(".")[0])


def is_copy(answers: int, held: int, status: os.stat_result, name: str) -> bool:
    try:
        if os.stat(name, dir_fd=answers, follow_symlinks=False).st_mtime_ns == status.st_ctime_ns:
            return True
        if read_regular_beneath(held, name, LINE_BYTES) != read_regular_beneath(answers, name, LINE_BYTES):
            return False
    except OSError:
        return False
    if time.time_ns() - status.st_ctime_ns > SETTLED_NS:
        os.utime(name, ns=(status.st_ctime_ns, status.st_ctime_ns), dir_fd=answers)
    return True
