"""Agents run while the host changes between this version and the previous one, 0.1.0, in both directions.

The agent's container is not restarted: it keeps the mounts of the wrapper's inode and the spool from the other version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.system.processes import Output
from sidespawn.testing.agent import AgentContainer
from tests.lab.before import Before, unpack
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, SLOWNESS, Network, Service, command

AGENT_IMAGE = "localhost/sidespawn-agent:latest"
WRAPPER, KILL = "/usr/sbin/dnsmasq", "/etc/neutron/kill_scripts/dnsmasq-kill"
CONFIGURATION = "/var/lib/neutron/extra.conf"
PRESET = "--preset=neutron-dhcp-dnsmasq"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    return unpack(tmp_path_factory.mktemp("before")).without_private_network()


@pytest.fixture(params=["podman", "systemd"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Prepare a service that is not enabled yet."""
    made = new_service(engine=request.param)
    made.state.joinpath("extra.conf").write_text("log-queries\n")
    yield made
    made.clean()


@pytest.fixture
def agent(service: Service) -> Iterator[AgentContainer]:
    """Prepare an agent that is not started yet."""
    made = AgentContainer(name=f"agent-{service.name}", image=AGENT_IMAGE, state=service.state)
    yield made
    made.remove()


def settings(service: Service) -> tuple[str, ...]:
    return (service.name, PRESET, f"--engine={service.engine}", f"--set=state_on_host={service.state}")


def ask(agent: AgentContainer, network: Network, *argv: str) -> Output:
    return agent.exec_in(network.netns, f"dnsmasq-{network.id}", argv, timeout=120 * SLOWNESS)


def start(agent: AgentContainer, network: Network) -> int:
    """Start it and return its pid."""
    done = ask(agent, network, WRAPPER, *network.options(CONFIGURATION))
    assert done.code == 0, done.stderr
    return network.pid


def text_in_the_side_container(pid: int) -> str:
    return Path(f"/proc/{pid}/root{CONFIGURATION}").read_text()


def all_that_an_agent_does(agent: AgentContainer, running: Network, pid: int, others_pid: int) -> None:
    """Do that with what ran before the change, and with a network that comes after it."""
    service = running.service
    assert start(agent, running) == pid
    service.state.joinpath("extra.conf").write_text(f"cache-size={pid % 1000}\n")
    assert ask(agent, running, KILL, "HUP", str(pid)).code == 0
    assert text_in_the_side_container(pid) == f"cache-size={pid % 1000}\n"
    later = service.network()
    assert start(agent, later) not in (pid, others_pid)
    refused = ask(agent, later, WRAPPER, *later.options(), "--dhcp-script=/tmp/x")
    assert (refused.code, "option-not-allowed" in refused.stderr) == (77, True)
    for network in (running, later):
        assert ask(agent, network, KILL, "15", str(network.pid)).code == 0
    assert len(service.containers(every=False)) == 1


def test_an_agent_of_the_version_before_is_served_by_this_one(
    service: Service, agent: AgentContainer, before: Before
) -> None:
    running, other = service.network(), service.network()
    agent = replace(agent, service_options=tuple(before.enable(*settings(service))["podman_options"]))
    agent.start()
    pid, others_pid = start(agent, running), start(agent, other)
    service.enable()
    all_that_an_agent_does(agent, running, pid, others_pid)
    assert other.pid == others_pid
    assert Path(f"/proc/{others_pid}").exists()


def test_an_agent_of_this_version_is_served_by_the_one_before(
    service: Service, agent: AgentContainer, before: Before
) -> None:
    running, other = service.network(), service.network()
    enabled = json.loads(command(*SIDESPAWN, "enable", *settings(service), "--json").stdout)
    agent = replace(agent, service_options=tuple(enabled["podman_options"]))
    agent.start()
    pid, others_pid = start(agent, running), start(agent, other)
    wrapper = service.wrapper.read_bytes()
    before.enable(service.name)
    service.wrapper.write_bytes(wrapper)  # which the previous version replaced in place
    all_that_an_agent_does(agent, running, pid, others_pid)
    assert other.pid == others_pid
    assert Path(f"/proc/{others_pid}").exists()
