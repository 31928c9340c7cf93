"""Examines the file systems that every start writes to: is there space, and may they be written?

Not the agents' directories: an agent may have mounted something there that never answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from sidespawn.host_report.findings import Finding, Topic, ok, problem

RUN = "/run"
STORES = {"podman": "/var/lib/containers", "docker": "/var/lib/docker"}  # by default
LEAST_BYTES = 1024 * 1024
LEAST_FILES = 16


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    path: str  # a directory in it
    free: int  # bytes, for root
    free_files: int | None = None  # None if it has no fixed number of inodes
    is_read_only: bool = False


def look(engines: Iterable[str]) -> tuple[FileSystem, ...]:
    found = []
    for path in (RUN, *(STORES[each] for each in sorted(engines) if each in STORES)):
        with suppress(FileNotFoundError):
            said = os.statvfs(path)
            found.append(
                FileSystem(
                    path=path,
                    free=said.f_bfree * said.f_frsize,
                    free_files=said.f_ffree if said.f_files else None,
                    is_read_only=bool(said.f_flag & os.ST_RDONLY),
                )
            )
    return tuple(found)


def judge(systems: Iterable[FileSystem]) -> Iterator[Finding]:
    topic, found = Topic.FILE_SYSTEMS, []
    for each in systems:
        if each.is_read_only:
            text = f"the file system of {each.path} is read-only"
            hint = "find out why: dmesg; then: mount --options=remount,rw DIRECTORY, which is in the output of "
            hint += f"findmnt --target {each.path}"
        elif each.free < LEAST_BYTES:
            text = f"the file system of {each.path} is full: {each.free // 1024} kB are free"
            hint = f"find what fills it: du --one-file-system --max-depth=2 {each.path} | sort -n | tail"
        elif each.free_files is not None and each.free_files < LEAST_FILES:
            text = f"the file system of {each.path} is full: {each.free_files} inodes are free"
            hint = f"find what fills it: du --inodes --one-file-system --max-depth=2 {each.path} | sort -n | tail"
        else:
            continue
        found.append(problem(topic, text, "starts fail", hint, each.path))
    yield from found or [ok(topic, f"there is space in {', '.join(each.path for each in systems)}")]
