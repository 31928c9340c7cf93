"""What is known of a lab between two commands. Only root can read it.

/run/sidespawn-lab/NAME/record.json  its PID 1, as the machine sees it
                        scratch/     mount point; what is mounted there, only the lab sees
                        .            locked while the lab is taken up or down
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.errors import LabError

BASE = Path("/run/sidespawn-lab")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One booted lab. `started`, in clock ticks since the machine's boot, tells a reused pid."""

    pid: int
    started: int
    checkout: str

    def alive(self) -> bool:
        """Whether the process is still the one that was recorded."""
        return start_time(self.pid) == self.started


@dataclass(frozen=True, kw_only=True)
class Place:
    """The files of the lab of this name, whether it runs or not."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LabError(
                f"{self.name!r} is no name for a lab",
                hint="lower case letters, digits and -, at most 40",
            )

    @property
    def directory(self) -> Path:
        return BASE / self.name

    @property
    def scratch(self) -> Path:
        return self.directory / "scratch"

    @property
    def _record(self) -> Path:
        return self.directory / "record.json"

    def save(self, record: Record) -> None:
        """Writes the record in one step."""
        draft = self.directory / "record.new"
        draft.write_text(json.dumps(asdict(record)))
        draft.rename(self._record)

    def load(self) -> Record | None:
        """The record, or None when there is no lab of this name."""
        try:
            return Record(**json.loads(self._record.read_text()))
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Removes it all, name by name: nothing unexpected can go with it."""
        for name in ("record.json", "record.new"):
            (self.directory / name).unlink(missing_ok=True)
        for directory in (self.scratch, self.directory):
            with suppress(FileNotFoundError):
                directory.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other commands from taking this lab up or down meanwhile; makes its directory."""
        _make_base()
        while (lock := self._try_lock()) is None:
            pass
        try:
            self.scratch.mkdir(mode=0o700, exist_ok=True)
            yield
        finally:
            os.close(lock)

    def _try_lock(self) -> int | None:
        """Locks the directory; None if whoever held the lock before has removed it."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink > 0:
            return lock
        os.close(lock)
        return None


def _make_base() -> None:
    BASE.mkdir(mode=0o700, exist_ok=True)
    status = os.lstat(BASE)
    if BASE.is_symlink() or status.st_uid != 0 or status.st_mode & 0o077:
        raise LabError(f"{BASE} is not a directory that only root can use")


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None for no process and for a dead one."""
    try:
        # The command name, in parentheses, may hold spaces: count from behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def all_places() -> list[Place]:
    """Every lab that has files, by name."""
    if not BASE.is_dir():
        return []
    return [Place(name=path.name) for path in sorted(BASE.iterdir()) if path.is_dir()]
