"""Exports the source to build: a copy of a checkout's files, with the time of its last commit."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from release.errors import BuildError
from release.programs import run

CHECKOUT = Path(__file__).resolve().parent.parent
PLACE = "src/sidespawn/__init__.py"
_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
_PERSON = re.compile(r"[^<>@,\x00-\x1f]+ <[^<>@,\s]+@[^<>@,\s]+>")  # as a field of debian/control
_VALID = re.compile(r"\d+(\.\d+){1,2}((a|b|rc)\d+)?(\.dev\d+)?")  # of PEP 440, what is in use here


@dataclass(frozen=True, kw_only=True)
class Source:
    """`epoch`, the time of the last commit, and `maintainer`, who answers for packages, go into all that is built."""

    tree: Path
    version: str
    epoch: int
    maintainer: str

    @property
    def distributions_version(self) -> str:
        """Return the version as dpkg and rpm compare it: a pre-release follows a tilde."""
        return re.sub(r"\.?(a|b|rc|dev)(\d+)", r"~\1\2", self.version)

    @property
    def environment(self) -> dict[str, str]:
        return {"SOURCE_DATE_EPOCH": str(self.epoch), "PYTHONDONTWRITEBYTECODE": "1"}


def read_version(tree: Path) -> str:
    found = _VERSION.search((tree / PLACE).read_text(encoding="utf-8"))
    if found is None:
        raise BuildError(f"{PLACE} names no version")
    return check_version(found[1])


def check_version(version: str) -> str:
    if not _VALID.fullmatch(version):
        raise BuildError(f"{version!r} is not a version such as 1.2.3, 1.2.3rc1 or 1.2.3.dev0")
    return version


def write_version(tree: Path, version: str) -> None:
    path = tree / PLACE
    path.write_text(_VERSION.sub(f'__version__ = "{check_version(version)}"', path.read_text(encoding="utf-8")))


def git(checkout: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    return run("git", "-C", str(checkout), *arguments, seconds=120, environment=environment)


def maintainer(checkout: Path) -> str:
    """Return the packages' maintainer: from Debian's variables, else the last commit's committer."""
    name, address = (os.environ.get(each, "") for each in ("DEBFULLNAME", "DEBEMAIL"))
    if not name or not address:
        name, address = git(checkout, "log", "-1", "--format=%cn%n%ce").splitlines()
    if not _PERSON.fullmatch(found := f"{name} <{address}>"):
        raise BuildError(f"{found!r} cannot be the maintainer of a package: set DEBFULLNAME and DEBEMAIL")
    return found


def export(checkout: Path, target: Path, version: str = "") -> Source:
    """Copy files that git knows or would add, unchanged. `version` builds a different one, to test an upgrade."""
    listed = git(checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    epoch = int(git(checkout, "log", "-1", "--format=%ct"))
    for name in sorted(set(listed.split("\0")) - {""}):
        source, copy = checkout / name, target / name
        if not source.is_file() and not source.is_symlink():
            continue  # removed, and git not told yet
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy, follow_symlinks=False)
        if not copy.is_symlink():
            copy.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    if version:
        write_version(target, version)
        epoch += 1  # what Python compiled of the other version, it knows by time and size of the source
    set_times(target, epoch)
    return Source(tree=target, version=read_version(target), epoch=epoch, maintainer=maintainer(checkout))


def set_times(directory: Path, epoch: int) -> None:
    for path in (directory, *directory.rglob("*")):
        os.utime(path, (epoch, epoch), follow_symlinks=False)
