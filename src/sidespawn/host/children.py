"""Finds children of a side container's program whose pids the agent needs, such as keepalived's vrrp process.

The program writes a child's pid, as seen in its pid namespace, to a file.  The side container can fake that file, so
its content is only a question: which descendant of the program, in the program's own pid namespace, has this pid there?
The host trusts the kernel's answer, and identifies that process by pid and start time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sidespawn.core.plan import ChildPidFile
from sidespawn.core.values import is_decimal
from sidespawn.system import kernel
from sidespawn.system.files import closing, read_up_to
from sidespawn.system.processes import Process, identify, is_alive, status_of

IN_ROOT = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS | kernel.RESOLVE_NO_SYMLINKS
PID_FILE_BYTES = 32


def find_children(program: Process, wanted: tuple[ChildPidFile, ...]) -> dict[str, list[int]] | None:
    """Return pid and start time of each child, by the agent's pid file; None while one is missing."""
    found = {}
    for each in wanted:
        child = find_child(program, each.inside)
        if child is None:
            return None
        found[each.beneath] = [child.pid, child.started]
    return found


def find_child(program: Process, inside: str) -> Process | None:
    """Return the program's child whose pid is in the file `inside` its root; None without one."""
    with suppress(OSError):  # the program is gone, or has not written the file yet
        wanted = read_pid(program.pid, inside)
        for child in map(identify, descendants(program.pid) if wanted is not None else ()):
            # Check again that it is a descendant, since another process could have its pid by now. If both processes
            # still exist afterwards, everything was read from them and no others.
            if child and pid_inside(child.pid, program.pid) == wanted and child.pid in descendants(program.pid):
                return child if is_alive(child) and is_alive(program) else None
    return None


def read_pid(program: int, inside: str) -> int | None:
    """Return the number in a side container's file; None unless it is a small regular file with nothing else in it."""
    with closing(open_inside(program, inside)) as found:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return None
        with closing(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as descriptor:
            untrusted_content = read_up_to(descriptor, PID_FILE_BYTES + 1)
    untrusted_text = untrusted_content.decode("ascii", "replace").removesuffix("\n")
    return int(untrusted_text) if len(untrusted_content) <= PID_FILE_BYTES and is_decimal(untrusted_text) else None


def open_inside(program: int, path: str) -> int:
    """Open a path of the side container as a descriptor that shows its type and cannot be read (O_PATH)."""
    with closing(os.open(f"/proc/{program}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        return kernel.openat2(root, path, os.O_PATH | os.O_NOFOLLOW, IN_ROOT)


def descendants(pid: int) -> Iterator[int]:
    """Yield its descendants; some may be missing while others end (proc_pid_task(5))."""
    waiting = [pid]
    while waiting:
        for tasks in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError):
                children = [int(each) for each in tasks.read_text().split()]
                waiting += children
                yield from children


def pid_inside(pid: int, program: int) -> int | None:
    """Return its pid in the program's pid namespace; None if it is gone, or in another namespace."""
    with suppress(OSError):
        if os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat(f"/proc/{program}/ns/pid").st_ino:
            return int(status_of(pid, b"NSpid:")[-1])
    return None
