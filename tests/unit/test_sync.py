"""A run of the service survives whatever goes wrong around its requests."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidespawn.agent import wrapper
from sidespawn.core.policy import ServiceLimits
from sidespawn.core.wire import LINE_BYTES, LONGEST_LINE, Request
from sidespawn.errors import PolicyError, Reason, SidespawnError
from sidespawn.host import spool, sync
from sidespawn.host.journal import Journal
from sidespawn.host.service import Refusing
from sidespawn.host.sync import Sync
from sidespawn.service_report.usage import bytes_waiting
from sidespawn.system import kernel
from sidespawn.system.places import Places
from tests.attacks.catalogue import attack


def print_rubbish() -> None:
    raise ValueError("no JSON")


def test_a_failed_cleanup_is_reported_and_does_not_end_a_run(tmp_path: Path) -> None:
    """Engines may print rubbish: the run continues, and so does the lane in which cleanup failed."""
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        places = Places("small", run=tmp_path, policies=tmp_path)
        places.spool.mkdir(parents=True)
        run = Sync(places, Journal("small", path), Refusing(PolicyError("no policy"), places), {}, ())
        run.attempt(print_rubbish)
        record = journal.recv(65536)
    assert b"cleanup deferred" in record
    assert b"SIDESPAWN_REASON\n\x08\0\0\0\0\0\0\0internal\n" in record


FIRST, SECOND = "1" * 32, "2" * 32


def test_the_record_of_a_failure_says_which_instance_it_was(run: Watched, tmp_path: Path) -> None:
    """Only the lane is known if no side container was tried."""
    run.service.instance_of = {FIRST: "qdhcp-1-0"}.get  # type: ignore[method-assign, assignment]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.settimeout(5)
        journal.bind(str(tmp_path / "nobody"))
        for each in (FIRST, SECOND):
            run.refuse(each, SidespawnError(Reason.EXITED, "it ended"), "qdhcp-1", by_operator=False)
        first, second = journal.recv(65536), journal.recv(65536)
    assert b"SIDESPAWN_LANE\n\x07\0\0\0\0\0\0\0qdhcp-1\n" in first
    assert b"SIDESPAWN_LANE" in second
    assert b"SIDESPAWN_INSTANCE\n\x09\0\0\0\0\0\0\0qdhcp-1-0\n" in first
    assert b"SIDESPAWN_INSTANCE" not in second


@pytest.mark.parametrize(("netns", "lane"), [("qdhcp-1", "qdhcp-1"), (None, "dnsmasq --x")])
def test_a_refused_request_is_recorded_with_where_it_came_from(
    run: Watched, tmp_path: Path, netns: str | None, lane: str
) -> None:
    request = {"v": 1, "id": FIRST, "deadline": wrapper.boottime_ms() + 60_000, "op": "start"}
    line = json.dumps({**request, "argv": ["dnsmasq", "--x"], "netns": netns, "env": {}}).encode() + b"\n"
    (run.places.spool / "processes").write_bytes(line)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.settimeout(5)
        journal.bind(str(tmp_path / "nobody"))
        run.run()
        assert f"SIDESPAWN_LANE\n{chr(len(lane))}\0\0\0\0\0\0\0{lane}\n".encode() in journal.recv(65536)


class Watched(Sync):
    """A run without a valid policy, which refuses everything; it records the replies present at each request's turn."""

    def carry_out(self, request: Request, lane: str, *, by_operator: bool) -> None:
        self.seen = {path.name: path.stat().st_mode for path in self.places.replies.iterdir()}
        super().carry_out(request, lane, by_operator=by_operator)


@pytest.fixture
def run(tmp_path: Path) -> Watched:
    places = Places("small", run=tmp_path, policies=tmp_path)
    for path in (places.spool, places.operator, places.claims, places.answers, places.replies):
        path.mkdir(parents=True)
    (places.spool).chmod(0o700)
    places.lock.touch()
    refusing = Refusing(PolicyError("no policy"), places)
    return Watched(places, Journal("small", str(tmp_path / "nobody")), refusing, {}, ())


