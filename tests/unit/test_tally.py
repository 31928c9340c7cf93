"""A service's counters survive restarts; a damaged file resets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidespawn.core.wire import Status
from sidespawn.errors import PolicyError, Reason
from sidespawn.host.journal import Event, Journal
from sidespawn.host.service import Refusing
from sidespawn.host.sync import Sync
from sidespawn.host.tally import Tally, read_counts
from sidespawn.system.places import Places

ID = "1" * 32


def test_the_next_run_continues_counting(tmp_path: Path) -> None:
    for _ in range(3):
        run = Tally(tmp_path / "tally")
        run.add("runs")
        run.answered(ID, Status.REJECTED, Reason.OPTION_NOT_ALLOWED)
    assert read_counts(tmp_path / "tally") == {"runs": 3, "answers rejected option-not-allowed": 3}


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[1]", b'{"runs": "many", "x": true}'])
def test_a_torn_file_resets_the_counts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tally").write_bytes(content)
    run = Tally(tmp_path / "tally")
    assert run.counts == {}
    run.add("runs")
    run.store()
    assert read_counts(tmp_path / "tally") == {"runs": 1}


def test_a_full_disk_ends_no_run(tmp_path: Path) -> None:
    Tally(tmp_path / "gone" / "tally").answered(ID, Status.RUNNING, Reason.OK)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.1, "0.1"), (0.11, "0.25"), (30.0, "30.0"), (30.1, "more")])
def test_a_start_counts_where_its_time_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, bucket: str
) -> None:
    run = Tally(tmp_path / "tally")
    run.accepted[ID] = 0.0
    monkeypatch.setattr("time.monotonic", lambda: seconds)
    run.started(ID)
    run.started("2" * 32)  # from a run that was killed: its age is unknown
    assert run.counts == {f"starts {bucket}": 1, "seconds": seconds}


def test_every_record_counts_also_one_that_is_left_out_of_the_journal(tmp_path: Path) -> None:
    journal = Journal("small", str(tmp_path / "nobody"))
    journal.records = 1
    journal.tally = Tally(tmp_path / "tally")
    journal.tally.accepted[ID] = 0.0
    for _ in range(5):
        journal.write(Event.MONITORED, "let pass", reason=Reason.OPTION_NOT_ALLOWED)
    journal.write(Event.STARTED, "runs", request=ID)
    assert journal.tally.counts["events monitored option-not-allowed"] == 5
    assert journal.tally.counts["events started"] == 1
    assert [each for each in journal.tally.counts if each.startswith("starts")] == ["starts more"]


def test_a_run_writes_down_what_it_did(tmp_path: Path) -> None:
    """Start one run from the timer, without requests, and another one that finds an abandoned claim."""
    places = Places("small", run=tmp_path, policies=tmp_path)
    for path in (places.spool, places.operator, places.claims, places.answers, places.replies):
        path.mkdir(parents=True)
    places.lock.touch()
    service = Refusing(PolicyError("no policy"), places)
    Sync(places, Journal("small", str(tmp_path / "nobody")), service, {}, ()).run()
    assert read_counts(places.tally) == {"runs": 1, "runs continued": 0}
    (places.claims / f"{'0' * 20}.agent").write_text(json.dumps({"v": 1, "id": ID}) + "\n")
    Sync(places, Journal("small", str(tmp_path / "nobody")), service, {}, ()).run()
    counts = read_counts(places.tally)
    assert (counts["runs"], counts["runs continued"]) == (2, 1)
    assert counts["answers rejected bad-request"] == counts["events unreadable bad-request"] == 1
