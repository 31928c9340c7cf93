"""A run of the service outlives what goes wrong around its requests."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from sidespawn import wrapper
from sidespawn.core.policy import ServiceLimits
from sidespawn.core.wire import Request
from sidespawn.errors import PolicyError
from sidespawn.host.journal import Journal
from sidespawn.host.places import Places
from sidespawn.host.sync import Sync


def print_rubbish() -> None:
    raise ValueError("no JSON")


def test_tidying_up_that_fails_is_told_and_does_not_end_a_run(tmp_path: Path) -> None:
    """Such as an engine that prints rubbish: the run goes on, and so does the lane that tidied up."""
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        places = Places("small", run=tmp_path, policies=tmp_path)
        places.spool.mkdir(parents=True)
        sync = Sync(places, Journal("small", path), PolicyError("no policy"), {})
        sync.attempt(print_rubbish)
        record = journal.recv(65536)
    assert b"tidying up has to wait" in record
    assert b"SIDESPAWN_REASON\n\x08\0\0\0\0\0\0\0internal\n" in record


FIRST, SECOND = "1" * 32, "2" * 32


class Watched(Sync):
    """A run without a valid policy, which refuses all; what lay among the replies when each request's turn came."""

    def carry_out(self, request: Request, *, by_operator: bool) -> None:
        self.seen = {path.name: path.stat().st_mode for path in self.places.replies.iterdir()}
        super().carry_out(request, by_operator=by_operator)


@pytest.fixture
def run(tmp_path: Path) -> Watched:
    places = Places("small", run=tmp_path, policies=tmp_path)
    for path in (places.spool, places.operator, places.claims, places.replies):
        path.mkdir(parents=True)
    (places.spool).chmod(0o700)
    error = PolicyError("no policy")
    return Watched(places, Journal("small", str(tmp_path / "nobody")), error, {})


def hand_over(run: Watched, *ids: str) -> None:
    for each in ids:
        request = {"v": 1, "id": each, "deadline": wrapper.boottime_ms() + 60_000, "op": "signal", "signal": "HUP"}
        line = json.dumps({**request, "pid": 4711}).encode() + b"\n"
        assert wrapper.try_to_hand_over(str(run.places.spool), line, each)


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
    """As after a kill between the reply and its bell."""
    (run.places.replies / f"{FIRST}.json").write_bytes(b"answered")
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
def test_what_an_agent_put_in_the_place_of_a_bell_is_not_touched(
    run: Watched, tmp_path: Path, is_directory: bool
) -> None:
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
    """Whose lines are taken is what the spool was made for, by the last valid policy."""
    os.chown(run.places.spool, 42435, 42435)
    run = Watched(run.places, run.journal, run.keeper, {})
    hand_over(run, FIRST)
    os.chown(run.places.spool / "processes", 42435, 42435)
    run.run()
    reply = json.loads((run.places.replies / f"{FIRST}.json").read_text())
    assert (reply["status"], reply["reason"]) == ("rejected", "policy-invalid")
