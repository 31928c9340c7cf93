"""The wrapper's line reaches the host whatever the host does, and its caller learns the result."""

from __future__ import annotations

import ast
import errno
import fcntl
import json
import marshal
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidespawn.agent import wrapper
from sidespawn.core.policy import Policy
from sidespawn.core.wire import SIGNALS, Reply, SignalRequest, StartRequest, Status, format_reply, parse_request
from sidespawn.errors import Reason
from sidespawn.host import spool
from sidespawn.host.directories import write_wrappers
from sidespawn.system.places import Places

ID = "0" * 32
SOON = 300  # milliseconds, for tests in which the time must run out


@pytest.fixture
def box(tmp_path: Path) -> Path:
    for name in ("spool", "replies", "claims"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def settings(box: Path) -> dict[str, Any]:
    return {
        "service": "small",
        "program": "tool",
        "spool": str(box / "spool"),
        "replies": str(box / "replies"),
        "timeout": 5,
        "environment": ["TAG"],
        "local": [["--version"]],
        "stop": [["stop", "-w", "<text>/tool.pid"]],
        "refusals_fail": True,
        "real": [],
        "kill": False,
    }


def hand_over(box: Path, line: bytes = b"line\n", within: int = 5000) -> bool:
    doorbell = str(box / "replies" / "doorbell")
    return wrapper.hand_over(str(box / "spool"), doorbell, line, ID, wrapper.boottime_ms() + within)


def requests(box: Path) -> bytes:
    return (box / "spool" / "processes").read_bytes()


def take(box: Path) -> tuple[bytes, ...]:
    claim = spool.claim(box / "spool", box / "claims", os.getuid())
    return claim.untrusted_lines if claim else ()


class Host(threading.Thread):
    """Answers every request in the spool with `answer`, in the host's steps: claim, parse, reply."""

    def __init__(self, box: Path, answer: Callable[[StartRequest | SignalRequest], Reply | None]) -> None:
        super().__init__()
        self.box, self.answer = box, answer
        self.seen: list[StartRequest | SignalRequest] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            for line in take(self.box):
                request = parse_request(line)
                self.seen.append(request)
                reply = self.answer(request)
                if reply is not None:
                    new = self.box / "replies" / ".new"
                    new.write_bytes(format_reply(reply))
                    new.rename(self.box / "replies" / f"{request.id}.json")
            time.sleep(0.002)

    def __enter__(self) -> Host:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def answering(status: Status, reason: Reason = Reason.OK, message: str = "") -> Callable[[Any], Reply]:
    return lambda request: Reply(id=request.id, status=status, reason=reason, message=message, pid=4711)


# ---------------------------------------------------------------- handing over


def test_a_line_is_appended_with_a_date_beside_it(box: Path) -> None:
    assert hand_over(box, b"one\n")
    assert hand_over(box, b"two\n")
    assert requests(box) == b"one\ntwo\n"
    assert ID in (box / "spool" / "processes-timestamp").read_text()


def test_only_its_owner_can_read_what_it_writes(box: Path) -> None:
    hand_over(box)
    assert stat.S_IMODE((box / "spool" / "processes").stat().st_mode) == 0o600


def test_a_torn_line_of_another_is_ended_first(box: Path) -> None:
    (box / "spool" / "processes").write_bytes(b"whole\nto")
    assert hand_over(box, b"mine\n")
    assert requests(box) == b"whole\nto\nmine\n"


@pytest.mark.parametrize("moment", ["try_lock", "append", "note_time"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("removed", ["taken by the host", "only unlinked", "replaced"])
def test_never_lost_when_the_file_goes_at_any_moment(
    box: Path, monkeypatch: pytest.MonkeyPatch, moment: str, when: str, removed: str
) -> None:
    """Check that the host took the line, or that the file that it takes next has it, or both."""
    real: Callable[..., object] = getattr(wrapper, moment)
    path = box / "spool" / "processes"
    taken: list[bytes] = []
    times: list[str] = []

    def go_away() -> None:
        if times:
            return
        times.append(moment)
        if removed == "taken by the host":
            monkeypatch.setattr(spool, "LOCK_PATIENCE", 0.0)  # the wrapper in this very process may hold it
            taken.extend(take(box))
        else:
            taken.extend(path.read_bytes().splitlines())
            path.unlink()
        if removed == "replaced":
            path.write_bytes(b"another\n")

    def meddled(*arguments: object) -> object:
        if when == "before":
            go_away()
        result = real(*arguments)
        if when == "after":
            go_away()
        return result

    monkeypatch.setattr(wrapper, moment, meddled)
    assert hand_over(box)
    assert times == [moment]
    after = path.read_bytes().splitlines() if path.exists() else []
    assert b"line" in taken or b"line" in after
    assert set(taken + after) <= {b"line", b"another"}


def test_gone_after_the_write_it_is_written_again_under_the_same_id(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_time = wrapper.note_time
    taken: list[bytes] = []

    def taken_away(*arguments: Any) -> None:
        note_time(*arguments)
        if not taken:
            monkeypatch.setattr(spool, "LOCK_PATIENCE", 0.0)
            taken.extend(take(box))

    monkeypatch.setattr(wrapper, "note_time", taken_away)
    assert hand_over(box)
    assert taken == [b"line"]
    assert requests(box) == b"line\n"


def test_many_wrappers_and_a_host_lose_nothing(box: Path) -> None:
    """flock(2) does not separate threads, so these are processes."""
    code = (
        "import sys; from sidespawn.agent import wrapper\n"
        "for number in range(40):\n"
        "    line = b'%s-%d\\n' % (sys.argv[2].encode(), number)\n"
        "    assert wrapper.hand_over(sys.argv[1], '/nobody', line, 'x', wrapper.boottime_ms() + 20000)\n"
    )
    taken: list[bytes] = []
    writers = [subprocess.Popen([sys.executable, "-c", code, str(box / "spool"), str(each)]) for each in range(4)]
    while any(writer.poll() is None for writer in writers):
        taken.extend(take(box))
    taken.extend(take(box))
    assert [writer.returncode for writer in writers] == [0] * 4
    assert set(taken) == {b"%d-%d" % (writer, number) for writer in range(4) for number in range(40)}


def test_a_full_file_waits_for_the_host(box: Path) -> None:
    path = box / "spool" / "processes"
    path.write_bytes(b"x" * (wrapper.CLAIM_BYTES - 4) + b"\n")
    began = time.monotonic()
    assert not hand_over(box, within=SOON)
    assert time.monotonic() - began < 10
    assert path.stat().st_size == wrapper.CLAIM_BYTES - 3
    take(box)
    assert hand_over(box)


def test_a_full_file_system_changes_nothing_and_waits(apart: Callable[[str], str]) -> None:
    apart("""
import os, subprocess
from sidespawn.agent import wrapper
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", tmp_path], check=True)
(tmp_path / "processes").write_bytes(b"whole\\n")
assert not wrapper.hand_over(str(tmp_path), "/nobody", b"x" * 60000 + b"\\n", "id", wrapper.boottime_ms() + 200)
assert (tmp_path / "processes").read_bytes() == b"whole\\n"
(tmp_path / "filler").write_bytes(b"x" * 8192)
""")


def test_a_held_lock_is_waited_for(box: Path) -> None:
    with open(box / "spool" / "processes", "wb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        began = time.monotonic()
        assert not hand_over(box, within=SOON)
        assert 0.2 < time.monotonic() - began < 10
    assert hand_over(box)
    assert requests(box) == b"line\n"


def test_no_time_no_line(box: Path) -> None:
    assert not hand_over(box, within=-1)
    assert not (box / "spool" / "processes").exists()


def test_the_lock_is_given_up(box: Path) -> None:
    hand_over(box)
    with open(box / "spool" / "processes", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def made(path: Path) -> Path:
    path.touch()
    return path


SOMETHING_ELSE: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "loop": lambda path: path.symlink_to(path),
    "directory": Path.mkdir,
    "pipe": os.mkfifo,
    "second name": lambda path: path.hardlink_to(made(path.with_name("x"))),
}
something_else = pytest.mark.parametrize("make", SOMETHING_ELSE.values(), ids=SOMETHING_ELSE.keys())


@something_else
def test_the_host_removes_what_is_not_a_request_file(box: Path, make: Callable[[Path], object]) -> None:
    make(box / "spool" / "processes")
    assert not hand_over(box, within=SOON)
    assert take(box) == ()
    assert hand_over(box)
    assert requests(box) == b"line\n"


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_file_that_cannot_be_opened_is_waited_for(box: Path, monkeypatch: pytest.MonkeyPatch, is_ours: bool) -> None:
    """Keep trying if only the file is the trouble, such as a device node on the spool, which is mounted nodev."""
    opened = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
        if path == str(box / "spool" / "processes"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "access", lambda *_: is_ours)
    if is_ours:
        assert not hand_over(box, within=SOON)
    else:
        with pytest.raises(wrapper.Unavailable, match="Permission denied"):
            hand_over(box, within=SOON)


def test_no_spool(box: Path) -> None:
    (box / "spool").rmdir()
    with pytest.raises(wrapper.Unavailable, match="No such file"):
        hand_over(box)


@pytest.mark.parametrize("make", [SOMETHING_ELSE["link"], SOMETHING_ELSE["directory"]], ids=["link", "directory"])
def test_a_timestamp_that_cannot_be_written_is_no_obstacle(box: Path, make: Callable[[Path], object]) -> None:
    make(box / "spool" / "processes-timestamp")
    assert hand_over(box)
    assert requests(box) == b"line\n"


# ---------------------------------------------------------------- what it sends


def test_a_start_is_what_the_host_reads(box: Path, settings: dict[str, Any]) -> None:
    with Host(box, answering(Status.RUNNING)) as host:
        reply = wrapper.start(settings, ["tool", "--name=\u00e4", ""], "ns-1", {"TAG": "x"})
    [request] = host.seen
    assert isinstance(request, StartRequest)
    assert request.untrusted_argv == ("tool", "--name=\u00e4", "")
    assert (request.untrusted_netns, request.untrusted_environment) == ("ns-1", (("TAG", "x"),))
    assert 4000 < request.deadline - wrapper.boottime_ms() <= 5000
    assert (reply["id"], reply["status"], reply["pid"]) == (request.id, "running", 4711)


def test_a_signal_is_what_the_host_reads(box: Path, settings: dict[str, Any]) -> None:
    with Host(box, answering(Status.DONE)) as host:
        assert wrapper.signal(settings, "HUP", 4711)["status"] == "done"
    [request] = host.seen
    assert isinstance(request, SignalRequest)
    assert (request.signal, request.pid) == ("HUP", 4711)


def test_each_request_has_an_id_of_its_own(box: Path, settings: dict[str, Any]) -> None:
    with Host(box, answering(Status.RUNNING)) as host:
        for _ in range(5):
            wrapper.start(settings, ["tool"], None, {})
    assert len({request.id for request in host.seen}) == 5


def test_no_answer_in_time_is_an_answer(settings: dict[str, Any]) -> None:
    reply = wrapper.start(settings | {"timeout": 0.2}, ["tool"], None, {})
    assert (reply["status"], reply["reason"]) == ("expired", "expired")
    assert "systemctl status sidespawn@small.socket" in reply["message"]


def test_too_long_for_the_format(box: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="longer than a request can be"):
        wrapper.start(settings, ["tool", "x" * wrapper.LINE_BYTES], None, {})
    assert not (box / "spool" / "processes").exists()


@pytest.mark.parametrize("most", [None, 100_000, 500_000])
def test_a_line_as_long_as_the_policy_allows_is_written_whole(
    box: Path, settings: dict[str, Any], most: int | None
) -> None:
    settings |= {"timeout": 0.05} if most is None else {"timeout": 0.5, "line": most}  # long ones take longer to write
    path, limit = box / "spool" / "processes", most or wrapper.LINE_BYTES
    wrapper.start(settings, ["tool"], None, {})
    value = "x" * (limit - len(path.read_bytes()) - 2)  # with its quotes and comma, without the LF
    path.unlink()
    for _ in range(2):  # together with another one, too
        wrapper.start(settings, ["tool", value], None, {})
    written = path.read_bytes().splitlines(keepends=True)
    assert [abs(len(each) - limit - 1) <= 1 for each in written] == [True, True]  # the deadline may get another digit
    for each in written:
        request = parse_request(each.rstrip(b"\n"), limit)
        assert isinstance(request, StartRequest)
        assert request.untrusted_argv == ("tool", value)
    with pytest.raises(ValueError, match="longer than a request can be"):
        wrapper.start(settings, ["tool", value + "xx"], None, {})
    assert len(path.read_bytes().splitlines()) == 2


def test_long_lines_wait_for_the_host_when_the_file_is_full(box: Path, settings: dict[str, Any]) -> None:
    path = box / "spool" / "processes"
    settings |= {"timeout": 0.5, "line": 512 * 1024}
    for _ in range(3):
        wrapper.start(settings, ["tool", "x" * (500 * 1024)], None, {})
    lines = path.read_bytes().splitlines(keepends=True)
    assert [each.endswith(b"}\n") for each in lines] == [True, True], "the third waits, and writes nothing"


def test_what_the_wrapper_knows_by_itself_is_what_the_host_says() -> None:
    from sidespawn.core import wire

    assert (wrapper.LINE_BYTES, wrapper.CLAIM_BYTES) == (wire.LINE_BYTES, spool.CLAIM_BYTES)
    assert set(wrapper.SIGNAL_NAMES.values()) == set(SIGNALS)
    assert wrapper.EXIT_CODES.keys() == {status.value for status in Status}


# ---------------------------------------------------------------- what its caller learns

OUTCOMES = [
    (Status.RUNNING, Reason.OK, 0),
    (Status.DONE, Reason.OK, 0),
    (Status.REJECTED, Reason.OPTION_NOT_ALLOWED, 77),
    (Status.FAILED, Reason.EXITED, 70),
    (Status.EXPIRED, Reason.EXPIRED, 75),
]


def run_main(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["/usr/sbin/tool", *arguments])
    return wrapper.main(settings)


@pytest.mark.parametrize(("status", "reason", "code"), OUTCOMES)
@pytest.mark.parametrize("kill", [False, True], ids=["program", "kill script"])
def test_exit_code(
    box: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    status: Status,
    reason: Reason,
    code: int,
    kill: bool,
) -> None:
    with Host(box, answering(status, reason, "the message")):
        assert run_main(monkeypatch, settings | {"kill": kill}, *(("15", "4711") if kill else ("--quiet",))) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ("" if code == 0 else f"sidespawn: {status} ({reason}): the message\n")


@pytest.mark.parametrize("reason", [Reason.OPTION_NOT_ALLOWED, Reason.POLICY_INVALID])
@pytest.mark.parametrize(
    ("status", "signal", "code"),
    [
        *((Status.REJECTED, "", 0), (Status.FAILED, "", 0), (Status.EXPIRED, "", 0)),
        *((Status.REJECTED, "HUP", 0), (Status.REJECTED, "1", 0), (Status.FAILED, "HUP", 0), (Status.EXPIRED, "1", 0)),
        # A process that should end must not be taken for an ended one.
        *(
            (Status.REJECTED, "15", 77),
            (Status.REJECTED, "9", 77),
            (Status.FAILED, "15", 70),
            (Status.EXPIRED, "9", 75),
        ),
    ],
)
def test_what_does_not_succeed_fails_only_where_the_policy_has_it_so(
    box: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    status: Status,
    reason: Reason,
    signal: str,
    code: int,
) -> None:
    arguments = (signal, "4711") if signal else ("--quiet",)
    with Host(box, answering(status, reason, "the message")):
        assert run_main(monkeypatch, settings | {"refusals_fail": False, "kill": bool(signal)}, *arguments) == code
    assert capfd.readouterr().err == f"sidespawn: {status} ({reason}): the message\n"  # it still prints it


def test_no_spool_is_unavailable(box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (box / "spool").rmdir()
    assert run_main(monkeypatch, settings, "--quiet") == 69


def test_too_long_is_wrong_use(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(monkeypatch, settings, "x" * wrapper.LINE_BYTES) == 64


def test_bytes_that_are_no_text_are_sent_as_they_are_and_refused(
    box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrapper, "wait_for", lambda *_: None)
    assert run_main(monkeypatch, settings, os.fsdecode(b"--name=\xff")) == 75
    [line] = take(box)
    with pytest.raises(Exception, match="unprintable"):
        parse_request(line)


def test_only_the_policys_environment_is_sent(
    box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAG", "mine")
    monkeypatch.setenv("LD_PRELOAD_X", "evil")
    with Host(box, answering(Status.RUNNING)) as host:
        run_main(monkeypatch, settings)
    [request] = host.seen
    assert isinstance(request, StartRequest)
    assert request.untrusted_environment == (("TAG", "mine"),)


# ---------------------------------------------------------------- kill scripts


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        *((["HUP", "4711"], "HUP"), (["15", "4711"], "TERM"), (["9", "4711"], "KILL"), (["-9", "4711"], "KILL")),
        *((["-HUP", "4711"], "HUP"), (["hup", "4711"], "HUP"), (["SIGHUP", "4711"], "HUP")),
        *((["1", "4711"], "HUP"), (["10", "4711"], "USR1"), (["12", "4711"], "USR2"), (["28", "4711"], "WINCH")),
    ],
)  # fmt: skip
def test_signal_spellings(
    box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str], name: str
) -> None:
    with Host(box, answering(Status.DONE)) as host:
        assert run_main(monkeypatch, settings | {"kill": True}, *arguments) == 0
    [request] = host.seen
    assert isinstance(request, SignalRequest)
    assert (request.signal, request.pid) == (name, 4711)


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["15"], ["15", "4711", "4712"], ["15", ""], ["", "4711"], ["-", "4711"], ["15", "x"], ["15", "47 11"]),
        *(["15", "+4711"], ["15", "4.7"], ["15", "\u00b2"], ["-s", "TERM", "4711"], ["-l"], ["15", "4711\n"]),
    ],
    ids=ascii,
)
def test_wrong_use(box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    assert run_main(monkeypatch, settings | {"kill": True, "timeout": 0.1}, *arguments) == 64
    assert not (box / "spool" / "processes").exists()


@pytest.mark.parametrize("pid", ["0", "1", "-1", "4194305", "9" * 30])
def test_a_pid_that_cannot_be_is_no_process(
    box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], pid: str
) -> None:
    assert run_main(monkeypatch, settings | {"kill": True}, "15", pid) == 1
    assert "No such process" in capfd.readouterr().err
    assert not (box / "spool" / "processes").exists()


def test_an_ended_process_is_reported_in_the_words_of_kill(
    box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Host(box, answering(Status.FAILED, Reason.NO_SUCH_PROCESS, "other words")):
        assert run_main(monkeypatch, settings | {"kill": True}, "15", "4711") == 1
    assert capfd.readouterr().err == "kill: (4711) - No such process\n"


@pytest.mark.parametrize("shared", [False, True])
def test_a_shared_kill_script_asks_the_agents_other_services(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, shared: bool
) -> None:
    boxes = [tmp_path / "services" / name for name in ("mine", "other", "small")]
    for box in boxes:
        for name in ("spool", "replies", "claims"):
            (box / name).mkdir(parents=True)
    mine, other, small = boxes
    asked = {"service": "mine", "spool": str(mine / "spool"), "replies": str(mine / "replies")}
    gone = answering(Status.FAILED, Reason.NO_SUCH_PROCESS)
    with Host(mine, gone) as first, Host(other, gone) as second, Host(small, answering(Status.DONE)) as third:
        code = run_main(monkeypatch, settings | asked | {"kill": True, "shared": shared}, "9", "4711")
    assert code == (0 if shared else 1)
    seen = [[each.signal for each in host.seen if isinstance(each, SignalRequest)] for host in (first, second, third)]
    assert seen == ([["KILL"], ["0"], ["0", "KILL"]] if shared else [["KILL"], [], []])


# ---------------------------------------------------------------- as installed in an agent

PYTHONS = [sys.executable]
PYTHONS += [str(path) for path in sorted((Path.home() / ".pyenv/versions").glob("3.6.*/bin/python3.6"))]
PYTHONS += [path for path in [shutil.which("python3.6")] if path and "/shims/" not in path]


@pytest.fixture
def installed(box: Path, neutron_dhcp: Policy) -> Iterator[Path]:
    """Write the scripts as `sidespawn enable` does, for a spool in this directory."""
    places = Places("neutron-dhcp-dnsmasq", run=box)
    for path in (places.agent, places.spool, places.replies, places.claims):
        path.mkdir(parents=True)
    write_wrappers(places, neutron_dhcp)
    yield places.home


def execute(python: str, script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-IS", str(script), *arguments],
        env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_the_scripts_are_executable_and_name_their_interpreter(installed: Path) -> None:
    for name in ("dnsmasq", "dnsmasq-kill"):
        script = installed / "agent" / name
        assert os.access(script, os.X_OK)
        assert script.read_text().startswith("#!/usr/bin/python3 -IS\n")
        assert stat.S_IMODE(script.stat().st_mode) == 0o755


def test_a_second_writing_keeps_the_inode_that_agents_have_mounted(installed: Path, neutron_dhcp: Policy) -> None:
    script = installed / "agent" / "dnsmasq"
    inode = script.stat().st_ino
    content = script.read_text()
    script.write_text("an older one")
    write_wrappers(Places("neutron-dhcp-dnsmasq", run=installed.parent), neutron_dhcp)
    assert (script.stat().st_ino, script.read_text()) == (inode, content)


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: Path(path).name)
@pytest.mark.parametrize(("status", "reason", "code"), OUTCOMES)
def test_the_script(installed: Path, python: str, status: Status, reason: Reason, code: int) -> None:
    with Host(installed, answering(status, reason, "the message")) as host:
        done = execute(python, installed / "agent" / "dnsmasq", "--no-hosts", PROCESS_TAG="dnsmasq-1", LD_X="x")
    assert (done.returncode, done.stdout) == (code, "")
    assert ("the message" in done.stderr) == (code != 0)
    [request] = host.seen
    assert isinstance(request, StartRequest)
    assert request.untrusted_argv == ("dnsmasq", "--no-hosts")
    assert request.untrusted_environment == (("PROCESS_TAG", "dnsmasq-1"),)


IN_TEXT, IN_CODE = "\nTEXT = r'''", "\nCODE = '''\n"


@pytest.mark.parametrize(
    ("is_the_same", "not_looked_at", "needed"), [(True, IN_TEXT, IN_CODE), (False, IN_CODE, IN_TEXT)]
)
def test_the_hosts_code_is_for_the_same_python_only(
    installed: Path, is_the_same: bool, not_looked_at: str, needed: str
) -> None:
    script = installed / "agent" / "dnsmasq"
    content = script.read_text()
    if not is_the_same:
        content = content.replace(str(MAGIC_NUMBER), "b'another'")
    for spoiled, code in ((not_looked_at, 0), (needed, 1)):
        assert content.count(spoiled) == 1
        script.write_text(content.replace(spoiled, spoiled + "AAAA"))
        with Host(installed, answering(Status.RUNNING)) as host:
            assert execute(sys.executable, script, "--no-hosts").returncode == code
        assert len(host.seen) == 1 - code


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: Path(path).name)
def test_without_the_hosts_code_agents_compile_the_text(
    installed: Path, python: str, neutron_dhcp: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.14 is an example: its code does not fit into the required version of marshal."""

    def refuse(*arguments: object) -> bytes:
        raise ValueError("unmarshallable object")

    monkeypatch.setattr(marshal, "dumps", refuse)
    write_wrappers(Places("neutron-dhcp-dnsmasq", run=installed.parent), neutron_dhcp)
    script = installed / "agent" / "dnsmasq"
    assert "CODE = ''''''" in script.read_text()
    with Host(installed, answering(Status.RUNNING)) as host:
        done = execute(python, script, "--no-hosts")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(host.seen) == 1


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: Path(path).name)
def test_the_kill_script(installed: Path, python: str) -> None:
    with Host(installed, answering(Status.DONE)) as host:
        assert execute(python, installed / "agent" / "dnsmasq-kill", "15", "4711").returncode == 0
    [request] = host.seen
    assert isinstance(request, SignalRequest)
    assert (request.signal, request.pid) == ("TERM", 4711)


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: Path(path).name)
def test_a_local_call_executes_the_real_program(installed: Path, python: str) -> None:
    real = installed / "bin" / "dnsmasq"
    real.parent.mkdir()
    real.write_text("#!/bin/sh\necho real $0 $@\nexit 3\n")
    real.chmod(0o755)
    path = f"{installed / 'agent'}:{real.parent}"
    done = execute(python, installed / "agent" / "dnsmasq", "--test", "--dhcp-host=tag:foo", PATH=path)
    assert (done.returncode, done.stdout) == (3, f"real {real} --test --dhcp-host=tag:foo\n")
    assert os.listdir(installed / "spool") == []


@pytest.mark.parametrize(
    "arguments", [["--test"], ["--test", "--dhcp-host=tag:foo", ""], ["--version", "--conf-script=/x"]]
)
def test_only_a_call_that_the_policy_lists_is_local(installed: Path, arguments: list[str]) -> None:
    with Host(installed, answering(Status.RUNNING)) as host:
        assert execute(sys.executable, installed / "agent" / "dnsmasq", *arguments).returncode == 0
    assert len(host.seen) == 1


# ---------------------------------------------------------------- the real program


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the wrapper's own file, in the first directory of PATH."""
    path = tmp_path / "sbin" / "tool"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setattr(wrapper, "__file__", str(path))
    monkeypatch.setenv("PATH", f"{path.parent}:{tmp_path / 'linked'}:{tmp_path / 'bin'}")
    return path


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_the_real_program_is_never_the_wrapper_by_any_name(own: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "tool").symlink_to(own)
    os.link(own, tmp_path / "hard")
    assert wrapper.real_program(settings | {"real": [str(own), str(tmp_path / "hard")]}) is None
    expected = program(tmp_path / "bin" / "tool")
    assert wrapper.real_program(settings) == str(expected)


def test_the_image_comes_before_path(own: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    program(tmp_path / "bin" / "tool")
    real = program(tmp_path / "image" / "tool")
    assert wrapper.real_program(settings | {"real": [str(tmp_path / "nothing"), str(real)]}) == str(real)


@pytest.mark.parametrize("mode", [0o644, 0o000])
def test_what_cannot_be_executed_is_passed_over(own: Path, tmp_path: Path, settings: dict[str, Any], mode: int) -> None:
    program(tmp_path / "bin" / "tool", mode)
    assert wrapper.real_program(settings) is None


def test_a_directory_of_that_name_is_passed_over(own: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Container engines create one where the source of a mount is missing."""
    (tmp_path / "image" / "tool").mkdir(parents=True)
    expected = program(tmp_path / "bin" / "tool")
    assert wrapper.real_program(settings | {"real": [str(tmp_path / "image" / "tool")]}) == str(expected)


@pytest.mark.parametrize("path", ["", ".", "relative:.", ":"])
def test_nothing_is_executed_from_where_the_caller_happens_to_be(
    own: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    program(tmp_path / "relative" / "tool")
    program(tmp_path / "relative" / ".." / "tool")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path)
    assert wrapper.real_program(settings) is None


def test_a_missing_program_is_reported_with_a_way_out(
    own: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, settings, "--version") == 69
    assert "/run/sidespawn/image" in capfd.readouterr().err


# ---------------------------------------------------------------- its namespace


def test_the_namespace_is_found_by_inode_whatever_it_is_called(apart: Callable[[str], str]) -> None:
    apart("""
import os, subprocess
from sidespawn.agent import wrapper
names = tmp_path / "netns"
names.mkdir()
wrapper.NAMESPACES = str(names)
assert wrapper.identify_netns() is None
(names / "a-file").touch()
(names / "b-dangling").symlink_to("nothing")
os.mkfifo(names / "c-pipe")
(names / "d-other").touch()
subprocess.run(["unshare", "--net", "mount", "--bind", "/proc/self/ns/net", names / "d-other"], check=True)
assert wrapper.identify_netns() is None
(names / "qdhcp-1").touch()
subprocess.run(["mount", "--bind", "/proc/self/ns/net", names / "qdhcp-1"], check=True)
assert wrapper.identify_netns() == "qdhcp-1"
""")


def test_a_name_that_another_namespace_hides_is_not_its_name(apart: Callable[[str], str]) -> None:
    apart("""
import subprocess
from sidespawn.agent import wrapper
wrapper.NAMESPACES = str(tmp_path)
(tmp_path / "ns").touch()
subprocess.run(["mount", "--bind", "/proc/self/ns/net", tmp_path / "ns"], check=True)
assert wrapper.identify_netns() == "ns"
subprocess.run(["unshare", "--net", "mount", "--bind", "/proc/self/ns/net", tmp_path / "ns"], check=True)
assert wrapper.identify_netns() is None
""")


def test_no_name_is_looked_at(apart: Callable[[str], str]) -> None:
    """Names may be on another agent's file system, which never answers."""
    apart("""
import os, subprocess
from sidespawn.agent import wrapper
wrapper.NAMESPACES = str(tmp_path)
(tmp_path / "ns").touch()
subprocess.run(["mount", "--bind", "/proc/self/ns/net", tmp_path / "ns"], check=True)
os.stat = os.lstat = os.listdir = os.scandir = None
assert wrapper.identify_netns() == "ns"
""")


def test_no_directory_of_namespaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wrapper, "NAMESPACES", str(tmp_path / "nothing"))
    assert wrapper.identify_netns() is None


# ---------------------------------------------------------------- any agent's Python

SOURCE = Path(wrapper.__file__)


def test_it_is_python_3_6() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 6))


def test_it_imports_only_the_standard_library() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported <= sys.stdlib_module_names


def test_its_settings_are_plain_values(installed: Path) -> None:
    tree = ast.parse((installed / "agent" / "dnsmasq").read_text(), feature_version=(3, 6))
    [settings] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "SETTINGS"
    ]
    assert json.loads(json.dumps(settings)) == settings
    assert settings["kill"] is False
    assert settings["spool"] == str(installed / "spool")


# ---------------------------------------------------------------- any argument


@pytest.mark.parametrize(
    ("arguments", "local"),
    [
        (["-C", "/x", "-n"], True),
        (["-C", "", "-n"], True),
        (["-C", "<text>", "-n"], True),
        (["-C", "-n"], False),
        (["-C", "/x", "/y", "-n"], False),
        (["-C", "/x", "-d"], False),
        (["-d", "-C", "/x"], False),
        ([], False),
    ],
)
def test_what_the_agent_answers_can_have_any_argument_in_one_place(arguments: list[str], local: bool) -> None:
    assert wrapper.is_answered_here([["-C", "<text>", "-n"]], arguments) is local
    assert wrapper.is_answered_here((("-C", "<text>", "-n"),), tuple(arguments)) is local


# ---------------------------------------------------------------- without the json module

PLAIN = st.none() | st.integers() | st.text(st.characters())  # including the lone surrogates that os.fsdecode makes


@given(st.dictionaries(st.text(), PLAIN | st.lists(st.text(st.characters())) | st.dictionaries(st.text(), st.text())))
@example({"argv": ["\ud83d\ude00", "\udcff", '"', "\\", "\x7f", "\x00", "é", "/"], "netns": None, "v": 1})
def test_a_request_says_the_same_as_json_would(request: dict[str, Any]) -> None:
    text = wrapper.encode(request)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == json.loads(json.dumps(request))


def test_a_success_costs_no_import_of_json(box: Path, settings: dict[str, Any]) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r}); import wrapper\n"
        f"reply = wrapper.start({settings!r}, ['tool'], None, {{}}, brief=True)\n"
        "print(reply['status'], 'json' in sys.modules, 're' in sys.modules)"
    )
    with Host(box, answering(Status.RUNNING)):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
    assert done.stdout == "running False False\n"


