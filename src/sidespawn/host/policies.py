"""Loads a service's policy from /etc/sidespawn, with the presets and program tables that it builds on.

`/etc/sidespawn/presets` and `/etc/sidespawn/programs` may add more of both, or override one with an operator's version.

The command's verbs load a policy this way, and so does the process that a run starts if a file has changed
(current_policy.py).  Each stores it compiled for the next.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

from sidespawn import presets
from sidespawn.core import compiled
from sidespawn.core.policy import Policy
from sidespawn.errors import PolicyError
from sidespawn.host.current_policy import Stamps, load_compiled, stamp
from sidespawn.loading.parse import parse_policy
from sidespawn.system.files import directory, read_trusted, write_whole
from sidespawn.system.places import Places

TICK_NS = 100_000_000  # longer than any file system's clock tick, within which two changes look like one

CODE = ("sidespawn.core.", "sidespawn.frozen", "sidespawn.loading.", "sidespawn.host.policies", "sidespawn.presets")


def main(places: Places) -> int:
    """Print the policy, or its error, and the stamps of its files, for a run."""
    stamps: Stamps = {}
    try:
        found = compiled.dump(load_policy(places, stamps))
    except PolicyError as error:
        found = {"error": [error.message, error.hint]}
    sys.stdout.write(json.dumps({**found, "stamps": stamps}))
    return 0


def load_policy(places: Places, stamps: Stamps | None = None) -> Policy:
    """Load a policy. Raises PolicyError, also if anyone but root could have written one of its files.

    `stamps` receives a stamp for each file that contributed to the policy or to the error.
    """
    stamps = {} if stamps is None else stamps
    policy = load_compiled(places, stamps)
    if policy is None:
        stamp(places.policy, stamps)
        policy = policy_of(places, read_trusted(places.policy), stamps=stamps)
        with suppress(OSError):  # it only costs time if it is missing
            compile_policy(places, policy, stamps)
    return policy


def policy_of(places: Places, text: str, source: str = "", stamps: Stamps | None = None) -> Policy:
    """Return the service's policy from `text`; `source` names it in messages. Raises PolicyError.

    `stamps` receives a stamp for each file.
    """
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


def compile_policy(places: Places, policy: Policy, stamps: Stamps) -> None:
    for name, module in tuple(sys.modules.items()):
        if name.startswith(CODE):
            stamp(Path(str(module.__file__)), stamps)
    newest = max(status[-1] for status in stamps.values() if status)
    if time.time_ns() - newest < TICK_NS:
        return  # a file that changes again right away might keep its stamp
    content = json.dumps({**compiled.dump(policy), "stamps": stamps}).encode()
    with directory(places.home) as held:
        write_whole(held, places.compiled.name, content)
