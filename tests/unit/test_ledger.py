"""The service's list of its side containers has whole records only."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.core.plan import KnownFile
from sidespawn.host.ledger import RECORD_VERSION, Ledger, Record
from sidespawn.system.processes import Process, identify
from tests.attacks.catalogue import attack

ME = identify(os.getpid())
assert ME is not None
RECORD = Record(
    instance="ns-1",
    container="0123456789ab",
    name="small_ns-1",
    pid=ME.pid,
    started=ME.started,
    since=1.5,
    netns="ns-1",
    netns_inode=4026531840,
    digest="d" * 64,
    request="0" * 32,
    pid_file=None,
    grace=5,
    configuration=(KnownFile(path="/state/tool.conf", beneath="tool.conf", rules="extra", digest="0"),),
    bindings={"net": "a"},
    children={},
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def test_a_written_record_is_found(ledger: Ledger) -> None:
    ledger.write(RECORD)
    assert ledger.find("ns-1") == RECORD
    assert list(ledger.records()) == [RECORD]


def test_the_last_word_counts(ledger: Ledger) -> None:
    ledger.write(RECORD)
    ledger.write(replace(RECORD, digest="e" * 64))
    found = ledger.find("ns-1")
    assert found is not None
    assert found.digest == "e" * 64
    assert len(list(ledger.records())) == 1


def test_a_removed_record_is_gone(ledger: Ledger) -> None:
    ledger.write(RECORD)
    ledger.remove("ns-1")
    ledger.remove("ns-1")
    assert ledger.find("ns-1") is None
    assert list(ledger.records()) == []


def test_nothing_is_there_at_first(ledger: Ledger) -> None:
    assert ledger.find("ns-1") is None
    assert ledger.find_pid(os.getpid()) is None


@attack(115)
def test_a_truncated_record_is_ignored(ledger: Ledger) -> None:
    ledger.write(RECORD)
    path = ledger.path / "ns-1.json"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert ledger.find("ns-1") is None, length
        assert list(ledger.records()) == []


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"null", b"1", b"[]", b'""', b"{}", b"\xff"),
        json.dumps({"v": RECORD_VERSION}).encode(),
    ],
    ids=lambda content: ascii(content[:20]),
)
def test_a_file_that_is_not_a_record_is_ignored(ledger: Ledger, content: bytes) -> None:
    (ledger.path / "ns-1.json").write_bytes(content)
    assert ledger.find("ns-1") is None


@pytest.mark.parametrize("version", [RECORD_VERSION - 1, RECORD_VERSION + 1, "1", None, [1]])
def test_another_versions_record_is_ignored(ledger: Ledger, version: object) -> None:
    ledger.write(RECORD)
    path = ledger.path / "ns-1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"v": version}))
    assert ledger.find("ns-1") is None


def test_a_record_with_other_fields_is_ignored(ledger: Ledger) -> None:
    ledger.write(RECORD)
    path = ledger.path / "ns-1.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"more": 1}))
    assert ledger.find("ns-1") is None
    path.write_text(json.dumps({name: value for name, value in fields.items() if name != "pid"}))
    assert ledger.find("ns-1") is None


def test_one_bad_record_hides_no_other(ledger: Ledger) -> None:
    ledger.write(RECORD)
    (ledger.path / "a.json").write_text("{")
    (ledger.path / ".b.json.new").write_text("{")
    assert list(Ledger(ledger.path).records()) == [RECORD]
    assert Ledger(ledger.path).keys() == {"a", "ns-1"}


def test_a_pid_finds_the_record_of_just_that_process(ledger: Ledger) -> None:
    ledger.write(RECORD)
    assert ledger.find_pid(RECORD.pid) == RECORD
    assert ledger.find_pid(RECORD.pid + 1) is None


@pytest.fixture
def child() -> Iterator[Process]:
    with subprocess.Popen(["sleep", "60"]) as started:
        found = identify(started.pid)
        assert found is not None
        yield found
        started.kill()


def test_a_childs_pid_finds_the_record_and_the_child(ledger: Ledger, child: Process) -> None:
    record = replace(RECORD, children={"a": [1, 0], "b": [child.pid, child.started]})
    ledger.write(record)
    assert ledger.find_pid(child.pid) == record
    assert record.process_of(child.pid) == child
    assert record.process_of(RECORD.pid) == ME
    assert ledger.find_pid(1) is None  # another process has this pid by now
    assert record.process_of(1) is None


def test_a_pid_that_is_used_again_finds_nothing(ledger: Ledger) -> None:
    ledger.write(replace(RECORD, started=RECORD.started - 1))
    assert ledger.find_pid(RECORD.pid) is None


@pytest.mark.parametrize("is_asked_before", [True, False])
def test_a_pid_finds_what_was_written_last(ledger: Ledger, child: Process, is_asked_before: bool) -> None:
    if is_asked_before:
        assert ledger.find_pid(child.pid) is None
    ledger.write(replace(RECORD, pid=child.pid, started=child.started - 1, instance="ns-0"))  # had the pid earlier
    found = replace(RECORD, instance="ns-2", children={"a": [child.pid, child.started]})
    ledger.write(found)
    assert ledger.find_pid(child.pid) == ledger.find_pid(RECORD.pid) == found
    ledger.write(replace(found, children={}))
    assert ledger.find_pid(child.pid) is None
    ledger.remove("ns-2")
    assert ledger.find_pid(RECORD.pid) is None
    assert ledger.keys() == {"ns-0"}


def test_many_records_make_no_pid_slower_to_find(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        ledger.write(replace(RECORD, instance=f"ns-{number}", pid=RECORD.pid + (number != 7)))
    looked_at: list[str] = []

    def find(key: str) -> Record | None:
        looked_at.append(key)
        return Ledger.find(ledger, key)

    monkeypatch.setattr(ledger, "find", find)
    for _ in range(5):
        found = ledger.find_pid(RECORD.pid)
        assert found is not None
        assert found.instance == "ns-7"
    assert len(looked_at) == 20 + 5
