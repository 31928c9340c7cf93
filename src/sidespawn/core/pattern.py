"""Patterns: how a policy says which values an argument may have.

A pattern is literal text with two kinds of holes:

    <type>      a value of that type (core/values.py); each occurrence stands for itself
    {name}      a value bound once: it must be the same everywhere in the request

A name stands for one or more patterns (`[names]` in a policy), so it can be as simple as `<uuid>` or as large as a
directory.  The text after a hole ends it.  If that text occurs more than once, each occurrence is tried, so
`<ipv6>:<integer 1..65535>` matches an address with colons in it.  Literal text writes braces with a blank inside, `{ `
and ` }`, and cannot contain angle brackets.

The safety of a match never depends on the order of alternatives: a matching value consists of the policy's own literals
and of values that passed their types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sidespawn.core.values import parse_type
from sidespawn.frozen import dataclass


@dataclass(frozen=True)
class Literal:
    text: str


@dataclass(frozen=True)
class Typed:
    spelling: str  # parse_type knows it


@dataclass(frozen=True)
class Name:
    name: str


Part = Literal | Typed | Name


@dataclass(frozen=True)
class Pattern:
    source: str
    parts: tuple[Part, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts if isinstance(part, Name))


TEXTS = (Typed("text"), Typed("quoted"))
LONGEST = 1024  # characters that a hole can stand for, unless it ends the pattern: limits the attempts

Names = Mapping[str, tuple[Pattern, ...]]
Bindings = Mapping[str, str]


class Conflict(Exception):
    """A name would stand for two different values."""

    def __init__(self, name: str, bound: str, untrusted_value: str) -> None:
        super().__init__(name)
        self.name, self.bound, self.untrusted_value = name, bound, untrusted_value


def parse_pattern(source: str) -> Pattern:
    """Parse a pattern. Raises ValueError with a message for the policy's author."""
    parts: list[Part] = []
    rest = source
    while rest:
        start = hole_start(rest)
        if start:
            if ">" in rest[:start] or "}" in rest[:start].replace(" }", ""):
                raise ValueError(f"{source!r} closes a hole that it does not open")
            parts.append(Literal(rest[:start]))
            rest = rest[start:]
            continue
        close = rest.find(">" if rest[0] == "<" else "}")
        if close < 0:
            raise ValueError(f"{source!r} opens a hole that it does not close")
        inside = rest[1:close]
        if parts and not isinstance(parts[-1], Literal):
            raise ValueError(f"{source!r} has two holes with no text between them, so where one ends is not defined")
        if rest[0] == "<":
            parse_type(inside)  # raises ValueError if there is no such type
            parts.append(Typed(inside))
        else:
            parts.append(Name(inside))
        rest = rest[close + 1 :]
    return Pattern(source, tuple(parts))


def hole_start(text: str) -> int:
    """Return where the first hole begins, or the text's length."""
    at = 0
    while at < len(text) and text[at] != "<" and (text[at] != "{" or text[at : at + 2] == "{ "):
        at += 1
    return at


def match_any(
    patterns: tuple[Pattern, ...], untrusted_value: str, names: Names, bindings: Bindings, *, blanks: bool = True
) -> dict[str, str] | None:
    """Return the bindings after the first pattern that the value matches, or None without a match.

    Raises Conflict if the value has the right form, but a name in it is already bound to another value.
    """
    conflict: Conflict | None = None
    for pattern in patterns:
        try:
            found = match(pattern, untrusted_value, names, bindings, blanks=blanks)
        except Conflict as error:
            conflict = conflict or error
            continue
        if found is not None:
            return found
    if conflict is not None:
        raise conflict
    return None


def match(
    pattern: Pattern, untrusted_value: str, names: Names, bindings: Bindings, *, blanks: bool = True
) -> dict[str, str] | None:
    """Return the bindings, extended by this value's, or None. Raises Conflict.

    Without `blanks`, only `<text>` and `<quoted>` stand for values with blanks, whatever other types accept.
    """
    conflict: Conflict | None = None
    tried = set()
    waiting = [(0, 0, dict(bindings))]
    while waiting:
        position, start, found = waiting.pop()
        if position == len(pattern.parts):
            if start == len(untrusted_value):
                return found
            continue
        part = pattern.parts[position]
        if isinstance(part, Literal):
            if untrusted_value.startswith(part.text, start):
                waiting.append((position + 1, start + len(part.text), found))
            continue
        if (position, start, *found.items()) in tried:
            continue
        tried.add((position, start, *found.items()))
        after: list[tuple[int, int, dict[str, str]]] = []
        for end in hole_ends(pattern.parts[position + 1 :], untrusted_value, start):
            untrusted_segment = untrusted_value[start:end]
            if not blanks and " " in untrusted_segment and part not in TEXTS:
                break
            try:
                filled = fill(part, untrusted_segment, names, found, blanks=blanks)
            except Conflict as error:
                conflict = conflict or error
                continue
            if filled is not None:
                after.append((position + 1, end, filled))
        waiting += reversed(after)  # the shortest is tried first
    if conflict is not None:
        raise conflict
    return None


def fill(
    part: Typed | Name, untrusted_segment: str, names: Names, bindings: dict[str, str], *, blanks: bool
) -> dict[str, str] | None:
    """Return the bindings with the value of one hole, or None if the hole cannot have that value. Raises Conflict."""
    if isinstance(part, Typed):
        return bindings if parse_type(part.spelling)(untrusted_segment) else None
    bound = bindings.get(part.name)
    if bound == untrusted_segment:
        return bindings
    inner = match_any(names[part.name], untrusted_segment, names, {} if bound else bindings, blanks=blanks)
    if inner is None:
        return None
    if bound is not None:
        raise Conflict(part.name, bound, untrusted_segment)
    return {**inner, part.name: untrusted_segment}


def hole_ends(following: tuple[Part, ...], value: str, start: int) -> Iterator[int]:
    """Yield where a hole that begins at `start` can end: before each `following`, the nearest first."""
    if not following:
        yield len(value)
        return
    literal = following[0]
    assert isinstance(literal, Literal)  # noqa: S101 - parse_pattern refuses adjacent holes; a guard for mypy
    if len(following) == 1:
        if value.endswith(literal.text) and len(value) - len(literal.text) >= start:
            yield len(value) - len(literal.text)
        return
    end = value.find(literal.text, start)
    while start <= end < start + LONGEST:
        yield end
        end = value.find(literal.text, end + 1)


def render(pattern: Pattern, bindings: Bindings) -> str | None:
    """Return the pattern with its names filled in, or None if one of them is not bound."""
    pieces = []
    for part in pattern.parts:
        if isinstance(part, Literal):
            pieces.append(part.text)
        elif isinstance(part, Name) and part.name in bindings:
            pieces.append(bindings[part.name])
        else:
            return None
    return "".join(pieces)


def render_first(patterns: tuple[Pattern, ...], bindings: Bindings) -> str | None:
    """Return the first pattern whose names are all bound, filled in."""
    return next((text for text in (render(pattern, bindings) for pattern in patterns) if text is not None), None)
