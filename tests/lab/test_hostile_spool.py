"""A hostile agent that fills its spool wastes its own time: requests are served, and the host is not affected."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from tests.attacks.catalogue import attack
from tests.lab.conftest import new_service
from tests.lab.networks import Service, command, starts, unit_state, wait_until


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "shadow"
    path.write_text("root:secret:19000::::::\n")
    return path


def untouched(path: Path) -> tuple[str, int, int, int, int]:
    status = os.stat(path)
    return (
        hashlib.sha256(path.read_bytes()).hexdigest(),
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_nlink,
    )


def pid_1_answers() -> bool:
    began = time.monotonic()
    command("systemctl", "show", "--property=Version")
    return time.monotonic() - began < 20


def served(service: Service) -> None:
    """Check that a valid request is answered, whatever else is in the spool, and that the units are active."""
    network = service.network()
    done = network.start()
    assert (done.returncode, done.stderr) == (0, "")
    assert unit_state(f"sidespawn@{service.name}.socket") == "active"
    assert pid_1_answers()


def put(service: Service, content: bytes) -> None:
    """Write the request file with this content in one step."""
    (service.places.spool / "new").write_bytes(content)
    os.rename(service.places.spool / "new", service.places.spool / "processes")


@attack(12)
def test_a_link_to_itself_and_one_into_nowhere(service: Service) -> None:
    (service.places.spool / "processes").symlink_to("processes")
    (service.places.spool / "other").symlink_to("/proc/1/root/nowhere")
    served(service)


@attack(3, 16)
def test_pipes_and_sockets_and_deep_directories(service: Service) -> None:
    spool = service.places.spool
    os.mkfifo(spool / "pipe")
    (spool / "empty").mkdir()
    os.mkfifo(spool / "processes")
    served(service)
    wait_until(lambda: not list(spool.iterdir()))  # the service removed what one call can remove


@attack(105)
def test_leftovers_in_the_spool_keep_nothing_running(service: Service) -> None:
    service.wait_until_idle()
    before = starts(service)
    for name in ("full", "processes"):
        (service.places.spool / name / "deep").mkdir(parents=True)
        (service.places.spool / name / "deep" / "inside").touch()
    time.sleep(3)
    assert starts(service) == before
    served(service)
    wait_until(lambda: not list(service.places.spool.iterdir()))


@attack(14, 33)
def test_a_full_spool_delays_and_then_says_so() -> None:
    """Put in more than the host takes at once: the limit counts each line, and the agent loses the rest."""
    service = new_service()
    try:
        service.enable_with("[limits]\nrate = 5000\n")  # the default 10,922 lines would close the spool for minutes
        put(service, b"rubbish\n" * 200_000)
        served(service)
    finally:
        service.clean()
