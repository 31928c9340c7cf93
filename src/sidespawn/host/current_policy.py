"""A service's policy as a run has it: compiled, and current.

Reading TOML and judging what it says is no work for the process that serves requests.  Another one does it
(policies.py) and leaves the policy compiled (core/compiled.py) in the service's own directory, which only root can
reach, together with a stamp of every file that had a part in it: those that were read, those that would have been read
had they been there, and the code that made a policy of them.  A run uses it as long as none of them has changed, and
has a new one made when one has, so a changed policy still holds from the next request on.
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
BROKEN = (ValueError, LookupError, TypeError, AttributeError)  # what a text raises that is no compiled policy

Stamp = list[int] | None
Stamps = dict[str, Stamp]  # by path


def current_policy(places: Places, stamps: Stamps) -> Policy:
    """The policy that the files make as they are now. Raises PolicyError.

    `stamps` is given one for each file that had a part in it, or in the error.
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
    """Have another process load it, whatever becomes of that process. Raises PolicyError."""
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
    """Return whether every file is as it was then."""
    return all(status_of(path) == status for path, status in stamps.items())


def stamp(path: Path, stamps: Stamps) -> None:
    """Before the file is read, so that a change in between is seen."""
    stamps.setdefault(str(path), status_of(path))


def status_of(path: str | Path) -> Stamp:
    """Changes whenever the file is written, replaced, made or removed."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
