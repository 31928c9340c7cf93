"""A running docker for tests, with the settings that sidespawn's engine needs and with the tests' images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidespawn.host_report.engines import DOCKER_RUNTIME
from tests.lab.networks import command, unit_state

HELPERS = "localhost/sidespawn-helpers:latest"
SETTINGS = Path("/etc/docker/daemon.json")
UNITS = ("docker.socket", "docker.service", "containerd.service")
WANTED = {"live-restore": True, "runtimes": {"sidespawn": {"path": str(DOCKER_RUNTIME)}}}


@contextmanager
def running_docker(*images: str) -> Iterator[None]:
    """Configure docker as an operator does, and restore its previous state afterwards."""
    before = SETTINGS.read_text() if SETTINGS.exists() else None
    ran = [unit for unit in UNITS if unit_state(unit) == "active"]
    settings = json.loads(before or "{}")
    try:
        if settings | WANTED != settings:
            SETTINGS.parent.mkdir(exist_ok=True)
            SETTINGS.write_text(json.dumps(settings | WANTED))
        command("systemctl", "reload-or-restart" if ran else "start", "docker.service")
        for image in images:
            load(image)
        yield
        command("docker", "image", "rm", *images)
    finally:
        if before is None:
            SETTINGS.unlink(missing_ok=True)
        else:
            SETTINGS.write_text(before)
        command("systemctl", *(("reload", "docker.service") if ran else ("stop", *UNITS)))


def load(image: str) -> None:
    """Load the image from podman, which has the images of all tests."""
    archive = Path("/var/tmp/sidespawn-image.tar")  # in the lab, with lab settings
    try:
        command("podman", "save", "--quiet", f"--output={archive}", image)
        command("docker", "load", "--quiet", f"--input={archive}")
    finally:
        archive.unlink(missing_ok=True)


def restart() -> None:
    command("systemctl", "restart", "docker.service")
