"""Host commands with a time limit and a built environment; signals that reach only the intended process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.errors import LaunchError, Reason
from sidespawn.system import processes
from sidespawn.system.processes import ENVIRONMENT, Process, end, identify, is_alive, last_line, run, send
from tests.attacks.catalogue import attack


def test_a_command_runs_to_its_end() -> None:
    done = run(("/bin/sh", "-c", "echo out; echo err >&2; exit 3"), 10)
    assert (done.code, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_command_gets_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INVOCATION_ID", "NOTIFY_SOCKET", "LD_PRELOAD_X", "CONTAINERS_CONF"):
        monkeypatch.setenv(name, "x")
    lines = run(("/usr/bin/env", "--null"), 10).stdout.split("\0")
    assert dict(line.split("=", 1) for line in lines if line) == ENVIRONMENT


def test_a_command_gets_no_input_and_no_directory_of_ours() -> None:
    assert run(("/bin/sh", "-c", "pwd; wc -c"), 10).stdout.split() == ["/", "0"]


@attack(107, answer="engine-timeout")
def test_a_command_that_takes_too_long_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        run(("/bin/sleep", "60"), 0.2)
    assert caught.value.reason is Reason.ENGINE_TIMEOUT
    assert time.monotonic() - began < 20


@attack(258, answer="engine-timeout")
def test_a_command_that_no_signal_ends_is_left_behind(tmp_path: Path) -> None:
    """It waits for an answer of a FUSE whose daemon has taken the request and keeps silent."""
    device, target = tmp_path / "fuse", tmp_path / "mounted"
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(10, 229))  # in a lab, /dev has none
    target.mkdir()
    daemon = subprocess.Popen([sys.executable, "-c", SILENT_DAEMON, target, device], stdout=subprocess.PIPE)
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"mounted\n"
        reader = [sys.executable, "-c", READER, str(target)]
        done = subprocess.run(reader, capture_output=True, text=True, timeout=30, check=False)
        assert done.stdout == "engine-timeout\n", done.stderr
    finally:
        daemon.kill()  # which ends the connection, and with it the command
        daemon.communicate()
        subprocess.run(["umount", "--lazy", target], check=False)


SILENT_DAEMON = """
import sys, time
from tests.attacks import inside
inside.mount_silent_fuse(*sys.argv[1:])
print("mounted", flush=True)
time.sleep(60)
"""
READER = """
import sys
from sidespawn.errors import LaunchError
from sidespawn.system.processes import run
try:
    run(("/usr/bin/test", "-e", f"{sys.argv[1]}/x"), 0.5)
except LaunchError as error:
    print(error.reason)
"""


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(LaunchError, match="/nothing cannot be run: No such file") as caught:
        run(("/nothing", "x"), 10)
    assert caught.value.reason is Reason.ENGINE_FAILED


def test_output_that_is_no_text_is_no_trouble() -> None:
    assert run(("/usr/bin/printf", "\\377"), 10).stdout == "\ufffd"


@pytest.mark.parametrize(
    ("text", "said"), [("", "''"), ("a\nb\n", "'b'"), ("a\x1b[31m", r"'a\x1b[31m'"), ("<0>x", "'<0>x'")]
)
def test_the_last_line_of_what_an_engine_said(text: str, said: str) -> None:
    assert last_line(text) == said


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "60"]) as made:
        yield made
        made.kill()


def known(process: subprocess.Popen[bytes]) -> Process:
    found = identify(process.pid)
    assert found is not None
    return found


def test_a_process_is_known_by_its_pid_and_its_start(sleeper: subprocess.Popen[bytes]) -> None:
    process = known(sleeper)
    assert is_alive(process)
    assert not is_alive(replace(process, started=process.started + 1))


def test_a_zombie_is_not_a_process(sleeper: subprocess.Popen[bytes]) -> None:
    process = known(sleeper)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert identify(sleeper.pid) is None
    assert not is_alive(process)


def test_a_signal_reaches_the_process(sleeper: subprocess.Popen[bytes]) -> None:
    assert send(known(sleeper), "USR1")  # not HUP, which nohup(1) makes children ignore
    assert sleeper.wait(10) == -signal.SIGUSR1


def test_a_signal_reaches_no_process_that_has_the_pid_now(sleeper: subprocess.Popen[bytes]) -> None:
    old = replace(known(sleeper), started=1)
    assert not send(old, "KILL")
    end(old, "KILL", 0.1)
    assert sleeper.poll() is None


def test_the_end_is_waited_for(sleeper: subprocess.Popen[bytes]) -> None:
    process = known(sleeper)
    end(process, "TERM", 10)
    assert not is_alive(process)


def test_a_first_process_that_leaves_term_to_its_default_is_not_waited_for() -> None:
    """PID 1 of a pid namespace ignores a TERM that it does not handle."""
    apart = ["/usr/bin/unshare", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(apart, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        pid = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
        first = identify(pid)
        assert first is not None
        began = time.monotonic()
        end(first, "TERM", 30)
        assert time.monotonic() - began < 10
        assert not is_alive(first)


def test_what_does_not_heed_term_is_killed() -> None:
    with subprocess.Popen(
        ["/bin/sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done"], stdout=subprocess.PIPE
    ) as deaf:
        assert deaf.stdout is not None
        deaf.stdout.readline()
        began = time.monotonic()
        end(known(deaf), "TERM", 0.2)
        assert 0.2 <= time.monotonic() - began < 20
        assert deaf.wait(10) == -signal.SIGKILL


@attack(140)
@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"\x1cCapEff:\tzz", b"\x0bCapEff:\t0", b"a\nCapEff: 0", b"\xc2\x85CapEff:0"]
)
def test_no_name_of_a_process_is_taken_for_another_line_of_its_status(name: bytes) -> None:
    """Names may be binary, or contain what str.splitlines takes for the end of a line (prctl(2), PR_SET_NAME)."""
    own = processes.status_of(os.getpid(), b"CapEff:")
    assert len(own) == 1
    script = "import ctypes, sys, time; ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]))"
    argv = (sys.executable, "-I", "-S", "-c", f"{script}; print(flush=True); time.sleep(60)", name.hex())
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            assert processes.status_of(process.pid, b"CapEff:") == own
            assert processes.status_of(process.pid, b"No such:") == []
        finally:
            process.kill()
