"""Runs commands inside a lab. nsenter(1) enters; this builds what they see of the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import NoReturn

from lab import cgroup
from lab.errors import LabError
from lab.record import Place, Record

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_NSENTER = "/usr/bin/nsenter"
_NAMESPACES = ("--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net")
# And SIDESPAWN_…, which make tests do more.
_KEPT = ("TERM", "LANG", "LC_ALL", "NO_COLOR", "COLUMNS", "LINES")
# Beside systemd's slices: a command from outside belongs to no unit.
_CGROUP = "exec"


def execute(name: str, argv: tuple[str, ...]) -> NoReturn:
    """Becomes the command: its exit code, standard streams and terminal are this process's."""
    record = Place(name=name).load()
    if record is None or not record.alive():
        raise LabError(f"lab {name} is not up", hint=f"./dev lab up --name {name}")
    cgroup.join(name, _CGROUP)
    # What a process ignores stays ignored in what it executes: Python ignores SIGPIPE, and a shell
    # that starts a background job makes it ignore SIGINT.
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    os.execve(_NSENTER, _command(record, argv), _environment())


def capture(record: Record, argv: tuple[str, ...]) -> str:
    """Runs a short command inside; returns what it printed, whatever its exit code."""
    command = _command(record, argv)
    done = subprocess.run(command, env=_environment(), text=True, capture_output=True, timeout=30, check=False)
    return done.stdout


def _command(record: Record, argv: tuple[str, ...]) -> list[str]:
    # --root: where the machine itself is a chroot, the root of the lab's mount namespace lies outside of it.
    # --wdns, unlike --wd, is looked up inside.
    place = ("--root", f"--wdns={record.checkout}")
    return [_NSENTER, f"--target={record.pid}", *_NAMESPACES, *place, "--", *argv]


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in _KEPT or key.startswith("SIDESPAWN_")}
    return {"LANG": "C.UTF-8", "TERM": "dumb"} | kept | {"PATH": PATH, "HOME": "/root"}


def bring_up_loopback() -> None:
    """Bring up `lo`, which is down in a new network namespace."""
    subprocess.run(("/sbin/ip", "link", "set", "lo", "up"), env={}, timeout=10, check=True)
