"""Turns values that were seen into patterns that allow them: names that the request had bound, types, ranges.

A value is split where words end (`,` `=` `:` and the like, and `/` in a path).  A piece such as an address or a uuid
becomes its type, and a number that differs between values becomes a range.  Words stay unchanged unless there are many
different ones at one place.  Each pattern is tested on the values that it was made from before it is returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sidespawn.core.pattern import Conflict, Names, match, parse_pattern
from sidespawn.core.values import is_decimal, parse_type

SHORTEST_NAME = 8  # characters: a shorter bound value, such as a directory's name, can occur by chance
MOST_WORDS = 4  # different words at a place; with more, the place gets a type
CUT = re.compile(r"([,;=|#\[\]() ])")
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TYPED = ("uuid", "mac", "netmask", "ipv4", "ipv6", "cidr")  # always a type: these differ between instances
WORDS = ("tag", "interface", "hostname", "name", "text")
HOLES = frozenset("<{")
ZERO = "0.0.0.0"  # noqa: S104 - a mask without ones is written like an address


@dataclass(frozen=True)
class Value:
    """An observed value, and the names that its request had bound."""

    text: str
    names: Mapping[str, str]


@dataclass(frozen=True)
class Piece:
    """`kind` is `literal` for separators, `name`, `word`, `integer`, `duration`, or a type."""

    kind: str
    text: str


def generalise(values: Iterable[Value], names: Names) -> tuple[list[str], list[Value]]:
    """Return patterns that allow the values, and the values that no pattern can allow."""
    groups: dict[tuple[Piece | str, ...], list[tuple[list[Piece], Value]]] = {}
    for value in dict.fromkeys((each.text, tuple(sorted(each.names.items()))) for each in values):
        seen = Value(value[0], dict(value[1]))
        pieces = cut(seen, names)
        groups.setdefault(tuple(shape(each) for each in pieces), []).append((pieces, seen))
    patterns: dict[str, None] = {}
    hopeless = []
    for group in groups.values():
        for pattern, members in written(group):
            if allows(pattern, members, names):
                patterns[pattern] = None
                continue
            for member in members:
                fitting = next((text for text in plainer(member, names) if allows(text, [member], names)), None)
                if fitting is None:
                    hopeless.append(member)
                else:
                    patterns[fitting] = None
    return list(patterns), hopeless


def shape(piece: Piece) -> Piece | str:
    """Return what two values of one kind have in common: separators, names, and the kinds of the other pieces."""
    return piece if piece.kind in ("literal", "name") else piece.kind


def cut(value: Value, names: Names) -> list[Piece]:
    pieces: list[Piece] = []
    for text, name in by_names(value, names):
        if name:
            pieces.append(Piece("name", name))
        else:
            pieces += [piece for part in CUT.split(text) if part for piece in classified(part)]
    return pieces


def by_names(value: Value, names: Names) -> Iterator[tuple[str, str]]:
    """Split the text at values of bound names, longest first: pairs of text and name, or the empty string."""
    bound = [(text, name) for name, text in value.names.items() if len(text) >= SHORTEST_NAME and name in names]
    # Of two names for the same text, prefer the plainer one: `network` rather than `key`.
    bound.sort(key=lambda each: (-len(each[0]), max(len(pattern.parts) for pattern in names[each[1]]), each[1]))
    rest = value.text
    while rest:
        found = [(match.start(), text, name) for text, name in bound if (match := alone(text, rest))]
        if not found:
            yield rest, ""
            return
        at, text, name = min(found, key=lambda each: (each[0], -len(each[1])))
        if at:
            yield rest[:at], ""
        yield text, name
        rest = rest[at + len(text) :]


def alone(text: str, within: str) -> re.Match[str] | None:
    """Return where it is a whole word, not part of a longer one."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])", within)


def classified(text: str) -> Iterator[Piece]:
    """Return the pieces of the text between two separators."""
    if CUT.fullmatch(text):
        yield Piece("literal", text)
        return
    kind = next((each for each in TYPED if parse_type(each)(text) and not (each == "netmask" and text == ZERO)), "")
    found = UUID.search(text)
    if kind:
        yield Piece(kind, text)
    elif is_decimal(text):
        yield Piece("integer", text)
    elif parse_type("duration")(text):
        yield Piece("duration", text)
    elif found and "/" not in text and ":" not in text:
        before, after = text[: found.start()], text[found.end() :]
        yield from (Piece("word", before),) if before else ()
        yield Piece("uuid", found.group())
        yield from (Piece("word", after),) if after else ()
    elif separator := next((each for each in "/:" if each in text), ""):
        for part in re.split(f"({re.escape(separator)})", text):
            yield from (Piece("literal", part),) if part == separator else classified(part) if part else ()
    else:
        yield Piece("word", text)


def written(group: list[tuple[list[Piece], Value]]) -> Iterator[tuple[str, list[Value]]]:
    """Yield the patterns for values of one shape, each with its values."""
    columns = [[pieces[at] for pieces, _ in group] for at in range(len(group[0][0]))]
    many = len({tuple(each.text for each in pieces if each.kind == "word") for pieces, _ in group}) > MOST_WORDS
    texts = [column_text(column, merge_words=many) for column in columns]
    by_pattern: dict[str, list[Value]] = {}
    for pieces, value in group:
        pattern = "".join(piece.text if text is None else text for piece, text in zip(pieces, texts, strict=True))
        by_pattern.setdefault(pattern, []).append(value)
    yield from by_pattern.items()


def column_text(column: list[Piece], *, merge_words: bool) -> str | None:
    """Return the pattern for one place in all values, or None if each value keeps its own text."""
    kind, different = column[0].kind, {piece.text for piece in column}
    if kind == "name":
        return f"{{{column[0].text}}}"
    if kind in TYPED:
        return f"<{kind}>"
    if len(different) == 1 or kind == "literal":
        return None
    if kind == "integer":
        numbers = sorted(int(text) for text in different)
        return f"<integer {numbers[0]}..{numbers[-1]}>"
    if kind == "duration":
        return "<duration>"
    if not merge_words:
        return None
    return next((f"<{each}>" for each in WORDS if all(map(parse_type(each), different))), None)


def plainer(value: Value, names: Names) -> Iterator[str]:
    """Yield patterns for a single value, if the general one does not match: with names, literal, any text."""
    yield "".join(f"{{{name}}}" if name else text for text, name in by_names(value, names))
    yield value.text
    yield "<text>"


def allows(pattern: str, values: list[Value], names: Names) -> bool:
    if not pattern.isascii():  # a program's arguments should not be interpreted by their looks
        return False
    if pattern != "<text>" and any(HOLES.intersection(each.text) for each in values):
        return False  # what an agent wrote could become a hole of the pattern; any text is marked as such
    try:
        parsed = parse_pattern(pattern)
        if any(name not in names for name in parsed.names):
            return False
        return all(match(parsed, each.text, names, each.names) is not None for each in values)
    except (ValueError, Conflict):
        return False
