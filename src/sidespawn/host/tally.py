"""Counts a service's events in one small file that only root can reach; `sidespawn metrics` reads it.

    {"answers rejected option-not-allowed": 3, "events exited out-of-memory": 1, "runs": 7, "starts 0.5": 4, …}

Keys consist of statuses, events and reasons, never of an agent's text, so the file cannot grow.  It is written with
every answer, so the counts survive killed runs.  It is in /run, like the side containers: a reboot resets the counts to
zero.  A lost or torn file does so too, and no request fails because of it.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

from sidespawn.system.files import directory, write_whole

# Upper bounds of the histogram of starts, in seconds.
BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def read_counts(path: Path) -> dict[str, float]:
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads(path.read_bytes()).items()
        return {str(key): count for key, count in found if type(count) in (int, float)}
    return {}


class Tally:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.counts = read_counts(path)
        self.accepted: dict[str, float] = {}  # the moment, by request

    def add(self, key: str, count: float = 1) -> None:
        with self.lock:
            self.counts[key] = round(self.counts.get(key, 0) + count, 3)

    def started(self, request_id: str) -> None:
        """Record that the requested program is now ready."""
        if (since := self.accepted.get(request_id)) is not None:
            seconds = time.monotonic() - since
            self.add(f"starts {next((each for each in BOUNDS if seconds <= each), 'more')}")
            self.add("seconds", seconds)

    def answered(self, request_id: str, status: str, reason: str) -> None:
        self.accepted.pop(request_id, None)
        self.add(f"answers {status} {reason}")
        self.store()

    def store(self) -> None:
        with self.lock, suppress(OSError), directory(self.path.parent) as held:
            write_whole(held, self.path.name, json.dumps(self.counts).encode())
