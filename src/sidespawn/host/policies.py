"""A service's policy as it stands in /etc/sidespawn, with the presets and program tables that it builds on.

`/etc/sidespawn/presets` and `/etc/sidespawn/programs` may hold more of both, or an operator's own version of one.
"""

from __future__ import annotations

from sidespawn import presets
from sidespawn.core.loading import parse_policy
from sidespawn.core.policy import Policy
from sidespawn.host.files import read_trusted
from sidespawn.host.places import Places


def load_policy(places: Places) -> Policy:
    """Raises PolicyError, also when others than root could have written a file of it."""
    return policy_of(places, read_trusted(places.policy))


def policy_of(places: Places, text: str, source: str = "") -> Policy:
    """The policy that `text` would be for the service; `source` names it in messages. Raises PolicyError."""

    def read_preset(name: str) -> str:
        own = places.policies / "presets" / f"{name}.toml"
        return read_trusted(own) if own.exists() else presets.read_preset(name)

    def read_program(name: str) -> str:
        own = places.policies / "programs" / f"{name}.toml"
        return read_trusted(own) if own.exists() else presets.read_program(name)

    return parse_policy(places.service, source or str(places.policy), text, read_preset, read_program)
