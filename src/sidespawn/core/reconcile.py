"""Decides what to do about an instance, from the current and the requested state.

nothing is known of it              start
it runs, as the plan wants it       keep
it runs, but not so                 replace
it ended because it was asked to    start, after clearing up
it ended by itself                  start, after clearing up and saying so
it ended by itself, and soon        the same, and it counts as a fall
"""

from __future__ import annotations

from enum import Enum

from sidespawn.frozen import dataclass

STEADY_SECONDS = 60.0  # a program that lived this long has not ended right after its start


class Action(Enum):
    KEEP = "keep"
    REPLACE = "replace"
    START = "start"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The facts about an instance with a record: from root's own records, the kernel and the plan."""

    is_running: bool
    is_same: bool  # from an equal plan, with equal configuration files
    is_there: bool  # in the network namespace that now has the plan's name
    was_asked_to_end: bool  # by a request that is being retried, since a run was killed while serving it
    age: float  # seconds since its start


@dataclass(frozen=True, kw_only=True)
class Step:
    """The step to take. `clears`: remove the record and other remains. `tells`: report that it exited by itself."""

    action: Action
    clears: bool = False
    tells: bool = False
    counts_as_fall: bool = False


def reconcile(standing: Standing | None) -> Step:
    if standing is None:
        return Step(action=Action.START)
    if standing.is_running:
        return Step(action=Action.KEEP if standing.is_same and standing.is_there else Action.REPLACE)
    by_itself = not standing.was_asked_to_end
    return Step(
        action=Action.START, clears=True, tells=by_itself, counts_as_fall=by_itself and standing.age < STEADY_SECONDS
    )
