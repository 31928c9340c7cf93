"""Reads kernel tables whose rows contain names that anyone on the host may have chosen: mounts and sockets.

The kernel escapes only characters in names that it reads as the end of a row or field.  Python's splitlines() and
split() also split at a dozen other characters, such as U+2028 or the vertical tab, so part of a mount's name could look
like a row.
"""

from __future__ import annotations

from pathlib import Path

Row = list[str]
MOUNT_FIELDS = 5  # at least: the last is the mount point (proc_pid_mountinfo(5))


def rows(text: str) -> list[Row]:
    return [line.split(" ") for line in text.split("\n")]


def mounts(text: str) -> list[Row]:
    """Yield the rows of a mountinfo, except rows that are too short to be one."""
    return [row for row in rows(text) if len(row) >= MOUNT_FIELDS]


def read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")
