"""Unreleased changes in changelog.d have the form that changelog.d/README.md describes."""

from __future__ import annotations

import re
from pathlib import Path

FRAGMENTS = Path(__file__).parents[2] / "changelog.d"
NAME = re.compile(r"\+[\w.-]+\.(added|changed|deprecated|removed|fixed|security)\.md|README\.md")


def test_what_is_not_released_yet_can_be_collected() -> None:
    names = [path.name for path in FRAGMENTS.iterdir()]
    assert [name for name in names if not NAME.fullmatch(name)] == []
    for path in FRAGMENTS.glob("+*.md"):
        first, *others = path.read_text().splitlines()
        assert not first.startswith(("-", " "))
        assert [line for line in others if not line.startswith(("- ", "  "))] == []
