"""Machines by name: what is known of each between two commands, and how they are started and ended.

/run/sidespawn-vm/NAME/record.json   its qemu, what it boots from, and the command that it must not outlive
                       ssh           socket of the connection to it
                       console       what it printed
                       .             locked while it is started or ended

What it wrote is in the cache, run/NAME.qcow2.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lab import places
from lab.places import Directory, start_time
from vm import qemu
from vm.accelerator import choose
from vm.base import ensure_base
from vm.cache import CHECKOUT, Cache, default_cache
from vm.errors import VmError
from vm.keys import ensure_keys
from vm.machine import Machine
from vm.qemu import Hardware, Process
from vm.recipes import Module, Recipe, Release
from vm.shell import Shell

BASE = Path("/run/sidespawn-vm")
_FILES = ("console", "console.qemu", "ssh")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One machine. With an owner it belongs to that process and is removed after its end; `up` takes itself out."""

    pid: int
    started: int
    owner: int
    owner_started: int
    release: str
    module: str
    checkout: str
    cache: str
    port: int

    def process(self) -> Process:
        return Process(pid=self.pid, started=self.started)

    def owned(self) -> bool:
        return self.owner != 0

    def stale(self) -> bool:
        """Whether nobody will end it any more."""
        return self.owned() and start_time(self.owner) != self.owner_started


def place(name: str) -> Directory:
    return Directory(base=BASE, name=name)


def load(name: str) -> Record | None:
    known = place(name).load()
    return None if known is None else Record(**known)


def listed() -> list[tuple[str, Record | None]]:
    return [(name, load(name)) for name in places.names(BASE)]


def start(recipe: Recipe, name: str, *, outlives_us: bool) -> Machine:
    """A new machine of this kind, booted and with the checkout; the caller holds the lock of its place."""
    cache = default_cache()
    keys = ensure_keys(cache)
    accelerator = choose(cache)
    base = ensure_base(cache, recipe, keys)
    directory = place(name)
    disk = _disk(cache.top, name)
    disk.parent.mkdir(exist_ok=True)
    disk.unlink(missing_ok=True)
    qemu.create_overlay(disk, base.disk)
    port = qemu.free_port()
    me = os.getpid()
    record = Record(
        pid=0, started=0, owner=me, owner_started=start_time(me) or 0, release=recipe.release, module=recipe.module,
        checkout=str(CHECKOUT), cache=str(cache.top), port=port,
    )  # fmt: skip

    def save(process: Process) -> None:
        directory.save(asdict(replace(record, pid=process.pid, started=process.started)))

    def remove() -> None:
        disk.unlink(missing_ok=True)
        directory.remove(*_FILES)

    machine = Machine(
        hardware=Hardware(
            disk=disk, kernel=base.kernel, initial_root=base.initial_root, options=recipe.kernel_options,
            console=directory.path / "console", port=port,
        ),
        accelerator=accelerator,
        shell=Shell(port=port, keys=keys, control=directory.path / "ssh"),
        record=save,
        release_files=remove,
        outlives_us=outlives_us,
    )  # fmt: skip
    try:
        machine.boot()
        machine.install_checkout()
    except BaseException:
        machine.close()
        raise
    return machine


def up(recipe: Recipe, name: str) -> None:
    """Boots it unless it runs, and leaves it running."""
    directory = place(name)
    with directory.locked():
        record = load(name)
        if record is not None and record.process().alive() and not record.owned():
            if (record.release, record.module) != (recipe.release, recipe.module):
                raise VmError(
                    f"machine {name} is {record.release} with {record.module}", hint="choose another --name, or down"
                )
            if record.checkout != str(CHECKOUT):
                raise VmError(f"machine {name} belongs to {record.checkout}", hint="choose another --name")
            return
        _end(name, record)
        start(recipe, name, outlives_us=True)
        booted = load(name)
        assert booted is not None  # noqa: S101
        directory.save(asdict(replace(booted, owner=0, owner_started=0)))


def down(name: str) -> None:
    """Ends it and removes what it wrote. No machine of this name: nothing to do."""
    with place(name).locked():
        _end(name, load(name))
        place(name).remove(*_FILES)


def running(name: str) -> tuple[Record, Shell]:
    record = load(name)
    if record is None or not record.process().alive():
        raise VmError(f"machine {name} is not up", hint=f"./dev vm up --name {name}")
    keys = ensure_keys(Cache(top=Path(record.cache)))
    return record, Shell(port=record.port, keys=keys, control=place(name).path / "ssh")


def remove_stale() -> None:
    """Removes machines of commands that were killed too hard to do it."""
    for name, record in listed():
        if record is not None and record.stale():
            with place(name).locked():
                again = load(name)
                if again is not None and again.stale():
                    _end(name, again)
                    place(name).remove(*_FILES)


def _end(name: str, record: Record | None) -> None:
    if record is not None:
        record.process().kill()
        keys = ensure_keys(Cache(top=Path(record.cache)))
        Shell(port=record.port, keys=keys, control=place(name).path / "ssh").hang_up()
        _disk(Path(record.cache), name).unlink(missing_ok=True)


def _disk(cache: Path, name: str) -> Path:
    return cache / "run" / f"{name}.qcow2"


def recipe_of(release: str, module: str) -> Recipe:
    return Recipe(release=Release(release), module=Module(module))
