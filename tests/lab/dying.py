"""The units' command, which kills itself with SIGKILL at a given step: python3 -I -S dying.py sync SERVICE.

A step is any change outside the process: a file or directory made, written, renamed or removed, a mount, a signal, a
command, a request to an engine. An audit hook of the interpreter counts them, so that new ones cannot be forgotten;
only requests and system calls through the C library are wrapped. Before the step whose number is in
/run/sidespawn-dying/SERVICE, the file is removed and the process killed. `0` only counts. The steps are listed in
SERVICE.steps next to it. Production has none of this: a test sets it in a drop-in of its unit.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTROL = Path("/run/sidespawn-dying")
PACKAGE = Path(__file__).parents[2] / "src"
EFFECTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "subprocess.Popen")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def install(fatal: int, log: int, before_death: Callable[[], None] = lambda: None) -> Callable[[str], None]:
    """Count steps from now on, write each to the descriptor `log`, and die before step number `fatal`."""
    counter = itertools.count(1)  # its next() is atomic, and launches are threads

    def step(what: str) -> None:
        number = next(counter)
        os.write(log, f"{number} {what}\n".encode(errors="replace"))
        if number == fatal:
            before_death()
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and arguments[2] >= 0:
            step(f"{event} {os.readlink(f'/proc/self/fd/{arguments[2]}')}/{arguments[0]}")
        elif event in EFFECTS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            step(f"{event} {arguments[0]!s:.120}")

    sys.addaudithook(audit)
    return step


def wrap(module: Any, name: str, step: Callable[[str], None]) -> None:
    real = getattr(module, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        step(f"{name} {arguments[:2]!s:.120}")
        return real(*arguments, **named)

    setattr(module, name, wrapped)


def main(arguments: list[str]) -> int:
    sys.path.append(str(PACKAGE))
    from sidespawn import run
    from sidespawn.engines.api import Api
    from sidespawn.host import sync  # noqa: F401 - all is imported before counting begins
    from sidespawn.system import kernel

    service = arguments[-1]
    control = CONTROL / service
    if control.exists():
        fatal = int(control.read_text())
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        log = os.open(control.with_suffix(".steps"), flags)
        control.unlink()
        step = install(fatal, log)
        for name in ("mount", "unmount"):
            wrap(kernel, name, step)
        wrap(signal, "pidfd_send_signal", step)
        wrap(Api, "ask", step)
    return run.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
