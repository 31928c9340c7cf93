"""Finds what the engines' command lines and Quadlet's keys give to a container: sources of mounts, and privileges.
Finds paths on the host in a Kubernetes manifest.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

# Their value is the next word; -v may end a group of short options, as in -itv.
SEPARATE = re.compile(r"-[A-Za-z]*v|--volume|--mount")
JOINED = re.compile(r"(-v=?|--volume=|--mount=)(.+)", re.DOTALL)
ENGINES = {"podman", "docker", "nerdctl"}
STARTS = {"run", "create"}
# `path` need not come first. In YAML it is on another line, or in braces.
HOST_PATH = re.compile(
    r"""\bhostPath["']?\s*:\s*\{?\s*(?:["']?type["']?\s*:\s*["']?\w*["']?,?\s*)?["']?path["']?\s*:\s*["']?(/[^\s"',}]*)"""
)
SET = re.compile(r"[A-Za-z_]\w*=(?=\S*\s)")  # of a variable to several words


def sources(key: str, value: str) -> Iterator[str]:
    """Return paths and names of volumes in an assignment of the system's own service manager."""
    value = with_runtime_directory(value)
    if key in ("Volume", "Mount"):
        yield from source("--mount" if key == "Mount" else "-v", value)
        return
    following = iter(options(key, value))
    for word in following:
        if SEPARATE.fullmatch(word):
            yield from source(word, next(following, ""))
        elif joined := JOINED.fullmatch(word):
            yield from source(joined[1], joined[2])


def options(key: str, value: str) -> list[str]:
    """Return the words of a command line that starts or creates a container; none of another's."""
    if key == "PodmanArgs":
        return words(value)
    if not key.startswith("Exec"):
        return []
    found = words(value)
    engine = next((index for index, word in enumerate(found) if program(word) in ENGINES), len(found))
    return found[engine:] if STARTS & set(found[engine:]) else []


def privileges(key: str, value: str) -> dict[str, str]:
    """Return what gives a container all privileges or the host's pids, each with the text that does."""
    found: dict[str, str] = {}
    given = options(key, value)
    for word, following in zip(given, [*given[1:], ""], strict=False):
        if word in ("--privileged", "--privileged=true"):
            found["is privileged"] = "--privileged"
        elif word == "--pid=host" or (word == "--pid" and following == "host"):
            found["has the host's pids"] = "--pid"
        elif word.lower() == "--cap-add=all" or (word == "--cap-add" and following.lower() == "all"):
            found["has all capabilities"] = "--cap-add"
    if key == "AddCapability" and "all" in value.lower().split():
        found["has all capabilities"] = key
    return found


def program(word: str) -> str:
    """Return the name of the program that a command's first word names, without systemd's prefixes."""
    return word.lstrip("-@:+!|").rpartition("/")[2]


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
    """Split a command line, and commands within it that are one word, as in `sh -c '…'`."""
    found: list[str] = []
    for word in split(line):
        inner = SET.sub("", word, count=1)
        found += split(inner) if re.search(r"\s", inner) else [inner]
    return found


def split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation that does not end
        return line.split()


def host_paths(text: str) -> Iterator[tuple[int, str]]:
    """Return paths on the host, with their lines."""
    for found in HOST_PATH.finditer(text):
        yield text.count("\n", 0, found.start(1)) + 1, found[1]
