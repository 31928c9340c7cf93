"""The services on this host, and whether they are enabled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sidespawn.core.policy import Policy
from sidespawn.errors import PolicyError
from sidespawn.host.policies import load_policy
from sidespawn.setup.systemd import INSTALLED
from sidespawn.system.places import POLICIES, RUN, Places


@dataclass(frozen=True, kw_only=True)
class Service:
    """`policy` is None if it is invalid; `is_enabled` says whether systemd starts its units at boot."""

    name: str
    policy: Policy | None
    is_enabled: bool


def services_with_policy() -> list[str]:
    """Return every service that has a policy on this host."""
    return sorted(path.stem for path in POLICIES.glob("*.toml")) if POLICIES.is_dir() else []


def services(places: Places | None) -> list[Places]:
    """Return the named service, or all enabled ones."""
    if places is not None:
        return [places]
    return [Places(name) for name in services_with_policy() if (RUN / name).is_dir()]


def policy_or_none(places: Places) -> Policy | None:
    """Return the service's policy, or None if it is invalid or missing."""
    try:
        return load_policy(places)
    except PolicyError:
        return None


def is_enabled(service: str) -> bool:
    return is_wanted(f"sidespawn@{service}.socket")


def is_wanted(unit: str) -> bool:
    """Return whether a link has systemd start the unit at boot."""
    return any(INSTALLED.glob(f"*.wants/{unit}"))


def enabled(services: Iterable[Service]) -> tuple[str, ...]:
    return tuple(each.name for each in services if each.is_enabled)


def engines_in_use(services: Iterable[Service]) -> frozenset[str]:
    """Return the engines with which an enabled service starts or adopts side containers."""
    found = set()
    for policy in (each.policy for each in services if each.is_enabled):
        if policy is not None:
            found |= {policy.side_container.engine, *((policy.adopt.engine,) if policy.adopt else ())}
    return frozenset(found)
