"""The whole story, as `sidespawn demo` plays it, on a host like a user's."""

from __future__ import annotations

import json

import pytest

from vm.machine import Machine


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("podman", marks=pytest.mark.part("demo-podman")),
        pytest.param("systemd", marks=pytest.mark.part("demo-systemd")),
    ],
)
def test_the_demo_passes(machine: Machine, engine: str) -> None:
    done = machine.run(("sidespawn", "demo", f"--engine={engine}", "--json"), timeout=120, check=False)
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, result["error"]
    assert result["ok"]
    assert machine.run("podman ps --all --format '{{.Names}}'; ip netns list").stdout == ""
