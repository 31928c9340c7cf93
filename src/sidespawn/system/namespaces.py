"""Finds named network namespaces safely, pins them while an engine opens them, and verifies them afterwards.

An agent shares /run/netns with the host, so a name there can be a link, a pipe, a file on a file system that never
answers, or a bind mount of a namespace that is not the agent's.  A name is followed only one step, and its target is
not touched before the kernel's cached data show that it is a namespace file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidespawn.errors import LaunchError, Reason, quoted
from sidespawn.frozen import dataclass
from sidespawn.system import kernel
from sidespawn.system.files import closing, pinned
from sidespawn.system.places import NAMESPACES

HOSTS_OWN = "/proc/1/ns/net"
NS_GET_NSTYPE = 0xB703
CLONE_NEWNET = 0x40000000
WITHOUT_LINKS = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS


@dataclass(frozen=True)
class PinnedNamespace:
    path: Path  # only root can reach it
    inode: int


@contextmanager
def pinned_namespace(name: str | None, target: Path, names: Path = NAMESPACES) -> Iterator[PinnedNamespace]:
    """Bind-mount the network namespace called `name`, or the host's own, at `target` while in the context.

    Raises LaunchError.
    """
    try:
        descriptor = os.open(HOSTS_OWN, os.O_RDONLY | os.O_CLOEXEC) if name is None else open_namespace(name, names)
    except OSError as error:
        raise LaunchError(
            Reason.NAMESPACE_UNUSABLE,
            f"network namespace {quoted(name or HOSTS_OWN)} cannot be used: {error.strerror or error}",
            "on the host, `ip netns list` must show it: mount the host's /run/netns into the agent as shared",
        ) from None
    with closing(descriptor), pinned(descriptor, target, is_directory=False) as path:
        yield PinnedNamespace(path, os.fstat(descriptor).st_ino)


@contextmanager
def opened_names(names: Path) -> Iterator[int]:
    """Hold the directory as a place. Without O_DIRECTORY, which would wait for an autofs mount made by an agent."""
    with closing(os.open(names, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as held:
        if kernel.device_and_mode(held)[0] != os.stat(names.parent).st_dev:
            raise Hidden(f"something is mounted over {names}")
        yield held


class Hidden(OSError):
    """Another file system is mounted over the directory of names."""


def open_namespace(name: str, names: Path) -> int:
    """Return a descriptor of that namespace. Raises OSError if it is not a network namespace, or is the host's."""
    namespace_device = os.stat("/proc/self/ns/net").st_dev
    flags = os.O_PATH | os.O_NOFOLLOW
    with opened_names(names) as held, closing(kernel.openat2(held, name, flags, WITHOUT_LINKS)) as found:
        if kernel.device_and_mode(found)[0] != namespace_device:
            raise OSError("it is not a namespace")
        descriptor = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if fcntl.ioctl(descriptor, NS_GET_NSTYPE) != CLONE_NEWNET:
            raise OSError("it is a namespace of another type")
        if os.fstat(descriptor).st_ino == os.stat(HOSTS_OWN).st_ino:
            raise OSError("it is the host's own")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def namespace_of(pid: int) -> int | None:
    """Return the inode of a process's network namespace; None if the process is gone, or is exiting."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None
