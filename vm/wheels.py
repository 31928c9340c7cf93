"""Downloads Python packages for a machine, which has no network, for the machine's version of Python."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from vm import programs
from vm.cache import CHECKOUT, Cache, digest, say
from vm.errors import VmError

# Fuzzing happens on the development machine, and for the newest Pythons there is no atheris.
_MAY_BE_MISSING = "atheris"
_DOWNLOAD_SECONDS = 1800
_NOT_TO_BE_HAD = "No matching distribution found"
_document = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def requirements() -> tuple[str, ...]:
    """Return what `pip install -e '.[dev]'` asks for, and what it builds with."""
    project = _document["project"]
    wanted = (
        *_document["build-system"]["requires"],
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
    )
    return tuple(sorted(wanted))


def environment() -> tuple[object, ...]:
    """Return what of pyproject.toml a virtual environment is made from."""
    return (requirements(), _document["project"]["scripts"])


def ensure_wheels(cache: Cache, python: str) -> Path:
    """Return the directory with wheels for a version of Python such as 3.13; needs the network the first time."""
    wanted = requirements()
    name = f"{python}-{digest(wanted)}"
    return cache.layer("wheels", name, lambda draft: _download(draft, python, wanted))


def _download(draft: Path, python: str, wanted: tuple[str, ...]) -> None:
    say(f"downloading packages for Python {python} (once)")
    optional = [each for each in wanted if each.startswith(_MAY_BE_MISSING)]
    _pip_download(draft, python, [each for each in wanted if each not in optional])
    for each in optional:
        try:
            _pip_download(draft, python, [each])
        except VmError as error:
            if _NOT_TO_BE_HAD not in str(error):
                raise
            say(f"there is no {each} for Python {python}: machines go without")
            wanted = tuple(other for other in wanted if other != each)
    (draft / "requirements.txt").write_text("".join(f"{each}\n" for each in wanted))


def _pip_download(draft: Path, python: str, wanted: list[str]) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--only-binary=:all:", f"--python-version={python}")
    programs.run(
        sys.executable, "-m", "pip", "download", *options, f"--dest={draft}", *wanted, seconds=_DOWNLOAD_SECONDS
    )
