"""A service's policy, as it was loaded: what an agent may ask for, and what a side container is given.

loading/parse.py makes it of TOML; docs/policy.md is the reference for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sidespawn.core.configuration import ConfigurationRules
from sidespawn.core.options import Option, ProgramTable
from sidespawn.core.pattern import Names, Pattern
from sidespawn.core.plan import Limits, Readiness, Script
from sidespawn.core.values import only
from sidespawn.core.wire import LINE_BYTES
from sidespawn.frozen import dataclass

SERVICE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


@dataclass(frozen=True, kw_only=True)
class OptionRule:
    """A policy's rule for one option of the program."""

    option: Option
    values: tuple[Pattern, ...]  # empty: it must stand alone
    bare: bool  # it may stand alone
    required: bool
    most: int
    passed_on: bool
    instead: Pattern | None  # what the program gets in place of the value, or of the word
    configuration: str  # the rules for the file that the value names; empty for none
    rule: str  # FILE:LINE


@dataclass(frozen=True, kw_only=True)
class Configuration:
    path: Pattern
    file: str  # the path is that of a directory, in which this is the file; empty where it is the file's own
    at: str  # where the program finds it; empty for the path at which the agent knows it
    rules: ConfigurationRules


@dataclass(frozen=True, kw_only=True)
class Root:
    """A directory besides `state` in which an agent may name files."""

    path: str  # as the agent sees it
    on_host: str
    writable: bool


@dataclass(frozen=True, kw_only=True)
class Agent:
    """The requesting container's side."""

    state: str
    state_on_host: str
    roots: tuple[Root, ...]
    spool_uid: int
    wrapper: str
    kill_scripts: tuple[str, ...]
    shared_kill_scripts: tuple[str, ...]  # of several of the agent's services
    timeout: int  # seconds
    local: tuple[tuple[str, ...], ...]
    stop: tuple[tuple[str, ...], ...]
    wakes_by_path: bool  # whether a file in the spool wakes the service, as the doorbell does
    refusals_fail: bool  # whether the wrapper tells the agent so of a start or a HUP that is refused or fails


class Caller(StrEnum):
    """Where a request comes from."""

    INSIDE = "inside"  # the namespace that the side container is to run in
    OUTSIDE = "outside"  # no named one; the arguments say for which it is, if for any


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How the host serves the spool."""

    linger: int  # seconds that a run waits for more requests once it has served one
    parallel: int  # launches side by side


@dataclass(frozen=True, kw_only=True)
class ServiceLimits:
    """The most that a service may cost the host, whatever its agent does. The defaults hold without [limits]."""

    burst: int = 2000  # requests that may come at once
    rate: int = 20  # requests a second after that; what is more waits in the spool
    instances: int = 1000  # side containers at a time
    backoff: int = 60  # seconds, the longest pause before a program that keeps ending is started again; 0: none
    records: int = 600  # of one kind in the journal within a minute; what is more is counted
    replies: int = 4096  # kept at a time
    spool: int = 4 * 2**20  # bytes
    line: int = LINE_BYTES  # of a request


@dataclass(frozen=True, kw_only=True)
class SideContainer:
    engine: str
    image: str
    command: str
    uid: int
    gid: int
    host_network: bool
    capabilities: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    mounts: tuple[Pattern, ...]  # writable, at the path that the agent knows
    writes: tuple[tuple[str, Pattern], ...]  # writable, at a path of the policy's own
    reads: tuple[tuple[str, Pattern], ...]  # read-only, at a path of the policy's own
    scratch: tuple[str, ...]
    apparmor: str  # the profile; empty: whatever the engine gives by itself
    scripts: tuple[Script, ...]
    pid_file: Pattern | None
    child_pid_files: tuple[tuple[Pattern, str], ...]  # a pid file of the agent, a path in the side container
    limits: Limits
    readiness: Readiness
    grace: float


@dataclass(frozen=True, kw_only=True)
class Adopt:
    """How side containers of legacy wrappers look; see core/adoption.py."""

    names: tuple[Pattern, ...]  # of the container, without the date that may end it
    images: tuple[Pattern, ...]
    engine: str
    rule: str  # FILE:LINE


@dataclass(frozen=True, kw_only=True)
class Policy:
    service: str
    description: str
    is_monitor: bool  # arguments that are not allowed are noted and passed on
    table: ProgramTable
    agent: Agent
    pace: Pace
    limits: ServiceLimits
    names: Names
    caller: Caller
    netns: Pattern | None  # None with host_network
    netns_rule: str
    instance: tuple[Pattern, ...]
    signals: tuple[str, ...]
    signals_rule: str
    environment: Mapping[str, tuple[tuple[Pattern, ...], str]]  # name to patterns and FILE:LINE
    environment_rule: str
    options: Mapping[str, OptionRule]
    options_rule: str
    configuration: Mapping[str, Configuration]
    first: tuple[str, ...]
    always: tuple[str, ...]
    unless_given: tuple[str, ...]
    side_container: SideContainer
    adopt: Adopt | None


def is_service_name(text: str) -> bool:
    """Lower-case letters, digits and hyphens, at most 40: it becomes part of unit, slice and container names."""
    return only(text, SERVICE_CHARACTERS) and len(text) <= 40 and "-" not in (text[0], text[-1])
