"""Calls system calls that Python does not provide: openat2, open_tree, mount, umount2, statx, inotify.

They go through the C library with ctypes; every failure is an OSError with its errno. Linux 5.6 or later (openat2).
"""

from __future__ import annotations

import ctypes
import os
import struct

AT_EMPTY_PATH = 0x1000
AT_STATX_DONT_SYNC = 0x4000
STATX_BASIC_STATS = 0x7FF
SYS_OPENAT2, SYS_OPEN_TREE = 437, 428  # the same on every architecture
OPEN_TREE_CLONE = 1

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 1 << 18
MS_NOSYMFOLLOW = 256  # Linux 5.10; earlier versions ignore it
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

IN_MOVED_TO, IN_CREATE = 0x80, 0x100

libc = ctypes.CDLL(None, use_errno=True)


class OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Return a descriptor (close-on-exec) for `path` from the directory descriptor, resolved as `resolve` allows."""
    how = OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    arguments = (ctypes.c_int(directory), os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    return checked(libc.syscall(ctypes.c_long(SYS_OPENAT2), *arguments), path)


def open_detached(directory: int) -> int:
    """Open the directory for reading on a detached mount, so that `..` leads nowhere from there."""
    flags = OPEN_TREE_CLONE | AT_EMPTY_PATH | os.O_CLOEXEC
    arguments = (ctypes.c_int(directory), b"", ctypes.c_uint(flags))
    tree = checked(libc.syscall(ctypes.c_long(SYS_OPEN_TREE), *arguments), "open_tree")
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    finally:
        os.close(tree)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = (None if text is None else text.encode() for text in (kind, data))
    kind_bytes, data_bytes = encoded
    checked(libc.mount(os.fsencode(source), os.fsencode(target), kind_bytes, ctypes.c_ulong(flags), data_bytes), target)


def remount(target: str, flags: int) -> None:
    """Give this one mount these flags; other mounts of the same file system keep theirs."""
    mount("none", target, None, MS_REMOUNT | MS_BIND | flags)


def unmount(target: str) -> None:
    checked(libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW), target)


def device_and_mode(descriptor: int) -> tuple[int, int]:
    """Return st_dev and st_mode from the kernel's cache, so that no FUSE or NFS server is asked and can stall us."""
    buffer = ctypes.create_string_buffer(256)  # struct statx
    flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC
    checked(libc.statx(descriptor, b"", flags, STATX_BASIC_STATS, buffer), "statx")
    mode, major, minor = struct.unpack_from("=28x H 106x II", buffer)
    return os.makedev(major, minor), mode


def watch_directories(*paths: str) -> int:
    """Return a non-blocking descriptor that becomes readable whenever a name appears in one of the directories.

    If no inotify instance is available, it never becomes readable: a user, including root, has 128 in all containers
    together (inotify(7)). So callers must also check from time to time.
    """
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    for path in paths:
        libc.inotify_add_watch(descriptor, os.fsencode(path), IN_CREATE | IN_MOVED_TO)
    return int(descriptor)
