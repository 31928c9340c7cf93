"""Collects services' counts and gauges, without asking their engines, which may hang."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from sidespawn.core import compiled
from sidespawn.core.policy import Policy
from sidespawn.core.wire import Status
from sidespawn.errors import LaunchError, PolicyError, Reason
from sidespawn.host.ledger import Ledger, Record
from sidespawn.host.policies import load_policy
from sidespawn.host.tally import read_counts
from sidespawn.host_report import units
from sidespawn.host_report.units import Unit
from sidespawn.service_report.side_containers import is_orphan
from sidespawn.service_report.usage import usage
from sidespawn.setup import systemd
from sidespawn.setup.services import is_enabled, services_with_policy
from sidespawn.system.places import RUN, Places

# A side container is in exactly one of them.
STATES = ("running", "adopted", "orphan", "exited")


@dataclass(frozen=True, kw_only=True)
class PolicyFacts:
    digest: str  # over the file, its preset and the program's table
    engine: str
    mode: str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits in use and allowed, by their names in the policy."""

    used: dict[str, int]
    allowed: dict[str, int]
    waiting: int  # bytes of requests in the spool
    backing_off: int  # instances


@dataclass(frozen=True, kw_only=True)
class Figures:
    """`policy` and `limits` are None if the policy is invalid."""

    service: str
    is_active: bool  # requests are accepted
    policy: PolicyFacts | None = None
    limits: Limits | None = None
    side_containers: dict[str, int] = field(default_factory=dict)  # by state
    unanswered: int = 0  # claims
    oldest: float = 0.0  # seconds that the oldest has waited
    counts: dict[str, float] = field(default_factory=dict)  # see host/tally.py


def gather() -> list[Figures]:
    names = watched_services()
    try:
        loaded = units.loaded(names)
    except LaunchError:
        loaded = ()  # then no service is active
    return [look(name, loaded) for name in names]


def watched_services() -> list[str]:
    """Return services that are enabled, or have directories anyway."""
    return [name for name in services_with_policy() if is_enabled(name) or (RUN / name).is_dir()]


def look(service: str, loaded: Iterable[Unit]) -> Figures:
    """Collect the figures. `loaded` are the service's units as systemd has loaded them."""
    places = Places(service)
    policy = limits = None
    with suppress(PolicyError):
        policy = facts_of(load_policy(places))
        limits = limits_of(places)
    waits = ages(places)
    return Figures(
        service=service,
        is_active=is_active(service, loaded),
        policy=policy,
        limits=limits,
        side_containers=by_state(Ledger(places.ledger).records() if places.ledger.is_dir() else ()),
        unanswered=len(waits),
        oldest=max(waits, default=0.0),
        counts=read_counts(places.tally),
    )


def is_active(service: str, loaded: Iterable[Unit]) -> bool:
    socket, _ = systemd.units(service)
    needed = {socket, f"sidespawn-spool@{service}.service"}
    return needed <= {each.name for each in loaded if each.active == "active"}


def facts_of(policy: Policy) -> PolicyFacts:
    text = json.dumps(compiled.dump(policy), sort_keys=True)
    return PolicyFacts(
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        engine=policy.side_container.engine,
        mode="monitor" if policy.is_monitor else "enforce",
    )


def limits_of(places: Places) -> Limits:
    found = usage(places)
    return Limits(
        used={"instances": found.instances, "burst": found.burst - found.requests_left},
        allowed={"instances": found.most_instances, "burst": found.burst},
        waiting=found.waiting,
        backing_off=len(found.backing_off),
    )


def by_state(records: Iterable[Record]) -> dict[str, int]:
    found = dict.fromkeys(STATES, 0)
    for each in records:
        found[state_of(each)] += 1
    return found


def state_of(record: Record) -> str:
    if not record.is_running:
        return "exited"
    if is_orphan(record.pid, record.netns):
        return "orphan"
    return "adopted" if record.adopted else "running"


def ages(places: Places) -> list[float]:
    """Return the ages, in seconds, of the unanswered claims."""
    found = []
    with suppress(OSError), os.scandir(places.claims) as entries:
        for entry in entries:
            with suppress(OSError):  # it has been answered since
                found.append(max(0.0, time.time() - entry.stat(follow_symlinks=False).st_mtime))
    return found


def answers_of(each: Figures) -> dict[tuple[str, str], float]:
    """Return counts by verdict and reason, only those that this version knows, so the number of series is bounded."""
    words = ((key.split(" "), count) for key, count in each.counts.items() if key.startswith("answers "))
    known_words = ((tuple(word[1:]), count) for word, count in words if len(word) == 3)
    return {
        (verdict, reason): count
        for (verdict, reason), count in known_words
        if verdict in set(Status) and reason in set(Reason)
    }
