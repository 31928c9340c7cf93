"""Runs an engine's command with a time limit, and identifies a side container's program reliably.

A pid alone means nothing, since the kernel reuses it.  A `Process` is a pid and its start time.  A signal goes through
a pidfd that was opened before the start time was compared, so it can reach no other process.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

from sidespawn.errors import LaunchError, Reason, quoted
from sidespawn.frozen import dataclass

# Not the service's own environment: INVOCATION_ID makes podman 4.3 leave conmon in the service's control group, to end
# with it, and NOTIFY_SOCKET would be passed on to the program. Engines are written in Go, and are too short-lived for
# its garbage collector's usual pace: with fewer collections, a start takes a tenth less processor time, and 4 MiB more
# memory. podman reads its settings of the host, and then ours.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C",
    "GOGC": "400", "CONTAINERS_CONF_OVERRIDE": f"{__file__.rpartition('/system/')[0]}/engines/containers.conf",
}  # fmt: skip
SHOWN = 400  # characters of an engine's output


@dataclass(frozen=True)
class Process:
    pid: int
    started: int  # clock ticks since boot, field 22 of /proc/PID/stat


@dataclass(frozen=True)
class Output:
    code: int
    stdout: str
    stderr: str


def run(argv: tuple[str, ...], timeout: float) -> Output:
    """Run a command on the host to its end. Raises LaunchError if it cannot be run or takes too long."""
    try:
        command = Popen(argv, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT, cwd="/")
    except OSError as error:
        raise LaunchError(Reason.ENGINE_FAILED, f"{argv[0]} cannot be run: {error.strerror}") from None
    try:
        stdout, stderr = command.communicate(timeout=timeout)
    except TimeoutExpired:
        command.kill()
        with suppress(TimeoutExpired):  # it does not end while an agent's file system leaves it waiting
            command.wait(timeout=1)
        for pipe in filter(None, (command.stdout, command.stderr)):
            pipe.close()
        raise LaunchError(Reason.ENGINE_TIMEOUT, f"{argv[0]} {argv[1]} took more than {timeout:.0f} s") from None
    return Output(command.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def last_line(text: str) -> str:
    """Return the end of an engine's output, escaped, for an error message."""
    lines = text.strip().split("\n")
    return quoted(lines[-1][-SHOWN:], SHOWN)


def identify(pid: int) -> Process | None:
    """Return the process that now has this pid; None if it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else Process(pid, int(fields[19]))


def status_of(pid: int, field: bytes) -> list[bytes]:
    """Return the words of that line in /proc/PID/status, as bytes: a process may have any name, even one that is not
    text or contains characters that some read as the end of a line. Raises OSError if the process is gone.
    """
    with open(f"/proc/{pid}/status", "rb") as file:
        return next((line.split()[1:] for line in file if line.startswith(field)), [])


@contextmanager
def held(process: Process) -> Iterator[int | None]:
    """Return a pidfd of exactly this process, or None if it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor if identify(process.pid) == process else None
    finally:
        os.close(descriptor)


def is_alive(process: Process) -> bool:
    return identify(process.pid) == process


def send(process: Process, name: str) -> bool:
    """Deliver the signal called `name`; return False if the process is gone."""
    with held(process) as pidfd:
        if pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(pidfd, signal.Signals[f"SIG{name}"])
        except ProcessLookupError:
            return False
        return True


def end(process: Process, name: str, grace: float) -> None:
    """Send the signal, wait `grace` seconds for the process to go, then send KILL and wait again.

    Raises LaunchError if not even that ends it: it then hangs in the kernel.
    """
    with held(process) as pidfd:
        if pidfd is None:
            return
        for each, patience in ((name if heeds(process, name) else "KILL", grace), ("KILL", 10.0)):
            try:
                signal.pidfd_send_signal(pidfd, signal.Signals[f"SIG{each}"])
            except ProcessLookupError:
                return
            if exited(pidfd, patience):
                return
    raise LaunchError(Reason.STILL_RUNNING, f"process {process.pid} does not end, even after SIGKILL")


def heeds(process: Process, name: str) -> bool:
    """Return whether the process blocks, ignores or handles the signal. As PID 1 of a pid namespace, which a side
    container's program is, it would not even be ended by that (pid_namespaces(7)): haproxy by TERM.
    """
    with suppress(OSError), open(f"/proc/{process.pid}/status", "rb") as file:
        masks = [int(line.split()[1], 16) for line in file if line.startswith((b"SigBlk:", b"SigIgn:", b"SigCgt:"))]
        return any(mask >> (signal.Signals[f"SIG{name}"] - 1) & 1 for mask in masks)
    return False


def exited(pidfd: int, patience: float) -> bool:
    """Return whether the process ends within `patience` seconds. A pidfd becomes readable at the end (Linux 5.3)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(patience * 1000))
