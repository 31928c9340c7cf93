"""Creating a service's directories."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidespawn.host import directories
from sidespawn.setup import changes
from sidespawn.system.files import directory
from sidespawn.system.places import Places
from tests.attacks.catalogue import attack
from tests.unit.shipped import preset


@pytest.fixture
def namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "netns"
    monkeypatch.setattr(directories, "NAMESPACES", path)
    return path


def test_all_users_may_list_the_namespaces_whatever_the_umask(namespaces: Path) -> None:
    before = os.umask(0o077)  # those of the units
    try:
        directories.make_namespaces_directory()
    finally:
        os.umask(before)
    assert stat.S_IMODE(namespaces.stat().st_mode) == 0o755


def test_a_directory_that_is_there_stays_as_it_is(namespaces: Path) -> None:
    namespaces.mkdir()
    namespaces.chmod(0o2775)
    directories.make_namespaces_directory()
    assert stat.S_IMODE(namespaces.stat().st_mode) == 0o2775


def test_what_systemd_made_where_nothing_was_mounted_is_removed(tmp_path: Path) -> None:
    """In that case the socket unit makes the doorbell in a mount namespace where the directories are not visible."""
    places = Places("a", run=tmp_path / "run")
    for doorbell in (places.doorbell, places.operators_doorbell):
        doorbell.parent.mkdir(parents=True)
        os.mkfifo(doorbell)
    directories.remove(places)
    assert not places.run.exists()
    directories.remove(places)


def test_what_runs_wrote_where_nothing_was_mounted_is_removed(tmp_path: Path) -> None:
    """Runs of 0.1.0 take the lock and compile the policy before they look for the spool, which they cannot see."""
    places = Places("a", run=tmp_path / "run")
    places.home.mkdir(parents=True)
    for path in (places.lock, places.compiled, places.tally):
        path.write_text("x")
    directories.remove(places)
    assert not places.run.exists()


def test_unknown_files_are_not_removed(tmp_path: Path) -> None:
    places = Places("a", run=tmp_path / "run")
    (places.home / "unknown").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        directories.remove(places)
    assert (places.home / "unknown").is_dir()


@pytest.mark.parametrize(("old", "new"), [(b"", b"new"), (b"old text", b"new"), (b"old", b"new text")])
def test_a_wrapper_is_rewritten_in_place(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "wrapper"
    if old:
        path.write_bytes(old)
    inode = path.stat().st_ino if old else None
    with directory(tmp_path) as held:
        directories.write_in_place(held, "wrapper", new)
    assert path.read_bytes() == new
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert inode in {None, path.stat().st_ino}


def make_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def make_full_directory(path: Path, _: Path) -> None:
    path.mkdir()
    (path / "file").touch()


def make_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def make_link_to_nothing(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_suffix(".new"))


@attack(245)
@pytest.mark.parametrize("make", [make_link, make_link_to_nothing, make_full_directory, make_pipe])
def test_an_object_in_place_of_a_wrapper_is_replaced_and_not_followed(
    tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    """Agents that may use fanotify can get a descriptor of the wrappers' directory when the host lists it."""
    victim, given = tmp_path / "shadow", tmp_path / "given"
    victim.write_bytes(b"root's")
    victim.chmod(0o600)
    given.mkdir()
    make(given / "wrapper", victim)
    with directory(given) as held:
        directories.write_in_place(held, "wrapper", b"the wrapper")
    assert (given / "wrapper").read_bytes() == b"the wrapper"
    assert not (given / "wrapper").is_symlink()
    assert (victim.read_bytes(), stat.S_IMODE(victim.stat().st_mode)) == (b"root's", 0o600)
    assert {path.name for path in tmp_path.iterdir()} == {"shadow", "given"}


@attack(245)
@pytest.mark.parametrize("make", [make_link, make_link_to_nothing, make_full_directory, make_pipe])
def test_an_object_in_place_of_a_wrapper_differs_from_it_and_keeps_no_one_waiting(
    tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    """Operators must be able to run `enable`, which puts it right, and `doctor`, which says so."""
    policy, places = preset("neutron-dhcp-dnsmasq"), Places("neutron-dhcp-dnsmasq", run=tmp_path / "run")
    places.agent.mkdir(parents=True)
    directories.write_wrappers(places, policy)
    assert [each for each in changes.of_wrappers(places, policy) if each.before != each.after] == []
    wrapper, content = places.agent / "dnsmasq", (places.agent / "dnsmasq").read_bytes()
    (tmp_path / "shadow").write_bytes(content)
    wrapper.unlink()
    make(wrapper, tmp_path / "shadow")
    with ended(seconds=20):
        (found,) = (each for each in changes.of_wrappers(places, policy) if each.before != each.after)
    assert (found.what, found.before) == (str(wrapper), "")


@contextmanager
def ended(*, seconds: int) -> Iterator[None]:
    """Interrupt system calls that wait for longer."""

    def interrupt(*_: object) -> None:
        raise AssertionError(f"it waited for {seconds} seconds")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_an_agent_never_finds_its_wrapper_empty(tmp_path: Path) -> None:
    """Python runs an empty script without an error, and its caller would think that the program was started."""
    path = tmp_path / "wrapper"
    contents = (b"a" * 50_000, b"b" * 40_000)
    done = threading.Event()

    def rewrite() -> None:
        with directory(tmp_path) as held:
            for number in itertools.takewhile(lambda _: not done.is_set(), itertools.count()):
                directories.write_in_place(held, "wrapper", contents[number % 2])

    path.write_bytes(contents[0])
    writer = threading.Thread(target=rewrite)
    writer.start()
    sizes, give_up = list[int](), time.monotonic() + 60
    while (len(sizes) < 5000 or len(set(sizes)) < 2) and time.monotonic() < give_up:  # allows for a busy host
        sizes.append(path.stat().st_size)
    done.set()
    writer.join()
    assert min(sizes) == 40_000
