"""The real neutron-dhcp-agent, run from its own main: networks and ports come and go, helpers and agent are killed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from sidespawn.testing.network import Lan, remove_namespace
from tests.lab.answers import agents_socket
from tests.lab.networks import command, kill_process, wait_until
from tests.neutron import networks
from tests.neutron.agents import MANAGER, WRAPPERS, Agent
from tests.neutron.helpers import ASK, connect, lan

PATIENCE = 60


@pytest.fixture(params=[WRAPPERS, MANAGER])
def daemon(request: pytest.FixtureRequest) -> Iterator[Agent]:
    made = Agent("dhcp", request.param, interval=1)
    try:
        made.enable()
        made.start("daemon.py")
        yield made
    finally:
        made.clean()


def pid_of(daemon: Agent, network: networks.Json) -> int | None:
    path = daemon.state / "dhcp" / network["id"] / "pid"
    return int(path.read_text()) if path.exists() else None


def address(lan: Lan, client: int = 0, tries: int = 5) -> str | None:
    lease = lan.clients[client].ask(tries)
    return None if lease is None else lease.address


def metadata(network: networks.Json) -> str:
    url = "http://169.254.169.254/"
    return command("ip", "netns", "exec", f"qdhcp-{network['id']}", sys.executable, "-c", ASK, url, check=False).stdout


def test_networks_and_ports_come_and_go_and_everything_is_killed_once(daemon: Agent) -> None:
    first, second = (networks.network(networks.subnet("10.20.0.0/24")) for _ in range(2))
    port = networks.add_port(first, networks.MACS[0], 10)
    service = daemon.services["dnsmasq"]
    with agents_socket(daemon.state / "metadata/socket", owner=daemon.uid), lan(daemon, first["id"]) as made:
        try:
            live(daemon, made, first, second, port)
            wait_until(lambda: service.containers() == {}, PATIENCE)
            assert daemon.services["haproxy"].containers() == {}
            wait_until(lambda: not os.path.lexists(f"/run/netns/qdhcp-{first['id']}"), PATIENCE)
        except AssertionError as failed:
            failed.add_note(daemon.trouble())
            raise
        finally:
            for network in (first, second):
                remove_namespace(f"qdhcp-{network['id']}")


def live(daemon: Agent, lan: Lan, first: networks.Json, second: networks.Json, port: networks.Json) -> None:
    # Networks are created.
    for network in (first, second):
        daemon.ask("create_network", network=network)
    wait_until(lambda: port["id"] in daemon.ask("ready"), PATIENCE)
    wait_until(lambda: pid_of(daemon, second) is not None, PATIENCE)
    connect(lan)
    assert address(lan) == "10.20.0.10"
    wait_until(lambda: metadata(first) == f"X-Neutron-Network-ID {first['id']}\n", PATIENCE)

    # A port is created and deleted: dnsmasq reads its files again.
    pid = pid_of(daemon, first)
    added = networks.add_port(first, networks.MACS[1], 11)
    daemon.ask("create_port", port=added)
    wait_until(lambda: added["id"] in daemon.ask("ready"), PATIENCE)
    assert address(lan, 1) == "10.20.0.11"
    daemon.ask("delete_port", port=added)
    hosts = daemon.state / "dhcp" / first["id"] / "host"
    wait_until(lambda: networks.MACS[1] not in hosts.read_text(), PATIENCE)
    assert pid_of(daemon, first) == pid

    # A helper dies; the agent's ProcessMonitor restarts it.
    assert pid is not None
    kill_process(pid)
    wait_until(lambda: pid_of(daemon, first) not in (None, pid), PATIENCE)
    assert address(lan) == "10.20.0.10"

    # The agent dies. Its helpers keep running, and it detects what has changed.
    pids = [pid_of(daemon, network) for network in (first, second)]
    known = daemon.ask("networks")
    daemon.kill()
    assert address(lan) == "10.20.0.10"
    assert all(pid is not None and identify(pid) is not None for pid in pids)
    del known[second["id"]]
    known[first["id"]]["ports"].append(added)
    (daemon.state / "networks.json").write_text(json.dumps(known))
    daemon.start("daemon.py")
    wait_until(lambda: added["id"] in daemon.ask("ready"), PATIENCE)
    assert address(lan, 1) == "10.20.0.11"
    assert not Path(f"/proc/{pids[1]}").exists()
    assert not os.path.lexists(f"/run/netns/qdhcp-{second['id']}")
    wait_until(lambda: metadata(first) == f"X-Neutron-Network-ID {first['id']}\n", PATIENCE)

    daemon.ask("delete_network", network_id=first["id"])
