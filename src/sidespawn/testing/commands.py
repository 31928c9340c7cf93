"""Runs the commands of a test or a demo, and reports what was expected if one fails.

Each command gets a built environment, a time limit and its own session. Ctrl-C reaches only the test, which lets the
command finish, so that nothing is left half done.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from sidespawn.system.processes import Output

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C"}
TIMEOUT = 60.0
PATIENCE_WHEN_INTERRUPTED = 20.0
SHOWN = 600  # characters of an output


class Unexpected(Exception):
    """A check failed: what was expected, what happened instead, and where to look for the cause (may be empty)."""

    def __init__(self, expected: str, came: str, look: str = "") -> None:
        super().__init__(f"expected: {expected}; came: {came}" + (f"; look: {look}" if look else ""))
        self.expected = expected
        self.came = came
        self.look = look


def expect(holds: bool, expected: str, came: object, look: str = "") -> None:
    """Raise Unexpected unless it holds."""
    if not holds:
        raise Unexpected(expected, str(came), look)


def wait_until(holds: Callable[[], bool], expected: str, timeout: float, look: str = "") -> None:
    """Wait until it holds. Raises Unexpected if it does not within `timeout` seconds."""
    give_up = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > give_up:
            raise Unexpected(expected, f"not within {timeout:g} s", look)
        time.sleep(0.02)


def run(
    argv: tuple[str, ...],
    timeout: float = TIMEOUT,
    *,
    code: int | None = None,
    environment: dict[str, str] | None = None,
) -> Output:
    """Run a command to its end. Raises Unexpected if it takes too long, or exits with another code than `code`."""
    shown = " ".join(argv)
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT | (environment or {}),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise Unexpected(f"{argv[0]} can be run", error.strerror or str(error)) from None
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        end_session(process)
        raise Unexpected(f"`{shown}` ends within {timeout:g} s", "it did not") from None
    except BaseException:
        try:
            process.communicate(timeout=PATIENCE_WHEN_INTERRUPTED)
        except subprocess.TimeoutExpired:
            end_session(process)
        raise
    done = Output(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
    if code is not None and done.code != code:
        said = (done.stderr.strip() or done.stdout.strip())[-SHOWN:]
        raise Unexpected(f"`{shown}` ends with {code}", f"{done.code}: {said}")
    return done


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a command that `run` started, and all processes in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
