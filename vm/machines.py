"""Machines by name: how they are started, found and ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vm.assembly import Plan, assemble
from vm.booted import STATE, ensure_booted
from vm.cache import CHECKOUT, default_cache
from vm.disk import Disk, ensure_disk
from vm.errors import VmError
from vm.keys import Keys, ensure_keys
from vm.machine import Machine
from vm.packages import ensure_packages
from vm.recipes import Recipe
from vm.record import Place, all_places, name_for_this_process, remove_unrecorded_disks
from vm.shell import Shell


def build(recipe: Recipe) -> tuple[Keys, Disk, Path]:
    """Make what all machines of this kind share, unless it is there; return the keys, the disk and the booted layer."""
    cache = default_cache()
    keys = ensure_keys(cache)
    disk = ensure_disk(cache, recipe, keys, ensure_packages(cache, recipe))
    return keys, disk, ensure_booted(cache, recipe, keys, disk)


def up(recipe: Recipe, name: str) -> None:
    """Boots it with this checkout, unless it runs; leaves it running."""
    place = Place(name=name)
    with place.locked():
        record = place.load()
        if record is not None and record.process.alive() and not record.stale:
            if (record.release, record.module) != (recipe.release, recipe.module):
                raise VmError(
                    f"machine {name} is {record.release} with {record.module}", hint="choose another --name, or down"
                )
            if record.checkout != str(CHECKOUT):
                raise VmError(f"machine {name} belongs to {record.checkout}", hint="choose another --name")
            return
        place.clear()
        try:
            machine = _assemble(recipe, place, outlives_us=True)
            _start(machine)
            record = place.load()
            if record is None:
                raise VmError(f"the record of machine {name} is gone")
            place.save(replace(record, owner=0, owner_started=0))
        except BaseException:
            place.clear()
            place.remove()
            raise


@contextmanager
def temporary(recipe: Recipe, what: str = "run") -> Iterator[Machine]:
    """Yield a machine with this checkout, which ends with this process at the latest. One at a time for each `what`."""
    remove_stale()
    place = Place(name=name_for_this_process(what))
    with place.locked():
        try:
            machine = _assemble(recipe, place, outlives_us=False)
            _start(machine)
            yield machine
        finally:
            place.clear()
            place.remove()


def down(name: str) -> None:
    """Ends it and removes what it wrote. No machine of this name: nothing to do."""
    place = Place(name=name)
    with place.locked():
        place.clear()
        place.remove()


def shell(name: str) -> Shell:
    """Return the way into a running machine."""
    place = Place(name=name)
    record = place.load()
    if record is None or not record.process.alive():
        raise VmError(f"machine {name} is not up", hint=f"./dev vm up --name {name}")
    return place.shell(record)


def remove_stale() -> None:
    """Removes machines of commands that were killed too hard to do it, and what no one uses any more."""
    cache = default_cache()
    remove_unrecorded_disks(cache)
    if not any(record and record.cache == str(cache.top) for record in (place.load() for place in all_places())):
        cache.tidy()
    for place in all_places():
        record = place.load()
        if record is not None and record.stale:
            with place.locked():
                again = place.load()
                if again is None or again.stale:
                    place.clear()
                    place.remove()


def _assemble(recipe: Recipe, place: Place, *, outlives_us: bool) -> Machine:
    cache = default_cache()
    keys, disk, booted = build(recipe)
    written = place.disk(cache)
    written.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(booted, written)
    plan = Plan(recipe=recipe, disk=disk, written=written, state=STATE, outlives_us=outlives_us)
    return assemble(cache, keys, place, plan)


def _start(machine: Machine) -> None:
    machine.boot()
    machine.renew_checkout()
