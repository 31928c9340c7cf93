# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Which helper programs run in which named network namespaces, no matter who started them: by /proc and /run/netns."""

from __future__ import annotations

import os

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
    """Names by inode."""
    found = {}
    if os.path.isdir(NAMESPACES):
        for name in os.listdir(NAMESPACES):
            try:
                found[os.stat(f"{NAMESPACES}/{name}").st_ino] = name
            except OSError:
                continue
    return found


def places(rows: list[dict[str, object]]) -> set[tuple[str, str]]:
    return {(str(each["program"]), str(each["netns"])) for each in rows}
