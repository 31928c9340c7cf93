"""What the rpms bring along: the Python packages of the command line, which Enterprise Linux does not have.

packaging/rpm/bundled.txt names each wheel with its hash. They are downloaded once.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from release.programs import run, say
from release.source import CHECKOUT

LIST = CHECKOUT / "packaging/rpm/bundled.txt"
CACHE = CHECKOUT / ".cache/bundled"
_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Bundle:
    wheels: tuple[Path, ...]

    @property
    def versions(self) -> tuple[tuple[str, str], ...]:
        """Name and version of each, as the wheel's file name has them."""
        named = (path.name.split("-") for path in self.wheels)
        return tuple((re.sub(r"[-_.]+", "-", words[0]).lower(), words[1]) for words in named)


def ensure_bundle() -> Bundle:
    """Downloads what is missing; pip compares it with the list."""
    made = CACHE / hashlib.sha256(LIST.read_bytes()).hexdigest()[:16]
    if not made.is_dir():
        say("downloading what the rpms bring along (once)")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            draft = Path(scratch) / "wheels"
            run(
                *(sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"),
                *("--only-binary=:all:", f"--dest={draft}", f"--requirement={LIST}"),
                seconds=_SECONDS,
            )
            shutil.rmtree(made, ignore_errors=True)
            draft.rename(made)
    return Bundle(wheels=tuple(sorted(made.glob("*.whl"))))
