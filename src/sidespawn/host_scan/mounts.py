"""Finds sources of mounts in text: in a unit's line, as Quadlet and the engines' command lines write them, and in a
Kubernetes manifest.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

# Their value is the next word; -v may end a group of short options, as in -itv.
SEPARATE = re.compile(r"-[A-Za-z]*v|--volume|--mount")
JOINED = re.compile(r"(-v=?|--volume=|--mount=)(.+)", re.DOTALL)
# `path` need not come first. In YAML it is on another line, or in braces.
HOST_PATH = re.compile(
    r"""\bhostPath["']?\s*:\s*\{?\s*(?:["']?type["']?\s*:\s*["']?\w*["']?,?\s*)?["']?path["']?\s*:\s*["']?(/[^\s"',}]*)"""
)


def sources(line: str) -> Iterator[str]:
    """Return paths and names of volumes in a unit of the system's own service manager."""
    line = with_runtime_directory(line)
    key, _, value = line.strip().partition("=")
    if key.strip() in ("Volume", "Mount"):
        yield from source("--mount" if key.strip() == "Mount" else "-v", value)
        return
    following = iter(words(value if key.strip() == "PodmanArgs" else line))
    for word in following:
        if SEPARATE.fullmatch(word):
            yield from source(word, next(following, ""))
        elif joined := JOINED.fullmatch(word):
            yield from source(joined[1], joined[2])


def with_runtime_directory(line: str) -> str:
    """Replace systemd's specifier for the runtime directory."""
    return re.sub(r"%t(?![A-Za-z])", "/run", line)


def source(option: str, value: str) -> Iterator[str]:
    if not option.startswith("--mount"):
        path, colon, _ = value.strip().strip("\"'").partition(":")
        if colon:  # a path alone means an anonymous volume
            yield path
        return
    keys = dict(each.partition("=")[::2] for each in value.strip().strip("\"'").split(","))
    if keys.get("type", "bind") in ("bind", "volume"):
        yield keys.get("source", keys.get("src", ""))


def words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation continues in the next line
        return line.split()


def host_paths(text: str) -> Iterator[tuple[int, str]]:
    """Return paths on the host, with their lines."""
    for found in HOST_PATH.finditer(text):
        yield text.count("\n", 0, found.start(1)) + 1, found[1]
