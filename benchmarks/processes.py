"""Runs many commands at a time, and measures each of them.

One thread starts and collects them with pidfds, so that measuring costs little compared with the commands.  A command
may run in a network namespace without another program in between: this thread is in it while it starts the command.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sidespawn.testing.commands import ENVIRONMENT

CLONE_NEWNET = 0x40000000
NAMESPACES = Path("/run/netns")
MESSAGES = Path("/run/sidespawn-bench.log")  # what commands say on standard error
libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Command:
    argv: tuple[str, ...]
    netns: str | None = None  # None: the host's
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ended:
    code: int
    seconds: float
    processor: float  # seconds, of the command and what it waited for


@contextmanager
def in_namespace(name: str | None) -> Iterator[None]:
    """Move this thread into the namespace, and the commands that it starts."""
    if name is None:
        yield
        return
    home, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(NAMESPACES / name, os.O_RDONLY)
    try:
        enter(there)
        yield
    finally:
        enter(home)
        os.close(home)
        os.close(there)


def enter(namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def start(command: Command) -> int:
    """Start a command; return its pid."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    quiet = (
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(MESSAGES), flags, 0o600),
    )
    environment = ENVIRONMENT | dict(command.environment)
    with in_namespace(command.netns):
        return os.posix_spawn(command.argv[0], command.argv, environment, file_actions=quiet)


def run(
    commands: Sequence[Command], *, at_once: int | None = None, timeout: float | None = None
) -> tuple[float, list[Ended]]:
    """Seconds until the last one ended, and each of them. At most `at_once` run at a time; None: all.

    What has not ended after `timeout` seconds is killed; None: two minutes and two seconds for each.
    """
    waiting = deque(range(len(commands)))
    running: dict[int, tuple[int, int, float]] = {}
    ended: list[Ended | None] = [None] * len(commands)
    poll = select.poll()
    began = time.perf_counter()
    killed = False
    timeout = timeout or 120 + 2 * len(commands)
    try:
        while waiting or running:
            while waiting and len(running) < (at_once or len(commands)):
                number = waiting.popleft()
                begun = time.perf_counter()
                pid = start(commands[number])
                descriptor = os.pidfd_open(pid)
                running[descriptor] = (number, pid, begun)
                poll.register(descriptor, select.POLLIN)
            for descriptor, _ in poll.poll(1000):
                number, pid, begun = running.pop(descriptor)
                now = time.perf_counter()
                poll.unregister(descriptor)
                os.close(descriptor)
                _, status, usage = os.wait4(pid, 0)
                code = os.waitstatus_to_exitcode(status)
                processor = usage.ru_utime + usage.ru_stime
                ended[number] = Ended(code=code, seconds=now - begun, processor=processor)
            if time.perf_counter() - began > timeout and not killed:
                waiting.clear()
                kill(running)
                killed = True
    finally:
        kill(running)
        for descriptor, (_, pid, _) in running.items():
            os.waitpid(pid, 0)
            os.close(descriptor)
    took = time.perf_counter() - began
    return took, [each or Ended(code=-1, seconds=took, processor=0.0) for each in ended]


def kill(running: dict[int, tuple[int, int, float]]) -> None:
    for descriptor in running:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def one(command: Command, timeout: float = 120) -> Ended:
    return run([command], timeout=timeout)[1][0]


def said() -> str:
    """Return the end of the commands' standard error."""
    try:
        return MESSAGES.read_text(errors="replace")[-2000:]
    except OSError:
        return ""


@contextmanager
def load(processes: int) -> Iterator[None]:
    """While in the context, that many processes use all the processor time that they get.

    Each in its own session, with which the kernel shares it out (sched(7), autogroup): else the commands that are
    measured from here would share theirs with them, and a service would not.
    """
    busy = Command(argv=("/usr/bin/setsid", "/usr/bin/python3", "-I", "-S", "-c", "while True: pass"))
    pids = [start(busy) for _ in range(processes)]
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The usage of a running process: seconds of processor time, including commands it waited for; peak bytes."""

    processor: float
    commands: float
    peak: int


def usage_of(pid: int) -> Usage:
    """Return the usage of a process. Raises OSError if it does not exist."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Usage(
        processor=(int(fields[11]) + int(fields[12])) / ticks,
        commands=(int(fields[13]) + int(fields[14])) / ticks,
        peak=int(status["VmHWM"].split()[0]) * 1024,
    )


def memory_of(pid: int) -> int:
    """Return its proportional share in bytes (PSS). Raises OSError if it does not exist."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def argv_of(pid: int) -> list[str]:
    """Return the arguments of a process. Raises OSError if it does not exist."""
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
