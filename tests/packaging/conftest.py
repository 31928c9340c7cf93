"""All published files, built once for these tests; `./dev test` has prepared what needs the network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from release import packages
from release.bundle import Bundle, ensure_bundle
from release.root import Root, building
from release.source import CHECKOUT, Source, export


@dataclass(frozen=True, kw_only=True)
class Built:
    """Build results. `root` has the directory of the packages at /build."""

    root: Root
    source: Source
    sdist: Path
    wheel: Path
    deb: Path
    rpms: dict[int, Path]  # by Enterprise Linux version
    newer_rpm: Path  # for version 10, of NEWER
    bundle: Bundle

    def shown(self, path: Path) -> str:
        return f"/build/{path.relative_to(self.root.build)}"

    def script(self, *lines: str) -> str:
        """Return what a shell prints in the root. Its changes there are discarded."""
        return self.root.run("/bin/sh", "-ec", "\n".join(lines))


NEWER = "99.0.0"


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    bundle = ensure_bundle()
    with building() as root, building() as other:
        source = export(CHECKOUT, root.build / "source")
        sdist, wheel = packages.build_python(root, source)
        rpms = packages.build_rpms(root, source, sdist, bundle)
        newer = export(CHECKOUT, other.build / "source", NEWER)
        newer_sdist, _ = packages.build_python(other, newer)
        (newer_rpm,) = packages.build_rpms(other, newer, newer_sdist, bundle, packages.ENTERPRISES[1:])
        yield Built(
            root=root,
            source=source,
            sdist=sdist,
            wheel=wheel,
            deb=packages.build_deb(root, source, sdist),
            rpms={int(rpm.name.partition(".el")[2].partition(".")[0]): rpm for rpm in rpms},
            newer_rpm=Path(shutil.copy(newer_rpm, root.build)),
            bundle=bundle,
        )
