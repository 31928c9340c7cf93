"""Opens files that others can change, and writes files that others can see.

Everything in an agent's directory is opened from a held descriptor, never by a path from the root.  Links and mounts
are not followed, and the opened descriptor is checked before anything is read.  The host's own files are trusted only
if root owns them and all their parents, and no one else can write them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidespawn.errors import PolicyError
from sidespawn.system import kernel

BENEATH = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS | kernel.RESOLVE_NO_XDEV
HARMLESS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
POLICY_BYTES = 1024 * 1024


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def directory(path: str | Path, flags: int = os.O_PATH) -> Iterator[int]:
    """Hold a directory of the host itself as the place for `*at` calls, without opening it for reading.

    Anyone with CAP_SYS_ADMIN and a mount of the same file system can get descriptors of everything that is opened there
    (fanotify(7)), on the opener's mount. From a directory's descriptor, `..` leads to the host's root. O_PATH triggers
    no such event.
    """
    with closing(os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | flags)) as descriptor:
        yield descriptor


@contextmanager
def entries_of(held: int, most: int) -> Iterator[list[os.DirEntry[str]]]:
    """Yield at most this many entries, since an agent can make any number. `directory` says why it is not opened.

    Yield none if the unit has the system call filter of an earlier version, until the service is enabled again.
    """
    try:
        descriptor = kernel.open_detached(held)
    except PermissionError:
        yield []
        return
    with closing(descriptor), os.scandir(descriptor) as entries:
        yield [entry for _, entry in zip(range(most), entries, strict=False)]


def open_directory_beneath(parent: int, path: str) -> int:
    """Open a directory below `parent`, for `*at` calls and bind mounts. Raises OSError for links and mounts."""
    return kernel.openat2(parent, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, BENEATH)


def open_regular_beneath(parent: int, path: str, flags: int = os.O_RDONLY) -> int:
    """Open a regular file with one link below `parent`, first as a path, so that nothing blocks or is touched."""
    with closing(kernel.openat2(parent, path, os.O_PATH | os.O_NOFOLLOW, BENEATH)) as found:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise OSError(f"{path!r} is not a regular file with one link")
        return os.open(f"/proc/self/fd/{found}", flags | os.O_NONBLOCK | os.O_CLOEXEC)


def read_regular_beneath(
    parent: int, path: str, most: int, may_read: Callable[[os.stat_result], bool] = lambda _: True
) -> bytes:
    """Return the content of such a file, read once. Raises OSError if it may not be read or is larger than `most`."""
    with closing(open_regular_beneath(parent, path)) as descriptor:
        if not may_read(os.fstat(descriptor)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        content = read_up_to(descriptor, most + 1)
    if len(content) > most:
        raise OSError(f"{path!r} is larger than {most} bytes")
    return content


def read_up_to(descriptor: int, most: int) -> bytes:
    pieces = []
    while most > 0 and (piece := os.read(descriptor, min(most, 1 << 18))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def write_whole(parent: int, name: str, content: bytes, mode: int = 0o600, owner: tuple[int, int] = (0, 0)) -> None:
    """Create or replace the file `name` in the directory `parent` atomically."""
    temporary = f".{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with closing(os.open(temporary, flags, 0o600, dir_fd=parent)) as descriptor:
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=parent)
        raise


def read_trusted(path: Path) -> str:
    """Return the text of a file that decides what root does. Raises PolicyError unless only root can write it."""
    try:
        for each in (*reversed(path.parents), path):
            status = os.lstat(each)
            linked = stat.S_ISLNK(status.st_mode)
            sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX  # such as /tmp
            if status.st_uid != 0 or linked or (status.st_mode & 0o022 and not sticky):
                problem, hint = "can be changed by others than root", f"as root: chown root {each}; chmod go-w {each}"
                if linked:
                    problem, hint = "is a link", f"as root: replace {each} with what it leads to"
                raise PolicyError(f"{path} is not used: {each} {problem}", hint)
        with closing(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)) as descriptor:
            content = read_up_to(descriptor, POLICY_BYTES + 1)
        if len(content) > POLICY_BYTES:
            raise OSError(f"it is larger than {POLICY_BYTES} bytes")
        return content.decode("utf-8")
    except FileNotFoundError:
        raise PolicyError(f"{path} does not exist", "enable the service first: sidespawn enable --help") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path} cannot be read: {error}") from None


@contextmanager
def pinned(descriptor: int, target: Path, *, is_directory: bool, writable: bool = True) -> Iterator[Path]:
    """Bind-mount the open file or directory at `target`, a path that only root can reach, while in the context.

    An engine opens its mounts late and by name; a pin names exactly the inode that was checked.  Directories are pinned
    nosuid, nodev, noexec, and read-only unless `writable`.
    """
    if is_directory:
        target.mkdir(mode=0o700)
    else:
        target.touch(mode=0o600, exist_ok=False)
    try:
        kernel.mount(f"/proc/self/fd/{descriptor}", str(target), None, kernel.MS_BIND)
        try:
            if is_directory:
                kernel.remount(str(target), HARMLESS if writable else HARMLESS | kernel.MS_RDONLY)
            yield target
        finally:
            kernel.unmount(str(target))
    finally:
        target.rmdir() if is_directory else target.unlink()
