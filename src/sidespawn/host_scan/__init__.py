"""Examines the host for `sidespawn scan`: remaining sockets, privileges and legacy wrappers. Nothing is changed.

Checks that fail are reported, and do not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sidespawn import presets
from sidespawn.core.policy import Policy
from sidespawn.errors import LaunchError
from sidespawn.host_scan import bundles, containers, engines, files, listeners, sources
from sidespawn.host_scan.containers import Container
from sidespawn.host_scan.findings import Finding
from sidespawn.loading.parse import parse_policy

ENGINES: dict[str, Callable[[], Iterable[Container]]] = {
    "podman": engines.of_podman,
    "docker": engines.of_docker,
    "containerd": bundles.of_containerd,
}


@dataclass(frozen=True, kw_only=True)
class Report:
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]  # things that are not findings, for information
    not_looked_at: tuple[str, ...]
    containers: int


def scan() -> Report:
    root = Path("/")
    failed = list[str]()
    reaching = sources.look(sockets=named(listeners.local, failed), storage=named(listeners.storage, failed))
    failed += reaching.not_looked_at
    known, count = shipped(), 0
    found, notes = list[Finding](), list[str]()
    for name, look in ENGINES.items():
        try:
            for container in look():
                count += 1
                here = list(containers.judge(container, reaching, known))
                notes += containers.notes(container, here)
                found += here
                found += files.scripts_of(container, root)
        except LaunchError as error:
            failed.append(error.message)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
    try:
        found += files.look(reaching, root, failed)
    except OSError as error:
        failed.append(f"{error.filename}: {error.strerror}")
    once = {(each.kind, each.where, each.found): each for each in reversed(found)}  # a script may be in two places
    return Report(
        findings=tuple(reversed(once.values())), notes=tuple(notes), not_looked_at=tuple(failed), containers=count
    )


def named(look: Callable[[Path], Iterable[str]], failed: list[str]) -> tuple[str, ...]:
    """Return paths that the engines' configuration names. Without access, add a sentence to `failed`."""
    try:
        return tuple(look(Path("/")))
    except OSError as error:
        failed.append(f"{error.filename}: {error.strerror}")
        return ()


def shipped() -> tuple[Policy, ...]:
    """Return the presets, which know the names that the legacy wrappers gave to containers."""
    names = presets.names()
    texts = ((name, presets.read_preset(name)) for name in names)
    return tuple(
        parse_policy(name, f"presets/{name}.toml", text, presets.read_preset, presets.read_program)
        for name, text in texts
    )
