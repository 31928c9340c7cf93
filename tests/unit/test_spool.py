"""Taking requests out of a spool: no request is lost, and nothing in the spool is trusted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidespawn.agent import wrapper
from sidespawn.core.wire import LONGEST_LINE
from sidespawn.host import spool
from sidespawn.host.spool import CLAIM_BYTES, LINES, Claim, claim, clear, has_requests, stored
from sidespawn.system.files import read_up_to

ME = os.getuid()


@pytest.fixture
def box(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    (tmp_path / "claims").mkdir()
    return tmp_path


def put(box: Path, content: bytes) -> Path:
    path = box / "spool" / "processes"
    path.write_bytes(content)
    (box / "spool" / "processes-timestamp").write_text("now\n")
    return path


def take(box: Path, owner: int = ME) -> Claim | None:
    return claim(box / "spool", box / "claims", owner)


def lines(found: Claim | None) -> tuple[bytes, ...]:
    assert found is not None
    return found.untrusted_lines


# ---------------------------------------------------------------- taking


def test_lines_are_taken_and_the_spool_is_empty(box: Path) -> None:
    put(box, b"one\ntwo\n")
    assert lines(take(box)) == (b"one", b"two")
    assert not os.listdir(box / "spool")


def test_nothing_to_take(box: Path) -> None:
    assert take(box) is None
    assert stored(box / "claims") == []


def test_a_timestamp_alone_is_no_request(box: Path) -> None:
    (box / "spool" / "processes-timestamp").write_text("now\n")
    assert take(box) is None


def test_a_claim_is_stored_as_it_was_taken(box: Path) -> None:
    put(box, b"one\ntwo\n")
    taken = take(box)
    assert stored(box / "claims") == [taken]


def test_claims_of_earlier_runs_come_oldest_first(box: Path) -> None:
    for each in (b"1\n", b"2\n", b"3\n"):
        put(box, each)
        take(box)
    assert [each.untrusted_lines for each in stored(box / "claims")] == [(b"1",), (b"2",), (b"3",)]


def test_an_incomplete_claim_is_ignored(box: Path) -> None:
    (box / "claims" / ".00000000000000000001.new").write_bytes(b"half")
    assert stored(box / "claims") == []


def test_an_operators_claim_remembers_that_it_is_one(box: Path) -> None:
    put(box, b"one\n")
    taken = claim(box / "spool", box / "claims", ME, by_operator=True)
    assert taken is not None
    assert taken.by_operator
    put(box, b"two\n")
    take(box)
    assert [each.by_operator for each in stored(box / "claims")] == [True, False]


def test_a_torn_last_line_is_left_out(box: Path) -> None:
    put(box, b"one\ntwo\nthr")
    assert lines(take(box)) == (b"one", b"two")


def test_a_file_of_nothing_but_a_torn_line_goes(box: Path) -> None:
    put(box, b"thr")
    assert take(box) is None
    assert not os.listdir(box / "spool")
    assert stored(box / "claims") == []


def test_an_empty_file_goes(box: Path) -> None:
    put(box, b"")
    assert take(box) is None
    assert not os.listdir(box / "spool")


def test_only_lf_ends_a_line(box: Path) -> None:
    put(box, "a\u2028b\x85c\x0bd\x0ce\rf\x1cg\n\n\nh\n".encode())
    assert lines(take(box)) == ("a\u2028b\x85c\x0bd\x0ce\rf\x1cg".encode(), b"h")


def test_bytes_of_any_kind_pass_as_they_are(box: Path) -> None:
    put(box, b"\xff\x00\x1b\n" + bytes(set(range(256)) - {10}) + b"\n")
    assert len(lines(take(box))) == 2


def test_a_long_line_stays_whole_and_is_no_more_than_a_claim(box: Path) -> None:
    put(box, b"x" * (LONGEST_LINE + 3) + b"\ngood\n")
    assert [len(each) for each in lines(take(box))] == [LONGEST_LINE + 3, 4]
    put(box, b"x" * (CLAIM_BYTES - 6) + b"\ngood\nmore")
    assert [len(each) for each in lines(take(box))] == [CLAIM_BYTES - 6, 4]


@pytest.mark.parametrize("size", [CLAIM_BYTES * 2, 2**40], ids=["twice", "sparse"])
def test_no_more_than_a_claim_is_read(box: Path, size: int) -> None:
    path = put(box, b"first\n" * (CLAIM_BYTES // 6))
    os.truncate(path, size)
    began = time.monotonic()
    assert set(lines(take(box))) == {b"first"}
    assert time.monotonic() - began < 10
    assert sum(path.stat().st_size for path in (box / "claims").iterdir()) <= CLAIM_BYTES


def test_no_more_lines_are_taken_than_wrappers_can_have_written(box: Path) -> None:
    put(box, b"x\n" * (CLAIM_BYTES // 2))
    assert len(lines(take(box))) == LINES
    assert len(stored(box / "claims")[0].untrusted_lines) == LINES
    asked = {"op": "signal", "signal": "0", "pid": 1, "v": 1, "id": "0" * 32, "deadline": 1}
    assert len(wrapper.encode(asked)) + 1 >= CLAIM_BYTES // LINES, "the shortest request"


def test_an_open_descriptor_no_longer_has_what_was_taken(box: Path) -> None:
    with open(put(box, b"one\n"), "rb") as reader:
        take(box)
        assert reader.read() == b""


# ---------------------------------------------------------------- durable before consumed


def test_the_spool_keeps_what_could_not_be_stored(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> Claim:
        raise OSError(28, "No space left on device")

    put(box, b"one\n")
    monkeypatch.setattr(spool, "store", no_room)
    with pytest.raises(OSError, match="No space"):
        take(box)
    monkeypatch.undo()
    clear(box / "spool")  # as at the start of every run
    assert lines(take(box)) == (b"one",)


def test_the_claim_is_on_disk_before_the_spool_is_emptied(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def told(name: str) -> None:
        call: Callable[..., object] = getattr(os, name)

        def telling(*arguments: object, **keywords: object) -> object:
            order.append(name)
            return call(*arguments, **keywords)

        monkeypatch.setattr(os, name, telling)

    put(box, b"one\n")
    for name in ("fsync", "rename", "ftruncate"):
        told(name)
    take(box)
    out_of_the_way, *stored_first = order
    assert out_of_the_way == "rename"  # before it is read, so that a concurrent writer writes again
    assert stored_first == ["fsync", "rename", "fsync", "ftruncate"]  # the file, its name, the directory


@pytest.mark.parametrize("call", ["rename", "read", "fsync", "ftruncate", "unlink"])
@pytest.mark.parametrize("nth", [0, 1])
def test_killed_anywhere_it_may_be_taken_twice_and_is_never_lost(box: Path, call: str, nth: int) -> None:
    code = f"""
