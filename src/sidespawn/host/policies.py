"""A service's policy as it stands in /etc/sidespawn, with the presets and program tables that it builds on.

`/etc/sidespawn/presets` and `/etc/sidespawn/programs` may hold more of both, or an operator's own version of one.

Whoever loads a policy leaves it compiled (core/compiled.py) in the service's own directory, which only root can reach,
together with a stamp of every file that had a part in it: those that were read, those that would have been read had
they been there, and the code that made a policy of them.  It is used as long as none of them has changed, so that a
request costs neither the reading of TOML nor the import of what reads it, and a changed policy still holds from the
next request on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from sidespawn.core import compiled
from sidespawn.core.policy import Policy
from sidespawn.errors import PolicyError
from sidespawn.system.files import directory, read_trusted, write_whole
from sidespawn.system.places import Places

TICK_NS = 100_000_000  # longer than the clock of any file system takes to show two changes as two

CODE = ("sidespawn.core.", "sidespawn.frozen", "sidespawn.loading.", "sidespawn.host.policies", "sidespawn.presets")

Stamp = list[int] | None
Stamps = dict[str, Stamp]  # by path


def load_policy(places: Places, stamps: Stamps | None = None) -> Policy:
    """Raises PolicyError, also when others than root could have written a file of it.

    `stamps` is given one for each file that had a part in it, or in the error.
    """
    stamps = {} if stamps is None else stamps
    policy = load_compiled(places, stamps)
    if policy is None:
        stamp(places.policy, stamps)
        policy = policy_of(places, read_trusted(places.policy), stamps=stamps)
        with suppress(OSError):  # it only costs time when there is none
            compile_policy(places, policy, stamps)
    return policy


def policy_of(places: Places, text: str, source: str = "", stamps: Stamps | None = None) -> Policy:
    """The policy that `text` would be for the service; `source` names it in messages. Raises PolicyError.

    `stamps` is given one for each file.
    """
    # Imported here, since a run whose policy is compiled does without them.
    from sidespawn import presets  # noqa: PLC0415
    from sidespawn.loading.parse import parse_policy  # noqa: PLC0415

    known = {} if stamps is None else stamps

    def read_preset(name: str) -> str:
        stamp(presets.DIRECTORY / f"{name}.toml", known)
        own = read_own("presets", name)
        return presets.read_preset(name) if own is None else own

    def read_program(name: str) -> str:
        stamp(presets.DIRECTORY / "programs" / f"{name}.toml", known)
        own = read_own("programs", name)
        return presets.read_program(name) if own is None else own

    def read_own(folder: str, name: str) -> str | None:
        path = places.policies / folder / f"{name}.toml"
        stamp(path, known)
        return read_trusted(path) if path.exists() else None

    return parse_policy(places.service, source or str(places.policy), text, read_preset, read_program)


def load_compiled(places: Places, stamps: Stamps) -> Policy | None:
    """None when there is none, or not of the files as they are now."""
    try:
        content = json.loads(read_trusted(places.compiled))
        policy = compiled.load(content) if are_current(content["stamps"]) else None
    except (PolicyError, ValueError, LookupError, TypeError, AttributeError):
        return None
    if not isinstance(policy, Policy):
        return None
    stamps |= content["stamps"]
    return policy


def are_current(stamps: Stamps) -> bool:
    """Whether every file is as it was then."""
    return all(status_of(path) == status for path, status in stamps.items())


def compile_policy(places: Places, policy: Policy, stamps: Stamps) -> None:
    for name, module in tuple(sys.modules.items()):
        if name.startswith(CODE):
            stamp(Path(str(module.__file__)), stamps)
    newest = max(status[-1] for status in stamps.values() if status)
    if time.time_ns() - newest < TICK_NS:
        return  # a file that changes again right now might keep its stamp
    content = json.dumps({**compiled.dump(policy), "stamps": stamps}).encode()
    with directory(places.home) as held:
        write_whole(held, places.compiled.name, content)


def stamp(path: Path, stamps: Stamps) -> None:
    """Before the file is read, so that a change meanwhile is seen."""
    stamps.setdefault(str(path), status_of(path))


def status_of(path: str | Path) -> Stamp:
    """Changes whenever the file is written, replaced, made or removed."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
