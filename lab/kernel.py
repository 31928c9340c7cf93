"""The few Linux calls the lab needs and Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import os
from enum import IntFlag
from pathlib import Path


class Namespace(IntFlag):
    """CLONE_NEW* of sched.h."""

    MOUNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    PID = 0x20000000
    NET = 0x40000000


class MountFlag(IntFlag):
    """MS_* of sys/mount.h."""

    READ_ONLY = 1
    NO_SUID = 2
    NO_DEV = 4
    NO_EXEC = 8
    REMOUNT = 32
    BIND = 4096
    RECURSIVE = 16384
    PRIVATE = 1 << 18
    SHARED = 1 << 20


DETACH = 2  # MNT_DETACH of umount2(2)

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(namespaces: Namespace) -> None:
    """unshare(2). A new PID namespace takes effect for the next child only."""
    _check(_libc.unshare(int(namespaces)), f"unshare {namespaces!r}")


def mount(source: str | None, target: Path, kind: str | None, flags: MountFlag, options: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode() if source else None,
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(int(flags)),
        options.encode(),
    )
    _check(result, f"mount {kind or source} on {target}")


def bind(source: Path, target: Path) -> None:
    """Shows `source` at `target`."""
    mount(str(source), target, None, MountFlag.BIND)


def bind_read_only(target: Path) -> None:
    """Makes one path read-only where it is; the kernel takes the flag only in a second step."""
    bind(target, target)
    mount(None, target, None, MountFlag.BIND | MountFlag.REMOUNT | MountFlag.READ_ONLY)


def set_propagation(how: MountFlag) -> None:
    """Makes every mount of this mount namespace private or shared."""
    mount(None, Path("/"), None, MountFlag.RECURSIVE | how)


def pivot_into(new_root: Path) -> None:
    """Makes `new_root` the root and lets go of the old one.

    pivot_root(".", ".") stacks the old root on the new one: it needs no directory (pivot_root(2)).
    """
    os.chdir(new_root)
    _check(_libc.pivot_root(b".", b"."), f"pivot_root {new_root}")
    _check(_libc.umount2(b".", DETACH), "umount of the old root")
    os.chdir("/")
