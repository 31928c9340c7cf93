"""Tests of tests/lab, which run in a machine as they do in a lab."""

from __future__ import annotations

import pytest

from tests.lab import before
from tests.machine.inner import run_inside
from vm.checkout import HOME
from vm.machine import Machine
from vm.recipes import Module, Recipe

pytestmark = pytest.mark.usefixtures("with_selinux_module")

# What cannot work with SELinux; docs/selinux.md says why.
NOT_WITH_SELINUX = (
    "test_systemd_engine.py::test_the_hosts_own_program_needs_no_image",
    "test_versions.py::test_an_agent_of_the_version_before_is_served_by_this_one[podman]",
)

# What depends most on the versions of systemd and podman. All of tests/lab takes hours in an emulated machine.
OF_THE_HOST = ("test_hardening", "test_systemd_engine")


@pytest.fixture(scope="module")
def with_the_version_before(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The machine has the checkout without its history."""
    archive = tmp_path_factory.mktemp("before") / before.ARCHIVE.name
    archive.write_bytes(before.archive())
    machine.copy_in(archive, f"{HOME}/{before.ARCHIVE.relative_to(before.CHECKOUT)}")
    return machine


@pytest.fixture
def left_out(recipe: Recipe) -> tuple[str, ...]:
    """pytest's options that leave out what cannot work on this kind of machine."""
    return tuple(f"--deselect=tests/lab/{each}" for each in NOT_WITH_SELINUX if recipe.module is Module.SELINUX)


@pytest.mark.part("mount-namespaces")
def test_the_host_sees_what_the_units_mount(with_the_version_before: Machine) -> None:
    run_inside(with_the_version_before, "tests/lab/test_mount_namespaces.py", timeout=240)


@pytest.mark.part("versions")
def test_agents_live_on_while_the_version_changes(with_the_version_before: Machine, left_out: tuple[str, ...]) -> None:
    run_inside(with_the_version_before, "tests/lab/test_versions.py", *left_out, timeout=240)


@pytest.mark.part("lab")
def test_units_and_the_engine_systemd(machine: Machine, left_out: tuple[str, ...]) -> None:
    run_inside(machine, *(f"tests/lab/{name}.py" for name in OF_THE_HOST), *left_out, timeout=300)


@pytest.mark.slow
@pytest.mark.part("lab-all")
def test_all(with_the_version_before: Machine, left_out: tuple[str, ...]) -> None:
    run_inside(with_the_version_before, "tests/lab", *left_out, timeout=1800)
