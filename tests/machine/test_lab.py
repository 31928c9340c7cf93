"""Tests of tests/lab, which run in a machine as they do in a lab."""

from __future__ import annotations

import pytest

from tests.lab import before
from tests.machine.inner import run_inside
from vm.checkout import HOME
from vm.machine import Machine

pytestmark = pytest.mark.usefixtures("with_selinux_module")

# What depends most on the versions of systemd and podman. All of tests/lab takes hours in an emulated machine.
OF_THE_HOST = ("test_hardening", "test_systemd_engine")


@pytest.fixture(scope="module")
def with_the_version_before(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The machine has the checkout without its history."""
    archive = tmp_path_factory.mktemp("before") / before.ARCHIVE.name
    archive.write_bytes(before.archive())
    machine.copy_in(archive, f"{HOME}/{before.ARCHIVE.relative_to(before.CHECKOUT)}")
    return machine


@pytest.mark.part("mount-namespaces")
def test_the_host_sees_what_the_units_mount(with_the_version_before: Machine) -> None:
    run_inside(with_the_version_before, "tests/lab/test_mount_namespaces.py", timeout=240)


@pytest.mark.part("versions")
def test_agents_live_on_while_the_version_changes(with_the_version_before: Machine) -> None:
    run_inside(with_the_version_before, "tests/lab/test_versions.py", timeout=240)


@pytest.mark.part("lab")
def test_units_and_the_engine_systemd(machine: Machine) -> None:
    run_inside(machine, *(f"tests/lab/{name}.py" for name in OF_THE_HOST), timeout=300)


@pytest.mark.slow
@pytest.mark.part("lab-all")
def test_all(with_the_version_before: Machine) -> None:
    run_inside(with_the_version_before, "tests/lab", timeout=1800)
