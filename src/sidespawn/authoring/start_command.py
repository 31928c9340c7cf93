"""Shows the start of a side container as a command for people; podman's can be executed unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sidespawn.core.plan import Plan
from sidespawn.engines import Pins
from sidespawn.engines.docker import Docker
from sidespawn.engines.kubernetes import Kubernetes
from sidespawn.engines.podman import Podman
from sidespawn.engines.systemd import MANAGER, START, SYSTEMD, properties, unit_name
from sidespawn.engines.systemd_bus import split
from sidespawn.host_report import service_manager

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
    """Return the call that the engine makes to PID 1, as a busctl command."""
    described = properties(plan, pins, request, service_manager.look().number)
    values: tuple[Any, ...] = (unit_name(plan.name), "fail", described, [])
    words = (word for each, value in zip(split(START[1]), values, strict=True) for word in written(each, value))
    return (BUSCTL, "--system", "--", "call", SYSTEMD, *MANAGER, *START, *words)


def written(kind: str, value: Any) -> Iterator[str]:
    """Return a value in the form that busctl(1) takes."""
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
