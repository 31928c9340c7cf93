"""Reads the values of a YAML or JSON file with their lines: mappings and lists in both styles, aliases and merges.

It reads what people write in compose files and manifests. What it does not know, such as text over several lines, it
skips. It never fails, and its time grows with the length of the file only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

Path = tuple[str, ...]  # keys; an item of a list has its number
STRING = r""""[^"\\]*(?:\\.[^"\\]*)*"|'[^']*(?:''[^']*)*'"""
KEY = re.compile(rf"""({STRING}|[^\s"'\[\]{{}}#&*!|>%@`:][^#:]*(?::(?!\s|$)[^#:]*)*)(?<!\s)\s*:(?=\s|$)\s*(.*)""")
# In a collection in brackets: a comment, a string (with the colon after it), punctuation, or plain text.
TOKEN = re.compile(
    rf"""\#[^\n]*|((?:{STRING})(?:\s*:)?|[{{}}\[\],]|:(?=[\s,}}\]]|$)|"""
    r"""[^\s{}\[\],"'\#](?:[^{}\[\],:\n]|:(?![\s,}\]]))*)"""
)
COMMENT = re.compile(r"(?:^|\s)#.*")
PROPERTIES = re.compile(r"(?:(?:&(?P<anchor>\S+)|!\S*)(?:\s+|$))+")
DEEPEST = 50
MOST = 2000  # values that aliases repeat


@dataclass(frozen=True, kw_only=True)
class Entry:
    path: Path
    value: str
    line: int
    alias: bool = False  # the value names an anchor


@dataclass
class Level:
    indent: int
    path: Path
    is_item: bool = False
    items: int = 0


def entries(text: str) -> tuple[Entry, ...]:
    """Return each scalar of the documents."""
    reader = Reader(text)
    if text.lstrip().startswith(("{", "[")):
        found = list(Flow(1, ()).read(text))
    else:
        found = [entry for number, line in enumerate(reader.lines, start=1) for entry in reader.read(number, line)]
    return (*(each for each in found if not each.alias), *merged(found, reader.anchors))


def merged(found: list[Entry], anchors: dict[str, Path]) -> Iterator[Entry]:
    """Yield again what aliases repeat, at most so many values; `<<` puts them beside itself."""
    left, repeated = MOST, dict[str, list[Entry]]()
    for each in found:
        if not each.alias or each.value not in anchors or left <= 0:
            continue
        start = anchors[each.value]
        if each.value not in repeated:
            within = (other for other in found if other.path[: len(start)] == start and not other.alias)
            repeated[each.value] = list(islice(within, MOST))
        base = each.path[: each.path.index("<<")] if "<<" in each.path else each.path
        for other in repeated[each.value]:
            yield replace(other, path=base + other.path[len(start) :])
        left -= 1 + len(repeated[each.value])


class Reader:
    """Reads lines whose indentation makes the structure."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.anchors: dict[str, Path] = {}
        self.levels = [Level(-1, ())]
        self.skipped_below: int | None = None  # the indentation of a key whose text follows in deeper lines
        self.flow: Flow | None = None  # a collection in brackets that is not closed yet

    def read(self, number: int, line: str) -> Iterator[Entry]:
        if self.flow:
            yield from self.continued(line)
            return
        rest, indent = line.strip(), len(line) - len(line.lstrip())
        if not rest or rest.startswith("#") or (self.skipped_below is not None and indent > self.skipped_below):
            return
        self.skipped_below = None
        if rest in ("---", "...") or rest.startswith("%"):
            self.levels = [Level(-1, ())]
            return
        indent, rest = self.items(indent, rest)
        if key := KEY.fullmatch(rest):
            while self.levels[-1].indent >= indent:
                self.levels.pop()
            self.levels.append(Level(indent, (*self.levels[-1].path, unquoted(key[1]))))
            rest = key[2]
        yield from self.value(number, rest)

    def items(self, indent: int, rest: str) -> tuple[int, str]:
        """Open a list's item, or several in one line."""
        while (rest == "-" or rest.startswith("- ")) and len(self.levels) < DEEPEST:
            while self.levels[-1].indent > indent or (self.levels[-1].indent == indent and self.levels[-1].is_item):
                self.levels.pop()
            parent = self.levels[-1]
            self.levels.append(Level(indent, (*parent.path, str(parent.items)), is_item=True))
            parent.items += 1
            inner = rest[1:].lstrip()
            indent, rest = indent + len(rest) - len(inner), inner
        return indent, rest

    def value(self, number: int, rest: str) -> Iterator[Entry]:
        path = self.levels[-1].path
        if properties := PROPERTIES.match(rest):
            if properties["anchor"]:
                self.anchors[properties["anchor"]] = path
            rest = rest[properties.end() :]
        if rest.startswith(("|", ">")):
            self.skipped_below = self.levels[-1].indent
        elif rest.startswith(("{", "[")):
            self.flow = Flow(number, path)
            yield from self.continued(rest)
        elif rest.startswith("*"):
            yield Entry(path=path, value=COMMENT.sub("", rest)[1:].strip(), line=number, alias=True)
        elif value := scalar(rest):
            yield Entry(path=path, value=value, line=number)

    def continued(self, line: str) -> Iterator[Entry]:
        if self.flow:
            yield from self.flow.read(line)
            if self.flow.is_over:
                self.flow = None


class Flow:
    """Reads a collection in brackets, which may continue in further lines."""

    def __init__(self, line: int, path: Path) -> None:
        self.line, self.path = line, path
        self.levels: list[tuple[str, int, Path]] = []  # bracket, items so far, path
        self.key: str | None = None
        self.held: str | None = None
        self.is_over = False

    def read(self, text: str) -> Iterator[Entry]:
        for line in text.split("\n"):
            for found in TOKEN.finditer(line):
                if found[1] and not self.is_over:
                    yield from self.token(found[1].strip())
            self.line += 1

    def token(self, word: str) -> Iterator[Entry]:
        if word in ("{", "["):
            self.levels.append((word, 0, self.here()))
            self.key = self.held = None
            self.is_over = len(self.levels) > DEEPEST
        elif word in ("}", "]", ","):
            yield from self.given()
            self.key = self.held = None
            bracket, count, path = self.levels.pop()
            if word == ",":
                self.levels.append((bracket, count + 1, path))
            self.is_over = not self.levels
        elif word == ":" and self.held is not None:
            self.key, self.held = unquoted(self.held), None
        elif word[0] in "\"'" and word.endswith(":"):
            self.key = unquoted(word[:-1].rstrip())
        else:
            self.held = word

    def given(self) -> Iterator[Entry]:
        if self.held:
            is_alias = self.held.startswith("*")
            value = self.held[1:] if is_alias else unquoted(self.held)
            yield Entry(path=self.here(), value=value, line=self.line, alias=is_alias)

    def here(self) -> Path:
        if not self.levels:
            return self.path
        bracket, count, path = self.levels[-1]
        return (*path, str(count) if bracket == "[" else self.key or "")


def scalar(text: str) -> str:
    if text.startswith(("'", '"')):
        end = re.match(STRING, text)
        return unquoted(end[0]) if end else ""
    return COMMENT.sub("", text).strip()


def unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        inner = text[1:-1]
        return inner.replace("''", "'") if text[0] == "'" else inner.replace('\\"', '"').replace("\\/", "/")
    return text
