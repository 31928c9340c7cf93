"""Builds the rpms' bundle: the command line's Python packages, which Enterprise Linux does not have.

packaging/rpm/bundled.txt names each wheel with its hash. They are downloaded once.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from release.programs import run, say
from release.root import CACHE
from release.source import CHECKOUT
from vm.cache import digest

LIST = CHECKOUT / "packaging/rpm/bundled.txt"
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
    made = CACHE.layer("bundled", digest(LIST.read_bytes()), _download)
    return Bundle(wheels=tuple(sorted(made.glob("*.whl"))))


def _download(draft: Path) -> None:
    say("downloading what the rpms bring along (once)")
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"),
        *("--only-binary=:all:", f"--dest={draft}", f"--requirement={LIST}"),
        seconds=_SECONDS,
    )
