"""Debian's package on a real machine: installed, upgraded under load, removed, installed again, purged.

What happens there is in package_life.py, which runs inside.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from release.__main__ import build
from tests.machine.inner import run_inside
from vm.machine import Machine

NEWER = "99.0.0"


@pytest.mark.part("package")
def test_a_packages_life(fresh_machine: Machine, tmp_path: Path) -> None:
    debs = [build("deb", version, tmp_path)[0] for version in ("", NEWER)]
    for deb in debs:
        fresh_machine.copy_in(deb, f"/root/{deb.name}")
    paths = ":".join(f"/root/{deb.name}" for deb in debs)
    debs_inside = (f"SIDESPAWN_DEBS={paths}",)
    run_inside(fresh_machine, "-x", "-s", "tests/machine/package_life.py", timeout=300, environment=debs_inside)
