"""The third layer: the disk and the memory of a machine that has just booted.

A machine resumes from there in seconds, and contains only what a boot would have made. Its later boots are real.
"""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

from vm import programs, qemu
from vm.accelerator import Accelerator, choose
from vm.assembly import Plan, assemble
from vm.cache import Cache, digest, say
from vm.disk import Disk
from vm.errors import VmError
from vm.keys import Keys
from vm.machine import Machine
from vm.recipes import Recipe
from vm.record import Place, name_for_this_process

STATE = "booted"  # the name of the saved memory in the disk's file
_VERSION = 1
_BOOT_SECONDS = 120
_SAVE_SECONDS = 300
# So that the first command of every machine finds its programs in memory.
_WARM_UP = "sidespawn --version; podman images; systemctl list-units; ip netns list; python3 --version"


def ensure_booted(cache: Cache, recipe: Recipe, keys: Keys, disk: Disk) -> Path:
    """Return the disk; make it if it is missing."""
    accelerator = choose(cache)
    identity = digest(_VERSION, disk.identity, recipe.kernel_options, _hardware(accelerator))
    name = f"{recipe.release}-{recipe.module}-{identity}"
    layer = cache.layer("booted", name, lambda draft: _boot_once(draft, cache, recipe, keys, disk))
    return layer / "disk.qcow2"


def _hardware(accelerator: Accelerator) -> tuple[object, ...]:
    """Return the key of the machine: saved memory resumes only on the machine that it was saved on."""
    version = programs.run("qemu-system-x86_64", "--version", seconds=60)
    processor = re.findall(r"^(?:model name|flags)\s*:.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[:2]
    options = (accelerator.options, accelerator.kernel_options)
    return (version, *options, qemu.DEVICES, processor if accelerator.name == "kvm" else ())


def _boot_once(draft: Path, cache: Cache, recipe: Recipe, keys: Keys, disk: Disk) -> None:
    say(f"booting {recipe} for the first time; later machines resume from it")
    written = draft / "disk.qcow2"
    qemu.create_overlay(written, disk.image)
    place = Place(name=name_for_this_process("boot"))
    with place.locked():
        try:
            with assemble(cache, keys, place, Plan(recipe=recipe, disk=disk, written=written)) as machine:
                machine.boot(seconds=_BOOT_SECONDS)
                machine.shell_run(_WARM_UP)
                machine.shell.hang_up()
                _save(machine)
        finally:
            place.remove()


def _save(machine: Machine) -> None:
    with Monitor(machine.hardware.monitor) as monitor:
        trouble = monitor.execute("human-monitor-command", {"command-line": f"savevm {STATE}"})
        if trouble:
            raise VmError(f"cannot save the memory of the machine: {trouble}")
        monitor.execute("quit")
    deadline = time.monotonic() + _SAVE_SECONDS
    while machine.process is not None and machine.process.alive():
        if time.monotonic() > deadline:
            raise VmError("qemu does not end")
        time.sleep(0.1)


class Monitor:
    """qemu's control socket (docs/interop/qmp-spec of qemu): JSON objects, one a line."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_SAVE_SECONDS)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r", encoding="utf-8")

    def __enter__(self) -> Monitor:
        self._lines.readline()  # the greeting
        self.execute("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def execute(self, command: str, arguments: dict[str, str] | None = None) -> object:
        """Return what qemu returns; events are passed over."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n")
        for line in self._lines:
            answer = json.loads(line)
            if "error" in answer:
                raise VmError(f"qemu: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise VmError(f"qemu ended on {command}")
