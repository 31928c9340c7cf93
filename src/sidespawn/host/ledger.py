"""A service's own list of its side containers: one file for each instance.

The engine's labels are the truth about what runs.  The ledger indexes it, so that a request needs no call to the
engine.  A missing or unreadable record does no harm: the next start finds the name taken and asks the engine.  Only
root can write here, and pids come from nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sidespawn.core.plan import KnownFile, Plan
from sidespawn.engines import Found
from sidespawn.frozen import asdict, dataclass
from sidespawn.system.files import directory, write_whole
from sidespawn.system.namespaces import namespace_of
from sidespawn.system.processes import Process, is_alive

RECORD_VERSION = 1
ADOPTED = ".old"  # no instance's name ends like this


@dataclass(frozen=True, kw_only=True)
class Record:
    instance: str
    container: str  # the engine's id
    name: str  # the engine's name
    pid: int
    started: int  # of the process; see processes.Process
    since: float  # seconds since the epoch, for people
    netns: str
    netns_inode: int
    digest: str  # of the plan
    request: str  # the id of the request that started it
    pid_file: str | None  # under the agent's state
    configuration: tuple[KnownFile, ...]  # in the order of plan.configuration
    bindings: dict[str, str]
    grace: float
    children: dict[str, list[int]]  # pid and start time of each child whose pid the agent got, by its pid file there
    adopted: bool = False  # a container of legacy wrappers; see host/adoption.py

    @property
    def key(self) -> str:
        """Return the name of its file. Several adopted ones can belong to one instance."""
        return f"{self.name}{ADOPTED}" if self.adopted else self.instance

    @property
    def process(self) -> Process:
        return Process(self.pid, self.started)

    @property
    def is_running(self) -> bool:
        return is_alive(self.process)

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the pids of the program and of each child whose pid the agent got."""
        return (self.pid, *(pid for pid, _ in self.children.values()))

    def process_of(self, pid: int) -> Process | None:
        """Return the program, or its child, that the agent knows by this pid, if it still runs."""
        known = (self.process, *(Process(*each) for each in self.children.values()))
        return next((each for each in known if each.pid == pid and is_alive(each)), None)


class Ledger:
    """Not safe for two threads on one instance; the caller serialises work on one instance.

    Only one run at a time writes, so it lists its records once and reads each at most once, however many there are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        names = (name for name in os.listdir(path) if name.endswith(".json") and not name.startswith("."))
        self._keys = {name.removesuffix(".json") for name in names}
        self._by_pid: dict[int, str] | None = None  # pid to key; filled when a pid is first looked up

    def find(self, key: str) -> Record | None:
        try:
            fields = json.loads((self.path / f"{key}.json").read_bytes())
            if fields.pop("v") != RECORD_VERSION:
                return None
            files = tuple(KnownFile(**each) for each in fields.pop("configuration"))
            return Record(**fields, configuration=files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def find_pid(self, pid: int) -> Record | None:
        """Return the side container whose running program, or a known child of it, has this pid on the host."""
        with self.lock:
            if self._by_pid is None:
                self._by_pid = {
                    each: record.key for record in self.records() for each in record.pids if record.process_of(each)
                }
            key = self._by_pid.get(pid)
        record = None if key is None else self.find(key)
        return record if record and record.process_of(pid) else None

    def adopted(self, instance: str) -> Iterator[Record]:
        return (each for each in self.records(ADOPTED) if each.instance == instance)

    def records(self, ending: str = "") -> Iterator[Record]:
        for key in sorted(key for key in self.keys() if key.endswith(ending)):
            if (record := self.find(key)) is not None:
                yield record

    def keys(self) -> set[str]:
        """Return the keys of all records, readable or not."""
        return set(self._keys)

    def mark(self, request_id: str, key: str) -> None:
        """Remember until its answer that this request is about to start or end the side container with that key."""
        with directory(self.path) as held:
            write_whole(held, f"{request_id}.tried", key.encode())

    def marked(self, request_id: str) -> str | None:
        """Return that key; None if nothing was tried for this request."""
        try:
            return (self.path / f"{request_id}.tried").read_text()
        except OSError:
            return None

    def unmark(self, request_id: str) -> None:
        (self.path / f"{request_id}.tried").unlink(missing_ok=True)

    def marks(self) -> list[str]:
        return [path.stem for path in self.path.glob("*.tried")]

    def write(self, record: Record) -> None:
        content = json.dumps({"v": RECORD_VERSION, **asdict(record)}).encode()
        with directory(self.path) as held:
            write_whole(held, f"{record.key}.json", content)
        with self.lock:
            self._keys.add(record.key)
            if self._by_pid is not None:
                self._by_pid |= dict.fromkeys(record.pids, record.key)

    def remove(self, key: str) -> None:
        (self.path / f"{key}.json").unlink(missing_ok=True)
        self._keys.discard(key)


def recovered(found: Found, process: Process, grace: float) -> Record:
    """Return a record of what the engine knows. The paths of the agent's pid files are lost."""
    return Record(
        instance=found.instance,
        container=found.id,
        name=found.name,
        pid=process.pid,
        started=process.started,
        since=time.time(),
        netns=found.netns,
        netns_inode=namespace_of(process.pid) or 0,
        digest=found.digest,
        request=found.request,
        pid_file=None,
        configuration=(),
        bindings={},
        grace=grace,
        children={},
    )


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_same(record: Record, plan: Plan) -> bool:
    """Return whether the running side container matches the plan, including its configuration files."""
    texts = [digest_of(file.text or "") for file in plan.configuration]
    return record.digest == plan.digest and texts == [file.digest for file in record.configuration]
