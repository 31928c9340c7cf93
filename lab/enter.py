"""Runs a command inside a lab: nsenter(1) does the work; this builds what the command may see of the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import NoReturn

from lab import cgroup
from lab.errors import LabError
from lab.record import Place, Record

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = ("TERM", "LANG", "LC_ALL", "NO_COLOR", "COLUMNS", "LINES")
_NSENTER = "/usr/bin/nsenter"
# Beside systemd's own slices: a command from outside belongs to no unit, as a root shell on a console would not.
_CGROUP = "exec"


def execute(name: str, argv: tuple[str, ...]) -> NoReturn:
    """Becomes the command: its exit code, standard streams and terminal are this process's."""
    place = Place(name=name)
    record = place.load()
    if record is None or not record.alive():
        raise LabError(f"lab {name} is not up", hint=f"./dev lab up --name {name}")
    cgroup.join(name, _CGROUP)
    # Python ignores it, and what is ignored stays so in the command.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.stdout.flush()
    os.execve(_NSENTER, _command(record, argv), _environment())


def capture(name: str, record: Record, argv: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Runs a short command inside and returns what it printed."""
    return subprocess.run(
        _command(record, argv),
        env=_environment(),
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )


def _command(record: Record, argv: tuple[str, ...]) -> list[str]:
    namespaces = ("--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net")
    # --wdns is looked up inside the lab, the working directory otherwise outside.
    return [
        _NSENTER,
        f"--target={record.pid}",
        *namespaces,
        f"--wdns={record.checkout}",
        "--",
        *argv,
    ]


def _environment() -> dict[str, str]:
    kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
    return {"LANG": "C.UTF-8", "TERM": "dumb"} | kept | {"PATH": _PATH, "HOME": "/root"}


def bring_up_loopback() -> None:
    """A new network namespace has `lo`, but down."""
    subprocess.run(("/sbin/ip", "link", "set", "lo", "up"), env={}, timeout=10, check=True)
