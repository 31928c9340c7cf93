"""Provides a service's policy to a run: compiled, and current.

The process that serves requests does not read or check TOML.  Another process does (policies.py).  It leaves the
compiled policy (core/compiled.py) in the service's own directory, which only root can reach, with a stamp of every file
that contributed to it: files that were read, files that would have been read if they existed, and the code that
compiled it.  A run uses the compiled policy while none of these has changed, and otherwise has it compiled again.  So a
changed policy applies from the next request on.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sidespawn.core import compiled
from sidespawn.core.policy import Policy
from sidespawn.errors import LaunchError, PolicyError
from sidespawn.system.files import read_trusted
from sidespawn.system.places import Places
from sidespawn.system.processes import last_line, run

LOADER = (sys.executable, "-I", "-S", str(Path(__file__).parent.parent / "run.py"), "load")
LOADING_SECONDS = 30.0
BROKEN = (ValueError, LookupError, TypeError, AttributeError)  # raised for a text that is not a compiled policy

Stamp = list[int] | None
Stamps = dict[str, Stamp]  # by path


def current_policy(places: Places, stamps: Stamps) -> Policy:
    """Return the policy from the files as they are now. Raises PolicyError.

    `stamps` receives a stamp for each file that contributed to the policy or to the error.
    """
    return load_compiled(places, stamps) or load_elsewhere(places, stamps)


def load_compiled(places: Places, stamps: Stamps) -> Policy | None:
    """Return None if the compiled policy is missing or stale."""
    try:
        content = json.loads(read_trusted(places.compiled))
        policy = compiled.load(content) if are_current(content["stamps"]) else None
    except (PolicyError, *BROKEN):
        return None
    if not isinstance(policy, Policy):
        return None
    stamps |= content["stamps"]
    return policy


def load_elsewhere(places: Places, stamps: Stamps) -> Policy:
    """Load the policy in another process, which may fail in any way. Raises PolicyError."""
    stamp(places.policy, stamps)
    try:
        done = run((*LOADER, places.service), LOADING_SECONDS)
    except LaunchError as error:
        raise PolicyError(f"{places.policy} cannot be loaded: {error.message}") from None
    try:
        content = json.loads(done.stdout)
        stamps |= content["stamps"]
        found = PolicyError(*content["error"]) if "error" in content else compiled.load(content)
    except BROKEN:
        message = f"{places.policy} cannot be loaded: exit code {done.code}, {last_line(done.stderr)}"
        raise PolicyError(message) from None
    if not isinstance(found, Policy):
        raise found
    return found


def are_current(stamps: Stamps) -> bool:
    """Return whether no file has changed since."""
    return all(status_of(path) == status for path, status in stamps.items())


def stamp(path: Path, stamps: Stamps) -> None:
    """Stamp a file before it is read, so that a change in between is noticed."""
    stamps.setdefault(str(path), status_of(path))


def status_of(path: str | Path) -> Stamp:
    """Return values that change whenever the file is written, replaced, created or removed."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
