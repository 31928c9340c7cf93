"""Each Neutron release, run again, makes the calls recorded in tests/data/neutron_matrix.jsonl.

tests/unit/test_release_matrix.py judges that record by the presets, and compares the table of docs/neutron.md with it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.neutron.record import CORPUS, RELEASES, Release, record


def recorded(release: Release) -> list[dict[str, Any]]:
    calls = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    return [call for call in calls if release.name in call.pop("releases")]


@pytest.mark.long
@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_it_calls_what_was_recorded(release: Release) -> None:
    found = record(release)
    assert found, "no call at all"
    was = recorded(release)
    assert [call for call in found if call not in was] == [], "calls that the record lacks"
    assert [call for call in was if call not in found] == [], "calls that the release no longer makes"