def hand_over(run: Watched, *ids: str) -> None:
    for each in ids:
        request = {"v": 1, "id": each, "deadline": wrapper.boottime_ms() + 60_000, "op": "signal", "signal": "HUP"}
        line = json.dumps({**request, "pid": 4711}).encode() + b"\n"
        assert wrapper.try_to_hand_over(str(run.places.spool), str(run.places.doorbell), line, each)


def names(run: Watched) -> set[str]:
    return {path.name for path in run.places.replies.iterdir()}


def test_a_request_has_a_bell_until_it_is_answered(run: Watched) -> None:
    hand_over(run, FIRST)
    run.run()
    assert set(run.seen) == {f"{FIRST}.fifo"}
    mode = run.seen[f"{FIRST}.fifo"]
    assert stat.S_ISFIFO(mode) and stat.S_IMODE(mode) == 0o444
    assert names(run) == {f"{FIRST}.json"}


def test_a_request_that_was_answered_before_leaves_no_bell(run: Watched) -> None:
    """Runs that are killed between the reply and its bell leave such requests."""
    (run.places.answers / f"{FIRST}.json").write_bytes(b"answered")
    (run.places.replies / f"{FIRST}.json").write_bytes(b"forged")
    os.mkfifo(run.places.replies / f"{FIRST}.fifo")
    hand_over(run, FIRST)
    run.run()
    assert names(run) == {f"{FIRST}.json"}
    assert (run.places.replies / f"{FIRST}.json").read_bytes() == b"answered"


def test_bells_leave_room_for_the_replies(run: Watched) -> None:
    run.limits = ServiceLimits(replies=1)
    hand_over(run, FIRST, SECOND)
    run.run()
    assert f"{SECOND}.fifo" not in run.seen
    assert f"{SECOND}.json" in names(run)


@pytest.mark.parametrize("is_directory", [False, True])
def test_an_agents_replacement_of_a_bell_is_not_touched(run: Watched, tmp_path: Path, is_directory: bool) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"as it was")
    victim.chmod(0o600)
    bell = run.places.replies / f"{FIRST}.fifo"
    if is_directory:
        bell.mkdir()
    else:
        bell.symlink_to(victim)
    hand_over(run, FIRST)
    run.run()
    assert (victim.read_bytes(), stat.S_IMODE(victim.stat().st_mode)) == (b"as it was", 0o600)
    assert f"{FIRST}.json" in names(run)


def test_without_a_valid_policy_agents_that_are_not_root_get_an_answer_too(run: Watched) -> None:
    """Lines are taken from the owner of the spool, which the last valid policy set."""
    os.chown(run.places.spool, 42435, 42435)
    refusing = Refusing(PolicyError("no policy"), run.places)
    run = Watched(run.places, run.journal, refusing, {}, ())
    hand_over(run, FIRST)
    os.chown(run.places.spool / "processes", 42435, 42435)
    run.run()
    reply = json.loads((run.places.replies / f"{FIRST}.json").read_text())
    assert (reply["status"], reply["reason"]) == ("rejected", "policy-invalid")


