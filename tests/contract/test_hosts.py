"""docs/hosts.md says what the tests on machines found, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from tests.machine import results

MACHINE = Path(results.__file__).parent
# Literal in the sources: marks have their names as literals.
PART = re.compile(r'mark\.part\("([\w-]+)"\)')


def parts() -> set[str]:
    return {name for path in MACHINE.glob("test_*.py") for name in PART.findall(path.read_text())}


def test_the_table_is_what_was_found() -> None:
    assert results.TABLE.rows() == results.rows(results.read())
    assert results.TIMES.rows() == results.times(results.read())


def test_every_part_has_a_row() -> None:
    assert parts() == set(results.PARTS)


def test_what_was_found_is_of_parts_and_hosts_that_there_are() -> None:
    found = results.read()
    assert found.keys() <= results.HOSTS.keys()
    assert {part for each in found.values() for part in each["parts"]} <= set(results.PARTS)


def test_a_part_that_failed_is_not_shown_as_one_that_passed() -> None:
    rows = results.rows({"sid-apparmor": {"kernel": "7.2", "parts": {"reboot": False, "limits": True}}})
    shown = {what: cells for what, *cells in rows}
    assert shown["Linux"] == ["—", "—", "7.2", "—"]
    assert shown[results.PARTS["reboot"]] == ["—", "—", "**no**", "—"]
    assert shown[results.PARTS["limits"]] == ["—", "—", "yes", "—"]


def test_the_time_of_a_part_that_failed_is_not_shown() -> None:
    took = {"parts": {"reboot": False, "limits": True, "lab": True}, "seconds": {"reboot": 3, "limits": 90}}
    shown = {what: cells for what, *cells in results.times({"sid-apparmor": took})}
    assert shown["`reboot`"] == ["—", "—", "—", "—"]
    assert shown["`limits`"] == ["—", "—", "1.5", "—"]
    assert shown["`lab`"] == ["—", "—", "—", "—"]
