"""Restores sizes and flags of the small file systems in memory that containers have mounts of.

Anyone with CAP_SYS_ADMIN and one mount of a file system can remount all of it with another size, another number of
files, or read-only, and then fill it.  Each run compares the file systems with the policy.  Content that does not fit
into the restored size is the agent's, and is removed.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from sidespawn.core.policy import Policy
from sidespawn.frozen import dataclass
from sidespawn.host import spool
from sidespawn.system import kernel
from sidespawn.system.files import HARMLESS, closing, directory, entries_of
from sidespawn.system.places import Places

RUNNABLE = HARMLESS & ~kernel.MS_NOEXEC
# Flags of statvfs(3), mostly with the numbers of mount(2); also read-only, synchronous and mandatory locks.
NO_LINKS = 0x2000
SEEN = HARMLESS | kernel.MS_RDONLY | 0x10 | 0x40 | NO_LINKS
REMOVED = 20_000  # names at a time; the next run handles the others
ALL = ("*",)
KEPT_BYTES = spool.CLAIM_BYTES  # of a file that stays; all wrappers are smaller


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    path: Path
    flags: int = HARMLESS
    size: int  # bytes
    names: int
    mode: int
    owner: int = 0
    keeps: tuple[str, ...] = ()  # names to keep when the file system is emptied, or ALL

    @property
    def seen(self) -> int:
        return self.flags | NO_LINKS if self.flags & kernel.MS_NOSYMFOLLOW else self.flags

    @property
    def limits(self) -> str:
        return f"size={self.size},nr_inodes={self.names}"

    @property
    def options(self) -> str:
        return f"{self.limits},mode={self.mode:o},uid={self.owner}"


def given_to_containers(places: Places, policy: Policy) -> tuple[FileSystem, ...]:
    """Return the file systems. Replies: four times the kept ones, for those a crash must not forget; 4 KiB each."""
    replies = policy.limits.replies * 4
    return (
        FileSystem(
            path=places.spool,
            # PID 1 looks for a name in there, and must not be led elsewhere.
            flags=HARMLESS | (kernel.MS_NOSYMFOLLOW if policy.agent.wakes_by_path else 0),
            size=policy.limits.spool,
            names=spool.NAMES,
            mode=0o700,
            owner=policy.agent.spool_uid,
            keeps=(spool.REQUESTS, spool.TAKEN),
        ),
        FileSystem(path=places.replies, size=replies << 12, names=replies, mode=0o755, keeps=(places.doorbell.name,)),
        *(
            FileSystem(path=path, flags=RUNNABLE, size=16 << 20, names=8192, mode=0o700, keeps=ALL)
            for path in (places.agent, places.snapshots)
        ),
    )


def put_right(each: FileSystem) -> str:
    """Return a description of the change, or an empty string. Raises OSError if it cannot be restored.

    That happens if there is more to remove than is removed at a time, or if the file system was given no limit at all.
    """
    if not os.path.ismount(each.path):  # copies of the first version are not in a separate file system
        return ""
    with directory(each.path) as held:
        status, found = os.fstat(held), os.fstatvfs(held)
        is_size = found.f_blocks * found.f_frsize - each.size in range(found.f_frsize)  # it is rounded up to pages
        is_rest = (found.f_files, found.f_flag & SEEN) == (each.names, each.seen & SEEN)
        is_root = (status.st_uid, stat.S_IMODE(status.st_mode)) == (each.owner, each.mode)
        if is_size and is_rest and is_root:
            return ""
        kernel.mount("sidespawn", str(each.path), None, kernel.MS_REMOUNT | each.flags)  # it may have been read-only
        os.chown(each.path, each.owner, 0)
        os.chmod(each.path, each.mode)
        try:
            kernel.mount("sidespawn", str(each.path), None, kernel.MS_REMOUNT | each.flags, each.limits)
        except OSError:
            if not found.f_blocks or not found.f_files:  # tmpfs(5): a file system without a limit cannot be given one
                raise
            empty(held, each.keeps)  # its content is larger
            kernel.mount("sidespawn", str(each.path), None, kernel.MS_REMOUNT | each.flags, each.limits)
    was = f"{found.f_blocks * found.f_frsize} bytes, {found.f_files} names, flags {found.f_flag & SEEN:#x}"
    return f"{was}, mode {stat.S_IMODE(status.st_mode):o} of uid {status.st_uid}"


def empty(held: int, keeps: tuple[str, ...]) -> None:
    budget = iter(range(REMOVED))
    with entries_of(held, REMOVED) as entries:
        for entry in entries:
            if keeps == ALL or entry.name in keeps:
                cut(held, entry.name)
            else:
                spool.remove(held, entry.name, budget)


def cut(held: int, name: str) -> None:
    with suppress(OSError), closing(os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=held)) as file:
        if os.fstat(file).st_size > KEPT_BYTES:
            os.ftruncate(file, KEPT_BYTES)
