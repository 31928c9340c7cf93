"""An engine's work: start a plan as a side container, find it, list a service's, remove it.

One file per engine.  An engine judges nothing and decides nothing; it turns a plan into its own terms.
"""

from __future__ import annotations

from pathlib import Path

from sidespawn.core.plan import Plan
from sidespawn.errors import LaunchError, Reason
from sidespawn.frozen import dataclass

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
    pid_file: Path  # where the engine may write the program's pid
    mounts: tuple[Path, ...]  # as plan.mounts
    configuration: tuple[Path, ...]  # as plan.configuration
    scripts: tuple[Path, ...] = ()  # as plan.scripts; they are executed


@dataclass(frozen=True, kw_only=True)
class Found:
    """A side container as the engine sees it. `pid` is None unless it runs."""

    id: str
    name: str
    pid: int | None
    state: str  # the engine's word, for people; see `state_of`
    instance: str
    digest: str
    request: str
    netns: str


@dataclass(frozen=True, kw_only=True)
class Other:
    """A running container that sidespawn did not start."""

    id: str
    name: str
    image: str  # as it was asked for
    pid: int  # of its first process


class NameTaken(Exception):
    """The engine has a container of that name already."""


class Engine(Protocol):
    def start(self, plan: Plan, pins: Pins, request: str) -> tuple[str, int]:
        """Start the plan's program; its container's id and its pid on the host. Raises NameTaken or LaunchError."""

    def find(self, name: str) -> Found | None:
        """The container of that name, running or not. Raises LaunchError when the engine does not answer."""

    def list(self, service: str) -> tuple[Found, ...]:
        """Every container of the service, running or not."""

    def others(self) -> tuple[Other, ...]:
        """Every running container that sidespawn did not start; empty where the engine has no such notion."""

    def remove(self, name: str) -> None:
        """End whatever is left of the container of that name or id, and free its name; no error if there is no such
        one."""

    def reap(self, service: str) -> None:
        """After a killed run, end what runs in the service's slice without being a running container."""


def labels(plan: Plan, request: str) -> dict[str, str]:
    """Return what each container carries: the truth about what runs, of which the ledger is an index."""
    said = {"service": plan.service, "instance": plan.instance, "netns": plan.netns, "request": request}
    return {LABEL + key: value for key, value in (*said.items(), ("plan", plan.digest))}


def found(container: str, name: str, pid: int, state: str, labels: dict[str, str] | None) -> Found:
    """Return a container as found, with what its labels say."""
    keys = {"instance": "instance", "digest": "plan", "request": "request", "netns": "netns"}
    said = {field: (labels or {}).get(LABEL + key, "") for field, key in keys.items()}
    return Found(id=container, name=name, pid=pid or None, state=state, **said)


def state_of(word: str, out_of_memory: bool) -> str:
    """The state of what the engine calls `word`, and whether the kernel ended it for its memory limit."""
    return f"{word}, {OUT_OF_MEMORY}" if out_of_memory else word


def why_ended(found: Found | None) -> Reason:
    return Reason.OUT_OF_MEMORY if found and found.state.endswith(OUT_OF_MEMORY) else Reason.EXITED


def image_missing(whose: str, image: str) -> LaunchError:
    hint = "pull it beforehand: requests never pull images"
    return LaunchError(Reason.IMAGE_MISSING, f"{whose} has no image {image}", hint)


def get_engine(name: str, service: str) -> Engine:
    """The engine that a policy names, for this service; policies can only name those there are."""
    match name:  # only the one that is used is loaded
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
