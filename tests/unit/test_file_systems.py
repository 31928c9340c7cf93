"""The file systems that containers mount: whatever was there before, each becomes what the policy says."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidespawn.frozen import replace
from sidespawn.host import directories, labels
from sidespawn.host.file_systems import ALL, KEPT_BYTES, FileSystem, given_to_containers, put_right
from sidespawn.system import kernel
from sidespawn.system.files import HARMLESS
from sidespawn.system.places import Places
from tests.unit import small

SIZE, NAMES = 1 << 20, 64


@pytest.fixture
def made(tmp_path: Path) -> Iterator[FileSystem]:
    each = FileSystem(path=tmp_path, size=SIZE, names=NAMES, mode=0o700, owner=42435, keeps=("doorbell", "processes"))
    directories.mount_tmpfs(each.path, each.flags, each.options, labels.WRITABLE)
    os.mkfifo(tmp_path / "doorbell")
    yield each
    kernel.unmount(str(tmp_path))


def remount(path: Path, flags: int, data: str = "") -> None:
    kernel.mount("none", str(path), None, kernel.MS_REMOUNT | flags, data)


def is_right(each: FileSystem) -> bool:
    found, status = os.statvfs(each.path), os.stat(each.path)
    limits = (found.f_blocks * found.f_frsize, found.f_files, found.f_flag & 0x5F)
    return (*limits, status.st_uid, stat.S_IMODE(status.st_mode)) == (SIZE, NAMES, HARMLESS, 42435, 0o700)


def test_it_is_made_as_the_policy_says(made: FileSystem) -> None:
    assert is_right(made)
    assert put_right(made) == ""


def test_a_spool_that_a_path_unit_watches_is_made_one_without_links(made: FileSystem) -> None:
    """It is also changed if it was mounted before the policy asked for it, and back."""
    without = replace(made, flags=made.flags | kernel.MS_NOSYMFOLLOW)
    (made.path / "link").symlink_to("/etc/passwd")
    assert (made.path / "link").exists()
    assert "flags" in put_right(without)
    assert not (made.path / "link").exists()
    assert put_right(without) == ""
    assert "flags" in put_right(made)
    assert (made.path / "link").exists()


def enlarge_and_fill(path: Path) -> None:
    remount(path, 0, f"size=1g,nr_inodes={NAMES * 100}")
    (path / "large").write_bytes(bytes(2 * SIZE))
    for number in range(NAMES * 2):
        (path / f"{number}").mkdir()
        (path / f"{number}" / "in").touch()
    held = os.open(path, os.O_PATH)
    for _ in range(1500):  # longer than a path may be, and deeper than the stack
        os.mkdir("deep", dir_fd=held)
        above, held = held, os.open("deep", os.O_PATH, dir_fd=held)
        os.close(above)
    os.close(held)


def in_one_directory(path: Path) -> None:
    remount(path, 0, f"nr_inodes={NAMES * 1000}")
    (path / "full").mkdir()
    for number in range(NAMES * 40):
        (path / "full" / f"{number}").touch()


def chown_and_protect(path: Path) -> None:
    os.chown(path, 0, 0)
    remount(path, kernel.MS_RDONLY)


CHANGES: dict[str, Callable[[Path], None]] = {
    "larger": lambda path: remount(path, HARMLESS, "size=1g"),
    "smaller": lambda path: remount(path, HARMLESS, "size=4k"),
    "more names": lambda path: remount(path, HARMLESS, "nr_inodes=1000000"),
    "fewer names": lambda path: remount(path, HARMLESS, "nr_inodes=2"),
    "read-only": lambda path: remount(path, HARMLESS | kernel.MS_RDONLY),
    "synchronous": lambda path: remount(path, HARMLESS | 16),
    "other flags": lambda path: remount(path, 0),
    "another mode": lambda path: path.chmod(0o1777),
    "another owner": lambda path: os.chown(path, 0, 0),
    "another owner, and read-only": chown_and_protect,
    "larger, and filled": enlarge_and_fill,
    "many in one directory": in_one_directory,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_are_undone(made: FileSystem, change: Callable[[Path], None]) -> None:
    change(made.path)
    assert not is_right(made)
    assert put_right(made)
    assert is_right(made)
    assert put_right(made) == ""
    assert (made.path / "doorbell").is_fifo()


@pytest.mark.parametrize("limit", ["size=0", "nr_inodes=0"])
def test_a_removed_limit_cannot_be_restored_and_is_reported(made: FileSystem, limit: str) -> None:
    """tmpfs(5) has no way to set one again. Flags are still corrected, and nothing is removed for it."""
    (made.path / "processes").touch()
    remount(made.path, 0, limit)
    with pytest.raises(OSError, match="Invalid argument"):
        put_right(made)
    assert os.statvfs(made.path).f_flag & HARMLESS == HARMLESS
    assert (made.path / "processes").exists()


def test_what_fits_stays(made: FileSystem) -> None:
    (made.path / "processes").write_bytes(b"x" * 1000)
    remount(made.path, HARMLESS, "size=1g")
    put_right(made)
    assert (made.path / "processes").read_bytes() == b"x" * 1000


def test_requests_stay_when_the_rest_goes(made: FileSystem) -> None:
    remount(made.path, HARMLESS, "size=1g")
    (made.path / "junk").write_bytes(bytes(2 * SIZE))
    (made.path / "processes").write_bytes(b"x" * 1000)
    assert put_right(made)
    assert set(os.listdir(made.path)) == {"doorbell", "processes"}
    assert (made.path / "processes").read_bytes() == b"x" * 1000


def test_a_file_that_containers_have_mounted_keeps_its_inode(tmp_path: Path) -> None:
    each = FileSystem(path=tmp_path, size=4 << 20, names=NAMES, mode=0o700, keeps=ALL)
    directories.mount_tmpfs(each.path, each.flags, each.options, labels.READABLE)
    try:
        (tmp_path / "dnsmasq").write_bytes(b"x")
        (tmp_path / "link").symlink_to("dnsmasq")
        inode = (tmp_path / "dnsmasq").stat().st_ino
        remount(tmp_path, 0, "size=1g")
        (tmp_path / "dnsmasq").write_bytes(bytes(8 << 20))
        assert put_right(each)
        status = (tmp_path / "dnsmasq").stat()
        assert (status.st_ino, status.st_size) == (inode, KEPT_BYTES)
    finally:
        kernel.unmount(str(tmp_path))


def test_a_directory_that_is_no_mount_is_left_alone(tmp_path: Path) -> None:
    """In the first version, copies of configuration files were such directories."""
    tmp_path.chmod(0o755)
    assert put_right(FileSystem(path=tmp_path, size=SIZE, names=NAMES, mode=0o700)) == ""
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_each_has_a_size_and_a_number_of_names(tmp_path: Path) -> None:
    places = Places("small", run=tmp_path)
    given = given_to_containers(places, small.load())
    assert tuple(each.path for each in given) == directories.given_to_containers(places)
    for each in given:
        assert each.size <= 64 << 20
        assert each.names <= 16384
        assert each.flags & HARMLESS & ~kernel.MS_NOEXEC == HARMLESS & ~kernel.MS_NOEXEC
