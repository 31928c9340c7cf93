"""The directory that keeps what machines are made of; commands that run at the same time share it.

    keys/                    the key that opens the machines, and the one they prove themselves with
    base/KIND-DIGEST/        a disk with the packages, its kernel and its initial root
    prepared/KIND-DIGEST/    the same with images and Python packages, as what changed of the disk
    wheels/DIGEST/           Python packages for one version of Python
    run/NAME.qcow2           what changed on the disk of a machine that runs

A layer's directory has its name only once it is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def digest(*parts: object) -> str:
    """Equal parts give equal names."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Cache:
    top: Path

    def layer(self, kind: str, name: str, build: Callable[[Path], None]) -> Path:
        """The directory kind/name; `build` fills it if it is missing, under another name, in the same folder."""
        made = self.top / kind / name
        if made.is_dir():
            return made
        made.parent.mkdir(parents=True, exist_ok=True)
        with self.locked(f"{kind}-{name}"):
            if not made.is_dir():
                for left in made.parent.glob(f".{name}-*"):  # by a command that was killed
                    shutil.rmtree(left)
                draft = Path(tempfile.mkdtemp(dir=made.parent, prefix=f".{name}-"))
                try:
                    build(draft)
                    draft.rename(made)
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
        return made

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """One command at a time; says so when this one waits for another."""
        locks = self.top / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with open(locks / name, "w", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another command, which makes {name}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def default_cache() -> Cache:
    """SIDESPAWN_VM_CACHE, or .cache/vm of the checkout."""
    top = Path(os.environ.get("SIDESPAWN_VM_CACHE") or CHECKOUT / ".cache/vm").absolute()
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Cache(top=top)


def say(message: str) -> None:
    print(f"vm: {message}", file=sys.stderr, flush=True)
