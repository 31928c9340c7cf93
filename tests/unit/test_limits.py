"""Limits on what a service may cost: a token bucket for requests, and pauses before a program that keeps ending."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sidespawn.core.reconcile import STEADY_SECONDS
from sidespawn.core.wire import LINE_BYTES, LONGEST_LINE
from sidespawn.engines import Found
from sidespawn.errors import LaunchError, PolicyError, Reason
from sidespawn.host import limits
from sidespawn.host.limits import Bucket, Falls, Listing
from sidespawn.system.processes import Process
from tests.unit.small import POLICY, load, parse

Advance = Callable[[float], None]


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Advance:
    """Return a clock that advances only by the seconds it is told."""
    moment = [1000.0]
    monkeypatch.setattr(limits, "now", lambda: moment[0])

    def move(seconds: float) -> None:
        moment[0] += seconds

    return move


def test_a_policy_without_limits_has_the_defaults() -> None:
    limits = load().limits
    assert (limits.burst, limits.rate, limits.instances, limits.backoff) == (2000, 20, 1000, 60)
    assert (limits.records, limits.replies, limits.spool) == (600, 4096, 4 * 2**20)
    assert limits.line == LINE_BYTES


def test_each_limit_is_the_policys() -> None:
    text = 'burst = 5\nrate = 1\ninstances = 2\nbackoff = 0\nrecords = 9\nreplies = 64\nspool = "2M"\nline = "512K"\n'
    limits = parse(f"{POLICY}\n[limits]\n{text}").limits
    assert (limits.burst, limits.rate, limits.instances, limits.backoff) == (5, 1, 2, 0)
    assert (limits.records, limits.replies, limits.spool, limits.line) == (9, 64, 2 * 2**20, LONGEST_LINE)


@pytest.mark.parametrize(
    "line",
    [
        *("burst = 0", "burst = 100001", "burst = -1", "burst = 1.5", 'burst = "5"', "burst = true"),
        *("rate = 0", "rate = 10001", "instances = 0", "instances = 10001", "backoff = -1", "backoff = 3601"),
        *("records = 0", "replies = 63", "replies = 65537", 'spool = "1M"', "spool = 4194304", 'spool = ""'),
        *('line = "63K"', 'line = "513K"', 'line = "1M"', "line = 65536", 'line = "0K"', 'line = ""', 'line = "-1K"'),
        *("bursts = 5", '"rate " = 5'),
    ],
)
def test_an_invalid_limit_refuses_the_policy(line: str) -> None:
    with pytest.raises(PolicyError, match="limits"):
        parse(f"{POLICY}\n[limits]\n{line}\n")


def test_a_burst_passes_and_what_comes_after_it_waits(tmp_path: Path, advance: Advance) -> None:
    bucket = Bucket(tmp_path / "bucket", 100, 10)
    assert bucket.closed_for() == 0
    bucket.take(99)
    assert bucket.closed_for() == 0
    bucket.take(1)
    assert bucket.closed_for() == pytest.approx(0.1)
    advance(0.1)
    assert bucket.closed_for() == pytest.approx(0, abs=1e-9)
    advance(1000)
    bucket.closed_for()
    assert bucket.left == 100, "it never holds more than the burst"


def test_a_claim_of_any_size_is_paid_in_full(tmp_path: Path, advance: Advance) -> None:
    bucket = Bucket(tmp_path / "bucket", 100, 10)
    bucket.take(10_000)
    advance(600)
    assert bucket.closed_for() == pytest.approx((10_000 - 100) / 10 - 600 + 0.1)
    assert Bucket(tmp_path / "bucket", 100, 10).closed_for() == pytest.approx(bucket.closed_for())


def test_the_bucket_is_the_same_one_in_the_next_run(tmp_path: Path, advance: Advance) -> None:
    """Otherwise agents would only need to wait until a run ends."""
    Bucket(tmp_path / "bucket", 100, 10).take(100)
    advance(1)
    after = Bucket(tmp_path / "bucket", 100, 10)
    assert after.closed_for() == 0
    assert after.left == pytest.approx(10)


def test_a_bucket_that_is_torn_is_a_full_one(tmp_path: Path, advance: Advance) -> None:
    path = tmp_path / "bucket"
    Bucket(path, 100, 10).take(150)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert Bucket(path, 100, 10).left == 100
    path.write_bytes(b"\xff\xfe \0 \n")
    assert Bucket(path, 100, 10).left == 100


def test_a_program_that_keeps_ending_waits_longer_and_longer(tmp_path: Path, advance: Advance) -> None:
    falls, pauses = Falls(tmp_path, 60), []
    for _ in range(12):
        falls.check("ns-1", "small_ns-1", "")  # otherwise it would not have been started
        falls.note("ns-1")
        pauses.append(round(falls.pause("ns-1")[1]))
        advance(pauses[-1])
    assert pauses == [0, 1, 4, 16, 60, 60, 60, 60, 60, 60, 60, 60]


def test_a_start_within_the_pause_is_refused_with_the_reason(tmp_path: Path, advance: Advance) -> None:
    falls = Falls(tmp_path, 60)
    for _ in range(3):
        falls.note("ns-1")
    with pytest.raises(
        LaunchError, match=r"small_ns-1 ended right after its start 3 times; not started again for 4 s"
    ) as refused:
        falls.check("ns-1", "small_ns-1", "look there")
    assert (refused.value.reason, refused.value.hint) == (Reason.BACKING_OFF, "look there")
    falls.check("ns-2", "small_ns-2", "")  # another instance is not delayed
    advance(4)
    falls.check("ns-1", "small_ns-1", "")


def test_counting_restarts_when_it_has_lived_longer(tmp_path: Path, advance: Advance) -> None:
    falls = Falls(tmp_path, 60)
    for _ in range(8):
        falls.note("ns-1")
    advance(60 + STEADY_SECONDS)
    falls.note("ns-1")
    assert falls.pause("ns-1") == (1, 0.0)


def test_no_pause_when_the_policy_wants_none(tmp_path: Path, advance: Advance) -> None:
    falls = Falls(tmp_path, 0)
    for _ in range(100):
        falls.note("ns-1")
    falls.check("ns-1", "small_ns-1", "")


def test_falls_are_forgotten_when_they_mean_nothing_any_more(tmp_path: Path, advance: Advance) -> None:
    falls = Falls(tmp_path, 60)
    falls.note("ns-1")
    (tmp_path / "ns-2.falls").write_bytes(b"3 9")  # a torn one is ignored as well
    falls.expire()
    assert [path.name for path in tmp_path.iterdir()] == ["ns-1.falls"]
    advance(60 + STEADY_SECONDS)
    falls.expire()
    assert list(tmp_path.iterdir()) == []


class Asked:
    """An engine that counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def list(self, service: str) -> tuple[Found, ...]:
        self.times += 1
        return ()