@contextmanager
def listening(replies: Path) -> Iterator[int]:
    """Listen at the doorbell, as systemd does."""
    os.mkfifo(replies / "doorbell")
    descriptor = os.open(replies / "doorbell", os.O_RDWR | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def doorbell(box: Path) -> Iterator[int]:
    with listening(box / "replies") as descriptor:
        yield descriptor


def rung(doorbell: int) -> int:
    """Return how often it rang since the last question."""
    try:
        return len(os.read(doorbell, 1 << 16))
    except BlockingIOError:
        return 0


def test_the_doorbell_is_rung_before_there_is_a_line(box: Path, doorbell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a wrapper is killed in between, it has rung for nothing, but left no line unnoticed."""

    def killed(descriptor: int, line: bytes) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(wrapper, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        hand_over(box)
    assert rung(doorbell) == 1


@pytest.mark.parametrize(("again", "times"), [(0.1, {1}), (0, set(range(2, 1000)))])
def test_a_wrapper_rings_for_the_removal_of_an_obstacle(
    box: Path, doorbell: int, monkeypatch: pytest.MonkeyPatch, again: float, times: set[int]
) -> None:
    """Ring once for the host to remove it, and again if that takes long. Usually it is another wrapper's lock."""
    monkeypatch.setattr(wrapper, "RING_AGAIN", again)
    (box / "spool" / "processes").mkdir()
    assert not hand_over(box, within=SOON)
    assert rung(doorbell) in times


def test_a_doorbell_that_was_rung_too_often_is_no_obstacle(box: Path, doorbell: int) -> None:
    with suppress(BlockingIOError):
        while True:
            os.write(doorbell, bytes(4096))
    assert hand_over(box)


def test_without_a_listener_it_is_rung_again(box: Path, doorbell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests written while the socket unit was stopped need this."""
    monkeypatch.setattr(wrapper, "RING_AGAIN", 0)
    assert wait_for(box / "replies" / f"{ID}.json", within=SOON) is None
    assert rung(doorbell) > 1


def test_it_is_not_rung_again_for_a_request_that_was_taken(
    box: Path, doorbell: int, bell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrapper, "RING_AGAIN", 0)
    assert wait_for(box / "replies" / f"{ID}.json", within=SOON) is None
    assert rung(doorbell) == 0


def ring(bell: Path, reply: Path | None) -> None:
    """Ring like the host does once a wrapper waits at the bell: with a reply, or without, as only others could."""
    with open(bell, "wb"):
        if reply is not None:
            reply.write_bytes(b"reply")


@pytest.fixture
def bell(box: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(wrapper, "LONGEST_PAUSE", 3600)
    path = box / "replies" / f"{ID}.fifo"
    os.mkfifo(path)
    return path


def wait_for(reply: Path, within: int = 5000) -> bytes | None:
    return wrapper.wait_for(str(reply), str(reply.parent / "doorbell"), wrapper.boottime_ms() + within)


def test_a_bell_wakes_the_wrapper(box: Path, bell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = box / "replies" / f"{ID}.json"
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it looks from time to time, although it has a bell"))
    host = threading.Thread(target=ring, args=(bell, reply))
    host.start()
    assert wait_for(reply) == b"reply"
    host.join()


def test_a_bell_rung_without_a_reply_is_no_answer_and_no_busy_loop(box: Path, bell: Path) -> None:
    reply = box / "replies" / f"{ID}.json"
    other = threading.Thread(target=ring, args=(bell, None), daemon=True)
    other.start()
    began = time.process_time()
    assert wait_for(reply, within=SOON) is None
    assert time.process_time() - began < SOON / 1000 / 2
    other.join(10)  # on a busy host it may come too late, and wait for a reader until the end
    reply.write_bytes(b"reply")
    assert wait_for(reply) == b"reply"


def test_a_bell_that_never_rings_times_out(box: Path, bell: Path) -> None:
    began = time.monotonic()
    assert wait_for(box / "replies" / f"{ID}.json", within=SOON) is None
    assert time.monotonic() - began >= SOON / 1000 * 0.9


@pytest.mark.parametrize("status", list(Status))
def test_a_brief_reply_says_the_same_of_the_outcome(box: Path, settings: dict[str, Any], status: Status) -> None:
    reason = Reason.OK if status in (Status.RUNNING, Status.DONE) else Reason.INTERNAL
    with Host(box, answering(status, reason, 'a "message", "status":"running"')):
        brief = wrapper.start(settings, ["tool"], None, {}, brief=True)
        whole = wrapper.start(settings, ["tool"], None, {})
    assert (brief["status"], brief["reason"]) == (whole["status"], whole["reason"]) == (status, reason)
    assert whole["pid"] == 4711


@pytest.mark.parametrize("content", [b"", b"{", b'{"v":1,"id":"', b"[]", b"1", b'"running"', b"\xff"])
def test_an_invalid_reply_is_a_failure(
    box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(wrapper, "wait_for", lambda *_: content)
    assert run_main(monkeypatch, settings) == 70


# ---------------------------------------------------------------- a call that ends a program


def test_a_call_that_ends_a_program_asks_for_a_signal_to_the_pid_in_its_file(
    box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (box / "tool.pid").write_text("4711\n")
    with Host(box, answering(Status.DONE)) as host:
        assert run_main(monkeypatch, settings, "stop", "-w", str(box)) == 0
    [request] = host.seen
    assert isinstance(request, SignalRequest)
    assert (request.signal, request.pid) == ("TERM", 4711)


@pytest.mark.parametrize(("content", "code"), [(None, 1), ("", 64), ("x", 64), ("0", 1), ("4711 4712", 64)])
def test_there_is_nothing_to_end_without_a_pid(
    box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, content: str | None, code: int
) -> None:
    if content is not None:
        (box / "tool.pid").write_text(content)
    assert run_main(monkeypatch, settings | {"timeout": 0.1}, "stop", "-w", str(box)) == code
    assert not (box / "spool" / "processes").exists()


@pytest.mark.parametrize("arguments", [["stop"], ["stop", "-w"], ["start", "-w", "/x"], ["stop", "-w", "/x", "y"]])
def test_another_call_is_for_the_host_to_judge(
    box: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    with Host(box, answering(Status.RUNNING)) as host:
        assert run_main(monkeypatch, settings, *arguments) == 0
    assert isinstance(host.seen[0], StartRequest)


def test_the_script_rings_before_python_compiles_the_rest(installed: Path) -> None:
    script = installed / "agent" / "dnsmasq"
    first, middle, rest = script.read_text().partition(IN_TEXT)
    script.write_text(f"{first}{middle}this is no Python\n{rest}".replace(str(MAGIC_NUMBER), "b'another'"))
    with listening(installed / "replies") as doorbell:
        done = execute(sys.executable, script, "--no-hosts")
        assert "SyntaxError" in done.stderr
        assert rung(doorbell) == 1


def test_the_script_does_not_ring_for_what_the_agent_answers_itself(installed: Path) -> None:
    (installed / "spool").rmdir()  # without an answer here, this ends immediately
    with listening(installed / "replies") as doorbell:
        for arguments, times in ((["--version"], 0), (["--test", "--dhcp-host=tag:foo"], 0), (["--test"], 1)):
            execute(sys.executable, installed / "agent" / "dnsmasq", *arguments)
            assert rung(doorbell) == times, arguments
