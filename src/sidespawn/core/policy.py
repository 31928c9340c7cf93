"""A loaded policy of a service: what an agent may request, and what a side container gets.

loading/parse.py parses it from TOML; docs/policy.md is the reference for people.
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
    values: tuple[Pattern, ...]  # empty: it must have no value
    bare: bool  # it may have no value
    required: bool
    most: int
    passed_on: bool
    instead: Pattern | None  # the program gets this in place of the value, or of the word
    configuration: str  # the rules for the file that the value names; empty for none
    rule: str  # FILE:LINE


@dataclass(frozen=True, kw_only=True)
class Configuration:
    path: Pattern
    file: str  # the file's name if the path is that of its directory; empty if the path is the file's own
    at: str  # where the program finds it; empty: at the agent's path
    rules: ConfigurationRules


@dataclass(frozen=True, kw_only=True)
class Root:
    """A directory besides `state` in which an agent may name files."""

    path: str  # as the agent sees it
    on_host: str
    writable: bool


@dataclass(frozen=True, kw_only=True)
class Agent:
    """The requesting container."""

    state: str
    state_on_host: str
    roots: tuple[Root, ...]
    spool_uid: int
    wrapper: str
    kill_scripts: tuple[str, ...]
    shared_kill_scripts: tuple[str, ...]  # shared by several of the agent's services
    timeout: int  # seconds
    local: tuple[tuple[str, ...], ...]
    stop: tuple[tuple[str, ...], ...]
    wakes_by_path: bool  # whether a file in the spool also wakes the service, like the doorbell
    refusals_fail: bool  # whether the wrapper reports a refused or failed start or HUP to the agent as a failure


class Caller(StrEnum):
    """Where a request comes from."""

    INSIDE = "inside"  # the side container's namespace
    OUTSIDE = "outside"  # no named one; the arguments say which namespace it is for, if any


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How the host serves the spool."""

    linger: int  # seconds that a run waits for more requests after serving one
    parallel: int  # parallel launches


@dataclass(frozen=True, kw_only=True)
class ServiceLimits:
    """The most that a service may cost the host, whatever its agent does. The defaults hold without [limits]."""

    burst: int = 2000  # requests that may arrive at once
    rate: int = 20  # requests a second after that; others wait in the spool
    instances: int = 1000  # side containers at a time
    backoff: int = 60  # seconds, the longest backoff before a program that keeps ending is restarted; 0: none
    records: int = 600  # of one kind in the journal per minute; others are only counted
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
    mounts: tuple[Pattern, ...]  # writable, at the agent's path
    writes: tuple[tuple[str, Pattern], ...]  # writable, at a path that the policy sets
    reads: tuple[tuple[str, Pattern], ...]  # read-only, at a path that the policy sets
    scratch: tuple[str, ...]
    apparmor: str  # the profile; empty: the engine's default
    scripts: tuple[Script, ...]
    pid_file: Pattern | None
    child_pid_files: tuple[tuple[Pattern, str], ...]  # a pid file of the agent, a path in the side container
    limits: Limits
    readiness: Readiness
    grace: float


@dataclass(frozen=True, kw_only=True)
class Adopt:
    """Describes the side containers of legacy wrappers; see core/adoption.py."""

    names: tuple[Pattern, ...]  # of the container, without a date at its end
    images: tuple[Pattern, ...]
    engine: str
    rule: str  # FILE:LINE


@dataclass(frozen=True, kw_only=True)
class Policy:
    service: str
    description: str
    is_monitor: bool  # forbidden arguments are recorded and passed on
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
    """Check for lower-case letters, digits and hyphens, at most 40, for names of units, slices and containers."""
    return only(text, SERVICE_CHARACTERS) and len(text) <= 40 and "-" not in (text[0], text[-1])
