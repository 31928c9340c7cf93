"""Opening files that others can change, writing files that others can see, and trusting only root's files."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidespawn.errors import PolicyError
from sidespawn.system import files, kernel
from sidespawn.system.files import (
    closing,
    open_directory_beneath,
    open_regular_beneath,
    read_regular_beneath,
    read_trusted,
    write_whole,
)
from tests.attacks.catalogue import attack

Opened = Callable[[int, str], object]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[int]:
    """Return an agent's state directory, held open, with `file` and `directory/file`, and a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "state" / "directory").mkdir(parents=True)
    (tmp_path / "state" / "file").write_text("content")
    (tmp_path / "state" / "directory" / "file").write_text("deeper")
    with files.directory(tmp_path / "state") as held:
        yield held


def open_and_close(opening: Callable[[int, str], int]) -> Opened:
    def opened(parent: int, path: str) -> None:
        os.close(opening(parent, path))

    return opened


OPENERS: dict[str, Opened] = {
    "open_regular_beneath": open_and_close(open_regular_beneath),
    "read_regular_beneath": lambda parent, path: read_regular_beneath(parent, path, 100),
    "open_directory_beneath": open_and_close(open_directory_beneath),
}
every_opener = pytest.mark.parametrize("opened", OPENERS.values(), ids=OPENERS.keys())


# ---------------------------------------------------------------- what is opened


def test_a_regular_file_is_read(state: int) -> None:
    assert read_regular_beneath(state, "file", 7) == b"content"
    assert read_regular_beneath(state, "directory/file", 100) == b"deeper"


def test_a_directory_is_held(state: int) -> None:
    with closing(open_directory_beneath(state, "directory")) as held:
        assert os.stat("file", dir_fd=held).st_size == 6


def test_the_directory_itself_can_be_named(state: int) -> None:
    with closing(open_directory_beneath(state, ".")) as held:
        assert os.fstat(held).st_ino == os.fstat(state).st_ino


def test_descriptors_are_closed_on_exec(state: int) -> None:
    for descriptor in (open_regular_beneath(state, "file"), open_directory_beneath(state, "directory")):
        with closing(descriptor):
            assert not os.get_inheritable(descriptor)


# ---------------------------------------------------------------- what is not


@every_opener
def test_not_through_a_link(state: int, tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "state" / "link").symlink_to("file" if opened is not OPENERS["open_directory_beneath"] else "directory")
    with pytest.raises(OSError) as caught:
        opened(state, "link")
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR, None)


@every_opener
def test_not_through_a_link_in_the_middle(state: int, tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "other" / "directory").mkdir(parents=True)
    (tmp_path / "other" / "file").write_text("x")
    (tmp_path / "state" / "link").symlink_to("../other")
    for path in ("link/file", "link/directory"):
        with pytest.raises(OSError) as caught:
            opened(state, path)
        assert caught.value.errno == errno.ELOOP


@every_opener
@pytest.mark.parametrize("target", ["/proc/self/fd/0", "/proc/self/root", "/proc/1/root/etc"])
def test_not_through_a_magic_link(state: int, tmp_path: Path, opened: Opened, target: str) -> None:
    (tmp_path / "state" / "link").symlink_to(target)
    with pytest.raises(OSError):
        opened(state, "link")


@every_opener
@pytest.mark.parametrize("path", ["../secret", "..", "directory/../../secret", "/etc", "/etc/passwd"])
def test_not_outside(state: int, opened: Opened, path: str) -> None:
    with pytest.raises(OSError):
        opened(state, path)


@every_opener
@pytest.mark.parametrize("path", ["", "nothing", "nothing/file", "file/x", "x" * 300])
def test_not_what_is_not_there(state: int, opened: Opened, path: str) -> None:
    with pytest.raises(OSError):
        opened(state, path)


@every_opener
def test_a_pipe_does_not_block(state: int, tmp_path: Path, opened: Opened) -> None:
    os.mkfifo(tmp_path / "state" / "pipe")
    began = time.monotonic()
    with pytest.raises(OSError):
        opened(state, "pipe")
    assert time.monotonic() - began < 10


@every_opener
def test_not_a_device(state: int, tmp_path: Path, opened: Opened) -> None:
    os.mknod(tmp_path / "state" / "null", 0o666 | 0o020000, os.makedev(1, 3))
    with pytest.raises(OSError):
        opened(state, "null")


@every_opener
def test_not_a_socket(state: int, tmp_path: Path, opened: Opened) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "state" / "socket"))
        with pytest.raises(OSError):
            opened(state, "socket")


def test_a_file_is_not_a_directory(state: int) -> None:
    with pytest.raises(NotADirectoryError):
        open_directory_beneath(state, "file")


def test_a_directory_is_not_a_file(state: int) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        open_regular_beneath(state, "directory")


def test_not_a_file_with_a_second_name(state: int, tmp_path: Path) -> None:
    os.link(tmp_path / "secret", tmp_path / "state" / "hard")
    with pytest.raises(OSError, match="with one link"):
        read_regular_beneath(state, "hard", 100)