@attack(251)
@pytest.mark.parametrize("call", ["inotify_init1", "inotify_add_watch"])
def test_without_a_watch_requests_are_still_served(run: Watched, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Users have 128 inotify instances each in all containers together. Root in one of them may use up root's."""
    libc = kernel.libc

    class UsedUp:
        def __getattr__(self, name: str) -> Any:
            return (lambda *_: -1) if name == call else getattr(libc, name)

    monkeypatch.setattr(kernel, "libc", UsedUp())
    hand_over(run, FIRST)
    run.run()
    assert names(run) == {f"{FIRST}.json"}
    before = os.listdir("/proc/self/fd")
    os.close(kernel.watch_directories("/"))
    assert os.listdir("/proc/self/fd") == before  # each idle instance is one less for others


@attack(246)
def test_ten_thousand_refused_lines_do_not_keep_an_operator_waiting(
    run: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines with an id are answered, which takes seconds. Here the first waits until the operator is answered."""
    told, refuse = threading.Event(), run.refuse

    def slowly(request_id: str, error: SidespawnError, lane: str = "", *, by_operator: bool) -> None:
        assert by_operator or told.wait(30)
        refuse(request_id, error, lane, by_operator=by_operator)
        if by_operator:
            told.set()

    monkeypatch.setattr(run, "refuse", slowly)
    (run.places.spool / "processes").write_bytes(b"".join(b'{"id":"%032x"}\n' % each for each in range(3, 100)))
    (claim,) = run.claim()
    run.serve(claim)
    request = {"v": 1, "id": FIRST, "deadline": wrapper.boottime_ms() + 60_000, "op": "signal", "signal": "0", "pid": 9}
    (run.places.operator / "processes").write_bytes(json.dumps(request).encode() + b"\n")
    (claim,) = run.claim()
    run.serve(claim)
    while run.lanes.busy:
        select.select([run.lanes.done], [], [], 1)
    assert told.is_set()
    assert (run.places.answers / f"{FIRST}.json").exists()
    assert len(names(run)) == 97
    assert not list(run.places.claims.iterdir())


@pytest.fixture
def doorbell(run: Watched, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make the doorbell as systemd does and keep it open: any byte in it starts the next run."""
    monkeypatch.setattr(sync, "SHORTEST_RUN", 0.01)
    os.mkfifo(run.places.doorbell)
    run.doorbells = (os.open(run.places.doorbell, os.O_RDWR | os.O_NONBLOCK),)
    yield run.doorbells[0]
    os.close(run.doorbells[0])


def is_rung(doorbell: int) -> bool:
    return bool(select.select([doorbell], [], [], 0)[0])


def test_a_run_that_has_nothing_more_to_do_starts_no_other(run: Watched, doorbell: int) -> None:
    hand_over(run, FIRST, SECOND)
    assert is_rung(doorbell)
    run.run()
    assert not is_rung(doorbell)
    assert names(run) == {f"{FIRST}.json", f"{SECOND}.json", "doorbell"}


def test_a_run_without_a_ring_ends_as_well(run: Watched, doorbell: int) -> None:
    """Such runs are started by the timer."""
    run.run()
    assert not is_rung(doorbell)


def test_a_request_that_comes_at_the_very_end_starts_the_next_run(
    run: Watched, doorbell: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.journal, "summarise", lambda: hand_over(run, FIRST))
    run.run()
    assert is_rung(doorbell)
    assert names(run) == {"doorbell"}


@attack(259)
def test_a_doorbell_that_an_agent_fills_again_ends_no_run_with_an_error(
    run: Watched, doorbell: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ignore that nothing more fits into the doorbell: a full one rings, too."""
    read = os.read

    def fill(descriptor: int, length: int) -> bytes:
        content = read(descriptor, length)
        if descriptor == doorbell:
            hand_over(run, FIRST)
            os.write(doorbell, bytes(sync.DOORBELL_BYTES))
        return content

    os.write(doorbell, b"\n")
    monkeypatch.setattr(os, "read", fill)
    run.empty_doorbells()
    assert is_rung(doorbell)


@pytest.fixture
def swept(run: Watched, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets an entry for each sweep."""
    sweeps: list[str] = []
    monkeypatch.setattr(run.service, "sweep", lambda: sweeps.append("swept"), raising=False)
    return sweeps


@attack(257)
def test_a_service_that_is_never_idle_is_swept_as_often_as_another(run: Watched, swept: list[str]) -> None:
    """Sweep without systemd's timer, which each run's end restarts: with a request every minute it never elapses."""
    hand_over(run, FIRST)
    run.run()
    assert swept == []
    for moment in (-sync.SWEEP_SECONDS, sync.SWEEP_SECONDS + 60):  # the second: the clock was set back
        os.utime(run.places.lock, (0, time.time() + moment))
        for each in (FIRST, SECOND):
            hand_over(run, f"{each[16:]}{os.urandom(8).hex()}")
            run.run()
    assert len(swept) == 2, "each second run came too early for another"


def test_a_run_of_the_timer_sweeps(run: Watched, swept: list[str]) -> None:
    for _ in range(2):
        run.run()
    assert len(swept) == 2


def test_a_run_that_ends_early_starts_the_next(run: Watched, doorbell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "SHORTEST_RUN", 60.0)
    monkeypatch.setattr(sync, "LONGEST_RUN", 0.0)
    hand_over(run, FIRST)
    run.run()
    assert is_rung(doorbell)


def test_a_run_that_is_killed_starts_the_next(run: Watched, doorbell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd does not restart it: the signal counts as a regular exit."""

    def killed(watch: int) -> None:
        raise KeyboardInterrupt

    hand_over(run, FIRST)
    monkeypatch.setattr(run, "settle", killed)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert is_rung(doorbell)


def test_what_cannot_be_removed_from_the_spool_starts_nothing(run: Watched, doorbell: int) -> None:
    (run.places.spool / "processes" / "deep").mkdir(parents=True)
    run.run()
    assert not is_rung(doorbell)


def test_old_replies_go_and_the_doorbell_stays(run: Watched, doorbell: int) -> None:
    old = run.places.replies / f"{FIRST}.json"
    old.touch()
    for each in (old, run.places.doorbell):
        os.utime(each, (0, 0))
    run.run()
    assert names(run) == {"doorbell"}


@pytest.mark.parametrize(
    ("pid", "count", "given"),
    [(None, "2", ()), ("1", "2", ()), (str(os.getpid()), "1", (3,)), (str(os.getpid()), "2", (3, 4))],
)
def test_the_doorbells_are_systemds_if_they_were_meant_for_this_process(
    monkeypatch: pytest.MonkeyPatch, pid: str | None, count: str, given: tuple[int, ...]
) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    monkeypatch.setenv("LISTEN_FDS", count)
    if pid is not None:
        monkeypatch.setenv("LISTEN_PID", pid)
    assert sync.handed_doorbells() == given


def test_a_forged_reply_answers_nothing(run: Watched) -> None:
    """Agents that can make their view writable may put anything there; root's own record is elsewhere."""
    forged = run.places.replies / f"{FIRST}.json"
    forged.write_bytes(b'{"v":1,"status":"done"}')
    hand_over(run, FIRST)
    run.run()
    assert json.loads(forged.read_text())["reason"] == "policy-invalid"
    assert forged.read_bytes() == (run.places.answers / f"{FIRST}.json").read_bytes()


def test_an_operator_is_answered_where_no_agent_looks(run: Watched) -> None:
    request = {"v": 1, "id": FIRST, "deadline": wrapper.boottime_ms() + 60_000, "op": "signal", "signal": "HUP"}
    line = json.dumps({**request, "pid": 4711}).encode() + b"\n"
    assert wrapper.try_to_hand_over(str(run.places.operator), str(run.places.operators_doorbell), line, FIRST)
    run.run()
    assert names(run) == set()
    assert {path.name for path in run.places.answers.iterdir()} == {f"{FIRST}.json"}


class Slow(Watched):
    """Blocks each agent request until an operator was answered."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.was_answered = threading.Event()
        self.waited: list[bool] = []  # for each of the agent's requests, whether it saw that

    def carry_out(self, request: Request, lane: str, *, by_operator: bool) -> None:
        if not by_operator:
            self.waited.append(self.was_answered.wait(0.1 if False in self.waited else 30))
        super().carry_out(request, lane, by_operator=by_operator)
        if by_operator:
            self.was_answered.set()


@pytest.mark.parametrize("is_ending", [False, True])
def test_an_operator_does_not_wait_for_an_agents_requests(
    run: Watched, is_ending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds even when the run takes nothing more from the agent and waits only for what it has taken."""
    monkeypatch.setattr(sync, "LONGEST_RUN", 0.0 if is_ending else 300.0)
    run = Slow(run.places, run.journal, run.service, {}, ())
    hand_over(run, *(f"{number:032x}" for number in range(60)))
    asked = threading.Timer(0.3, hand_over_as_operator, (run, FIRST))
    asked.start()
    run.run()
    asked.join()
    assert run.waited == [True] * 60, "the operator waits for the agent"
    assert (run.places.answers / f"{FIRST}.json").exists()
    assert len(names(run)) == 60


def hand_over_as_operator(run: Watched, request_id: str) -> None:
    request = {"v": 1, "id": request_id, "deadline": wrapper.boottime_ms() + 60_000, "op": "signal", "signal": "HUP"}
    line = json.dumps({**request, "pid": 4711}).encode() + b"\n"
    while not wrapper.try_to_hand_over(str(run.places.operator), str(run.places.doorbell), line, request_id):
        pass  # it was taken immediately


@attack(147)
def test_claims_of_empty_lines_count_for_nothing(run: Watched) -> None:
    for _ in range(2 * sync.CLAIMS):
        (run.places.spool / "processes").write_bytes(b"\n\n\n")
        assert run.may_take()
        for claim in run.claim():
            run.serve(claim)
    assert os.listdir(run.places.claims) == []


def test_no_more_is_taken_while_many_wait(run: Watched) -> None:
    """Runs need memory for each line until it is answered."""
    run.unanswered = {"1": spool.LINES - 1}
    assert run.may_take()
    run.unanswered = {"1": 1, "2": spool.LINES - 1}
    assert not run.may_take()
    run.unanswered, run.sizes = {"1": 1}, {"1": sync.HELD_BYTES}
    assert not run.may_take()


@pytest.mark.parametrize("size", [LINE_BYTES - 1, LINE_BYTES, LONGEST_LINE, LONGEST_LINE + 1])
def test_a_long_line_is_answered_and_counts_for_as_many_short_ones(run: Watched, size: int) -> None:
    """Agents with a wrapper of another policy, or with none, may write what this policy refuses."""
    request = {"v": 1, "id": FIRST, "deadline": wrapper.boottime_ms() + 60_000, "op": "start", "netns": None, "env": {}}
    request["argv"] = ["tool", "x" * (size - len(wrapper.encode({**request, "argv": ["tool", ""]})))]
    line = wrapper.encode(request).encode()
    assert len(line) == size
    assert wrapper.try_to_hand_over(str(run.places.spool), str(run.places.doorbell), line + b"\n", FIRST)
    before = run.bucket.left
    (claim,) = run.claim()
    assert round(before - run.bucket.left) == 1 + size // LINE_BYTES
    run.serve(claim)
    while run.lanes.busy:
        pass
    answer = run.replies.find(FIRST)
    assert (answer is None) is (size > LONGEST_LINE), "its id cannot be known"
    reason = b"bad-request" if size > LINE_BYTES else b"policy-invalid"
    assert answer is None or reason in answer
    assert not list(run.places.claims.iterdir())


def test_a_directory_full_of_names_is_read_with_a_bound(run: Watched) -> None:
    """Agents that can remount their view can create any number of names; later runs remove the rest."""
    run.replies.most = 2
    for number in range(100):
        (run.places.replies / f"{number:032x}.json").touch()
    run.replies.expire()
    assert len(names(run)) == 100 - 16
    for _ in range(10):
        run.replies.expire()
    assert len(names(run)) == 0


@pytest.mark.parametrize("target", ["x" * 300, "processes", "/etc/passwd", "/proc/1/root/etc/passwd"])
def test_the_queue_is_reported_without_following_an_agents_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "processes").symlink_to(target)
    assert bytes_waiting(tmp_path) == 0


def test_the_size_of_the_queue_is_reported(tmp_path: Path) -> None:
    assert bytes_waiting(tmp_path) == 0
    (tmp_path / "processes").write_bytes(b"one\n")
    assert bytes_waiting(tmp_path) == 4