import os, sys
from pathlib import Path
from sidespawn.host import spool
real, calls = os.{call}, []
def killed_the_nth_time(*arguments, **keywords):
    calls.append(arguments)
    if len(calls) == {nth + 1}:
        os._exit(137)
    return real(*arguments, **keywords)
os.{call} = killed_the_nth_time
spool.claim(Path(sys.argv[1]) / "spool", Path(sys.argv[1]) / "claims", os.getuid())
"""
    put(box, b"one\n")
    died = subprocess.run([sys.executable, "-c", code, str(box)], timeout=60, check=False)
    assert died.returncode in (0, 137)  # 0 where the trace has fewer calls
    hand_over = wrapper.hand_over(
        str(box / "spool"), str(box / "doorbell"), b"two\n", "id", wrapper.boottime_ms() + 5000
    )
    clear(box / "spool")  # as at the start of every run
    while os.listdir(box / "spool"):
        take(box)
    found = [line for each in stored(box / "claims") for line in each.untrusted_lines]
    assert hand_over
    assert set(found) == {b"one", b"two"}


# ---------------------------------------------------------------- files that no wrapper made


def test_a_foreign_owners_file_is_removed_unread(box: Path) -> None:
    os.chown(put(box, b"one\n"), 1000, 1000)
    assert take(box) is None
    assert not os.listdir(box / "spool") or os.listdir(box / "spool") == ["processes-timestamp"]
    assert stored(box / "claims") == []


def test_the_owner_is_the_one_that_the_policy_names(box: Path) -> None:
    os.chown(put(box, b"one\n"), 1000, 1000)
    assert lines(take(box, owner=1000)) == (b"one",)


def make_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "secret")


def make_hard_link(path: Path) -> None:
    os.link(path.parent.parent / "secret", path)


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_device(path: Path) -> None:
    os.mknod(path, 0o020666, os.makedev(1, 5))  # zero


@pytest.mark.parametrize(
    "make", [make_link, make_hard_link, make_loop, make_device, os.mkfifo, Path.mkdir], ids=lambda make: make.__name__
)
def test_an_object_that_no_wrapper_made_is_removed_and_not_touched(box: Path, make: Callable[[Path], None]) -> None:
    secret = box / "secret"
    secret.write_text("secret\n")
    make(box / "spool" / "processes")
    began = time.monotonic()
    assert take(box) is None
    assert time.monotonic() - began < 10
    assert not os.listdir(box / "spool")
    assert secret.read_text() == "secret\n"
    assert stored(box / "claims") == []


def test_a_directory_with_something_in_it_stays_and_is_no_obstacle(box: Path) -> None:
    (box / "spool" / "processes" / "x").mkdir(parents=True)
    assert take(box) is None
    assert (box / "spool" / "processes" / "x").exists(), "until it is cleared away"


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_whatever_the_timestamp_is_it_is_never_read_and_goes(box: Path, kind: str) -> None:
    path = put(box, b"one\n").with_name("processes-timestamp")
    path.unlink()
    makers: dict[str, Callable[[Path], object]] = {"directory": Path.mkdir, "link": make_link, "pipe": os.mkfifo}
    makers[kind](path)
    assert lines(take(box)) == (b"one",)
    assert not os.listdir(box / "spool")


def test_the_spool_itself_is_not_followed(box: Path) -> None:
    put(box, b"one\n")
    (box / "link").symlink_to("spool")
    with pytest.raises(OSError):
        claim(box / "link", box / "claims", ME)


# ---------------------------------------------------------------- the lock


@pytest.fixture
def locked(box: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that holds the lock of a file with one request, and keeps it."""
    path = put(box, b"one\n")
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'ab')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        yield holder
        holder.kill()


