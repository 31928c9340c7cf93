"""The action of a start, for each state that its instance can be in."""

from __future__ import annotations

import pytest

from sidespawn.core.reconcile import STEADY_SECONDS, Action, Standing, Step, reconcile
from sidespawn.frozen import replace

RUNS = Standing(is_running=True, is_same=True, is_there=True, was_asked_to_end=False, age=1.0)
ENDED = replace(RUNS, is_running=False)
CLEARED = Step(action=Action.START, clears=True, tells=True)


@pytest.mark.parametrize(
    ("standing", "step"),
    [
        pytest.param(None, Step(action=Action.START), id="nothing is known of it"),
        pytest.param(RUNS, Step(action=Action.KEEP), id="it runs as wanted"),
        pytest.param(replace(RUNS, age=1e9), Step(action=Action.KEEP), id="it runs as wanted, for long"),
        pytest.param(replace(RUNS, is_same=False), Step(action=Action.REPLACE), id="its plan changed"),
        pytest.param(replace(RUNS, is_there=False), Step(action=Action.REPLACE), id="its namespace was made again"),
        pytest.param(
            replace(RUNS, is_same=False, is_there=False),
            Step(action=Action.REPLACE),
            id="both plan and namespace changed",
        ),
        pytest.param(replace(RUNS, was_asked_to_end=True), Step(action=Action.KEEP), id="its replacement runs already"),
        pytest.param(ENDED, replace(CLEARED, counts_as_fall=True), id="it ended soon after its start"),
        pytest.param(replace(ENDED, age=STEADY_SECONDS), CLEARED, id="it ended after a while"),
        pytest.param(
            replace(ENDED, was_asked_to_end=True), Step(action=Action.START, clears=True), id="it was asked to end"
        ),
        pytest.param(
            replace(ENDED, is_same=False, is_there=False, age=1e9), CLEARED, id="what it was does not matter any more"
        ),
    ],
)
def test_the_table(standing: Standing | None, step: Step) -> None:
    assert reconcile(standing) == step
