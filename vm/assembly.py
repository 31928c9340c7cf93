"""Assembles a machine: hardware, connection and record. It does not boot it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from lab.places import start_time
from vm import qemu
from vm.accelerator import choose
from vm.cache import CHECKOUT, Cache
from vm.disk import Disk
from vm.keys import Keys
from vm.machine import Machine
from vm.qemu import Hardware, Process
from vm.recipes import Recipe
from vm.record import Place, Record
from vm.shell import Shell


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`written` takes what it writes, `state` is as in Hardware. `outlives_us`: it runs on after this process."""

    recipe: Recipe
    disk: Disk
    written: Path
    state: str = ""
    outlives_us: bool = False


def assemble(cache: Cache, keys: Keys, place: Place, plan: Plan) -> Machine:
    """Assemble a machine, which belongs to this process until told otherwise. The caller holds the place's lock."""
    port = qemu.free_port()
    me = os.getpid()
    record = Record(
        pid=0, started=0, owner=me, owner_started=start_time(me) or 0, release=plan.recipe.release,
        module=plan.recipe.module, checkout=str(CHECKOUT), cache=str(cache.top), port=port,
    )  # fmt: skip

    def save(process: Process) -> None:
        place.save(replace(record, pid=process.pid, started=process.started))

    return Machine(
        hardware=Hardware(
            disk=plan.written, kernel=plan.disk.kernel, initial_root=plan.disk.initial_root,
            options=plan.recipe.kernel_options, console=place.console, port=port, state=plan.state,
        ),
        accelerator=choose(cache),
        shell=Shell(port=port, keys=keys, control=place.control),
        record=save,
        outlives_us=plan.outlives_us,
    )  # fmt: skip
