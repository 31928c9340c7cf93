"""Tests with real Neutron, unmodified, in agent containers. `./dev test neutron` runs them alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import nothing_left_behind
from tests.neutron.agents import Agent

__all__ = ["nothing_left_behind"]


@pytest.fixture(scope="module")
def agent(request: pytest.FixtureRequest) -> Iterator[Agent]:
    """Run the agent of this kind with this way to request helpers, and a process with its drivers, ready for calls."""
    kind, way = request.param
    made = Agent(kind, way)
    try:
        made.enable()
        made.start()
        yield made
    finally:
        made.clean()
