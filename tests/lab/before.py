"""The previous version, 0.1.0, as a second installation on this host: its commit, unpacked next to the checkout.

Any other commit in the checkout's history works as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.networks import command

CHECKOUT = Path(__file__).parents[2]
COMMIT = "1889334"
# A machine has no history; this is the copy that was brought there.
ARCHIVE = CHECKOUT / ".cache/before.tar"
# It prevents every start with systemd 254 or later; see test_mount_namespaces.py.
PRIVATE_NETWORK = "PrivateNetwork=yes\n"


def archive(commit: str = COMMIT) -> bytes:
    if commit == COMMIT and ARCHIVE.exists():
        return ARCHIVE.read_bytes()
    done = subprocess.run(
        ("git", "archive", "--format=tar", commit, "src"), cwd=CHECKOUT, stdout=subprocess.PIPE, check=True, timeout=60
    )
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Before:
    source: Path  # the directory with the package

    @property
    def package(self) -> Path:
        return self.source / "sidespawn"

    @property
    def units(self) -> list[Path]:
        """Return the units with the drop-ins for each engine."""
        return sorted((self.package / "units").iterdir())

    def sidespawn(self, *arguments: str) -> str:
        environment = (f"PYTHONPATH={self.source}", "PYTHONSAFEPATH=1")
        return command("env", *environment, sys.executable, "-m", "sidespawn.cli.main", *arguments).stdout

    def enable(self, *arguments: str) -> dict[str, Any]:
        return dict(json.loads(self.sidespawn("enable", *arguments, "--json")))

    def without_private_network(self) -> Before:
        """Remove the option that keeps 0.1.0 from working on this host, as its operators had to."""
        for unit in self.units:
            unit.write_text(unit.read_text().replace(PRIVATE_NETWORK, ""))
        return self


def unpack(directory: Path, commit: str = COMMIT) -> Before:
    subprocess.run(("tar", "--extract", f"--directory={directory}"), input=archive(commit), check=True, timeout=60)
    made = Before(source=directory / "src")
    if sys.version_info >= (3, 14):  # whose code that version cannot express
        directories = made.package / "host/directories.py"
        directories.write_text(directories.read_text().replace('"exec"), 2)', '"exec"))'))
    return made
