"""Takes a lab up and down.

    up: the command
         forks the keeper   own session; makes all namespaces but the cgroup one; forks, records, leaves
               forks PID 1  joins the lab's cgroup, builds the root, becomes systemd

PID 1 waits for the record before it does anything, so no lab ever runs that `down` would not find. To end a lab is to
kill its PID 1: the kernel then ends everything in its PID namespace, and with the last process the mounts go.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from lab import cgroup, enter, kernel, root
from lab.errors import LabError
from lab.kernel import MountFlag, Namespace
from lab.record import Place, Record, start_time

_PATIENCE = 60.0  # seconds for systemd to finish booting
_END_PATIENCE = 10.0  # seconds for a killed lab to be gone
_SYSTEMD = "/lib/systemd/systemd"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def up(name: str, checkout: Path) -> None:
    """Boots the lab unless it runs; returns when systemd says that it is up."""
    if os.geteuid() != 0:
        raise LabError("a lab needs root: it makes namespaces and mounts")
    if not os.access(_SYSTEMD, os.X_OK):
        raise LabError("systemd is not installed", hint="./dev setup")
    place = Place(name=name)
    with place.locked():
        record = place.load()
        if record is None or not record.alive():
            _remove_leftovers(place)
            place.create()
            record = _start(place, root.Layout(name=name, scratch=place.scratch, checkout=checkout))
        elif Path(record.checkout) != checkout:
            raise LabError(
                f"lab {name} shows another checkout: {record.checkout}",
                hint="choose another --name",
            )
        _wait_until_up(place, record)


def down(name: str) -> None:
    """Ends the lab and removes all that is left of it. No lab of this name: nothing to do."""
    place = Place(name=name)
    with place.locked():
        record = place.load()
        if record is not None:
            _end(place, record)
        _remove_leftovers(place)


def _start(place: Place, layout: root.Layout) -> Record:
    recorded, told = os.pipe()  # PID 1 reads until its record is written
    failure, fails = os.pipe()  # closed by a successful exec; carries a traceback otherwise
    keeper = os.fork()
    if keeper == 0:
        _in_child(fails, lambda: _keep(place, layout, recorded, told, fails))
    for descriptor in (recorded, told, fails):
        os.close(descriptor)
    os.waitpid(keeper, 0)
    with os.fdopen(failure) as pipe:
        trouble = pipe.read()
    record = place.load()
    if trouble or record is None:
        raise LabError(f"cannot start lab {place.name}:\n{trouble}")
    return record


def _in_child(fails: int, work: object) -> None:
    """Runs `work` and leaves without returning into the parent's code."""
    try:
        assert callable(work)
        work()
    except BaseException:
        os.write(fails, traceback.format_exc().encode())
    finally:
        os._exit(1)


def _keep(place: Place, layout: root.Layout, recorded: int, told: int, fails: int) -> None:
    os.setsid()
    console = os.open(
        place.console, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    for source, target in ((nothing, 0), (console, 1), (console, 2)):
        os.dup2(source, target)
    kernel.unshare(Namespace.MOUNT | Namespace.PID | Namespace.UTS | Namespace.IPC | Namespace.NET)
    leader = os.fork()
    if leader == 0:
        os.close(told)
        _in_child(fails, lambda: _become_systemd(layout, recorded))
    started = start_time(leader)
    if started is not None:
        place.save(Record(pid=leader, started=started, checkout=str(layout.checkout)))
        os.write(told, b"1")
    os._exit(0)


def _become_systemd(layout: root.Layout, recorded: int) -> None:
    if os.read(recorded, 1) != b"1":
        raise LabError("the command was ended before it could record the lab")
    os.umask(0o022)
    cgroup.join(layout.name)
    kernel.unshare(Namespace.CGROUP)
    kernel.set_propagation(MountFlag.PRIVATE)
    new_root = root.build(layout)
    kernel.pivot_into(new_root)
    root.mount_cgroups()
    # As systemd does on a real machine, but not in what it takes for a container: podman's :shared needs it.
    kernel.set_propagation(MountFlag.SHARED)
    socket.sethostname(f"lab-{layout.name}")
    enter.bring_up_loopback()
    os.execve(
        _SYSTEMD,
        [
            _SYSTEMD,
            "--system",
            "--unit=multi-user.target",
            "--log-target=console",
            "--show-status=no",
        ],
        {"container": "lab", "PATH": _PATH, "LANG": "C.UTF-8"},
    )


def _wait_until_up(place: Place, record: Record) -> None:
    deadline = time.monotonic() + _PATIENCE
    state = "not started"
    while record.alive() and time.monotonic() < deadline:
        result = enter.capture(place.name, record, ("systemctl", "is-system-running"))
        state = result.stdout.strip() or result.stderr.strip()
        if state == "running":
            return
        if state == "degraded":
            failed = enter.capture(
                place.name, record, ("systemctl", "--failed", "--no-legend", "--plain")
            )
            print(f"lab {place.name}: some units failed:\n{failed.stdout}", end="", file=sys.stderr)
            return
        time.sleep(0.05)
    raise LabError(f"lab {place.name} did not come up ({state}); {_diagnosis(place, record)}")


def _diagnosis(place: Place, record: Record) -> str:
    if not record.alive():
        return f"its PID 1 ended; it printed:\n{place.console.read_text(errors='replace')}"
    jobs = enter.capture(place.name, record, ("systemctl", "list-jobs", "--no-pager")).stdout
    return f"it printed:\n{place.console.read_text(errors='replace')}\njobs:\n{jobs}"


def _end(place: Place, record: Record) -> None:
    try:
        process = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        # Asked after the descriptor is open: it now holds the process that the answer is about.
        if not record.alive():
            return
        signal.pidfd_send_signal(process, signal.SIGKILL)
        if not select.select([process], [], [], _END_PATIENCE)[0]:
            raise LabError(f"lab {place.name}: process {record.pid} does not end")
    finally:
        os.close(process)


def _remove_leftovers(place: Place) -> None:
    cgroup.remove(place.name)
    place.remove()
