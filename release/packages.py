"""Builds the published files of a source tree: sdist and wheel, Debian package, rpms. Each from the sdist.

All builds run in the build root, without a network. They use the time of the last commit, and two builds of the same
commit give the same bytes.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from release.bundle import Bundle
from release.errors import BuildError
from release.root import Root
from release.source import Source, set_times

DEBIAN = "packaging/debian"
SPECIFICATION = "packaging/rpm/sidespawn.spec"
_CALL_BACKEND = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


@dataclass(frozen=True, kw_only=True)
class Enterprise:
    """An Enterprise Linux that an rpm is made for: its number, the packages of its Python and PyYAML, the program."""

    number: int
    requires: str
    yaml: str
    python: str


# The default Python of 9 is 3.9; AppStream has 3.12 beside it, from 9.4 on.
ENTERPRISES = (
    Enterprise(number=9, requires="python3.12", yaml="python3.12-pyyaml", python="/usr/bin/python3.12"),
    Enterprise(number=10, requires="python3 >= 3.12", yaml="python3-pyyaml", python="/usr/bin/python3"),
)


def build_python(root: Root, source: Source) -> tuple[Path, Path]:
    """Build sdist and wheel, in the root's build directory."""
    made = root.build / "python"
    made.mkdir()
    shutil.copytree(source.tree, root.build / "tree", symlinks=True)
    backend = ("python3", "-c", _CALL_BACKEND)
    root.run(*backend, "build_sdist", "/build/python", directory="/build/tree", environment=source.environment)
    (sdist,) = made.glob("*.tar.gz")
    make_reproducible(sdist, source.epoch)
    tree = unpack(sdist, root.build / "of-sdist", source)
    root.run(
        *backend, "build_wheel", "/build/python", directory=f"/build/of-sdist/{tree.name}",
        environment=source.environment,
    )  # fmt: skip
    (wheel,) = made.glob("*.whl")
    return sdist, wheel


def make_reproducible(sdist: Path, epoch: int) -> None:
    """setuptools writes down when it ran and who owned the files."""
    with tarfile.open(sdist) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        contents = {member.name: reader.read() for member in members if (reader := archive.extractfile(member))}
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            archive.addfile(member, io.BytesIO(contents[member.name]) if member.isfile() else None)
    with open(sdist, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed:
        packed.write(plain.getvalue())


def unpack(sdist: Path, target: Path, source: Source) -> Path:
    """Unpack the sdist and return its tree."""
    shutil.unpack_archive(sdist, target)
    (tree,) = target.iterdir()
    set_times(tree, source.epoch)
    return tree


def build_deb(root: Root, source: Source, sdist: Path) -> Path:
    """Debian's package, in the root's build directory."""
    tree = unpack(sdist, root.build / "deb", source)
    shutil.copytree(tree / DEBIAN, tree / "debian")
    filled = {
        "@VERSION@": source.distributions_version,
        "@DATE@": formatdate(source.epoch),
        "@MAINTAINER@": source.maintainer,
    }
    for template in (tree / "debian").glob("*.in"):
        text = template.read_text(encoding="utf-8")
        for placeholder, value in filled.items():
            text = text.replace(placeholder, value)
        template.with_suffix("").write_text(text, encoding="utf-8")
        template.unlink()
    # Unsigned: who publishes it signs the repository. Unchecked, since the root was made of the build dependencies, and
    # has no compiler, which dpkg-checkbuilddeps takes for granted.
    root.run(
        *("dpkg-buildpackage", "--build=binary", "--unsigned-source", "--unsigned-changes", "--no-check-builddeps"),
        directory=f"/build/deb/{tree.name}",
        environment={**source.environment, "DEB_BUILD_OPTIONS": "nocheck"},
    )
    (deb,) = (root.build / "deb").glob("*.deb")
    return deb


def lint_deb(root: Root, deb: Path) -> str:
    """Return what lintian says, information and pedantry included. `deb` is in the root's build directory."""
    shown = Path("/build") / deb.relative_to(root.build)
    options = ("--allow-root", "--info", "--pedantic", "--display-info", "--show-overrides", "--fail-on=none")
    return root.run("lintian", *options, str(shown))


def complaints(lintian: str) -> list[str]:
    """Return the errors and warnings in lintian's output."""
    return [line for line in lintian.splitlines() if line.startswith(("E: ", "W: "))]


def build_rpms(
    root: Root, source: Source, sdist: Path, bundle: Bundle, enterprises: tuple[Enterprise, ...] = ENTERPRISES
) -> list[Path]:
    """Build one for each Enterprise Linux, in the root's build directory."""
    top = root.build / "rpm"
    for each in ("SOURCES", "SPECS", "RPMS", "BUILD", "BUILDROOT"):
        (top / each).mkdir(parents=True)
    shutil.copy(sdist, top / "SOURCES")
    names = [Path(shutil.copy(wheel, top / "SOURCES")).name for wheel in bundle.wheels]
    tree = unpack(sdist, root.build / "of-sdist-for-rpm", source)
    specification = top / "SPECS/sidespawn.spec"
    shutil.copy(tree / SPECIFICATION, specification)
    for enterprise in enterprises:
        defined = {
            "_topdir": "/build/rpm",
            "_dbpath": "/build/rpm/database",
            "_buildhost": "localhost",
            "use_source_date_epoch_as_buildtime": "1",
            "clamp_mtime_to_source_date_epoch": "1",
            "dist": f".el{enterprise.number}",
            "sidespawn_version": source.distributions_version,
            "sidespawn_sdist": sdist.name,
            "sidespawn_requires": enterprise.requires,
            "sidespawn_yaml": enterprise.yaml,
            "sidespawn_python": enterprise.python,
            "sidespawn_wheels": " ".join(names),
            "sidespawn_bundled": " ".join(f"bundled(python3dist({name})) = {v}" for name, v in bundle.versions),
        }
        options = [word for name, value in defined.items() for word in ("--define", f"{name} {value}")]
        # Debian's rpm knows nothing of what Debian has installed.
        root.run(
            "rpmbuild", "-bb", "--nodeps", *options, "/build/rpm/SPECS/sidespawn.spec", environment=source.environment
        )
    made = sorted(top.glob("RPMS/noarch/*.rpm"))
    if len(made) != len(enterprises):
        raise BuildError(f"rpmbuild made {[path.name for path in made]}")
    return made
