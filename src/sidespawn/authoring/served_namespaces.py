"""Which network namespaces a policy allows, for programs: patterns in which only types are left.

    ["qrouter-<uuid>", "snat-<uuid>"]

`<type>` stands for any value of that type (core/values.py); the rest is literal. Empty with the host's own network.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidespawn.core.pattern import Literal, Name, Names, Part, Typed
from sidespawn.core.policy import Policy


def served_namespaces(policy: Policy) -> list[str]:
    if policy.netns is None:
        return []
    return list(dict.fromkeys(spelled(policy.netns.parts, policy.names)))


def spelled(parts: tuple[Part, ...], names: Names) -> Iterator[str]:
    """Yield the pattern with each combination of what its names stand for."""
    if not parts:
        yield ""
        return
    for first in of_part(parts[0], names):
        for rest in spelled(parts[1:], names):
            yield first + rest


def of_part(part: Part, names: Names) -> Iterator[str]:
    match part:
        case Literal(text=text):
            yield text
        case Typed(spelling=spelling):
            yield f"<{spelling}>"
        case Name(name=name):
            for pattern in names[name]:  # loading refuses a name that contains itself
                yield from spelled(pattern.parts, names)
