"""Limits of memory and tasks, where the kernel enforces them."""

from __future__ import annotations

import pytest

from tests.machine.inner import run_inside
from vm.machine import Machine

pytestmark = pytest.mark.usefixtures("with_selinux_module")


@pytest.mark.short
@pytest.mark.part("limits")
def test_limits_are_enforced(machine: Machine) -> None:
    run_inside(machine, "tests/host/test_limits.py", "-k", "podman or systemd", timeout=240)


@pytest.mark.slow
@pytest.mark.part("limits-docker")
def test_limits_are_enforced_with_docker(machine: Machine) -> None:
    run_inside(machine, "tests/host/test_limits.py", "-k", "docker", timeout=240)
