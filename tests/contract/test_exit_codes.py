"""Every error ends in one line, a distinct exit code and, on request, JSON."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

from sidespawn.agent import wrapper
from sidespawn.cli import main as command
from sidespawn.cli import scan, signal
from sidespawn.cli.main import cli
from sidespawn.cli.verbs import USAGE
from sidespawn.engines import Found
from sidespawn.errors import Denied, LaunchError, PolicyError, Reason, RequestError, SidespawnError, quoted
from sidespawn.system.places import Places
from tests.contract.command import printed_json, sidespawn_command

CHECKOUT = Path(__file__).parents[2]
CODES = [
    (PolicyError("a.toml:1: x"), 78),
    (Denied(Reason.OPTION_NOT_ALLOWED, "x"), 77),
    (RequestError("x"), 77),
    (LaunchError(Reason.EXITED, "x"), 70),
    (LaunchError(Reason.NO_SUCH_PROCESS, "x"), 70),
    (SidespawnError(Reason.INTERNAL, "x"), 70),
    (SidespawnError(Reason.USAGE, "x"), 64),
    (SidespawnError(Reason.NOT_ENABLED, "x"), 69),
    (SidespawnError(Reason.HOST_UNSUITABLE, "x"), 69),
    (SidespawnError(Reason.EXPIRED, "x"), 75),
]
FOUND = Found(
    id="c", name="small_ns-1", pid=4711, state="running", instance="ns-1", digest="d", request="0" * 32, netns="ns-1"
)
IDS = [f"{type(error).__name__}-{error.reason}" for error, _ in CODES]


@pytest.mark.parametrize(("error", "code"), CODES, ids=IDS)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: SidespawnError,
    code: int,
    as_json: bool,
) -> None:
    def fail(**_: object) -> None:
        raise error

    error.hint = "do this"
    monkeypatch.setattr(command.cli, "main", fail)
    monkeypatch.setattr(sys, "argv", ["sidespawn", "ps", *(["--json"] if as_json else [])])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == code
    out, err = capsys.readouterr()
    assert err == f"sidespawn: {error.message} ({error.reason})\n  do this\n"
    if as_json:
        assert json.loads(out) == {"error": {"reason": error.reason, "message": error.message, "hint": "do this"}}
    else:
        assert out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (click.UsageError("x"), 64),
        (click.BadParameter("x"), 64),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "Permission denied", "/etc/sidespawn"), 69),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseException) else "",
)
def test_exit_code_of_what_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(command.cli, "main", fail)
    monkeypatch.setattr(sys, "argv", ["sidespawn", "ps"])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["explain", "--help"], 0),
        (["nothing"], 64),
        (["--nothing"], 64),
        (["check", "--nothing"], 64),
        (["sync"], 64),
        (["sync", "No_Service"], 64),
        (["sync", "no-such-service"], 69),
        (["signal", "no-such-service", "x", "HUP"], 69),
        (["signal", "no-such-service", "x", "STOP"], 64),
        (["stop", "no-such-service"], 64),
        (["stop", "no-such-service", "--all"], 69),
        (["options"], 64),
        (["options", "No_Service"], 64),
        (["options", "no-such-service"], 69),
        (["options", "no-such-service", "--print", "nothing"], 64),
        (["options", "no-such-service", "--print", "kolla", "--json"], 64),
        (["options", "no-such-service", "--agent-image", "a,dst=/"], 64),
        (["enable", "neutron-dhcp-dnsmasq", "--dry-run", "--print", "kolla", "--json"], 64),
        (["enable", "neutron-dhcp-dnsmasq", "--dry-run", "--print", "kolla"], 0),
        (["check", "no-such-service"], 78),
        (["explain", "no-such-service", "--", "dnsmasq"], 78),
        (["explain", "--preset", "neutron-dhcp-dnsmasq", "--", "dnsmasq"], 77),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_the_command(arguments: list[str], code: int) -> None:
    done = sidespawn_command(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_documentation_list_the_same_codes() -> None:
    (told,) = re.findall(r"Exit codes: (.*)", " ".join((cli.help or "").split()))
    in_help = re.findall(r"(?:^|, )(\d+) ", told)
    table = (CHECKOUT / "docs/wire.md").read_text().partition("Of the command `sidespawn`")[2].partition("\n## ")[0]
    assert in_help == re.findall(r"^\| (\d+) \|", table, re.MULTILINE)
    known = {command.exit_code(error) for error, _ in CODES} | {
        0,
        USAGE,
        command.INTERRUPTED,
        command.BROKEN_PIPE,
    }
    assert known | {scan.FOUND, scan.NOT_LOOKED_AT} == set(map(int, in_help))


def test_an_error_as_json() -> None:
    done = sidespawn_command("stop", "no-such-service", "--all", "--json")
    assert done.returncode == 69
    error = printed_json(done)["error"]
    assert error.keys() == {"reason", "message", "hint"}
    assert error["reason"] == "not-enabled"


def test_a_programs_own_json_option_is_not_ours() -> None:
    done = sidespawn_command("explain", "no-such-service", "--", "dnsmasq", "--json")
    assert done.returncode == 78
    assert done.stdout == ""


# ---------------------------------------------------------------- answers of the host to an operator


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places("small", run=tmp_path)
    for path in (found.operator, found.replies):
        path.mkdir(parents=True)
    return found


def reply_to_operator(places: Places, monkeypatch: pytest.MonkeyPatch, status: str, reason: str) -> SidespawnError:
    reply = {"v": 1, "id": "0" * 32, "status": status, "reason": reason, "message": "the message"}
    monkeypatch.setattr(wrapper, "ask", lambda settings, body, brief: reply)
    with pytest.raises(SidespawnError) as caught:
        signal.ask(places, FOUND, "HUP")
    return caught.value


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        ("rejected", "signal-not-allowed", 77),
        ("failed", "no-such-process", 70),
        ("failed", "still-running", 70),
        ("expired", "expired", 75),
    ],
)
def test_exit_code_of_an_answer(
    places: Places, monkeypatch: pytest.MonkeyPatch, status: str, reason: str, code: int
) -> None:
    error = reply_to_operator(places, monkeypatch, status, reason)
    assert (error.reason, error.message) == (reason, "the message")
    assert command.exit_code(error) == code


def test_a_service_that_ends_during_a_request_is_our_error(places: Places) -> None:
    places.operator.rmdir()
    with pytest.raises(SidespawnError):
        signal.ask(places, FOUND, "HUP")


THREE = [replace(FOUND, name=f"small_{each}", instance=each, pid=pid) for pid, each in enumerate(("a", "b", "c"), 101)]
STOPPED = ("done", "ok", "it was stopped")
GONE = ("failed", "no-such-process", "No such process")


@pytest.fixture
def asked(places: Places, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Answer in place of the host: by pid, or with STOPPED."""
    return Answers(places, monkeypatch)


