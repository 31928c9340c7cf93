"""Neutron in the recipe of `sidespawn agent-options`: no root, an own list of system calls, no host pids, no sudo.

The drivers for all helpers of each agent, and the real DHCP agent. The table in docs/neutron.md says what they do; uid
and capabilities of helpers differ if the agent's files are not root's.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sidespawn.testing.agent import NEUTRON, namespaces_of_a_group, process_status
from tests.lab.networks import command
from tests.neutron import table, test_daemon, test_lives
from tests.neutron.agents import MANAGER, Agent
from tests.neutron.helpers import all_of

OF_THE_PROCESS = ("uid", "capabilities")


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    command("ip", "netns", "add", "sidespawn-first")  # so that the directory exists, and is a mount
    command("ip", "netns", "delete", "sidespawn-first")
    with namespaces_of_a_group():
        yield


@pytest.fixture
def contained(request: pytest.FixtureRequest) -> Iterator[Agent]:
    kind, script = request.param
    made = Agent(kind, MANAGER, interval=int(script == "daemon.py"), contained=True)
    try:
        made.enable()
        made.start(script)
        yield made
    finally:
        made.clean()


@pytest.mark.parametrize("contained", [(kind, "drivers.py") for kind in ("dhcp", "l3", "ovn")], indirect=True)
def test_each_helper_lives_as_the_docs_say(contained: Agent) -> None:
    expect_contained(contained)
    try:
        with all_of(contained) as helpers:
            measured = test_lives.live(contained, helpers)
    except AssertionError as failed:
        failed.add_note(contained.trouble())
        raise
    documented = table.read()
    for preset, row in measured.items():
        for what in row.keys() - OF_THE_PROCESS:
            assert row[what] == documented[preset][what], (preset, what, contained.trouble())


@pytest.mark.parametrize("contained", [("dhcp", "daemon.py")], indirect=True)
def test_the_dhcp_agent_itself(contained: Agent) -> None:
    expect_contained(contained)
    test_daemon.test_networks_and_ports_come_and_go_and_everything_is_killed_once(contained)
    assert "sudo" not in contained.log()


def expect_contained(agent: Agent) -> None:
    """Check the first process, and each that Neutron has started in it by now."""
    status = process_status(agent.container.pid())
    assert status["Uid"].split() == [str(NEUTRON)] * 4
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["CapBnd"] == status["CapAmb"] == status["CapEff"]
    seen = agent.container.exec(("ls", "/proc"), user=NEUTRON, code=0).stdout.split()
    assert sum(each.isdecimal() for each in seen) < 40, "it sees the host's pids"
