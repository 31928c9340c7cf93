"""The demo shows the main job: agent container, DHCP clients, a crash, a refusal. It leaves nothing behind."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest

from tests.attacks.catalogue import attack
from tests.lab.conftest import assert_nothing_is_left, traces
from tests.lab.dockers import HELPERS, running_docker
from tests.lab.networks import SIDESPAWN, command

DEMO = Path(__file__).parents[2] / "docs/pictures/demo.svg"


def check_picture(printed: str) -> None:
    """Check that the demo's picture shows what it prints."""
    pictures = runpy.run_path(str(DEMO.with_name("make.py")))
    made = pictures["demo"](printed)
    if os.environ.get("SIDESPAWN_WRITE_PICTURES"):
        DEMO.write_text(made)
    assert pictures["read"](DEMO.read_text()) == pictures["read"](made), "SIDESPAWN_WRITE_PICTURES=1 writes it"


@attack(101)
@pytest.mark.parametrize(
    ("engine", "image", "ready"),
    [
        pytest.param("podman", HELPERS, nullcontext, id="podman"),
        pytest.param("systemd", HELPERS, nullcontext, id="systemd"),
        pytest.param("systemd", "host", nullcontext, id="systemd-host"),
        pytest.param("docker", HELPERS, partial(running_docker, HELPERS), id="docker"),
    ],
)
def test_the_demo_shows_the_main_job_and_leaves_nothing(
    engine: str, image: str, ready: Callable[[], AbstractContextManager[None]]
) -> None:
    before = traces()
    with ready():
        done = command(*SIDESPAWN, "demo", f"--engine={engine}", f"--image={image}", "--json", check=False)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    if engine == "podman":
        check_picture(done.stderr)
    assert shown["ok"] is True
    assert shown["lease"]["address"] != shown["lease_after_reload"]["address"]
    assert shown["pid_before_restart"] == shown["pid_after_restart"]
    assert shown["renewals"] > 5
    assert shown["renewals_lost"] == 0
    assert shown["refused"] == "option-not-allowed"
    assert shown["agent_capabilities"] == ["NET_ADMIN", "SYS_ADMIN"]
    assert shown["side_container_capabilities"] == ["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"]
    assert shown["side_container_user"] == "42435:42435"
    assert all(step["ok"] for step in shown["steps"])
    assert shown["attempts"], "what the agent could do before is tried now"
    assert not [each["what"] for each in shown["attempts"] if each["now"]]
    assert_nothing_is_left(before)
