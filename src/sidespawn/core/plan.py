"""What an engine gets: everything about one side container, decided.

A plan holds nothing that still needs judgement.  The digest of a plan is how the host tells whether a running side
container is what a new request asks for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A directory of the agent's state that the side container gets, writable, at the path the agent knows.

    `beneath` is the path relative to the policy's `state_on_host`; the host opens it without following links.
    """

    path: str
    beneath: str


@dataclass(frozen=True, kw_only=True)
class ConfigurationFile:
    """A file of the agent's state to be checked by the named rules, copied, and mounted read-only at `path`."""

    path: str
    beneath: str
    rules: str


@dataclass(frozen=True, kw_only=True)
class PidFile:
    """Where the agent looks for the program's pid: a path relative to the policy's `state_on_host`."""

    beneath: str

    @property
    def directory(self) -> str:
        return self.beneath.rpartition("/")[0] or "."

    @property
    def name(self) -> str:
        return self.beneath.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Limits:
    memory: int  # bytes
    tasks: int
    open_files: int


class ReadyWhen(StrEnum):
    FILE = "file"  # the program made this file, a path inside the side container
    LISTENS = "listens"  # a socket is bound: udp:67
    ALIVE = "alive"  # it lived that many milliseconds


@dataclass(frozen=True, kw_only=True)
class Readiness:
    when: ReadyWhen
    what: str
    within: float  # seconds


@dataclass(frozen=True, kw_only=True)
class Plan:
    service: str
    instance: str
    engine: str
    image: str
    command: str  # absolute path in the image
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    netns: str
    uid: int
    gid: int
    capabilities: tuple[str, ...]
    mounts: tuple[Mount, ...]
    configuration: tuple[ConfigurationFile, ...]
    scratch: tuple[str, ...]  # small empty directories in memory
    limits: Limits
    pid_file: PidFile | None
    readiness: Readiness
    grace: float  # seconds between TERM and KILL

    @property
    def name(self) -> str:
        """What the engine calls it, and what an operator reads in its lists."""
        return f"{self.service}-{self.instance}"

    @property
    def digest(self) -> str:
        """SHA-256 over everything above, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()
