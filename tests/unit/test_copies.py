"""Copies of answers that an agent can see: old ones are removed, and those of other writers are noticed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sidespawn.host import copies
from sidespawn.system.files import read_regular_beneath
from sidespawn.system.places import Places
from tests.attacks.catalogue import attack

ID, OTHER = "1" * 32, "2" * 32
NAME = f"{ID}.json"
ANSWER = b'{"v": 1}'


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places("small", run=tmp_path)
    for path in (made.answers, made.replies):
        path.mkdir(parents=True)
    os.mkfifo(made.doorbell)
    os.mkfifo(made.operators_doorbell)
    answer(made, ID)
    return made


def answer(places: Places, request_id: str, content: bytes = ANSWER) -> None:
    for path in (places.answers, places.replies):
        (path / f"{request_id}.json").write_bytes(content)


def expire(places: Places, most: int = 10, accepted: tuple[str, ...] = ()) -> list[str]:
    return copies.expire(places, most, 60, lambda request_id: request_id in accepted)


def names(path: Path) -> set[str]:
    return set(os.listdir(path)) - {"doorbell"}


def test_a_copy_of_what_was_answered_stays(places: Places) -> None:
    assert expire(places) == expire(places) == []
    assert names(places.replies) == names(places.answers) == {NAME}


def test_a_copy_is_read_once(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def counting(parent: int, path: str, most: int) -> bytes:
        read.append(path)
        return read_regular_beneath(parent, path, most)

    monkeypatch.setattr(copies, "read_regular_beneath", counting)
    with monkeypatch.context() as slow:
        slow.setattr(copies, "SETTLED_NS", 10**12)  # so that the copy is new, even on a busy host
        expire(places)
    assert len(read) == 2
    time.sleep(copies.SETTLED_NS / 1e9 * 1.5)
    expire(places)
    assert len(read) == 4, "a change within the same tick of the clock would not have been seen"
    expire(places)
    assert len(read) == 4


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


FORGERIES: dict[str, Callable[[Path], object]] = {
    "rewritten": lambda path: path.write_bytes(b'{"v": 2}'),
    "longer": lambda path: path.write_bytes(ANSWER + b" "),
    "empty": lambda path: path.write_bytes(b""),
    "huge": lambda path: os.truncate(path, 1 << 40),
    "a link": lambda path: replace(path, lambda new: new.symlink_to(f"../answers/{NAME}")),
    "a FIFO": lambda path: replace(path, os.mkfifo),
    "a directory": lambda path: replace(path, lambda new: (new / "deep" / "er").mkdir(parents=True)),
}


@pytest.mark.parametrize("settled", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_copy_is_noticed_and_goes(places: Places, forge: Callable[[Path], object], settled: bool) -> None:
    if settled:
        time.sleep(copies.SETTLED_NS / 1e9 * 1.5)
        assert expire(places) == []
    forge(places.replies / NAME)
    assert NAME in expire(places)
    assert names(places.replies) == set()
    assert (places.answers / NAME).read_bytes() == ANSWER, "what was answered is still known"
    assert expire(places) == []


def test_times_that_an_agent_sets_back_hide_nothing(places: Places) -> None:
    time.sleep(copies.SETTLED_NS / 1e9 * 1.5)
    expire(places)
    before = (places.replies / NAME).stat()
    (places.replies / NAME).write_bytes(b'{"v": 2}')
    os.utime(places.replies / NAME, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert expire(places) == [NAME]


def test_a_copy_without_an_answer_is_removed(places: Places) -> None:
    (places.replies / f"{OTHER}.json").write_bytes(ANSWER)
    (places.replies / "x").joinpath(*"abcdefgh").mkdir(parents=True)
    os.mkfifo(places.replies / f"{OTHER}.fifo")
    assert set(expire(places)) == {f"{OTHER}.json", "x", f"{OTHER}.fifo"}
    assert names(places.replies) == {NAME}


def test_a_copy_being_written_stays(places: Places) -> None:
    for name in (f"{OTHER}.fifo", f".{OTHER}.json.new"):
        (places.replies / name).touch()
    assert expire(places, accepted=(OTHER,)) == []
    assert names(places.replies) == {NAME, f"{OTHER}.fifo", f".{OTHER}.json.new"}


@attack(260)
def test_more_answers_than_a_directory_is_read_for_are_not_taken_for_forged(places: Places) -> None:
    """Keep more answers than the policy says, as for a claim of many requests."""
    ids = [f"{number:032x}" for number in range(100, 140)]
    for each in ids:
        answer(places, each)
    assert expire(places, most=2, accepted=tuple(ids)) == []
    assert expire(places, most=2) == []


def test_old_ones_and_too_many_go_with_their_records(places: Places) -> None:
    for number in range(5):
        answer(places, f"{number:032x}")
    os.utime(places.answers / NAME, (1, 1))
    assert expire(places, most=5) == []
    assert names(places.replies) == names(places.answers) == {f"{number:032x}.json" for number in range(5)}
    assert expire(places, most=2) == []
    assert len(names(places.replies)) == len(names(places.answers)) == 2
