"""Tables of the kernel whose rows hold names that anybody on the host may have chosen: mounts and sockets.

The kernel escapes of a name what it takes for the end of a row or field, and no more.  Python's splitlines() and
split() take a dozen other characters for one, such as U+2028 or the vertical tab: the name of a mount could be a row.
"""

from __future__ import annotations

from pathlib import Path

Row = list[str]
MOUNT_FIELDS = 5  # at least: the last is where it is mounted (proc_pid_mountinfo(5))


def rows(text: str) -> list[Row]:
    return [line.split(" ") for line in text.split("\n")]


def mounts(text: str) -> list[Row]:
    """The rows of a mountinfo. Rows that are shorter than possible are left out."""
    return [row for row in rows(text) if len(row) >= MOUNT_FIELDS]


def read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")
