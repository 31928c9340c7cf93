"""An agent that does its worst to its spool wastes its own time: requests are served, the host is not touched."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sidespawn import wrapper
from tests.lab.networks import Service, command, unit_state, wait_until


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
    return time.monotonic() - began < 2


def served(service: Service) -> None:
    """A proper request is answered, whatever else lies in the spool, and the units are well."""
    network = service.network()
    done = network.start()
    assert (done.returncode, done.stderr) == (0, "")
    assert unit_state(f"sidespawn@{service.name}.path") == "active"
    assert pid_1_answers()


def put(service: Service, content: bytes) -> None:
    """The request file with this content, all at once."""
    (service.places.spool / "new").write_bytes(content)
    os.rename(service.places.spool / "new", service.places.spool / "processes")


def test_a_link_in_the_place_of_the_request_file(service: Service, victim: Path) -> None:
    before = untouched(victim)
    for name in ("processes", "processes-timestamp"):
        (service.places.spool / name).symlink_to(victim)
    served(service)
    assert untouched(victim) == before
    service.wait_until_idle()
    assert list(service.places.spool.iterdir()) == []


def test_a_link_to_itself_and_one_into_nowhere(service: Service) -> None:
    (service.places.spool / "processes").symlink_to("processes")
    (service.places.spool / "other").symlink_to("/proc/1/root/nowhere")
    served(service)


def test_pipes_and_sockets_and_deep_directories(service: Service) -> None:
    spool = service.places.spool
    os.mkfifo(spool / "pipe")
    (spool / "empty").mkdir()
    wait_until(lambda: not list(spool.iterdir()))  # the service removes what one call removes
    os.mkfifo(spool / "processes")
    served(service)


def test_what_cannot_be_removed_makes_runs_rarer_not_requests_slower(service: Service) -> None:
    (service.places.spool / "full").mkdir()
    (service.places.spool / "full" / "inside").touch()
    wait_until(lambda: bool(service.journal(event="littered")))
    time.sleep(6)
    starts = command("journalctl", "--quiet", "--output=cat", f"UNIT={service.unit}", "JOB_TYPE=start").stdout
    assert starts.count("Started ") < 6
    assert len(service.journal(event="littered")) == 1, "it is reported once"
    network = service.network()
    began = time.monotonic()
    assert network.start().returncode == 0
    assert time.monotonic() - began < 3
    assert unit_state(f"sidespawn@{service.name}.path") == "active"
    (service.places.spool / "full" / "inside").unlink()


def test_a_lock_that_is_never_given_up(service: Service) -> None:
    """The host waits a second for it and goes on; wrappers cannot write meanwhile, and write to a fresh file after."""
    request_file = service.places.spool / "processes"
    with request_file.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        served(service)


def test_rubbish_among_requests_is_refused_line_by_line(service: Service) -> None:
    lines = [b"\xff\xfe", b"{}", b"null", b"[" * 60000, b'{"v":1}', b"\0" * 100, b"x" * 70000]
    put(service, b"\n".join(lines) + b"\n")
    served(service)
    wait_until(lambda: len(service.journal(event="unreadable")) == len(lines))


def test_a_full_spool_delays_and_then_says_so(service: Service) -> None:
    """More than the host takes at once: complete lines of the first MiB are judged, the rest is the agent's loss."""
    put(service, b"rubbish\n" * 200_000)
    served(service)


def test_an_id_is_answered_once(service: Service) -> None:
    network = service.network()
    network.start()
    pid = network.pid
    deadline = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + 60_000
    request = {"v": 1, "id": "ab" * 16, "op": "signal", "deadline": deadline, "signal": "TERM", "pid": pid}
    for _ in range(2):
        wrapper.hand_over(str(service.places.spool), json.dumps(request).encode() + b"\n", "ab" * 16, deadline)
        wait_until((service.places.replies / f"{'ab' * 16}.json").exists)
        service.wait_until_idle()
    assert len(service.journal(event="stopped")) == 1


def test_a_namespace_that_is_the_hosts_or_none_is_not_entered(service: Service) -> None:
    """An agent with the host's pids can bind the host's own namespace under an allowed name."""
    network = service.network()
    path = Path("/run/netns") / network.netns
    command("ip", "netns", "del", network.netns)
    path.touch()
    call = [str(service.wrapper), *network.options()]
    program = f"import sys; sys.argv = {call!r}; import os; os.execv(sys.argv[0], sys.argv)"
    command("mount", "--bind", "/proc/1/ns/net", str(path))
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    finally:
        command("umount", str(path))
        path.unlink()
    assert done.returncode == 70
    assert "(namespace-unusable)" in done.stderr
    assert "host's own" in done.stderr
    assert network.container not in service.containers()
