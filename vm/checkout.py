"""Copies this checkout for a machine: committed and uncommitted files, without ignored ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vm.cache import CHECKOUT

HOME = "/root/sidespawn"  # in the machine
_SECONDS = 120

# Removes what an earlier checkout had besides, unpacks, and says that the virtual environment fits it, which is part of
# what the disk was made from: `./dev` there has nothing to do.
RENEW = f"""
set -e
mkdir -p {HOME}/.cache
cd {HOME}
find . -mindepth 1 -maxdepth 1 ! -name .venv ! -name .cache -exec rm -rf {{}} +
tar --extract --gzip
printf %s "{HOME} $(sha256sum pyproject.toml) $(/usr/bin/python3 --version)" >.venv/.made-from
ln -sfn {HOME}/.venv/bin/sidespawn /usr/local/bin/sidespawn
"""


def archive() -> bytes:
    """Return a compressed tar."""
    known = _output(("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"))
    names = (name for name in known.split(b"\0") if name)
    present = b"\0".join(name for name in names if (CHECKOUT / name.decode()).exists())
    options = ("--create", "--gzip", "--owner=0", "--group=0", "--null", "--files-from=-")
    return _output(("tar", *options), present)


def unpack(directory: Path) -> None:
    """Into a directory of this machine."""
    _output(("tar", "--extract", "--gzip", f"--directory={directory}"), archive())


def _output(argv: tuple[str, ...], stdin: bytes = b"") -> bytes:
    return subprocess.run(argv, cwd=CHECKOUT, input=stdin, stdout=subprocess.PIPE, check=True, timeout=_SECONDS).stdout
