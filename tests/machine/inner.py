"""Tests that pytest runs in a machine, as one test of this side."""

from __future__ import annotations

import pytest

from vm.machine import Machine


def run_inside(machine: Machine, *arguments: str, timeout: float, environment: tuple[str, ...] = ()) -> None:
    """Run these tests in the machine's checkout; none may fail or be skipped. `environment` is of NAME=VALUE."""
    command = (".venv/bin/python", "-m", "pytest", "-q", "--durations=5", *arguments)
    variables = ("env", f"SIDESPAWN_SLOWNESS={machine.accelerator.factor}", *environment)
    done = machine.run((*variables, *command), timeout=timeout, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)} in the machine:\n{done.stdout}{done.stderr}", pytrace=False)
    print(done.stdout)
    assert " skipped" not in done.stdout.splitlines()[-1]
