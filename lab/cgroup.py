"""Gives each lab its own cgroup.

Without one, equally named units of two labs would have the same path, and a systemd that stops a unit kills everything
in that path, including the other lab's processes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from lab.errors import LabError

_REMOVE_PATIENCE = 5.0  # seconds; a killed process stays listed until it has been reaped


def _tree() -> Path:
    """Return where the machine has mounted the cgroup2 hierarchy."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        if kind.split(" ", 1)[0] == "cgroup2":
            return Path(place.split(" ")[4])
    raise LabError("this machine has no cgroup2 mount", hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup")


def _path(name: str) -> Path:
    return _tree() / f"sidespawn-lab-{name}"


def join(name: str, child: str = "") -> None:
    """Moves this process into the lab's cgroup, or a child of it; makes what is missing."""
    group = _path(name) / child
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.procs").write_text(str(os.getpid()))


def remove(name: str) -> None:
    """Removes the lab's cgroup and all below it; waits for the last dying process to leave it."""
    top = _path(name)
    deadline = time.monotonic() + _REMOVE_PATIENCE
    while top.exists():
        try:
            for directory, _, _ in os.walk(top, topdown=False):
                os.rmdir(directory)
        except OSError as error:
            if time.monotonic() > deadline:
                raise LabError(f"cannot remove the cgroup {top}: {error.strerror}") from error
            time.sleep(0.02)
