"""Reads TOML for policies: each key once with its exact type, each error with file and line.

Nothing here knows what a policy means. tomllib reads the text; `Table` hands out its keys and refuses keys that were
not read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from sidespawn.core.pattern import Pattern, parse_pattern
from sidespawn.core.values import DIGITS, is_path, only
from sidespawn.errors import PolicyError

KINDS = {int: "an integer", str: "a string", bool: "true or false", list: "a list", dict: "a table"}
SIZES = {"K": 2**10, "M": 2**20, "G": 2**30}


def meant(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the nearest known one, if one is close."""
    nearest = get_close_matches(word, known, 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def parse_toml(source: str, text: str) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """Return the document, and FILE:LINE for each of its keys, which tomllib does not give."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is an integer that is too long
        raise PolicyError(not_toml(source, str(error))) from None
    lines: dict[tuple[str, ...], str] = {}
    section: tuple[str, ...] = ()
    open_brackets = 0
    for number, line in enumerate(text.split("\n"), 1):
        bare = without_strings(line)
        if open_brackets == 0 and bare.lstrip().startswith("["):
            section = tuple(part.strip(' "') for part in line.partition("#")[0].strip(" []").split("."))
            lines.setdefault(section, f"{source}:{number}")
            continue
        key = line.partition("=")[0].strip(' "')
        if open_brackets == 0 and key and "=" in bare:
            lines.setdefault((*section, key), f"{source}:{number}")
        open_brackets += bare.count("[") - bare.count("]")
    return document, lines


def not_toml(source: str, problem: str) -> str:
    """Return the parser's error as FILE:LINE and a sentence."""
    problem = problem[:1].lower() + problem[1:]
    place = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", problem, re.DOTALL)
    if place is None:
        return f"{source}: not valid TOML: {problem}"
    return f"{source}:{place[2]}: not valid TOML: {place[1]} in column {place[3]}"


def without_strings(line: str) -> str:
    """Return a line of TOML without its strings and comment, so only structure is left."""
    bare, quote = "", ""
    for character in line:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "#":
            break
        else:
            bare += character
    return bare


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def substitute(value: Any, parameters: Mapping[str, str | int]) -> Any:
    """Replace `{name}` with the parameter of that name; a string that is only this takes the parameter's type."""
    if isinstance(value, dict):
        return {key: substitute(each, parameters) for key, each in value.items()}
    if isinstance(value, list):
        return [substitute(each, parameters) for each in value]
    if isinstance(value, str):
        for name, parameter in parameters.items():
            if value == f"{{{name}}}":
                return parameter
            value = value.replace(f"{{{name}}}", str(parameter))
    return value


class Table:
    """A TOML table that is read key by key; `done` refuses whatever was not read."""

    def __init__(
        self, content: dict[str, Any], lines: Mapping[tuple[str, ...], str], source: str, path: tuple[str, ...] = ()
    ) -> None:
        self._content, self._lines, self._source, self._path = content, lines, source, path
        self._taken: set[str] = set()
        self._names: frozenset[str] = frozenset()

    def path_keys(self) -> tuple[str, ...]:
        """Return the keys of a table whose keys are paths."""
        for path in self._content:
            if not is_path(path):
                raise self.error(path, "must be an absolute path in the side container")
        return self.keys()

    def declare(self, names: Iterable[str]) -> None:
        """Declare names that patterns in this table, and in tables taken from it later, may use."""
        self._names = frozenset(names)

    def keys(self) -> tuple[str, ...]:
        return tuple(self._content)

    def has(self, key: str) -> bool:
        """Return whether this optional key is present."""
        self._taken.add(key)
        return key in self._content

    def where(self, key: str = "") -> str:
        """Return FILE:LINE of a key, or of the nearest table around it."""
        path = (*self._path, key) if key else self._path
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return self._source

    def error(self, key: str, problem: str, hint: str = "") -> PolicyError:
        return PolicyError(f"{self.where(key)}: {'.'.join(filter(None, (*self._path, key)))} {problem}", hint)

    def take(self, key: str, *kinds: type, default: Any = None) -> Any:
        """Return the value of a key, of exactly one of these types. Without a default, the key is required."""
        self._taken.add(key)
        value = self._content.get(key, default)
        if value is None:
            others = [each for each in self._content if each not in self._taken]
            near = "".join(f"; did you mean {each}?" for each in get_close_matches(key, others, 1, 0.75))
            raise self.error(key, f"is missing{near}")
        if type(value) not in kinds:
            raise self.error(key, f"must be {' or '.join(KINDS[kind] for kind in kinds)}")
        return value

    def choice(self, key: str, known: tuple[str, ...], default: str | None = None) -> str:
        value: str = self.take(key, str, default=default)
        if value not in known:
            raise self.error(key, f"must be one of {', '.join(known)}{meant(value, known)}")
        return value

    def strings(self, key: str, *, optional: bool = False) -> tuple[str, ...]:
        """Return one string or a list of strings."""
        value = self.take(key, str, list, default=[] if optional else None)
        values = [value] if isinstance(value, str) else value
        if not all(isinstance(each, str) for each in values) or not (values or optional):
            raise self.error(key, "must be a string or a list of strings")
        return tuple(values)

    def patterns(self, key: str, *, optional: bool = False) -> tuple[Pattern, ...]:
        return self.parsed(key, self.strings(key, optional=optional))

    def parsed(self, key: str, texts: tuple[str, ...]) -> tuple[Pattern, ...]:
        """Return the patterns at a key, or the key itself as one."""
        try:
            patterns = tuple(parse_pattern(each) for each in texts)
        except ValueError as error:
            raise self.error(key, f"is not a valid pattern: {error}") from None
        for name in (name for pattern in patterns for name in pattern.names if name not in self._names):
            raise self.error(key, f"uses {{{name}}}, which [names] does not declare{meant(name, self._names)}")
        return patterns

    def pattern(self, key: str) -> Pattern:
        patterns = self.patterns(key)
        if len(patterns) != 1:
            raise self.error(key, "must be one pattern")
        return patterns[0]

    def path(self, key: str) -> str:
        """Return an absolute path in canonical spelling."""
        value: str = self.take(key, str)
        if not is_path(value):
            raise self.error(key, "must be an absolute path without '.', '..', doubled slashes or special characters")
        return value

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value: int = self.take(key, int, default=default)
        if not low <= value <= high:
            raise self.error(key, f"must be from {low} to {high}")
        return value

    def table(self, key: str, *, optional: bool = False) -> Table:
        content = self.take(key, dict, default={} if optional else None)
        table = Table(content, self._lines, self._source, (*self._path, key))
        table.declare(self._names)
        return table

    def done(self) -> None:
        self.check_keys(self._taken)

    def check_keys(self, allowed: Collection[str]) -> None:
        for key in self._content:
            if key not in allowed:
                known = ", ".join(sorted(allowed))
                raise self.error(key, f"is not allowed here{meant(key, allowed)}", f"allowed keys: {known}")


def size(table: Table, key: str) -> int:
    text: str = table.take(key, str)
    if not (only(text[:-1], DIGITS) and text[-1:] in SIZES and len(text) < 10 and int(text[:-1])):
        raise table.error(key, "must be a size such as 64M")
    return int(text[:-1]) * SIZES[text[-1]]
