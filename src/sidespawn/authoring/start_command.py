"""The start of a side container, as a command for people: for podman the very one that is executed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sidespawn.core.plan import Plan
from sidespawn.engines import Pins
from sidespawn.engines.docker import Docker
from sidespawn.engines.kubernetes import Kubernetes
from sidespawn.engines.podman import Podman
from sidespawn.engines.systemd import MANAGER, START, properties, unit_name
from sidespawn.engines.systemd_bus import split

BUSCTL = "/usr/bin/busctl"


def start_command(plan: Plan, pins: Pins, request: str) -> tuple[str, ...]:
    match plan.engine:
        case "podman":
            return Podman().describe(plan, pins, request)
        case "docker":
            return Docker().describe(plan, pins, request)
        case "kubernetes":
            return Kubernetes().describe(plan, pins, request)
    return by_busctl(plan, pins, request)


def by_busctl(plan: Plan, pins: Pins, request: str) -> tuple[str, ...]:
    """The call that the engine makes of PID 1 without a command."""
    values: tuple[Any, ...] = (unit_name(plan.name), "fail", properties(plan, pins, request), [])
    words = (word for each, value in zip(split(START[1]), values, strict=True) for word in written(each, value))
    return (BUSCTL, "--system", "--", "call", *MANAGER, *START, *words)


def written(kind: str, value: Any) -> Iterator[str]:
    """A value as busctl(1) takes it."""
    match kind[0]:
        case "v":
            yield value[0]
            yield from written(*value)
        case "a":
            yield str(len(value))
            for each in value:
                yield from written(kind[1:], each)
        case "(":
            for each, part in zip(split(kind[1:-1]), value, strict=True):
                yield from written(each, part)
        case "b":
            yield "true" if value else "false"
        case _:
            yield str(value)
