"""The cache of the parts of machines; concurrent commands share it.

    keys/                    the key that opens the machines, and the one they prove themselves with
    packages/KIND-DIGEST/    Debian's packages, installed
    wheels/VERSION-DIGEST/   Python packages for one version of Python
    disk/KIND-DIGEST/        a disk with both and the images, its kernel and its initial root
    booted/KIND-DIGEST/      what changed on the disk in a boot, and the memory of the machine
    run/NAME/                what changed on the disk of a machine that runs

A layer's directory gets its name only when it is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_KINDS = ("booted", "disk", "packages", "wheels")
_KEPT_SECONDS = 21 * 24 * 3600
CHECKOUT = Path(__file__).resolve().parent.parent


def digest(*parts: object) -> str:
    """Equal parts give equal names."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Cache:
    top: Path

    def layer(self, kind: str, name: str, build: Callable[[Path], None]) -> Path:
        """Return the directory kind/name. If it is missing, `build` fills it under another name in the same folder."""
        made = self.top / kind / name
        if made.is_dir():
            os.utime(made)
            return made
        made.parent.mkdir(parents=True, exist_ok=True)
        with self.locked(f"{kind}-{name}"):
            if not made.is_dir():
                draft = Path(tempfile.mkdtemp(dir=made.parent, prefix=f".{name}-"))
                try:
                    build(draft)
                    draft.rename(made)
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
        return made

    def tidy(self) -> None:
        """Removes what killed commands left of layers, and layers that were not used for weeks."""
        for kind in _KINDS:
            for left in (self.top / kind).glob(".*"):
                # A draft is NAME with something appended.
                with self._locked_if_free(f"{kind}-{left.name[1:].rpartition('-')[0]}") as free:
                    if free:
                        shutil.rmtree(left)
            for layer in (self.top / kind).glob("[!.]*"):
                with self._locked_if_free(f"{kind}-{layer.name}") as free:
                    if free and time.time() - layer.stat().st_mtime > _KEPT_SECONDS:
                        shutil.rmtree(layer)

    @contextmanager
    def _locked_if_free(self, name: str) -> Iterator[bool]:
        with open(self._lock(name), "w", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _lock(self, name: str) -> Path:
        locks = self.top / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return locks / name

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Let one command in at a time; report it if this one waits for another."""
        with open(self._lock(name), "w", encoding="ascii") as lock:
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