def test_a_refused_file_is_not_touched(state: int, tmp_path: Path) -> None:
    os.link(tmp_path / "secret", tmp_path / "state" / "hard")
    with pytest.raises(OSError):
        open_regular_beneath(state, "hard", os.O_RDWR | os.O_TRUNC)
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize("size", [8, 2**20, 2**40], ids=["a byte more", "a megabyte", "sparse"])
def test_no_more_than_asked_for_is_read(state: int, tmp_path: Path, size: int) -> None:
    os.truncate(tmp_path / "state" / "file", size)
    began = time.monotonic()
    with pytest.raises(OSError, match="larger than 7 bytes"):
        read_regular_beneath(state, "file", 7)
    assert time.monotonic() - began < 10


@attack(85)
def test_not_across_a_mount(apart: Callable[[str], str]) -> None:
    apart("""
import errno, subprocess
from sidespawn.system import files, kernel
state, other = tmp_path / "state", tmp_path / "other"
for path in (state / "over", state / "plain", other):
    path.mkdir(parents=True)
    (path / "file").write_text("x")
(state / "file").write_text("x")
subprocess.run(["mount", "--bind", other, state / "over"], check=True)
subprocess.run(["mount", "--bind", other / "file", state / "file"], check=True)
def refused(call, path):
    with files.directory(state) as held:
        try:
            call(held, path)
        except OSError as error:
            assert error.errno == errno.EXDEV, error
        else:
            raise AssertionError(f"{path} was opened")
refused(files.open_regular_beneath, "over/file")
refused(files.open_regular_beneath, "file")
refused(files.open_directory_beneath, "over")
with files.directory(state) as held:
    assert files.read_regular_beneath(held, "plain/file", 9) == b"x"
""")


def test_a_pin_is_the_very_directory_and_harmless(apart: Callable[[str], str]) -> None:
    apart("""
import os
from sidespawn.system import files, kernel
(tmp_path / "state" / "a").mkdir(parents=True)
(tmp_path / "state" / "a" / "file").write_text("x")
target = tmp_path / "pin"
with files.directory(tmp_path / "state") as held, files.closing(files.open_directory_beneath(held, "a")) as found:
    os.rename(tmp_path / "state" / "a", tmp_path / "state" / "b")
    (tmp_path / "state" / "a").symlink_to("/etc")
    with files.pinned(found, target, is_directory=True) as pin:
        assert os.listdir(pin) == ["file"]
        options = next(line.split()[3] for line in open("/proc/mounts") if line.split()[1] == str(pin))
        assert {"rw", "nosuid", "nodev", "noexec"} <= set(options.split(",")), options
    with files.pinned(found, target, is_directory=True, writable=False) as pin:
        options = next(line.split()[3] for line in open("/proc/mounts") if line.split()[1] == str(pin))
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(options.split(",")), options
        (tmp_path / "state" / "b" / "other").write_text("the rest of the file system stays as it is")
assert not target.exists()
""")


# ---------------------------------------------------------------- writing


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def write(path: Path, content: bytes, mode: int = 0o600, owner: tuple[int, int] = (0, 0)) -> None:
    with files.directory(path.parent) as held:
        write_whole(held, path.name, content, mode, owner)


def test_a_file_is_made(tmp_path: Path) -> None:
    write(tmp_path / "new", b"content", mode=0o644, owner=(7, 8))
    status = (tmp_path / "new").stat()
    assert (tmp_path / "new").read_bytes() == b"content"
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o644, 7, 8)
    assert names(tmp_path) == ["new"]


def test_a_file_is_only_ours_unless_said_otherwise(tmp_path: Path) -> None:
    write(tmp_path / "new", b"")
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o600


def test_a_file_is_replaced_and_never_changed(tmp_path: Path) -> None:
    write(tmp_path / "file", b"old")
    with open(tmp_path / "file", "rb") as reader:
        write(tmp_path / "file", b"new")
        assert reader.read() == b"old"
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for name in ("file", ".file.new"):
        (tmp_path / name).symlink_to("secret")
    write(tmp_path / "file", b"new")
    assert (tmp_path / "secret").read_text() == "secret"
    assert not (tmp_path / "file").is_symlink()


def test_a_second_name_in_its_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    os.link(tmp_path / "secret", tmp_path / "file")
    os.link(tmp_path / "secret", tmp_path / ".file.new")
    write(tmp_path / "file", b"new")
    assert (tmp_path / "secret").read_text() == "secret"


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".file.new").write_text("half")
    write(tmp_path / "file", b"whole")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("room", [64, 2048], ids=["some room", "half of it"])
