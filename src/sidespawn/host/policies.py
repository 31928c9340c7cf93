"""A service's policy as it stands in /etc/sidespawn."""

from __future__ import annotations

from sidespawn import presets
from sidespawn.core.policy import Policy, parse_policy
from sidespawn.host.files import read_trusted
from sidespawn.host.places import Places


def load_policy(places: Places) -> Policy:
    """Raises PolicyError, also when others than root could have written the file."""
    text = read_trusted(places.policy)
    return parse_policy(places.service, str(places.policy), text, presets.read_preset, presets.read_program)