def test_the_engine_is_asked_once_however_many_foreign_pids_are_guessed(
    monkeypatch: pytest.MonkeyPatch, advance: Advance
) -> None:
    monkeypatch.setattr("time.sleep", advance)
    engine, before = Asked(), []
    listing = Listing("small", engine, lambda: before.append(1))  # type: ignore[arg-type]
    for pid in range(1000):
        listing.since(Process(pid, 5))
    assert (engine.times, len(before)) == (1, 1)


class Failing(Asked):
    def list(self, service: str) -> tuple[Found, ...]:
        super().list(service)
        raise LaunchError(Reason.ENGINE_FAILED, "it does not answer")


def test_an_engine_that_fails_is_not_asked_more_often(monkeypatch: pytest.MonkeyPatch, advance: Advance) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        advance(seconds)

    monkeypatch.setattr("time.sleep", sleep)
    engine = Failing()
    listing = Listing("small", engine, lambda: None)  # type: ignore[arg-type]
    for pid in range(3):
        with pytest.raises(LaunchError, match="it does not answer"):
            listing.since(Process(pid, 5))
    assert engine.times == 3
    assert waited[1:] == pytest.approx([1.0, 1.0], abs=0.5)


def test_a_process_that_began_after_the_engine_was_asked_is_asked_for_a_second_later(
    monkeypatch: pytest.MonkeyPatch, advance: Advance
) -> None:
    """Otherwise agents could trigger such questions by starting processes."""
    monkeypatch.setattr("time.sleep", advance)
    engine = Asked()
    listing = Listing("small", engine, lambda: None)  # type: ignore[arg-type]
    moment = limits.now()
    for number in range(100):
        listing.since(Process(number, int(limits.now() * limits.CLOCK_TICKS)))
    assert engine.times == 100
    assert limits.now() - moment == pytest.approx(99)


def test_an_engine_that_did_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch, advance: Advance) -> None:
    monkeypatch.setattr("time.sleep", advance)
    engine = Asked()

    def fail() -> None:
        raise LaunchError(Reason.ENGINE_FAILED, "no")

    listing = Listing("small", engine, fail)  # type: ignore[arg-type]
    with pytest.raises(LaunchError):
        listing.since(Process(1, 5))
    listing.before = lambda: None
    listing.since(Process(1, 5))
    assert engine.times == 1
