"""The prepared layer: the base booted once, with the images in podman and a virtual environment as `./dev` makes it."""

from __future__ import annotations

from pathlib import Path

from sidespawn.testing import images
from vm import qemu, wheels
from vm.assembly import Plan, assemble
from vm.cache import CHECKOUT, Cache, digest, say
from vm.keys import Keys
from vm.layers import Base
from vm.machine import HOME, Machine
from vm.recipes import Recipe
from vm.record import Place, name_for_this_process

_VERSION = 1  # raise it when the same images and packages shall make another layer
_MINUTES = 60
_INSTALL_SECONDS = 5 * _MINUTES
_IMPORT_SECONDS = 5 * _MINUTES
_TARS = "/root/tars"
_WHEELS = "/root/wheels"


def ensure_prepared(cache: Cache, recipe: Recipe, keys: Keys, base: Base) -> Path:
    """The disk; made unless it is there."""
    suite = str(recipe.release)
    identity = digest(_VERSION, base.identity, [each.digest(suite) for each in images.USUAL], wheels.project())
    name = f"{recipe.disk}-{identity}"
    return cache.layer("prepared", name, lambda draft: _prepare(draft, cache, recipe, keys, base)) / "disk.qcow2"


def _prepare(draft: Path, cache: Cache, recipe: Recipe, keys: Keys, base: Base) -> None:
    tars = images.build_tars(CHECKOUT / ".cache/images", suite=str(recipe.release))
    packages = wheels.ensure_wheels(cache, base.python)
    say(f"preparing the disk of {recipe.disk}: it boots once, and takes in images and Python packages")
    disk = draft / "disk.qcow2"
    qemu.create_overlay(disk, base.disk)
    place = Place(name=name_for_this_process("prepare"))
    plan = Plan(recipe=recipe, base=base, disk=disk, careless=True)
    with place.locked():
        try:
            with assemble(cache, keys, place, plan) as machine:
                machine.boot()
                machine.install_checkout()
                _install_packages(machine, packages)
                _import_images(machine, tars, recipe)
                machine.shut_down()
        finally:
            place.remove()


def _install_packages(machine: Machine, packages: Path) -> None:
    _send(machine, {path.name: path for path in packages.iterdir()}, _WHEELS)
    pip = f".venv/bin/pip install --quiet --disable-pip-version-check --no-index --find-links={_WHEELS}"
    machine.run(
        f"set -e; python3 -m venv .venv; {pip} -r {_WHEELS}/requirements.txt;"
        f" {pip} --no-build-isolation --no-deps -e .; rm -r {_WHEELS}",
        timeout=_INSTALL_SECONDS,
    )


def _import_images(machine: Machine, tars: tuple[Path, ...], recipe: Recipe) -> None:
    # In the machine the suite is its own, and not in the tars' names.
    _send(machine, {path.name.replace(f"-{recipe.release}-", "-"): path for path in tars}, _TARS)
    importing = (f"{HOME}/.venv/bin/python", "-m", "sidespawn.testing.images", f"--cache={_TARS}")
    machine.run(importing, timeout=_IMPORT_SECONDS)
    machine.run(("rm", "-r", _TARS))


def _send(machine: Machine, files: dict[str, Path], target: str) -> None:
    machine.run(("mkdir", target))
    for name, path in files.items():
        machine.copy_in(path, f"{target}/{name}")