def test_a_full_file_system_leaves_the_old_content(apart: Callable[[str], str], room: int) -> None:
    """write(2) may write a part and report that, instead of failing."""
    apart(f"""
import subprocess
from sidespawn.system import files, kernel
subprocess.run(["mount", "-t", "tmpfs", "-o", "size={room}k", "none", tmp_path], check=True)
with files.directory(tmp_path) as held:
    files.write_whole(held, "file", b"old")
    try:
        files.write_whole(held, "file", b"x" * (4 * 1024 * 1024))
    except OSError:
        pass
    else:
        raise AssertionError("a part was written and taken for the whole")
assert (tmp_path / "file").read_bytes() == b"old"
""")


# ---------------------------------------------------------------- trusting


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    """Return a policy file that only root could have written, in directories that only root can write."""
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o022 and not parent.stat().st_mode & 0o1000:
            pytest.skip(f"{parent} can be changed by others than root")
    path = tmp_path / "etc" / "a.toml"
    path.parent.mkdir(mode=0o755)
    path.write_text("version = 1\n")
    path.chmod(0o644)
    return path


def refusal(path: Path) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        read_trusted(path)
    return caught.value


def test_roots_file_is_read(trusted: Path) -> None:
    assert read_trusted(trusted) == "version = 1\n"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o444, 0o755])
def test_a_mode_that_only_lets_others_read(trusted: Path, mode: int) -> None:
    trusted.chmod(mode)
    assert read_trusted(trusted)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o620, 0o602, 0o1666, 0o1664], ids=oct)
def test_not_a_file_that_others_can_write(trusted: Path, mode: int) -> None:
    trusted.chmod(mode)
    assert f"{trusted} can be changed by others than root" in refusal(trusted).message


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777], ids=oct)
def test_not_in_a_directory_that_others_can_write(trusted: Path, mode: int) -> None:
    trusted.parent.chmod(mode)
    error = refusal(trusted)
    assert f"{trusted.parent} can be changed by others than root" in error.message
    assert f"chmod go-w {trusted.parent}" in error.hint


def test_not_anothers_file(trusted: Path) -> None:
    os.chown(trusted, 1000, 0)
    assert "can be changed by others" in refusal(trusted).message


def test_not_in_anothers_directory(trusted: Path) -> None:
    os.chown(trusted.parent, 1000, 0)
    assert "can be changed by others" in refusal(trusted).message


def test_not_a_linked_file(trusted: Path) -> None:
    link = trusted.parent / "b.toml"
    link.symlink_to(trusted)
    assert f"{link} is a link" in refusal(link).message
    assert refusal(link).hint == f"as root: replace {link} with what it leads to"


def test_not_in_a_linked_directory(trusted: Path) -> None:
    link = trusted.parent.parent / "link"
    link.symlink_to(trusted.parent)
    assert f"{link} is a link" in refusal(link / "a.toml").message


def test_a_missing_file_is_reported_with_how_to_get_one(trusted: Path) -> None:
    error = refusal(trusted.parent / "b.toml")
    assert "does not exist" in error.message
    assert "sidespawn enable" in error.hint


def test_a_directory_in_its_place(trusted: Path) -> None:
    assert "cannot be read" in refusal(trusted.parent).message


def test_not_utf_8(trusted: Path) -> None:
    trusted.write_bytes(b"\xff")
    assert "cannot be read" in refusal(trusted).message


def test_a_file_too_large_is_refused_and_not_cut(trusted: Path) -> None:
    trusted.write_bytes(b"#" * (files.POLICY_BYTES - 1) + b"\n" + b"version = 1\n")
    assert "cannot be read" in refusal(trusted).message


def test_a_directory_is_held_as_a_place_and_not_open_for_reading(tmp_path: Path) -> None:
    """Opening it for reading would let fanotify(7) hand it out."""
    (tmp_path / "x").write_text("x")
    with files.directory(tmp_path) as held:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.listdir(held)
        assert files.read_regular_beneath(held, "x", 1) == b"x"


def test_entries_are_listed_with_a_bound_by_a_mount_that_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        (tmp_path / f"{number}").touch()
    above: list[bool] = []
    real = kernel.open_detached

    def looking_up(held: int) -> int:
        descriptor = real(held)
        above.append(os.path.samestat(os.stat("..", dir_fd=descriptor), os.stat(tmp_path)))
        return descriptor

    monkeypatch.setattr(kernel, "open_detached", looking_up)
    with files.directory(tmp_path) as held:
        with files.entries_of(held, 3) as entries:
            assert len(entries) == 3
        with files.entries_of(held, 30) as entries:
            assert {entry.name for entry in entries} == {f"{number}" for number in range(10)}
            assert all(entry.stat(follow_symlinks=False).st_size == 0 for entry in entries)
    assert above == [True, True], "`..` stays where it is"


def test_nothing_is_listed_where_the_filter_of_an_earlier_version_forbids_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(held: int) -> int:
        raise PermissionError

    (tmp_path / "x").touch()
    monkeypatch.setattr(kernel, "open_detached", forbidden)
    with files.directory(tmp_path) as held, files.entries_of(held, 3) as entries:
        assert entries == []
