"""`check --examples` prints a call for each rule, and the policy allows each of them."""

from __future__ import annotations

import pytest

from sidespawn import presets
from sidespawn.authoring.example_calls import example_calls
from sidespawn.core.decide import decide
from tests.unit.shipped import preset
from tests.unit.small import load, start_request


@pytest.mark.parametrize("name", presets.names())
def test_every_rule_of_a_preset_has_an_example_that_is_allowed(name: str) -> None:
    policy = preset(name)
    calls = example_calls(policy)
    assert {call.rule for call in calls} == {"what is required"} | {
        each.option.name for each in policy.options.values() if not each.required
    }
    for call in calls:
        assert call.argv, f"{call.rule}: {call.problem}"
        decide(policy, start_request(call.argv, call.netns, {}), lambda _beneath: None)


def test_a_rule_that_no_call_fits_says_why() -> None:
    policy = load(
        ('name = { value = "<tag>", most = 2 }', 'name = "{tag}"'),
        ("[request]", 'tag = "<uuid>"\nx = "{net}"\n[request]'),
    )
    assert all(call.argv for call in example_calls(policy))
    policy = load(
        ('name = { value = "<tag>", most = 2 }', 'name = { value = "x", instead = "{other}" }'),
        ("[request]", 'other = "<uuid>"\n[request]'),
    )
    problems = {call.rule: call.problem for call in example_calls(policy) if not call.argv}
    assert problems == {"name": "a name in {other} is not bound (small.toml:25)"}
