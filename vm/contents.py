"""Makes contents of a disk besides Debian's packages: a virtual environment as `./dev` makes it, and podman's images.

The unpacked system's own programs make both, in a chroot and with private mounts. So the result is what the machine
itself would make, at the speed of this machine.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path

from sidespawn.testing import images
from vm import checkout, programs, wheels
from vm.cache import CHECKOUT, Cache
from vm.checkout import HOME
from vm.errors import VmError
from vm.recipes import Recipe

_SECONDS = 1800
# In the chroot; a tmpfs that is gone with the mounts.
_SENT = "/tmp/sent"  # noqa: S108

_MOUNTED = """
set -e
root={root}
mount --bind "$root" "$root"
mount --rbind --make-private /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir "$root{sent}"
mount --bind {files} "$root{sent}"
exec chroot "$root" /bin/bash -ec {script}
"""
_SCRIPT = """
cd {home}
python3 -m venv .venv
pip() {{ .venv/bin/pip install --quiet --disable-pip-version-check --no-index --find-links={sent}/wheels "$@"; }}
pip -r {sent}/wheels/requirements.txt
pip --no-deps -e .
.venv/bin/python -m sidespawn.testing.images --cache={sent}/images
"""


def install(root: Path, cache: Cache, recipe: Recipe) -> None:
    """Puts them into the unpacked system."""
    python = (root / "usr/bin/python3").readlink().name.removeprefix("python")
    packages = wheels.ensure_wheels(cache, python)
    try:
        tars = images.build_tars(CHECKOUT / ".cache/images", suite=str(recipe.release))
    except images.ImageError as error:
        raise VmError(str(error)) from error
    home = root / HOME.removeprefix("/")
    home.mkdir()
    checkout.unpack(home)
    with tempfile.TemporaryDirectory(dir=cache.top, prefix="sent-") as scratch:
        sent = Path(scratch)
        (sent / "wheels").mkdir()
        for each in packages.iterdir():
            (sent / "wheels" / each.name).hardlink_to(each)
        (sent / "images").mkdir()
        for tar in tars:
            # There the suite is the system's own, and not in the name.
            shutil.copyfile(tar, sent / "images" / tar.name.replace(f"-{recipe.release}-", "-"))
        script = _SCRIPT.format(home=HOME, sent=_SENT)
        mounted = _MOUNTED.format(
            root=shlex.quote(str(root)), files=shlex.quote(str(sent)), sent=_SENT, script=shlex.quote(script)
        )
        programs.run("unshare", "--mount", "--propagation=private", "/bin/bash", "-c", mounted, seconds=_SECONDS)
