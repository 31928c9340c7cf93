"""The whole story, as `sidespawn demo` plays it, on a host like a user's: with each engine, and without any image."""

from __future__ import annotations

import pytest

from tests.machine.inner import run_inside
from vm.machine import Machine
from vm.recipes import Module, Recipe

pytestmark = pytest.mark.usefixtures("with_selinux_module")

STORY = "tests/lab/test_demo.py::test_the_demo_shows_the_main_job_and_leaves_nothing"


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("podman", marks=[pytest.mark.part("demo-podman"), pytest.mark.short]),
        pytest.param("systemd", marks=[pytest.mark.part("demo-systemd"), pytest.mark.short]),
        pytest.param("systemd-host", marks=pytest.mark.part("demo-systemd-host")),
        pytest.param("docker", marks=pytest.mark.part("demo-docker")),
    ],
)
def test_the_demo_passes(machine: Machine, recipe: Recipe, kind: str) -> None:
    if recipe.module is Module.SELINUX and kind in ("docker", "systemd-host"):
        pytest.skip("their side containers run in no domain of the module: docs/selinux.md")
    run_inside(machine, f"{STORY}[{kind}]", timeout=180)
