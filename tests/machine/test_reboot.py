"""After a reboot, and after the power failed: units, mounts, agents and their helpers come back with nothing by hand.

The agent is a Quadlet unit, that of docs/agents.md as it stands there. One agent has its side containers from podman,
another from systemd, each with two networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.machine.agents import UNIT, Agent, make_image
from vm.machine import Machine

pytestmark = pytest.mark.usefixtures("with_selinux_module")

# Debian's own systemd-network-generator.service fails at each boot where SELinux enforces its policy.
FAILED = f"systemctl list-units --failed --plain --no-legend 'sidespawn*' 'libpod*' '{UNIT}*'"
TRACES = f"podman ps --all --format '{{{{.Names}}}}'; ip netns list; {FAILED}"


@pytest.fixture(scope="module")
def agents(machine: Machine) -> Iterator[tuple[Agent, ...]]:
    """Running, with their dnsmasqs."""
    make_image(machine)
    made = (
        Agent(machine=machine, engine="podman"),
        Agent(machine=machine, engine="systemd", suffix="-2"),
    )
    for agent in made:
        agent.enable()
    for agent in made:
        agent.wait_until_served()
    yield made
    for agent in made:
        agent.disable()
    assert machine.run(TRACES).stdout == ""


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(Machine.reboot, id="reboot", marks=[pytest.mark.part("reboot"), pytest.mark.short]),
        pytest.param(Machine.power_cut, id="power cut", marks=pytest.mark.part("power-cut")),
    ],
)
def test_everything_comes_back_by_itself(
    machine: Machine, agents: tuple[Agent, ...], end: Callable[[Machine], None]
) -> None:
    boot = machine.boot_id()
    end(machine)
    assert machine.boot_id() != boot
    for agent in agents:
        agent.wait_until_served()
        units = f"sidespawn-spool@{agent.service}.service sidespawn@{agent.service}.{{socket,timer}} {agent.unit}"
        assert machine.run(f"systemctl is-active {units}").stdout.split() == ["active"] * 4
        assert machine.run(f'sidespawn logs {agent.service} --refused --since="$(uptime --since)"').stdout == ""