class Answers(dict[int, tuple[str, str, str]]):
    def __init__(self, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.pids: list[int] = []
        self.runs = list(THREE)  # what the engine lists after the first answer
        monkeypatch.setattr(Places.__init__, "__defaults__", (places.run, places.policies))
        monkeypatch.setattr(signal, "running", lambda _: self.runs if self.pids else THREE)
        monkeypatch.setattr(wrapper, "signal", self.answer)

    def answer(self, _: object, name: str, pid: int) -> dict[str, str]:
        assert name == "TERM"
        self.pids.append(pid)
        return dict(zip(("status", "reason", "message"), self.get(pid, STOPPED), strict=True))


def stop(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["sidespawn", "stop", "small", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code


@pytest.mark.parametrize("which", [["--all"], ["a", "small_b", "c"]])
def test_a_side_container_that_has_already_ended_counts_as_stopped(
    asked: Answers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], which: list[str]
) -> None:
    asked[101], asked.runs = GONE, THREE[1:]
    assert stop(monkeypatch, *which) == 0
    assert asked.pids == [101, 102, 103]
    assert capsys.readouterr().out == "small_a has already ended\nit was stopped\nit was stopped\n"


def test_one_that_was_replaced_is_asked_again(asked: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    asked[101], asked.runs = GONE, [replace(THREE[0], pid=201), *THREE[1:]]
    assert stop(monkeypatch, "--all") == 0
    assert asked.pids == [101, 201, 102, 103]


def test_one_that_is_replaced_at_every_turn_is_an_error(asked: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    asked[101] = asked[201] = GONE
    asked.runs = [replace(THREE[0], pid=201), *THREE[1:]]
    assert stop(monkeypatch, "--all") == 70
    assert asked.pids == [101, 201, 102, 103]


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_an_error_keeps_no_other_from_being_stopped(
    asked: Answers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    asked[101] = ("expired", "expired", "no answer within 120 s")
    asked[103] = ("rejected", "signal-not-allowed", "it is not allowed")
    assert stop(monkeypatch, "--all", *(["--json"] if as_json else [])) == 75
    assert asked.pids == [101, 102, 103]
    out, err = capsys.readouterr()
    assert err == "sidespawn: no answer within 120 s (expired)\nsidespawn: it is not allowed (signal-not-allowed)\n"
    if as_json:
        assert json.loads(out) == {
            "error": {"reason": "expired", "message": "no answer within 120 s", "hint": ""},
            "done": [{"name": "small_b", "pid": 102, "signal": "TERM", "message": "it was stopped"}],
        }
    else:
        assert out == "it was stopped\n"


def test_an_unknown_name_keeps_no_other_from_being_stopped(asked: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stop(monkeypatch, "z", "b") == 70
    assert asked.pids == [102]


# ---------------------------------------------------------------- reasons and messages


def test_reasons_are_stable_codes() -> None:
    assert all(reason.value.replace("-", "").islower() and reason.value.isascii() for reason in Reason)
    assert len({reason.value for reason in Reason}) == len(Reason.__members__)


@pytest.mark.parametrize("error", [PolicyError("x"), RequestError("x")], ids=lambda error: type(error).__name__)
def test_whatever_is_raised_before_a_verdict_denies(error: SidespawnError) -> None:
    assert isinstance(error, Denied)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "'plain'"),
        ("", "''"),
        ("a\nb", r"'a\nb'"),
        ("\x1b[31m", r"'\x1b[31m'"),
        ("\u202e\ud800", r"'\u202e\ud800'"),
        ("it's", '"it\'s"'),
    ],
)
def test_quoted(text: str, shown: str) -> None:
    assert quoted(text) == shown


def test_quoted_is_capped() -> None:
    assert len(quoted("x" * 10_000)) == 160
    assert len(quoted("\u202e" * 10_000, 20)) == 20
    assert quoted("x" * 10_000).endswith("...'")
