"""The services of this host, as far as looking at the host depends on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sidespawn.cli.systemd import INSTALLED
from sidespawn.core.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Service:
    """`policy` is None if it is invalid; `is_enabled` says whether systemd starts its units at boot."""

    name: str
    policy: Policy | None
    is_enabled: bool


def is_enabled(service: str) -> bool:
    return any(INSTALLED.glob(f"*.wants/sidespawn@{service}.socket"))


def enabled(services: Iterable[Service]) -> tuple[str, ...]:
    return tuple(each.name for each in services if each.is_enabled)


def engines_in_use(services: Iterable[Service]) -> frozenset[str]:
    """Those that an enabled service starts, or adopts, side containers with."""
    found = set()
    for policy in (each.policy for each in services if each.is_enabled):
        if policy is not None:
            found |= {policy.side_container.engine, *((policy.adopt.engine,) if policy.adopt else ())}
    return frozenset(found)
