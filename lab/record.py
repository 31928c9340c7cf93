"""The record of a lab, kept between two commands. Only root can read it.

/run/sidespawn-lab/NAME/record.json  its PID 1, as the machine sees it
                        scratch/     mount point; what is mounted there, only the lab sees
                        .            locked while the lab is taken up or down
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import places
from lab.places import Directory, start_time

BASE = Path("/run/sidespawn-lab")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One booted lab. `started`, in clock ticks since the machine's boot, tells a reused pid."""

    pid: int
    started: int
    checkout: str

    def alive(self) -> bool:
        """Return whether the process is still the one that was recorded."""
        return start_time(self.pid) == self.started


@dataclass(frozen=True, kw_only=True)
class Place:
    """The files of the lab of this name, whether it runs or not."""

    name: str

    def __post_init__(self) -> None:
        self._directory  # noqa: B018  # a name that cannot be one is refused now

    @property
    def _directory(self) -> Directory:
        return Directory(base=BASE, name=self.name)

    @property
    def scratch(self) -> Path:
        return self._directory.path / "scratch"

    def save(self, record: Record) -> None:
        """Writes the record in one step."""
        self._directory.save(asdict(record))

    def load(self) -> Record | None:
        """Return the record, or None if there is no lab of this name."""
        record = self._directory.load()
        return None if record is None else Record(**record)

    def remove(self) -> None:
        """Removes it all, name by name: nothing unexpected can go with it."""
        with suppress(FileNotFoundError):
            self.scratch.rmdir()
        self._directory.remove()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other commands from taking this lab up or down in the meantime; makes its directory."""
        with self._directory.locked():
            self.scratch.mkdir(mode=0o700, exist_ok=True)
            yield


def all_places() -> list[Place]:
    """Return every lab that has files, by name."""
    return [Place(name=name) for name in places.names(BASE)]
