"""Reads regular files that belong to others, some to agents: once, not for long, and nothing that could block."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from glob import iglob
from pathlib import Path

from sidespawn.system.files import closing, read_up_to

LARGEST = 1 << 20  # bytes read of a file
Row = tuple[int, str]  # a line with its number


def files(root: Path, patterns: Iterable[str]) -> Iterator[tuple[Path, Iterator[Row]]]:
    """Yield each file once, with its numbered lines. A file that is not text has none."""
    for path in sorted({each for pattern in patterns for each in matches(root, pattern)}):
        if (text := text_of(path)) is not None:
            yield path, numbered(text)


def matches(root: Path, pattern: str) -> Iterator[Path]:
    """Yield existing paths. What cannot be listed has none, such as a user's file system whose server has died."""
    if "**" in pattern:  # not by glob, which would follow links in circles
        with suppress(OSError):
            yield from root.glob(pattern)
    else:
        yield from (root / each for each in iglob(pattern, root_dir=root, include_hidden=True))


def numbered(text: str) -> Iterator[Row]:
    return enumerate(text.splitlines(), start=1)


def text_of(path: Path) -> str | None:
    text = read(path)
    return None if b"\0" in text else text.decode(errors="replace")


def read(path: Path) -> bytes:
    """Return a regular file's content; empty if it is too large or something else.

    Some of the directories belong to agents, whose links may lead anywhere. So a path is opened only once it is known
    to be a regular file, and reading does not wait for kernel files that would block.
    """
    with suppress(OSError), closing(os.open(path, os.O_PATH | os.O_CLOEXEC)) as found:
        if stat.S_ISREG(os.fstat(found).st_mode):
            with closing(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as descriptor:
                text = read_up_to(descriptor, LARGEST + 1)
                return text if len(text) <= LARGEST else b""
    return b""
