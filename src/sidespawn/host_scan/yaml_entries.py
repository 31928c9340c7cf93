"""Reads the values of a YAML or JSON file with their lines, also those that aliases and merges repeat.

PyYAML parses. Nodes are made of its events, and not by its own composer: that one forgets what precedes an error, and
ends the process where a file is nested too deeply. It never fails, and its time grows with the length of the file only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

Path = tuple[str, ...]  # keys; an item of a list has its number
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEEPEST = 50
LONGEST = 200_000  # events, of which each value and each collection is one or two
MOST = 10_000  # nodes that aliases repeat
MERGE = "<<"
# One half of a character that JSON writes as two, which YAML does not know.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class Entry(NamedTuple):
    path: Path
    value: str
    line: int
    document: int = 0


@dataclass(eq=False, slots=True)
class Node:
    line: int
    value: str = ""  # of a scalar
    is_mapping: bool = False
    children: list[tuple[str, Node]] = field(default_factory=list)
    key: str | None = None  # that waits for its value
    is_read: bool = False

    def add(self, child: Node) -> None:
        """Add what comes next: to a mapping, keys and values in turn. A key that is a collection has no name."""
        if not self.is_mapping:
            self.children.append((str(len(self.children)), child))
        elif self.key is None:
            self.key = child.value
        else:
            self.children.append((self.key, child))
            self.key = None


def entries(where: object, text: str, failed: list[str]) -> tuple[Entry, ...]:
    """Return each scalar of the documents, up to where it is no YAML, about which `failed` then has a sentence."""
    documents = Node(0)
    try:
        compose(text, documents)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        failed.append(f"{where}{line}: not read from here on: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError) as error:
        failed.append(f"{where}: not read: {str(error).splitlines()[0]}")
    reader = Reader()
    for number, (_, document) in enumerate(documents.children):
        reader.read(document, (), number)
    return tuple(reader.found)


def compose(text: str, documents: Node) -> None:
    """Add the documents. Each node is in its place before what it contains is read."""
    if text.lstrip("\ufeff \t\n").startswith(("{", "[")):
        text = SURROGATE.sub(r"\\ufffd", text.replace("\t", " "))  # as JSON may have them
    anchors: dict[str, Node] = {}
    within = [documents]
    for number, event in enumerate(yaml.parse(text, LOADER)):
        if isinstance(event, yaml.DocumentStartEvent):
            anchors.clear()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise refused(event, f"there is no &{event.anchor} before it")
            within[-1].add(anchors[event.anchor])
        elif isinstance(event, yaml.NodeEvent):
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            made = Node(line_of(event), getattr(event, "value", ""), is_mapping)
            if event.anchor:
                anchors[event.anchor] = made
            within[-1].add(made)
            if isinstance(event, yaml.CollectionStartEvent):
                within.append(made)
        elif isinstance(event, yaml.CollectionEndEvent):
            within.pop()
        if len(within) > DEEPEST:
            raise refused(event, f"nested more than {DEEPEST} deep")
        if number >= LONGEST:
            raise refused(event, "too many values")


def line_of(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def refused(event: yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    mark = yaml.Mark("", 0, line_of(event) - 1, 0, None, 0)
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


class Reader:
    """Walks the nodes. What aliases repeat it reads again, up to a limit, but no node within itself."""

    def __init__(self) -> None:
        self.found: list[Entry] = []
        self.left = MOST
        self.within: set[Node] = set()

    def read(self, node: Node, path: Path, document: int, hidden: frozenset[str] = frozenset()) -> None:
        """`hidden` are the keys of the mapping into which this one is merged."""
        if node.is_read:
            self.left -= 1 + len(node.children)
        if node in self.within or len(self.within) > DEEPEST or (node.is_read and self.left < 0):
            return
        node.is_read = True
        if node.value:
            self.found.append(Entry(path=path, value=node.value, line=node.line, document=document))
        self.within.add(node)
        own = hidden.union(key for key, _ in node.children) if node.is_mapping else hidden
        for key, child in node.children:
            if key == MERGE and node.is_mapping:
                for each in [child] if child.is_mapping else [item for _, item in child.children]:
                    self.read(each, path, document, own)
            elif key not in hidden:
                self.read(child, (*path, key), document)
        self.within.discard(node)
