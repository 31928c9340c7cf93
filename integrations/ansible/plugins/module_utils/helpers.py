# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Which helper programs run in which named network namespaces, no matter who started them: by /proc alone."""

from __future__ import annotations

import os
import re
from typing import Any

NAMESPACES = "/run/netns"


def running(programs: list[str]) -> list[dict[str, object]]:
    """Return one row for each process: program, netns and pid, in this order."""
    names = namespaces()
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
            netns = names.get(os.stat(f"/proc/{pid}/ns/net").st_ino)
        except OSError:
            continue  # it has ended, or is a kernel thread
        # A script's first word is its interpreter.
        program = next((name for name in map(os.path.basename, words[:2]) if name in programs), None)
        if program is not None and netns is not None:
            found.append({"program": program, "netns": netns, "pid": int(pid)})
    return sorted(found, key=lambda each: (each["program"], each["netns"], each["pid"]))


def namespaces() -> dict[int, str]:
    """Names by inode.

    The kernel's list of mounts says which namespace has which name. Agents share the directory: looking at a name could
    follow a link, or hang forever at a file system that never answers.
    """
    with open("/proc/self/mountinfo", "rb") as file:
        return namespaces_in(file.read())


def namespaces_in(table: bytes) -> dict[int, str]:
    """`table` has the form of proc_pid_mountinfo(5)."""
    found: dict[str, str] = {}
    prefix = f"{NAMESPACES}/"
    # Names may have other white space, at which splitlines() and split() would split as well.
    for line in table.decode(errors="replace").split("\n"):
        fields = line.split(" ")
        if len(fields) > 4 and fields[4].startswith(prefix):
            found[unescaped(fields[4][len(prefix) :])] = fields[3]  # the last of several is visible
    named = {}
    for name, root in sorted(found.items(), reverse=True):
        # proc(5) shows this, without a slash, only for the root of such a mount.
        namespace = re.fullmatch(r"net:\[([0-9]+)\]", root)
        if namespace and "/" not in name:
            named[int(namespace[1])] = name
    return named


def unescaped(text: str) -> str:
    """Blanks, line ends and backslashes are octal there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def places(rows: list[dict[str, object]]) -> set[tuple[str, str]]:
    return {(str(each["program"]), str(each["netns"])) for each in rows}


def served(rows: list[dict[str, Any]], serves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the helpers whose program and namespace are of one of the services.

    `serves` has a row for each service, with its program and the namespaces that its policy names.
    """
    return [
        row
        for row in rows
        if any(
            row["program"] == each["program"] and in_namespaces(str(row["netns"]), str(each["namespaces"]))
            for each in serves
        )
    ]


def in_namespaces(name: str, patterns: str) -> bool:
    """Return whether the name is one of these, which are as `sidespawn check` prints them.

    Those are patterns such as qrouter-{router} or snat-{router}; none: the host's own network is no pattern.
    """
    if patterns.startswith("none:"):
        return False
    return any(
        re.fullmatch("".join("[^/]+" if part[0] in "{<" else re.escape(part) for part in parts_of(pattern)), name)
        for pattern in patterns.split(" or ")
    )


def parts_of(pattern: str) -> list[str]:
    """Split a pattern into its literal parts and its values, such as {router} and <uuid>."""
    return [part for part in re.split(r"(\{[^{}]*\}|<[^<>]*>)", pattern) if part]
