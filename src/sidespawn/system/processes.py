"""Processes: run an engine's command with a time limit, and identify a side container's program reliably.

A pid alone means nothing, since the kernel uses it again.  A `Process` is a pid and the time it started; a signal goes
through a pidfd that was opened before that time was compared, so it can reach no other process.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sidespawn.errors import LaunchError, Reason, quoted
from sidespawn.frozen import dataclass

# Nothing of the service's own environment: INVOCATION_ID makes podman 4.3 leave conmon in the service's control group,
# to die with it, and NOTIFY_SOCKET would be passed on to the program. Engines are written in Go, and live too short for
# its garbage collector at its usual pace: with less of it a start takes a tenth less processor time, and 4 MiB more.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C",
    "GOGC": "400",
}  # fmt: skip
SHOWN = 400  # characters of what an engine said


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
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, env=ENVIRONMENT, cwd="/", check=False
        )
    except subprocess.TimeoutExpired:
        raise LaunchError(Reason.ENGINE_TIMEOUT, f"{argv[0]} {argv[1]} took more than {timeout:.0f} s") from None
    except OSError as error:
        raise LaunchError(Reason.ENGINE_FAILED, f"{argv[0]} cannot be run: {error.strerror}") from None
    return Output(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def last_line(text: str) -> str:
    """Return the end of an engine's output, escaped, for an error message."""
    lines = text.strip().split("\n")
    return quoted(lines[-1][-SHOWN:], SHOWN)


def identify(pid: int) -> Process | None:
    """The process that has this pid now; None if it is gone or only its remains are left."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else Process(pid, int(fields[19]))


def status_of(pid: int, field: bytes) -> list[bytes]:
    """The words of that line in /proc/PID/status. As bytes: a process may give itself any name, no text, or one with
    what some take for the end of a line. Raises OSError when the process is gone.
    """
    with open(f"/proc/{pid}/status", "rb") as file:
        return next((line.split()[1:] for line in file if line.startswith(field)), [])


@contextmanager
def held(process: Process) -> Iterator[int | None]:
    """A pidfd of just this process, or None when it is gone."""
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
    """Deliver the signal called `name`; False when the process is gone."""
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

    Raises LaunchError when not even that ended it: it then hangs in the kernel.
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
