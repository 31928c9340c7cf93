"""The agent's state directory on the host. The agent can write anything there, so plain paths are never used in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sidespawn.core.plan import Plan
from sidespawn.errors import LaunchError, Reason
from sidespawn.system.files import closing, directory, open_directory_beneath, pinned, read_regular_beneath, write_whole


class AgentState:
    """Paths are relative to `root`, or to another root of the policy (core/plan.py). The agent runs as `uid` and `gid`.

    Methods raise LaunchError if a path cannot be used.
    """

    def __init__(self, root: str, uid: int = 0, gid: int = 0) -> None:
        self.root, self.uid, self.gid = root, uid, gid

    def read(self, beneath: str, most: int) -> bytes:
        """Return the content, read once, of a regular file that the agent may read; at most `most` bytes."""
        on_host, _, inside = beneath.rpartition("//")
        with usable(beneath), directory(on_host or self.root) as root:
            return read_regular_beneath(root, inside, most, self.may_read)

    def may_read(self, file: os.stat_result) -> bool:
        """Return whether a file's mode lets the agent read it, since a refusal may quote a line of it."""
        in_group = file.st_gid == self.gid and file.st_mode & stat.S_IRGRP
        return self.uid in (0, file.st_uid) or bool(in_group or file.st_mode & stat.S_IROTH)

    def write(self, beneath: str, content: bytes, owner: tuple[int, int]) -> None:
        """Write a file that is readable for everyone."""
        parent, name = split(beneath)
        with self.directory(parent) as held, usable(beneath):
            write_whole(held, name, content, mode=0o644, owner=owner)

    def remove(self, beneath: str) -> None:
        """Remove a file; no error if the agent has removed it, or its directory."""
        parent, name = split(beneath)
        with suppress(OSError, LaunchError), self.directory(parent) as held:
            os.unlink(name, dir_fd=held)

    @contextmanager
    def directory(self, beneath: str) -> Iterator[int]:
        """Return a directory, held open."""
        on_host, _, inside = beneath.rpartition("//")
        with usable(beneath), directory(on_host or self.root) as root:
            descriptor = open_directory_beneath(root, inside)
        with closing(descriptor):
            yield descriptor


def split(beneath: str) -> tuple[str, str]:
    on_host, slashes, inside = beneath.rpartition("//")
    parent, _, name = inside.rpartition("/")
    return f"{on_host}{slashes}{parent or '.'}", name


@contextmanager
def usable(beneath: str) -> Iterator[None]:
    """Turn an OSError in the context into a LaunchError about that path."""
    try:
        yield
    except OSError as error:
        message = f"{beneath} in the agent's state directory cannot be used: {error.strerror or error}"
        hint = "it must exist and be readable for the agent, with no link or mount in its path"
        hint += "; the policy's state_on_host says where the host looks"
        raise LaunchError(Reason.STATE_UNUSABLE, message, hint) from None


def pin_mounts(plan: Plan, state: AgentState, pin: Path, stack: ExitStack) -> tuple[Path, ...]:
    paths = []
    for number, mount in enumerate(plan.mounts):
        descriptor = stack.enter_context(state.directory(mount.beneath))
        target = pin.with_suffix(f".mount{number}")
        paths.append(stack.enter_context(pinned(descriptor, target, is_directory=True, writable=mount.writable)))
    return tuple(paths)
