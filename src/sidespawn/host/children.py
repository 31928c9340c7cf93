"""Children of a side container's program whose pids the agent wants to know, such as the vrrp process of keepalived.

The program writes a child's pid to its own file, as its pid namespace counts.  That file is the side container's
to fake, so what it says is only a question: which process below the program, in the program's own pid namespace, has
this pid there?  What the host believes is the kernel's answer, and that process by pid and start.
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
    """Pid and start of each child, by the agent's pid file; None while one of them is not there."""
    found = {}
    for each in wanted:
        child = find_child(program, each.inside)
        if child is None:
            return None
        found[each.beneath] = [child.pid, child.started]
    return found


def find_child(program: Process, inside: str) -> Process | None:
    """The child of the program whose pid stands in the file `inside` its root; None while there is no such."""
    with suppress(OSError):  # the program is gone, or has not written the file yet
        wanted = read_pid(program.pid, inside)
        for child in map(identify, descendants(program.pid) if wanted is not None else ()):
            # It is below the program still, after it was identified, or another could have its pid by now. All of that
            # was read of these two processes and no others if they are still there afterwards.
            if child and pid_inside(child.pid, program.pid) == wanted and child.pid in descendants(program.pid):
                return child if is_alive(child) and is_alive(program) else None
    return None


def read_pid(program: int, inside: str) -> int | None:
    """The number in a file of the side container; None unless it is a small regular file that holds nothing else."""
    with closing(open_inside(program, inside)) as found:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return None
        with closing(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as descriptor:
            untrusted_content = read_up_to(descriptor, PID_FILE_BYTES + 1)
    untrusted_text = untrusted_content.decode("ascii", "replace").removesuffix("\n")
    return int(untrusted_text) if len(untrusted_content) <= PID_FILE_BYTES and is_decimal(untrusted_text) else None


def open_inside(program: int, path: str) -> int:
    """A path of the side container as a descriptor that says what is there and cannot be read (O_PATH)."""
    with closing(os.open(f"/proc/{program}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        return kernel.openat2(root, path, os.O_PATH | os.O_NOFOLLOW, IN_ROOT)


def descendants(pid: int) -> Iterator[int]:
    """Its children, theirs, and so on; some may be missing while others end (proc_pid_task(5))."""
    waiting = [pid]
    while waiting:
        for tasks in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError):
                children = [int(each) for each in tasks.read_text().split()]
                waiting += children
                yield from children


def pid_inside(pid: int, program: int) -> int | None:
    """Its pid as the program's pid namespace counts; None when it is gone, or in another one."""
    with suppress(OSError):
        if os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat(f"/proc/{program}/ns/pid").st_ino:
            return int(status_of(pid, b"NSpid:")[-1])
    return None
