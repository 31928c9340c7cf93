"""The plan for an engine: everything about one side container, already decided.

Nothing in a plan needs further checks.  The host compares plans' digests to tell whether a running side container is
what a new request asks for.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum

from sidespawn.frozen import asdict, dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A directory of the agent's state that the side container gets at `path`.

    `beneath` is the path relative to the policy's `state_on_host`, or `ON_HOST//PATH`, relative to another root of the
    policy. The host opens PATH without following links. This holds for every `beneath` in this module.
    """

    path: str
    beneath: str
    writable: bool


@dataclass(frozen=True, kw_only=True)
class ConfigurationFile:
    """A file of the agent's state that the named rules accepted; the program gets `text` at `path`, read-only.

    `text` is None only for questions about a file that cannot be read here.
    """

    path: str
    beneath: str
    rules: str
    text: str | None


@dataclass(frozen=True, kw_only=True)
class KnownFile:
    """A configuration file that a running program reads.

    `rules` is empty if the policy has none for it. `digest` is the SHA-256 of the accepted text; empty for adopted side
    containers, which read the agent's own file.
    """

    path: str
    beneath: str
    rules: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Script:
    """A program from the policy, which the side container finds at `path`, read-only."""

    path: str
    text: str


@dataclass(frozen=True, kw_only=True)
class PidFile:
    """Where the agent looks for the program's pid: a path relative to the policy's `state_on_host`."""

    beneath: str


@dataclass(frozen=True, kw_only=True)
class ChildPidFile(PidFile):
    """Where the agent looks for the pid of one child of the program."""

    inside: str  # where the program writes it, in the side container, with pids as seen there


@dataclass(frozen=True, kw_only=True)
class Limits:
    memory: int  # bytes
    tasks: int
    open_files: int


class ReadyWhen(StrEnum):
    FILE = "file"  # the program made this file, a path inside the side container
    LISTENS = "listens"  # a socket is bound: udp:67
    ALIVE = "alive"  # it lived for this many milliseconds


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
    netns: str  # its name; empty with host_network
    host_network: bool  # no namespace: the host's own network
    uid: int
    gid: int
    capabilities: tuple[str, ...]
    state: str  # the agent's state directory, as the agent and the side container know it
    mounts: tuple[Mount, ...]
    configuration: tuple[ConfigurationFile, ...]
    scripts: tuple[Script, ...]
    scratch: tuple[str, ...]  # small empty directories in memory
    apparmor: str  # the profile; empty: the engine's default
    limits: Limits
    pid_file: PidFile | None
    child_pid_files: tuple[ChildPidFile, ...]
    readiness: Readiness
    grace: float  # seconds between TERM and KILL

    @property
    def name(self) -> str:
        """Return its name in the engine, and in lists for operators."""
        return container_name(self.service, self.instance)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of everything above except texts of configuration files, which a program may reread."""
        fields = asdict(replace(self, configuration=tuple(replace(each, text=None) for each in self.configuration)))
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def container_name(service: str, instance: str) -> str:
    """Return a name that is unique across services, because neither part has an underscore."""
    return f"{service}_{instance}"
