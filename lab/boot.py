"""Takes a lab up and down.

    up: the command
         forks the keeper   makes every namespace but the cgroup one; forks PID 1, records it, ends
               forks PID 1  joins the lab's cgroup, builds the root, becomes systemd

PID 1 waits for the record before it does anything, so `down` finds every running lab. Killing its PID 1 ends a lab: the
kernel then ends everything in its PID namespace, and the mounts disappear with the last process.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from lab import cgroup, enter, kernel, root
from lab.console import Console
from lab.errors import LabError
from lab.kernel import MountFlag, Namespace
from lab.places import kill, start_time
from lab.record import Place, Record

_PATIENCE = 60.0  # seconds for systemd to finish booting
_END_PATIENCE = 10.0  # seconds for a killed lab to be gone
_SYSTEMD = "/lib/systemd/systemd"


def up(name: str, checkout: Path) -> None:
    """Boots the lab unless it runs; returns when systemd says that it is up."""
    if os.geteuid() != 0:
        raise LabError("a lab needs root: it makes namespaces and mounts")
    if not os.access(_SYSTEMD, os.X_OK):
        raise LabError("systemd is not installed", hint="./dev setup")
    place = Place(name=name)
    with place.locked(), closing(Console()) as console:
        record = place.load()
        if record is None or not record.alive():
            cgroup.remove(name)
            layout = root.Layout(name=name, scratch=place.scratch, checkout=checkout, console=console.device)
            record = _start(place, layout)
        elif Path(record.checkout) != checkout:
            raise LabError(
                f"lab {name} shows another checkout: {record.checkout}",
                hint="choose another --name",
            )
        _wait_until_up(name, record, console)


def down(name: str) -> None:
    """Ends the lab and removes all that is left of it. No lab of this name: nothing to do."""
    place = Place(name=name)
    with place.locked():
        record = place.load()
        if record is not None:
            kill(record.pid, record.started, _END_PATIENCE)
        cgroup.remove(name)
        place.remove()


def _start(place: Place, layout: root.Layout) -> Record:
    recorded, tell = os.pipe()  # PID 1 waits here for its record
    failure, fail = os.pipe()  # closed by a successful exec; carries a traceback otherwise
    keeper = os.fork()
    if keeper == 0:
        os.close(failure)
        _in_child(fail, lambda: _keep(place, layout, recorded, tell, fail))
    for descriptor in (recorded, tell, fail):
        os.close(descriptor)
    os.waitpid(keeper, 0)
    with os.fdopen(failure) as pipe:
        trouble = pipe.read()
    record = place.load()
    if trouble or record is None:
        raise LabError(f"cannot start lab {place.name}:\n{trouble}")
    return record


def _in_child(fail: int, work: Callable[[], None]) -> NoReturn:
    """Runs `work` in a forked child, which never returns into its parent's code."""
    try:
        work()
    except BaseException:  # noqa: BLE001  # whatever it is, the parent reports it
        os.write(fail, traceback.format_exc().encode())
    finally:
        os._exit(1)


def _keep(place: Place, layout: root.Layout, recorded: int, tell: int, fail: int) -> None:
    # Out of the terminal's process group: Ctrl-C is for the command alone.
    os.setsid()
    kernel.unshare(Namespace.MOUNT | Namespace.PID | Namespace.UTS | Namespace.IPC | Namespace.NET)
    leader = os.fork()
    if leader == 0:
        os.close(tell)
        _in_child(fail, lambda: _become_systemd(layout, recorded))
    started = start_time(leader)
    if started is not None:
        place.save(Record(pid=leader, started=started, checkout=str(layout.checkout)))
        os.write(tell, b"1")
    os._exit(0)


def _become_systemd(layout: root.Layout, recorded: int) -> None:
    if os.read(recorded, 1) != b"1":
        raise LabError("the command was ended before it had recorded the lab")
    os.umask(0o022)
    terminal = os.open(layout.console, os.O_RDWR | os.O_NOCTTY)
    for stream in (0, 1, 2):
        os.dup2(terminal, stream)
    cgroup.join(layout.name)
    kernel.unshare(Namespace.CGROUP)
    kernel.set_propagation(MountFlag.PRIVATE)
    kernel.pivot_into(root.build(layout))
    # What systemd does on a machine, but not where it believes to be in a container. Without it
    # no container could mount anything :shared.
    kernel.set_propagation(MountFlag.SHARED)
    socket.sethostname(f"lab-{layout.name}")
    enter.bring_up_loopback()
    os.execve(
        _SYSTEMD,
        [_SYSTEMD, "--system", "--unit=multi-user.target", "--show-status=yes"],
        {"container": "lab", "PATH": enter.PATH, "LANG": "C.UTF-8", "TERM": "dumb"},
    )


def _wait_until_up(name: str, record: Record, console: Console) -> None:
    deadline = time.monotonic() + _PATIENCE
    state = "systemd does not answer"
    while record.alive() and time.monotonic() < deadline:
        state = enter.capture(record, ("systemctl", "is-system-running")).strip() or state
        if state == "running":
            return
        if state == "degraded":
            failed = enter.capture(record, ("systemctl", "--failed", "--no-legend", "--plain"))
            print(f"lab {name}: some units failed:\n{failed}", end="", file=sys.stderr)
            return
        console.read_for(0.05)
    if record.alive():
        jobs = enter.capture(record, ("systemctl", "list-jobs", "--no-pager"))
        reason = f"still {state!r} after {_PATIENCE:.0f} s; what it waits for:\n{jobs}"
    else:
        reason = "its PID 1 ended"
    raise LabError(f"lab {name} did not come up: {reason}\nconsole:\n{console.printed()}")
