"""The process that is the machine's hardware."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.places import kill, start_time
from vm import programs
from vm.accelerator import Accelerator
from vm.errors import VmError

_END_SECONDS = 30
_CONSOLE_LINES = 25
DEVICES = (
    *("-nodefaults", "-no-user-config", "-display", "none", "-smp", "2", "-m", "4096"),
    *("-device", "virtio-net-pci,netdev=n", "-device", "virtio-rng-pci"),
)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The files that a machine boots from.

    `state` names saved memory in the disk's file, to resume from instead of booting.
    """

    disk: Path
    kernel: Path
    initial_root: Path
    options: str  # for the kernel
    console: Path  # what the machine printed
    port: int  # of 127.0.0.1, leads to the machine's ssh
    state: str = ""

    @property
    def monitor(self) -> Path:
        """qemu's control socket."""
        return self.console.with_name("monitor")

    def command(self, accelerator: Accelerator) -> tuple[str, ...]:
        return (
            *("qemu-system-x86_64", *accelerator.options, *DEVICES),
            *("-serial", f"file:{self.console}", "-qmp", f"unix:{self.monitor},server=on,wait=off"),
            *("-kernel", str(self.kernel), "-initrd", str(self.initial_root)),
            # On a busy machine the emulated timer may be too late for the kernel's check of it, which panics then.
            *("-append", f"{self.options} no_timer_check {accelerator.kernel_options}".rstrip()),
            # A flush in the machine reaches the disk's file: what it holds after a power cut is what a disk would.
            *("-drive", f"file={self.disk},if=virtio,format=qcow2,cache=writeback,discard=unmap"),
            *("-netdev", f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"),
            *(("-loadvm", self.state) if self.state else ()),
        )


@dataclass(frozen=True, kw_only=True)
class Process:
    """A running qemu; `started` tells it from a later process with its pid."""

    pid: int
    started: int

    def alive(self) -> bool:
        return start_time(self.pid) == self.started

    def kill(self) -> None:
        """End it like a power cut, without telling the machine."""
        kill(self.pid, self.started, _END_SECONDS)


def start(
    hardware: Hardware, accelerator: Accelerator, record: Callable[[Process], None], *, outlives_us: bool
) -> Process:
    """Starts qemu once `record` has returned, so that none runs without a record."""
    hardware.console.write_bytes(b"")
    # The shell waits for a line and then becomes qemu, with the same pid.
    gate = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "vm")
    bound = () if outlives_us else ("setpriv", "--pdeathsig=KILL")
    with open(hardware.console.with_suffix(".qemu"), "wb") as words:
        child = subprocess.Popen(
            (*bound, *gate, *hardware.command(accelerator)),
            stdin=subprocess.PIPE,
            stdout=words,
            stderr=words,
            start_new_session=True,  # Ctrl-C is for the command alone
        )
    started = start_time(child.pid)
    if started is None or child.stdin is None:
        raise VmError("qemu ended at once")
    process = Process(pid=child.pid, started=started)
    _reap_later(child)
    with child.stdin as gate_keeper:  # closed without a line, the gate ends
        record(process)
        gate_keeper.write(b"go\n")
    return process


_children: list[subprocess.Popen[bytes]] = []


def _reap_later(child: subprocess.Popen[bytes]) -> None:
    """Popen objects that are dropped while the process runs warn; ones that are kept are reaped here."""
    _children[:] = [each for each in (*_children, child) if each.poll() is None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def create_overlay(disk: Path, backing: Path) -> None:
    """Make an empty disk that shows the other, raw one until it is written to. The other must not change any more."""
    below = os.path.relpath(backing, disk.parent)
    programs.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", below, str(disk), seconds=60)


def last_words(console: Path) -> str:
    """Return the end of the output of qemu and the machine."""
    text = ""
    for file in (console.with_suffix(".qemu"), console):
        if file.exists():
            text += file.read_text(errors="replace")
    lines = text.replace("\r", "").splitlines()
    return "\n".join(lines[-_CONSOLE_LINES:])