def test_a_lock_that_is_never_given_up_costs_a_second(box: Path, locked: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    assert lines(take(box)) == (b"one",)
    assert 0.9 < time.monotonic() - began < 10
    assert not os.listdir(box / "spool")


def test_a_lock_that_is_given_up_is_waited_for(
    box: Path, locked: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "LOCK_PATIENCE", 30.0)
    locked.kill()
    began = time.monotonic()
    assert lines(take(box)) == (b"one",)
    assert time.monotonic() - began < 20


def test_what_replaced_the_file_while_its_lock_was_waited_for_is_taken(
    box: Path, locked: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = spool.lock

    def wait_and_be_overtaken(descriptor: int) -> bool:
        (box / "spool" / "another").write_bytes(b"two\n")
        (box / "spool" / "another").rename(box / "spool" / "processes")
        return lock(descriptor)

    monkeypatch.setattr("sidespawn.host.spool.lock", wait_and_be_overtaken)
    assert lines(take(box)) == (b"two",)
    assert not os.listdir(box / "spool")


def test_a_stopped_writer_that_continues_after_the_second_loses_nothing(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop a writer that holds the lock before its write, take the file without the lock, and let it write.

    Writers count a line as handed over if the path is still their file after the write; see agent/wrapper.py.
    """
    path = put(box, b"one\n")
    handed_over: list[bool] = []

    with open(path, "ab", buffering=0) as writer:

        def read_then_let_the_writer_continue(descriptor: int, most: int) -> bytes:
            content = read_up_to(descriptor, most)
            writer.write(b"two\n")
            handed_over.append(path.exists() and path.stat().st_ino == os.fstat(writer.fileno()).st_ino)
            return content

        monkeypatch.setattr("sidespawn.host.spool.read_up_to", read_then_let_the_writer_continue)
        taken = lines(take(box))
    left = path.read_bytes() if path.exists() else b""
    assert not handed_over[0] or b"two" in taken or b"two" in left


# ---------------------------------------------------------------- leftovers


def test_leftovers_go_and_requests_stay(box: Path) -> None:
    put(box, b"one\n")
    (box / "spool" / "file").write_text("x")
    (box / "spool" / "directory").mkdir()
    (box / "spool" / "link").symlink_to("/etc/passwd")
    os.mkfifo(box / "spool" / "pipe")
    clear(box / "spool")
    assert os.listdir(box / "spool") == ["processes"]


def test_only_a_regular_file_may_hold_requests(box: Path) -> None:
    """Otherwise an object that cannot be removed would keep the service running."""
    assert not has_requests(box / "spool")
    (box / "spool" / "processes").mkdir()
    assert not has_requests(box / "spool")
    (box / "spool" / "processes").rmdir()
    (box / "spool" / "processes").symlink_to("/etc/passwd")
    assert not has_requests(box / "spool")
    (box / "spool" / "processes").unlink()
    put(box, b"")
    assert has_requests(box / "spool"), "its wrapper may have rung and not written yet"


def test_a_link_called_like_the_requests_goes(box: Path) -> None:
    (box / "spool" / "processes").symlink_to("/etc/passwd")
    clear(box / "spool")
    assert not os.listdir(box / "spool")
    assert Path("/etc/passwd").exists()


def test_trees_go_and_what_they_link_to_stays(box: Path) -> None:
    (box / "kept").mkdir()
    (box / "kept" / "file").write_text("x")
    for name in ("a", "processes"):
        (box / "spool" / name / "deep").mkdir(parents=True)
        (box / "spool" / name / "deep" / "file").write_text("x")
        (box / "spool" / name / "deep" / "link").symlink_to(box / "kept")
        os.link(box / "kept" / "file", box / "spool" / name / "hard")
    clear(box / "spool")
    assert not os.listdir(box / "spool")
    assert (box / "kept" / "file").read_text() == "x"


def test_the_deepest_tree_that_fits_goes_at_once(box: Path) -> None:
    (box / "spool").joinpath(*["d"] * (spool.NAMES - 1)).mkdir(parents=True)
    clear(box / "spool")
    assert not os.listdir(box / "spool")


def test_files_made_during_the_removal_wait_for_the_next_time(box: Path) -> None:
    for number in range(spool.NAMES + 10):
        (box / "spool" / f"{number}").touch()
    clear(box / "spool")
    assert len(os.listdir(box / "spool")) == 10


def test_a_mount_in_the_spool_is_not_entered(apart: Callable[[str], str]) -> None:
    apart("""
import subprocess
from sidespawn.host.spool import clear
(tmp_path / "mounted").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "mounted"], check=True)
(tmp_path / "mounted" / "file").touch()
clear(tmp_path)
assert (tmp_path / "mounted" / "file").exists()
""")
