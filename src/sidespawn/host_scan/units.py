"""Reads systemd's units and Quadlet's as they take effect: with their drop-ins, and without what a drop-in resets.

Of units with one name, the one in the first directory counts. An empty assignment resets the earlier ones of its key.
A line that ends with a backslash continues in the next one; comments in between are left out. See systemd.syntax(7),
systemd.unit(5) and podman-systemd.unit(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidespawn.host_scan.mounts import split
from sidespawn.host_scan.texts import Row, numbered, text_of

SYSTEMD = tuple(
    f"{place}/systemd/system" for place in ("etc", "run", "usr/local/lib", "usr/lib", "lib")
)  # the directories under `root`, the first counts
QUADLET = tuple(f"{place}/containers/systemd" for place in ("run", "etc", "usr/share"))
# Units of users' own service managers, whose engines only have those users' rights.
USERS = "containers/systemd/users"
VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True, kw_only=True)
class Assignment:
    path: Path
    key: str
    value: str  # in one line
    rows: tuple[Row, ...]

    def line_of(self, *texts: str) -> int | None:
        """Return the number of the first line with all of the texts."""
        return next((number for number, line in self.rows if all(text in line for text in texts)), None)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """`path` is its file, or the directory of its drop-ins if it has no file."""

    name: str
    path: Path
    assignments: tuple[Assignment, ...]

    def last(self, key: str) -> str:
        return next((each.value for each in reversed(self.assignments) if each.key == key), "")

    def expanded(self, value: str) -> str:
        """Return the value with the variables that the unit itself sets."""
        known: dict[str, str] = {}
        for each in self.assignments:
            if each.key == "Environment":
                known |= dict(word.partition("=")[::2] for word in split(each.value))
        return VARIABLE.sub(lambda found: known.get(found[1] or found[2], found[0]), value)

    def place_of(self, assignment: Assignment, text: str) -> tuple[Path, int]:
        """Return file and line of a text in an assignment's value, or in a variable that it uses."""
        variables = (each for each in self.assignments if each.key == "Environment")
        for each in (assignment, *variables):
            if (number := each.line_of(text)) is not None:
                return each.path, number
        return assignment.path, assignment.rows[0][0]


def load(root: Path, directories: Iterable[str], kind: str) -> Iterator[Unit]:
    """Yield the units of a kind, such as `service`, and drop-ins whose unit is elsewhere."""
    mains: dict[str, Path] = {}
    drop_ins: dict[str, dict[str, Path]] = {}
    for directory in directories:
        deep = "**/" if directory in QUADLET else ""
        for path in sorted((root / directory).glob(f"{deep}*.{kind}")):
            if USERS not in str(path.relative_to(root)) and not is_alias(path):
                mains.setdefault(path.name, path)
        for path in sorted((root / directory).glob(f"{deep}*{kind}.d/*.conf")):
            if USERS not in str(path.relative_to(root)):
                drop_ins.setdefault(path.parent.name.removesuffix(".d"), {}).setdefault(path.name, path)
    used: set[Path] = set()
    for name, main in sorted(mains.items()):
        own = of_unit(name, drop_ins)
        used.update(own)
        if text_of(main) or not main.exists():  # an empty file, or a link to /dev/null, masks the unit
            yield Unit(name=name, path=main, assignments=effective((main, *own)))
    for name in sorted(drop_ins.keys() - mains.keys()):
        files = [path for _, path in sorted(drop_ins[name].items()) if path not in used]
        if files and (name == kind or name.endswith(f".{kind}")):
            yield Unit(name=name, path=files[0].parent, assignments=effective(files))


def is_alias(path: Path) -> bool:
    """Return whether it is another name of a unit in the same or another directory of units."""
    if not path.is_symlink():
        return False
    target = Path(os.path.realpath(path))  # unlike resolve() before Python 3.13, it takes a link to itself
    return target.name != path.name and target.suffix == path.suffix and target.parent.name == "system"


def of_unit(name: str, drop_ins: Mapping[str, Mapping[str, Path]]) -> list[Path]:
    """Return its drop-ins in order: of two with one name, that of the more special directory counts."""
    stem, _, kind = name.rpartition(".")
    instance, at, _ = stem.partition("@")
    parts = stem.split("-")
    prefixes = [f"{'-'.join(parts[:count])}-.{kind}" for count in range(1, len(parts))]
    template = [f"{instance}@.{kind}"] if at else []
    found: dict[str, Path] = {}
    for each in (kind, *prefixes, *template, name):
        found |= drop_ins.get(each, {})
    return [found[each] for each in sorted(found)]


def effective(paths: Iterable[Path]) -> tuple[Assignment, ...]:
    found: list[Assignment] = []
    for path in paths:
        for each in assignments(path, numbered(text_of(path) or "")):
            if each.value:
                found.append(each)
            else:
                found = [earlier for earlier in found if earlier.key != each.key]
    return tuple(found)


def assignments(path: Path, rows: Iterable[Row]) -> Iterator[Assignment]:
    held: list[Row] = []
    for number, line in rows:
        bare = line.strip()
        if bare.startswith(("#", ";")) or not (bare or held):
            continue
        held.append((number, line))
        end = line.rstrip("\r")
        if (len(end) - len(end.rstrip("\\"))) % 2 == 0:  # two are one that is meant
            yield from assignment(path, held)
            held = []
    if held:
        yield from assignment(path, held)


def assignment(path: Path, rows: list[Row]) -> Iterator[Assignment]:
    whole = " ".join(line.strip().removesuffix("\\").strip() for _, line in rows)
    key, equals, value = whole.partition("=")
    if equals and not whole.startswith("["):
        yield Assignment(path=path, key=key.strip(), value=value.strip(), rows=tuple(rows))
