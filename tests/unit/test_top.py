"""`sidespawn top`: rates between two frames, limits that are reached, and a restored screen."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidespawn.cli import top
from sidespawn.cli.main import cli
from sidespawn.service_report.figures import Figures, Limits, PolicyFacts
from sidespawn.setup import services

SMALL = Figures(
    service="small",
    is_active=True,
    policy=PolicyFacts(digest="0123456789abcdef", engine="podman", mode="enforce"),
    limits=Limits(
        used={"instances": 3, "burst": 7}, allowed={"instances": 500, "burst": 200}, waiting=0, backing_off=0
    ),
    side_containers={"running": 2, "adopted": 1, "orphan": 0, "exited": 4},
    counts={"answers running ok": 4, "answers done ok": 1, "answers rejected option-not-allowed": 2},
)
FULL = Limits(used={"instances": 3, "burst": 200}, allowed={"instances": 3, "burst": 200}, waiting=2048, backing_off=1)
CONTAINER = top.SideContainer(
    service="small", name="small_ns-1", state="running", pid=4711, age=3725.0, memory=3 << 20, netns="ns-1"
)


def frame(found: Figures = SMALL, now: float = 100.0, before: top.Frame | None = None) -> top.Frame:
    return top.frame([found], None, now, before)


def columns(found: top.Frame) -> dict[str, str]:
    """Return the cells of the only service's row by heading. Columns are separated by two or more blanks."""
    heading, row = top.drawn(found)[:2]
    names = ["service", "state", "side containers", "req/s", "ok", "refused", "queued", "limits"]
    starts = sorted(heading.index(name) for name in [*names, "failed", "expired"])
    ends = [*starts[1:], None]
    return {heading[a:b].strip(): row[a:b].strip() for a, b in zip(starts, ends, strict=True)}


def test_a_service_and_what_was_answered() -> None:
    found = columns(frame())
    assert found | {"req/s": ""} == found, "nothing is known of a rate in the first frame"
    assert (found["service"], found["state"], found["side containers"]) == ("small", "serving", "3 of 500")
    assert (found["ok"], found["refused"], found["failed"], found["expired"]) == ("5", "2", "0", "0")
    assert (found["queued"], found["limits"]) == ("none", "within")


def test_a_rate_is_of_the_time_between_two_frames() -> None:
    first = frame()
    more = replace(SMALL, counts={**SMALL.counts, "answers failed engine-failed": 5})
    assert columns(frame(more, 102.0, first))["req/s"] == "2.5"
    assert columns(frame(SMALL, 102.0, first))["req/s"] == "0"


def test_counts_that_begin_again_are_no_negative_rate() -> None:
    assert frame(replace(SMALL, counts={}), 102.0, frame()).services[0].rate == 0


@pytest.mark.parametrize(
    ("changes", "column", "shown"),
    [
        ({"policy": None, "limits": None}, "state", "policy-invalid"),
        ({"policy": None, "limits": None}, "side containers", "3"),
        ({"is_active": False}, "state", "inactive"),
        ({"policy": PolicyFacts(digest="d", engine="podman", mode="monitor")}, "state", "serving, monitor"),
        ({"unanswered": 2, "oldest": 7.4}, "queued", "2 claims for 7 s"),
        (
            {"limits": FULL},
            "limits",
            "instance limit reached; rate limit reached; 1 backing off",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_seen(changes: dict[str, object], column: str, shown: str) -> None:
    assert columns(frame(replace(SMALL, **changes)))[column] == shown  # type: ignore[arg-type]


def test_a_side_container() -> None:
    lines = top.drawn(replace(frame(), side_containers=[CONTAINER]))
    assert lines[-1].split() == ["small_ns-1", "running", "4711", "1h02m", "3.0", "MiB", "ns-1"]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0m00s"), (61, "1m01s"), (3599, "59m59s"), (3725, "1h02m"), (90061, "1d01h")]
)
def test_ages(seconds: float, shown: str) -> None:
    assert top.duration(seconds) == shown


def test_the_memory_of_a_process() -> None:
    assert (top.memory(os.getpid()) or 0) > 1 << 20
    assert top.memory(2**22 + 1) is None


def test_a_low_window_says_what_is_missing() -> None:
    lines = [str(number) for number in range(10)]
    assert top.fitting(lines, 10) == lines
    assert top.fitting(lines, 4) == [
        "0", "1", "2", "… 7 more lines; make the window higher, or name a SERVICE"
    ]  # fmt: skip


# ---------------------------------------------------------------- the command


@pytest.fixture
def one_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.toml").touch()
    monkeypatch.setattr(services, "POLICIES", tmp_path)
    monkeypatch.setattr(top, "gather", lambda: [SMALL])


@pytest.mark.usefixtures("one_service")
def test_one_frame_as_json() -> None:
    found = json.loads(CliRunner().invoke(cli, ["top", "--once", "--json"]).output)
    assert found.keys() == {"version", "time", "services", "side_containers"}
    assert found["version"] == 1
    assert found["services"][0]["answered"] == {"running": 4, "done": 1, "rejected": 2, "failed": 0, "expired": 0}


@pytest.mark.usefixtures("one_service")
def test_frames_as_lines_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([None, KeyboardInterrupt])

    def sleep(seconds: float) -> None:
        assert seconds == 0.5
        if wait := next(waits):
            raise wait

    monkeypatch.setattr(time, "sleep", sleep)
    printed = CliRunner().invoke(cli, ["top", "--json", "--interval", "0.5"], standalone_mode=False).stdout
    first, second = (json.loads(line) for line in printed.splitlines())
    assert first["services"][0]["rate"] is None
    assert second["services"][0]["rate"] == 0


def on_a_terminal(keys: bytes, **environment: str) -> tuple[bytes, int]:
    """Return the output on a terminal with 24 lines until the keys ended it, and the exit code."""
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell may have started the tests in the background
        launcher = "from sidespawn.cli.main import main; main()"
        os.execve(
            sys.executable,
            [sys.executable, "-c", launcher, "top", "--interval", "60"],
            {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TERM": "xterm", **environment},
        )
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    found, is_sent = b"", False
    try:
        while select.select([terminal], [], [], 120)[0] and (more := os.read(terminal, 65536)):
            found += more
            if not is_sent and b"\x1b[J" in found:
                os.write(terminal, keys)
                is_sent = True
    except OSError:  # EIO: the other end is closed
        pass
    os.close(terminal)
    return found, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("keys", [b"q", b"xq", b"\x03"], ids=["q", "another key before", "Ctrl-C"])
def test_the_screen_is_given_back(keys: bytes) -> None:
    written, code = on_a_terminal(keys)
    assert code == 0
    assert written.startswith(b"\x1b[?1049h\x1b[?25l")
    assert written.endswith(b"\x1b[?25h\x1b[?1049l")
    assert b"Traceback" not in written
