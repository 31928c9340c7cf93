"""Examines podman's storage driver: can it mount images from within a service's podman unit?

That unit (`units/sidespawn-podman@.service`) opens no devices but the standard ones, and its drop-in allows few system
calls. It also ends with all its processes while side containers run, so none of them may serve a file system. overlay,
vfs and btrfs need nothing of that: btrfs only ioctls on its directories (according to its source; not tested).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidespawn.host_report.findings import Finding, Topic, ok, problem
from sidespawn.system.processes import ENVIRONMENT

CONFIGURATION = "/etc/containers/storage.conf"
DEVICES = {"zfs": "/dev/zfs", "devicemapper": "/dev/mapper/control"}  # by driver
FUSE_OVERLAY = "fuse-overlayfs"
# In overlay's directory: podman notes there that a program mounted the images, and then looks for fuse-overlayfs even
# if storage.conf names no program.
MOUNTED_BY_PROGRAM = ".has-mount-program"
MOUNTS_FILES = (6, 12)  # Linux; composefs needs a loop device before that


@dataclass(frozen=True, kw_only=True)
class Storage:
    driver: str = "overlay"
    options: Mapping[str, str] = field(default_factory=dict)  # as podman info shows them, without the driver's name
    program: str = ""  # that mounts images
    file: str = CONFIGURATION
    kernel: str = ""


def look(store: Mapping[str, Any]) -> Storage:
    """Return what `podman info` says about its store. Raises LookupError, ValueError or TypeError if it is odd."""
    driver = str(store.get("graphDriverName", "overlay"))
    given = {str(key).rpartition(".")[2]: value for key, value in (store.get("graphOptions") or {}).items()}
    program = given.pop("mount_program", "")
    if isinstance(program, dict):
        program = program["Executable"]
    if not program and driver == "overlay":
        with suppress(OSError):
            noted = Path(store["graphRoot"], driver, MOUNTED_BY_PROGRAM).read_text(encoding="utf-8").strip() == "true"
            program = shutil.which(FUSE_OVERLAY, path=ENVIRONMENT["PATH"]) if noted else ""
    return Storage(
        driver=driver,
        options={key: str(value) for key, value in given.items()},
        program=str(program or ""),
        file=where(str(store.get("configFile", ""))),
        kernel=os.uname().release,
    )


def where(file: str) -> str:
    """Return what to edit: `file` is what podman read, or would if it existed; empty from podman 6 on."""
    if file.startswith("/usr/"):
        return f"{CONFIGURATION}, a copy of {file}" if Path(file).exists() else CONFIGURATION
    return file or CONFIGURATION


def judge(facts: Storage) -> Iterator[Finding]:
    topic, cannot = Topic.PODMAN_STORAGE, "no side container can start"
    reset = "podman system reset, which removes all containers and images of podman; then"
    if facts.driver in DEVICES:
        found = f"podman stores images with the driver {facts.driver}"
        message = f"{cannot}: a service's podman may not open {DEVICES[facts.driver]}"
        yield problem(topic, found, message, f'{reset} set driver = "overlay" in {facts.file}')
    elif facts.program:
        found = f"podman mounts images with {facts.program}"
        message = f"{cannot}: a service's podman may not open /dev/fuse, and the program would end with it"
        hint = f"{reset} remove mount_program, which root does not need, from {facts.file} if it is there"
        yield problem(topic, found, message, hint)
    elif facts.driver == "overlay" and (limits := [each for each in ("size", "inodes") if is_set(facts, each)]):
        found = f"podman limits the space of containers: {' and '.join(limits)} in {facts.file}"
        message = f"{cannot}: a service's podman may not set quotas"
        yield problem(topic, found, message, f"remove {' and '.join(limits)} from {facts.file}")
    elif is_set(facts, "use_composefs") and numbers(facts.kernel) < MOUNTS_FILES:
        found = f"podman uses composefs, which needs a loop device on Linux {facts.kernel}"
        message = f"{cannot}: a service's podman may not open /dev/loop-control"
        yield problem(topic, found, message, f"remove use_composefs from {facts.file}, or boot Linux 6.12 or later")
    else:
        yield ok(topic, f"podman stores images with the driver {facts.driver}")


def is_set(facts: Storage, option: str) -> bool:
    return facts.options.get(option, "").lower() not in ("", "0", "false")


def numbers(release: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", release)[:2])
