"""The first layer: Debian's packages, installed, as a tar. It is the only one that needs Debian's servers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from sidespawn.testing.images import apt_options, sources_of
from vm import programs
from vm.cache import Cache, digest, say
from vm.recipes import Recipe

_VERSION = 1  # raise it to install the same packages in another way
_INSTALL_SECONDS = 1800
_UNPACK_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Packages:
    """`identity` names what was installed."""

    identity: str
    tar: Path

    def unpack(self, root: Path) -> None:
        root.mkdir()
        programs.run(
            *("tar", "--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*"),
            *(f"--directory={root}", f"--file={self.tar}"),
            seconds=_UNPACK_SECONDS,
        )


def ensure_packages(cache: Cache, recipe: Recipe) -> Packages:
    """Makes the layer unless it is there."""
    identity = digest(_VERSION, recipe.release, recipe.packages)
    layer = cache.layer("packages", f"{recipe.disk}-{identity}", lambda draft: _install(draft, recipe))
    return Packages(identity=identity, tar=layer / "root.tar")


def _install(draft: Path, recipe: Recipe) -> None:
    say(f"installing Debian's packages for {recipe.disk} (once)")
    with tempfile.TemporaryDirectory(prefix="sidespawn-sources-") as scratch:
        programs.run(
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=tar"),
            f"--include={','.join(recipe.packages)}",
            *(f"--aptopt={option}" for option in apt_options()),
            # Release files of sid may be out of date on a mirror that is not.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            *(recipe.release, str(draft / "root.tar"), *map(str, sources_of(recipe.release, Path(scratch)))),
            seconds=_INSTALL_SECONDS,
        )
