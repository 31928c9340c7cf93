"""Stores a policy so that it can be read back without the code that parses TOML.

    {"kinds": ["sidespawn.core.plan.Limits", …], "value": …}

    text, number, true, false, null   themselves
    mapping                           an object
    tuple                             [0, item, …]
    record                            [N, value of each field, …], of the N-th of `kinds`, counted from 1
    enum                              [N, value]

The fields are taken from the records themselves, so adding or removing one needs no change here.  Unlike pickle, the
format can name only records and enums of `core`.  Unlike with marshal, a damaged text is an error at worst.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from enum import Enum

from sidespawn.frozen import rebuild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CORE = "sidespawn.core."


def dump(value: object) -> dict[str, Any]:
    kinds: dict[str, int] = {}

    def written(each: object) -> Any:
        if isinstance(each, Enum) or hasattr(each, "_names"):
            kind = f"{type(each).__module__}.{type(each).__name__}"
            number = kinds.setdefault(kind, len(kinds) + 1)
            return [number, *([each.value] if isinstance(each, Enum) else map(written, vars(each).values()))]
        if isinstance(each, Mapping):
            return {key: written(inner) for key, inner in each.items()}
        if isinstance(each, tuple):
            return [0, *map(written, each)]
        if each is None or type(each) in (str, int, float, bool):
            return each
        raise TypeError(f"a policy cannot hold {each!r}")

    return {"value": written(value), "kinds": list(kinds)}


def load(content: dict[str, Any]) -> Any:
    """Return the stored value. Raises ValueError, KeyError, TypeError or AttributeError for anything else."""
    makers: list[Callable[[list[Any]], Any]] = [tuple, *map(maker, content["kinds"])]

    def read(written: Any) -> Any:
        if type(written) is list:
            return makers[written[0]]([read(each) if type(each) in (list, dict) else each for each in written[1:]])
        if type(written) is dict:
            return {key: read(each) for key, each in written.items()}
        return written

    return read(content["value"])


def maker(kind: str) -> Callable[[list[Any]], Any]:
    module, _, name = kind.rpartition(".")
    if not module.startswith(CORE):
        raise ValueError(f"{kind} is not of core")
    cls = getattr(sys.modules[module], name)
    return (lambda values: cls(*values)) if issubclass(cls, Enum) else (lambda values: rebuild(cls, values))
