"""Neutron's Dnsmasq driver: leases of both families, segments, many networks at once."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from sidespawn.testing.network import Lan, remove_namespace
from tests.lab.networks import command, wait_until
from tests.neutron import networks
from tests.neutron.agents import MANAGER, STATE, WRAPPERS, Agent
from tests.neutron.helpers import connect, lan

both_ways = pytest.mark.parametrize(
    "agent", [("dhcp", way) for way in (WRAPPERS, MANAGER)], indirect=True, ids="-".join
)
NETWORKS, THREADS = 50, 8


def ask_for_ipv6(lan: Lan, state: Path) -> str:
    """Return what a DHCPv6 client gets; it keeps running in its namespace and ends with that."""
    netns, leases = lan.clients[0].netns, state / f"{lan.name}.leases6"
    show = ("ip", "-n", netns, "-6", "address", "show", "dev", "eth0", "scope", "link")
    wait_until(lambda: "fe80::" in (shown := command(*show).stdout) and "tentative" not in shown)
    files = ("-lf", str(leases), "-pf", str(state / f"{lan.name}.pid6"), "-sf", "/bin/true", "-cf", "/dev/null")
    command("ip", "netns", "exec", netns, "dhclient", "-6", "-1", "-D", "LL", *files, "eth0")
    return leases.read_text()


@both_ways
def test_clients_get_leases_of_both_families(agent: Agent) -> None:
    network = networks.network(networks.subnet("10.20.0.0/24"), networks.subnet("2001:db8::/64"))
    networks.add_port(network, networks.MACS[0], 10)
    with lan(agent, network["id"]) as made:
        agent.do("dnsmasq", "start", {"network": network})
        connect(made)
        lease = made.clients[0].ask()
        assert lease is not None
        assert (lease.address, lease.router, lease.server, lease.mtu) == (
            "10.20.0.10",
            "10.20.0.1",
            "10.20.0.2",
            "1450",
        )
        assert "iaaddr 2001:db8::a {" in ask_for_ipv6(made, agent.state)
        agent.do("dnsmasq", "stop", {"network": network})
    assert not os.path.lexists(f"/run/netns/qdhcp-{network['id']}")
    assert agent.services["dnsmasq"].containers() == {}


@both_ways
def test_a_segment_has_a_dnsmasq_of_its_own(agent: Agent) -> None:
    segment = {"id": str(uuid.uuid4()), "segmentation_id": 100}
    subnet = networks.subnet("10.20.1.0/24", segment_id=segment["id"])
    network = networks.network(subnet, segments=[segment])
    networks.add_port(network, networks.MACS[0], 10)
    of = {"network": network, "segment": segment}
    with lan(agent, network["id"]) as made:
        agent.do("dnsmasq", "start", of)
        connect(made)
        status = agent.ask("status", helper="dnsmasq", of=of)
        assert status["active"]
        assert (agent.state / "dhcp/100" / network["id"] / "pid").read_text().strip() == str(status["pid"])
        assert f"{STATE}/dhcp/100/{network['id']}/host" in Path(f"/proc/{status['pid']}/cmdline").read_text()
        lease = made.clients[0].ask()
        assert lease is not None
        assert lease.address == "10.20.1.10"
        agent.do("dnsmasq", "stop", of)
    assert agent.services["dnsmasq"].containers() == {}


def assert_a_foreign_pid_does_not_count(agent: Agent, network: networks.Json, other: networks.Json) -> None:
    """After a reboot, a pid file may hold the pid of another network's dnsmasq."""
    own, foreign = (agent.state / "dhcp" / each["id"] / "pid" for each in (network, other))
    pid = own.read_text()
    own.write_text(foreign.read_text())
    assert not agent.ask("status", helper="dnsmasq", of={"network": network})["active"]
    own.write_text(pid)
    assert agent.ask("status", helper="dnsmasq", of={"network": network})["active"]


@both_ways
def test_fifty_networks_in_eight_threads(agent: Agent) -> None:
    made = [networks.network(networks.subnet("10.20.0.0/24")) for _ in range(NETWORKS)]
    try:
        statuses = agent.ask("start_many", networks=made, threads=THREADS)
        assert [status["active"] for status in statuses] == [True] * NETWORKS
        namespaces = [os.stat(f"/proc/{status['pid']}/ns/net").st_ino for status in statuses]
        assert namespaces == [os.stat(f"/run/netns/qdhcp-{network['id']}").st_ino for network in made]
        assert len(agent.services["dnsmasq"].containers(every=False)) == NETWORKS
        assert_a_foreign_pid_does_not_count(agent, *made[:2])
        agent.ask("stop_many", networks=made, threads=THREADS)
        assert agent.services["dnsmasq"].containers() == {}
        assert agent.services["dnsmasq"].journal(reason="internal") == []
    finally:
        for network in made:
            remove_namespace(f"qdhcp-{network['id']}")
