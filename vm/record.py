"""The record of a machine, kept between two commands. Only root can read it.

/run/sidespawn-vm/NAME/record.json   its qemu, what it is, and the command that it must not outlive
                       ssh           socket of the connection to it
                       console       what it printed
                       monitor       socket that controls qemu
                       .             locked while it is started or ended

What it wrote is in the cache, run/NAME/disk.qcow2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import places
from lab.places import Directory, start_time
from vm.cache import Cache
from vm.keys import ensure_keys
from vm.qemu import Process
from vm.shell import Shell

BASE = Path("/run/sidespawn-vm")
_FILES = ("console", "console.qemu", "monitor", "ssh")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One machine. With an owner, a pid, it is removed after that process's end; with 0 it runs until `down`."""

    pid: int
    started: int
    owner: int
    owner_started: int
    release: str
    module: str
    checkout: str
    cache: str
    port: int

    @property
    def process(self) -> Process:
        return Process(pid=self.pid, started=self.started)

    @property
    def stale(self) -> bool:
        """Return whether the process that should have ended it is gone."""
        return self.owner != 0 and start_time(self.owner) != self.owner_started


@dataclass(frozen=True, kw_only=True)
class Place:
    """The files of the machine of this name, whether it runs or not."""

    name: str

    @property
    def directory(self) -> Directory:
        return Directory(base=BASE, name=self.name)

    @property
    def console(self) -> Path:
        return self.directory.path / "console"

    @property
    def control(self) -> Path:
        return self.directory.path / "ssh"

    def disk(self, cache: Cache) -> Path:
        return cache.top / "run" / self.name / "disk.qcow2"

    def shell(self, record: Record) -> Shell:
        keys = ensure_keys(Cache(top=Path(record.cache)))
        return Shell(port=record.port, keys=keys, control=self.control)

    def save(self, record: Record) -> None:
        self.directory.save(asdict(record))

    def load(self) -> Record | None:
        """Return the record, or None if there is no machine of this name."""
        record = self.directory.load()
        return None if record is None else Record(**record)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other commands from starting or ending this machine in the meantime; makes its directory."""
        with self.directory.locked():
            yield

    def clear(self) -> None:
        """Ends the machine, if it runs, and removes what it wrote; the caller holds the lock."""
        record = self.load()
        if record is not None:
            record.process.kill()
            self.shell(record).hang_up()
            remove_disk(self.disk(Cache(top=Path(record.cache))))

    def remove(self) -> None:
        """Removes the record, and with it the lock."""
        self.directory.remove(*_FILES)


def all_places() -> list[Place]:
    """Return every machine that has files, by name."""
    return [Place(name=name) for name in places.names(BASE)]


def remove_disk(disk: Path) -> None:
    disk.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        disk.parent.rmdir()


def remove_unrecorded_disks(cache: Cache) -> None:
    """Disks of machines whose record was lost, as it is when the development machine restarts."""
    for disk in (cache.top / "run").glob("*/disk.qcow2"):
        place = Place(name=disk.parent.name)
        with place.directory.locked_if_free() as free:
            if free and place.load() is None:
                remove_disk(disk)
                place.remove()


def name_for_this_process(what: str) -> str:
    """Return a name for a machine that this process will end."""
    return f"{what}-{os.getpid()}"
