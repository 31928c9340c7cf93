"""Makes the root that packages are built in, once: the oldest Debian release that they support, with its tools.

A command in it has its own namespaces without a network, and its changes outside /build are discarded. So nothing
depends on the machine, and nothing is left behind.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from release.programs import run, say
from release.source import CHECKOUT
from sidespawn.testing.images import apt_options, sources_of
from vm.cache import Cache, digest

RELEASE = "bookworm"
CACHE = Cache(top=CHECKOUT / ".cache/release")
# Beside what debian/control.in asks for: what calls the build, what checks its results, and rpm.
_TOOLS = ("dpkg-dev", "lintian", "man-db", "rpm")
_LEFT_OUT = ("doc", "info", "locale")
_RECIPE_VERSION = 2  # raise it to make a new root of the same packages
_MAKING_SECONDS, _SECONDS = 900, 300
# $1 is the root, $2 the directory of the build; the rest is the command. The mounts are gone with the namespace.
_ENTER = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
mount --bind "$2" /mnt/root/build
mount -t proc proc /mnt/root/proc
shift 2
exec chroot /mnt/root "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Root:
    """`directory` is the root, `build` what it shows at /build."""

    directory: Path
    build: Path

    def run(self, *argv: str, directory: str = "/build", environment: Mapping[str, str] | None = None) -> str:
        """Run a command. Raises BuildError with all its output if it fails."""
        own = ("unshare", "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child", "sh", "-ec", _ENTER, "enter")
        return run(
            *own, str(self.directory), str(self.build), "env", f"--chdir={directory}", *argv,
            seconds=_SECONDS, called=" ".join(argv),
            environment={"HOME": "/tmp", **(environment or {})},  # noqa: S108 - the root's own
        )  # fmt: skip


def packages() -> tuple[str, ...]:
    """Return what the root consists of."""
    control = (CHECKOUT / "packaging/debian/control.in").read_text(encoding="utf-8")
    listed = re.search(r"^Build-Depends:((?:\n .*)+)", control, re.MULTILINE)
    needed = re.findall(r"^ ([\w.+-]+)", listed[1], re.MULTILINE) if listed else []
    of_debhelper = {"debhelper-compat": "debhelper"}
    return tuple(sorted({*(of_debhelper.get(each, each) for each in needed), *_TOOLS}))


def ensure_root() -> Path:
    """Makes the root unless it is there; needs the network then."""
    return CACHE.layer("root", digest(_RECIPE_VERSION, RELEASE, packages()), _make)


def _make(root: Path) -> None:
    say(f"making a root of {RELEASE} to build in (once)")
    root.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="sidespawn-sources-") as scratch:
        run(
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=directory"),
            f"--include={','.join(packages())}",
            *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _LEFT_OUT),
            *(f"--aptopt={option}" for option in apt_options()),
            *(RELEASE, str(root), *map(str, sources_of(RELEASE, Path(scratch)))),
            seconds=_MAKING_SECONDS,
        )
    (root / "build").mkdir()


@contextmanager
def building() -> Iterator[Root]:
    """Yield a root with an empty directory for one build."""
    root = ensure_root()
    with tempfile.TemporaryDirectory(prefix="sidespawn-build-") as build:
        yield Root(directory=root, build=Path(build))
