"""A compiled policy says the same as its source; a damaged one is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidespawn import presets
from sidespawn.core import compiled
from sidespawn.core.options import Takes
from sidespawn.core.plan import Limits
from tests.unit.shipped import preset
from tests.unit.small import decide, load, request

LIMITS = Limits(memory=1, tasks=2, open_files=3)


def there_and_back(value: object) -> Any:
    return compiled.load(json.loads(json.dumps(compiled.dump(value))))


@pytest.mark.parametrize("name", presets.names())
def test_every_shipped_policy_comes_back_as_it_was(name: str) -> None:
    policy = preset(name)
    again = there_and_back(policy)
    assert again == policy
    assert repr(again) == repr(policy)  # which distinguishes tuples from lists, and enums from text


def test_verdicts_are_the_same() -> None:
    policy = load()
    assert decide(there_and_back(policy), request("--quiet")) == decide(policy, request("--quiet"))


@pytest.mark.parametrize("value", [(), (1, (2.5, None)), {"a": ("b",)}, True, "", Takes.VALUE, (LIMITS, LIMITS)])
def test_values_come_back_with_their_types(value: object) -> None:
    again = there_and_back(value)
    assert (again, type(again)) == (value, type(value))


@pytest.mark.parametrize("value", [b"", [1], {1, 2}, (object(),), {"a": [1]}, lambda: 0])
def test_what_has_no_spelling_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="a policy cannot hold"):
        compiled.dump(value)


DAMAGED: tuple[dict[str, Any], ...] = (
    {},
    {"kinds": []},
    {"value": 1},
    {"kinds": [], "value": [1, 2]},
    {"kinds": [], "value": []},
    {"kinds": [], "value": ["a"]},
    {"kinds": ["sidespawn.core.plan.Limits"], "value": [1, 2]},
    {"kinds": ["sidespawn.core.plan.Limits"], "value": [1, 2, 3, 4, 5]},
    {"kinds": ["sidespawn.core.plan.NoSuchThing"], "value": 1},
    {"kinds": ["sidespawn.core.nothing.Limits"], "value": 1},
    {"kinds": ["sidespawn.core.options.Takes"], "value": [1, "no such thing"]},
    {"kinds": [1], "value": 1},
    {"kinds": ["os.system"], "value": [1, "true"]},
    {"kinds": ["sidespawn.system.files.read_trusted"], "value": [1, "/etc/passwd"]},
    {"kinds": ["sidespawn.core.values.is_path"], "value": [1, "/"]},
)


@pytest.mark.parametrize("content", DAMAGED)
def test_anything_else_is_an_error_that_the_reader_expects(content: dict[str, Any]) -> None:
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        compiled.load(content)
