"""Finds the host's ways to an engine: sockets and storage, and other paths to the same files.

A mount is judged by where its source leads: links are followed, a directory counts for its content, and a socket that
is mounted elsewhere counts there too. Sockets of a user's engine only give that user's rights; they count if they, or
directories of that user around them, are mounted themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sidespawn.errors import LaunchError
from sidespawn.system import tables
from sidespawn.system.places import Places

# Where engines listen if nothing else is configured: docker, podman, Kubernetes' CRI.
SOCKETS = (
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
    "/run/dockershim.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/lib/openstack/docker.sock",  # TripleO's DockerAdditionalSockets
    "/run/user/0/podman/podman.sock",  # of root's own service manager
    "/run/user/0/docker.sock",
)
# Directories in which only an engine makes its socket, whether it runs at the moment or not.
OF_ENGINES = frozenset(
    {"/run/podman", "/run/containerd", "/run/crio", "/run/k3s", "/run/k3s/containerd", "/run/k0s", "/run/user/0/podman"}
)
OURS = str(Places("").podman.parent)
NAMES = frozenset(path.rpartition("/")[2] for path in SOCKETS)
STORAGE = ("/var/lib/containers", "/var/lib/docker", "/var/lib/containerd")
BELOW_STORAGE = (
    "", "/storage", "/storage/overlay", "/storage/overlay-containers", "/storage/volumes", "/overlay2", "/containers",
    "/volumes",
)  # fmt: skip
T = TypeVar("T")
A_USERS = re.compile(r"/run/user/[1-9]\d*(/|$)")
USERS_SOCKET = re.compile(r"/run/user/([1-9]\d*)(/podman/podman\.sock|/docker\.sock)")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """`sockets` has every path of each socket, whether it exists at the moment or not; `present` has existing ones."""

    sockets: frozenset[str]
    present: frozenset[str]
    storage: frozenset[str]
    users: frozenset[str] = frozenset()  # existing sockets of users' engines
    not_looked_at: tuple[str, ...] = ()  # why, in a sentence each

    def users_engine(self, source: str) -> str:
        """Return the user whose engine a path leads to, itself or as a directory of that user; empty without one."""
        inside = (path for path in self.users if A_USERS.match(source) and is_beneath(path, source))
        found = USERS_SOCKET.fullmatch(source) or USERS_SOCKET.fullmatch(next(inside, ""))
        return found[1] if found else ""


@dataclass(frozen=True)
class HostMount:
    point: str
    device: str
    root: str  # within the file system


def look(proc: Path = Path("/proc"), *, sockets: Iterable[str] = (), storage: Iterable[str] = ()) -> Sources:
    """Return them, with those that the engines' configuration names in addition."""
    failed: list[str] = []
    mounts = tuple(readable(host_mounts(proc), failed))
    known = {followed(path) for path in (*SOCKETS, *sockets, *readable(listening(proc), failed))}
    known = {path for path in known if not A_USERS.match(path)}
    present = {path for path in known if is_socket(path)}
    absent = {path for path in known if not os.path.lexists(path)}  # neither a file nor a directory of that name
    stores = {*STORAGE, *(path for path in storage if path.startswith("/") and path.strip("/"))}
    aliases = {alias for path in present for alias in other_paths(path, mounts)}
    return Sources(
        sockets=frozenset(absent | present | aliases),
        present=frozenset(present | aliases),
        storage=frozenset({followed(path) for path in stores} | stores),
        users=frozenset(users_sockets()),
        not_looked_at=tuple(failed),
    )


def readable(rows: Iterable[T], failed: list[str]) -> Iterator[T]:
    """Yield the rows of a table. If it is too long, add a sentence about the others to `failed`."""
    try:
        yield from rows
    except LaunchError as error:
        failed.append(f"{error.message}; {error.hint}")


def listening(proc: Path) -> Iterator[str]:
    """Return sockets with an engine's usual name in another place, such as docker's with `--host=unix://…`, and the
    sockets of our own services' podmans.
    """
    with suppress(OSError):
        for *_, path in tables.rows(proc / "net/unix"):
            directory, _, name = path.rpartition("/")
            if directory == OURS or (name in NAMES and path.startswith("/") and not A_USERS.match(path)):
                yield path


def users_sockets(run: Path = Path("/run/user")) -> Iterator[str]:
    with suppress(OSError):
        for user in run.iterdir():
            for path in (f"{user}/podman/podman.sock", f"{user}/docker.sock"):
                if user.name != "0" and is_socket(path):
                    yield path


def is_socket(path: str) -> bool:
    with suppress(OSError):
        return Path(path).is_socket()
    return False


def host_mounts(proc: Path) -> Iterator[HostMount]:
    with suppress(OSError):
        for row in tables.mounts(proc / "self/mountinfo"):
            yield HostMount(unescaped(row[4]), row[2], unescaped(row[3]))


def unescaped(text: str) -> str:
    """Decode blanks and backslashes, which the kernel writes in octal; see proc_pid_mountinfo(5)."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def other_paths(path: str, mounts: Iterable[HostMount]) -> Iterator[str]:
    """Return other paths at which a part of the same file system that contains this file is mounted."""
    mounts = tuple(mounts)
    around = [each for each in mounts if is_beneath(path, each.point)]
    if not around:
        return
    home = max(around, key=lambda each: len(each.point))  # of two on one point the last is visible; either will do
    inside = joined(home.root, relative(path, home.point))
    for each in mounts:
        if each.device == home.device and each != home and is_beneath(inside, each.root):
            yield joined(each.point, relative(inside, each.root))


def followed(path: str) -> str:
    """Return where a path leads, as far as one may look."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # the second: no file can have this name
        return os.path.normpath(path)


def is_beneath(path: str, directory: str) -> bool:
    """Return whether it is the directory itself, or in it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def relative(path: str, directory: str) -> str:
    return path[len(directory.rstrip("/")) :].lstrip("/")


def joined(directory: str, path: str) -> str:
    return f"{directory.rstrip('/')}/{path}" if path else directory
