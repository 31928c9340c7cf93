"""Reads kernel tables whose rows contain names that anyone on the host may have chosen: mounts and sockets.

The kernel escapes only characters in names that it reads as the end of a row or field.  Python's splitlines() and
split() also split at a dozen other characters, such as U+2028 or the vertical tab, so part of a mount's name could look
like a row.  A table may also be gigabytes long, so it is read row by row, and only up to a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sidespawn.errors import LaunchError, Reason

Row = list[str]
MOUNT_FIELDS = 5  # at least: the last is the mount point (proc_pid_mountinfo(5))
MOST = 16 << 20  # bytes; the most mounts that a namespace may have (100,000, fs.mount-max) with names of a usual length


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows. Raises LaunchError if the table is longer than the limit, after the rows that fit."""
    left = MOST
    with path.open("rb") as file:
        while line := file.readline(left + 1):
            left -= len(line)
            if left < 0:
                hint = f"see what made so many or such long rows: tail {path}; remove it, then check again"
                raise LaunchError(Reason.HOST_UNSUITABLE, f"{path} has more than {MOST >> 20} MiB", hint)
            yield line.removesuffix(b"\n").decode("utf-8", "replace").split(" ")


def mounts(path: Path) -> Iterator[Row]:
    """Yield the rows of a mountinfo, except rows that are too short to be one."""
    return (row for row in rows(path) if len(row) >= MOUNT_FIELDS)
