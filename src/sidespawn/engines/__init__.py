"""The interface of an engine: start a plan as a side container, find it, list a service's side containers, remove it.

One file per engine.  An engine decides nothing; it translates a plan into its own terms.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from sidespawn.core.plan import Plan
from sidespawn.errors import LaunchError, Reason
from sidespawn.frozen import dataclass
from sidespawn.system.places import Places

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every run milliseconds
    from typing import Protocol
else:
    Protocol = object

LABEL = "io.sidespawn."
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, kw_only=True)
class Pins:
    """The host's pins for a side container: paths that only root can reach."""

    netns: Path
    pid_file: Path  # the engine may write the program's pid here
    mounts: tuple[Path, ...]  # as plan.mounts
    configuration: tuple[Path, ...]  # as plan.configuration
    scripts: tuple[Path, ...] = ()  # as plan.scripts; they are executed


@dataclass(frozen=True, kw_only=True)
class Found:
    """A side container as the engine sees it. `pid` is None unless it runs."""

    id: str
    name: str
    pid: int | None
    state: str  # the engine's term, for people; see `state_of`
    instance: str
    digest: str
    request: str
    netns: str


@dataclass(frozen=True, kw_only=True)
class Other:
    """A running container that sidespawn did not start."""

    id: str
    name: str
    image: str  # as requested
    pid: int  # of its first process


class NameTaken(Exception):
    """The engine already has a container of that name."""


class Engine(Protocol):
    def start(self, plan: Plan, pins: Pins, request: str) -> tuple[str, int]:
        """Start the plan's program; return container id and pid on the host, 0 if the program has already ended.

        Raises NameTaken or LaunchError.
        """

    def find(self, name: str) -> Found | None:
        """Return the container of that name, running or not. Raises LaunchError if the engine does not answer."""

    def list(self, service: str) -> tuple[Found, ...]:
        """Return every container of the service, running or not."""

    def others(self) -> tuple[Other, ...]:
        """Return every running container that sidespawn did not start; empty if the engine cannot tell."""

    def remove(self, name: str) -> None:
        """Remove the container of that name or id and its remains, and free its name; no error if it does not exist."""

    def reap(self, service: str) -> None:
        """After a killed run, end processes in the service's slice that belong to no running container."""


def labels(plan: Plan, request: str) -> dict[str, str]:
    """Return the labels of a container: the truth about what runs, which the ledger indexes."""
    said = {"service": plan.service, "instance": plan.instance, "netns": plan.netns, "request": request}
    return {LABEL + key: value for key, value in (*said.items(), ("plan", plan.digest))}


def found(container: str, name: str, pid: int, state: str, labels: dict[str, str] | None) -> Found:
    """Return a container as found, with the values of its labels."""
    keys = {"instance": "instance", "digest": "plan", "request": "request", "netns": "netns"}
    said = {field: (labels or {}).get(LABEL + key, "") for field, key in keys.items()}
    return Found(id=container, name=name, pid=pid or None, state=state, **said)


def state_of(word: str, out_of_memory: bool) -> str:
    """Return the state: the engine's `word`, and whether the kernel killed it at its memory limit."""
    return f"{word}, {OUT_OF_MEMORY}" if out_of_memory else word


def why_ended(found: Found | None) -> Reason:
    return Reason.OUT_OF_MEMORY if found and found.state.endswith(OUT_OF_MEMORY) else Reason.EXITED


def domain(service: str) -> tuple[str, ...]:
    """Return the SELinux domain of side containers, if the label of the service's directory shows that there is one.

    It has no categories, because the files that a side container writes are for its agent and the next side container.
    """
    with suppress(OSError):  # no SELinux
        if b":sidespawn_runtime_t:" in os.getxattr(Places(service).home, "security.selinux"):
            return ("type:sidespawn_side_container_t", "level:s0")
    return ()


def image_missing(whose: str, image: str) -> LaunchError:
    hint = "pull it beforehand: requests never pull images"
    return LaunchError(Reason.IMAGE_MISSING, f"{whose} has no image {image}", hint)


def get_engine(name: str, service: str) -> Engine:
    """Return the engine that a policy names, for this service; a policy can name only existing engines."""
    match name:  # load only the engine in use
        case "podman":
            from sidespawn.engines.podman import podman_of  # noqa: PLC0415

            return podman_of(service)
        case "docker":
            from sidespawn.engines.docker import Docker  # noqa: PLC0415

            return Docker()
        case "systemd":
            from sidespawn.engines.systemd import Systemd  # noqa: PLC0415

            return Systemd()
        case "kubernetes":
            from sidespawn.engines.kubernetes import Kubernetes  # noqa: PLC0415

            return Kubernetes()
    raise KeyError(name)
