"""Takes requests out of a spool, durably, without trusting anything in it.

The spool is a directory that an agent can write but not replace.  A claim is one file of complete lines, out of the
agent's reach.  It is stored before the spool is emptied, and removed when all its lines are answered, so a crash at any
point loses nothing.  A line that is taken twice has the same id and is answered once.

The lock is flock(2) on the inode of `processes`.  An agent that never releases it wastes one second: then the host
takes the file without the lock.  A wrapper that was about to write finds its file gone and writes again
(agent/wrapper.py).
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sidespawn.frozen import dataclass
from sidespawn.system import kernel
from sidespawn.system.files import closing, directory, entries_of, open_regular_beneath, read_up_to, write_whole

REQUESTS = "processes"
TAKEN = "processes-taken"
BY_OPERATOR = ".operator"
CLAIM_BYTES = 1024 * 1024
LINES = CLAIM_BYTES // 96  # all requests are longer
LOCK_PATIENCE = 1.0  # seconds
NAMES = 128  # limit of its file system


@dataclass(frozen=True)
class Claim:
    path: Path
    untrusted_lines: tuple[bytes, ...]

    @property
    def by_operator(self) -> bool:
        return self.path.name.endswith(BY_OPERATOR)


def claim(spool: Path, claims: Path, owner: int, *, by_operator: bool = False) -> Claim | None:
    """Move the spool's requests into a claim in `claims`, and remove the spool's file. None if there was no request.

    `owner` is the uid that may have written it.
    """
    with directory(spool) as held:
        try:
            descriptor = open_request_file(held)
        except FileNotFoundError:
            return None
        except OSError:
            unlink(held, REQUESTS)  # a link, a pipe, a device: not made by a wrapper
            unlink(held, TAKEN)
            return None
        with closing(descriptor):
            acceptable = os.fstat(descriptor).st_uid == owner
            untrusted_content = read_up_to(descriptor, CLAIM_BYTES) if acceptable else b""
            complete = untrusted_content[: untrusted_content.rfind(b"\n") + 1]
            claimed = store(claims, complete, by_operator) if complete else None
            os.ftruncate(descriptor, 0)
            for name in (TAKEN, f"{REQUESTS}-timestamp"):
                unlink(held, name)
            return claimed


def open_request_file(held: int) -> int:
    """Open the file with the requests, out of the wrappers' way: lines written to it from now on are written again.

    It is renamed before it is read.  A wrapper that was stopped while it held the lock finds after its write that its
    file is no longer at the path.  If the file were read first, that wrapper could write in between and believe it
    succeeded.
    """
    with suppress(FileNotFoundError):
        return open_regular_beneath(held, TAKEN, os.O_RDWR)  # an earlier run was killed after renaming it
    with closing(open_regular_beneath(held, REQUESTS, os.O_RDWR)) as descriptor:
        lock(descriptor)
        os.rename(REQUESTS, TAKEN, src_dir_fd=held, dst_dir_fd=held)
    # It may have been replaced by another file since, with its own requests.
    return open_regular_beneath(held, TAKEN, os.O_RDWR)


def lock(descriptor: int) -> bool:
    """Return whether the lock was acquired within the host's patience."""
    give_up = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= give_up:
                return False
            time.sleep(0.002)


def store(claims: Path, content: bytes, by_operator: bool) -> Claim:
    age = f"{time.clock_gettime_ns(time.CLOCK_BOOTTIME):020}"  # so that names sort by it
    name = age + BY_OPERATOR if by_operator else age
    with directory(claims, os.O_RDONLY) as held:
        write_whole(held, name, content)
        os.fsync(held)
    return Claim(claims / name, split_lines(content))


def remove_unfinished(claims: Path) -> None:
    """Remove the remains of a run that was killed while storing a claim: the spool still has those lines."""
    for path in claims.glob(".*"):
        path.unlink()


def stored(claims: Path) -> list[Claim]:
    """Return claims that an earlier run did not finish, oldest first."""
    names = sorted(name for name in os.listdir(claims) if name[:1].isdigit())
    return [Claim(claims / name, split_lines((claims / name).read_bytes())) for name in names]


def split_lines(untrusted_content: bytes) -> tuple[bytes, ...]:
    """Split at LF only. Wrappers never write more than LINES."""
    return tuple(line for line in untrusted_content.split(b"\n", LINES)[:LINES] if line)


def clear(spool: Path) -> None:
    """Remove everything that does not belong in a spool."""
    budget = iter(range(NAMES))  # names that an agent adds in the meantime wait for the next time
    with directory(spool) as held, entries_of(held, 4 * NAMES) as entries:
        for entry in entries:
            if entry.name not in (REQUESTS, TAKEN) or not entry.is_file(follow_symlinks=False):
                remove(held, entry.name, budget)


def remove(held: int, name: str, budget: Iterator[int]) -> None:
    """Remove it with everything under it, as far as the budget allows. Links are not followed, and mounts not entered.

    The contents of a directory are first moved beside it, so that depth costs no stack or descriptors.
    """
    waiting, flags = [name], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW  # not openat2: sidespawn-spool@ may not call it
    device = kernel.device_and_mode(held)[0]
    while waiting and next(budget, None) is not None:
        name = waiting.pop()
        unlink(held, name)
        with suppress(OSError), closing(os.open(name, flags, dir_fd=held)) as inner:  # unless it is gone
            if kernel.device_and_mode(inner)[0] != device:
                continue
            with entries_of(inner, 4 * NAMES) as entries:
                names = [entry.name for entry in entries]
            for each in names:
                waiting.append(os.urandom(16).hex())
                os.rename(each, waiting[-1], src_dir_fd=inner, dst_dir_fd=held)
            if len(names) < 4 * NAMES:
                os.rmdir(name, dir_fd=held)
            else:
                waiting.insert(0, name)


def unlink(held: int, name: str) -> None:
    for call in (os.unlink, os.rmdir):
        with suppress(OSError):
            call(name, dir_fd=held)


def has_requests(spool: Path) -> bool:
    """Return whether there may be requests, without reading the file, which a wrapper may be writing."""
    try:
        return stat.S_ISREG(os.lstat(spool / REQUESTS).st_mode)
    except FileNotFoundError:
        return False
