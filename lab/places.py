"""Directories that represent labs or machines in the background: one per name, locked while it is started or ended.

Shared by `lab` and `vm`. A record in the directory says what is running; only root can read it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class PlaceError(Exception):
    """A name, a directory or a process is not as expected; the message is for the person who asked."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n  hint: {hint}" if hint else message)


@dataclass(frozen=True, kw_only=True)
class Directory:
    """BASE/NAME. The record is record.json in it; the directory itself is the lock."""

    base: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise PlaceError(f"{self.name!r} is not a valid name", hint="lower case letters, digits and -, at most 40")

    @property
    def path(self) -> Path:
        return self.base / self.name

    def save(self, record: dict[str, Any]) -> None:
        """Writes the record in one step."""
        draft = self.path / "record.new"
        draft.write_text(json.dumps(record))
        draft.rename(self.path / "record.json")

    def load(self) -> dict[str, Any] | None:
        """Return the record; None if nothing of this name was started."""
        try:
            record: dict[str, Any] = json.loads((self.path / "record.json").read_text())
        except FileNotFoundError:
            return None
        return record

    def remove(self, *others: str) -> None:
        """Removes the record, the files `others` and the directory, name by name: nothing unexpected goes with it."""
        for name in ("record.json", "record.new", *others):
            (self.path / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            self.path.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other commands from starting or ending it in the meantime; makes the directory."""
        _make_base(self.base)
        while (lock := self._try_lock()) is None:
            pass
        try:
            yield
        finally:
            os.close(lock)

    @contextmanager
    def locked_if_free(self) -> Iterator[bool]:
        """Lock without waiting; yield whether no other command holds the lock."""
        _make_base(self.base)
        try:
            lock = self._try_lock(fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)

    def _try_lock(self, flags: int = 0) -> int | None:
        """Locks the directory; None if the previous holder of the lock has removed it."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | flags)
        except BlockingIOError:
            os.close(lock)
            raise
        if os.fstat(lock).st_nlink > 0:
            return lock
        os.close(lock)
        return None


def _make_base(base: Path) -> None:
    base.mkdir(mode=0o700, exist_ok=True)
    status = os.lstat(base)
    if base.is_symlink() or status.st_uid != 0 or status.st_mode & 0o077:
        raise PlaceError(f"{base} is not a directory that only root can use")


def names(base: Path) -> list[str]:
    """Return every name that has a directory."""
    return [path.name for path in sorted(base.iterdir()) if path.is_dir()] if base.is_dir() else []


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)), in clock ticks since boot; None for no process and for a dead one.

    Beside the pid it tells a process from a later one with the same pid.
    """
    try:
        # The command name, in parentheses, may contain spaces: count from after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def kill(pid: int, started: int, patience: float) -> None:
    """Kills the process, if it is still the one that started then, and waits until it has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Asked with the descriptor open: what it holds now is what the answer is about.
        if start_time(pid) != started:
            return
        signal.pidfd_send_signal(process, signal.SIGKILL)
        if not select.select([process], [], [], patience)[0]:
            raise PlaceError(f"process {pid} does not end")
    finally:
        os.close(process)
