"""`./dev test` without arguments runs every test that needs no separate machine."""

from __future__ import annotations

import re

from sidespawn.setup.systemd import PACKAGE
from tests.conftest import ONLY_WHEN_NAMED

CHECKOUT = PACKAGE.parent.parent


def test_the_two_sides_are_all_tests() -> None:
    sides = re.findall(r"^(?:first|second)_side=\((.*)\)$", (CHECKOUT / "dev").read_text(), re.MULTILINE)
    named = [folder for side in sides for folder in side.split()]
    there = {path.parent for path in (CHECKOUT / "tests").glob("*/test_*.py")} - set(ONLY_WHEN_NAMED)
    assert len(sides) == 2
    assert sorted(named) == sorted(path.name for path in there)
