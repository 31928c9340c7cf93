"""Pods for tests: helpers that an agent has requested, with DHCP clients, and pods of others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidespawn.system.processes import Process, identify
from sidespawn.testing.network import Lan, Renewals
from tests.kubernetes.containerds import AGENT
from tests.kubernetes.node.agents import Agent
from tests.lab.networks import Network, command

MAC, ADDRESS = "fa:16:3e:00:00:01", "10.20.0.10"


@dataclass
class Helper:
    """A network's dnsmasq, and a client that renews its lease over and over."""

    network: Network
    process: Process
    renewals: Renewals

    def still_serves(self) -> None:
        """The same process all the time, and no renewal went without its answer."""
        self.renewals.wait_for(3)
        assert identify(self.process.pid) == self.process
        assert self.network.pid == self.process.pid
        assert [each for each in self.renewals.done if each.address != ADDRESS] == []


@contextmanager
def served(agent: Agent, scripts: Path) -> Iterator[Helper]:
    """A network with a client; the agent's pod makes its namespace and requests its dnsmasq."""
    network = agent.service.network()
    (network.home / "host").write_text(f"{MAC},host-10.openstacklocal,{ADDRESS}\n")
    with ExitStack() as stack:
        agent.remake_netns(network)
        lan = plugged(network, scripts, stack)
        agent.start(network)
        process = identify(network.pid)
        assert process is not None
        lease = lan.clients[0].ask()
        assert lease is not None
        assert lease.address == ADDRESS
        renewals = Renewals(lan.clients[0], lease, patience=10)
        stack.callback(renewals.close)
        yield Helper(network, process, renewals)
        if network.pid_file.exists():
            agent.kill(network, "9")


def plugged(network: Network, scripts: Path, stack: ExitStack) -> Lan:
    """A LAN with one client, which reaches the network's namespace."""
    scripts.mkdir()
    stack.callback(shutil.rmtree, scripts)
    made = Lan(f"lan-{network.id[:8]}", (MAC,), scripts)
    stack.callback(made.remove)
    made.make()
    peer = ("peer", "name", "tap", "netns", network.netns)
    command("ip", "-n", made.name, "link", "add", "server", "type", "veth", *peer)
    command("ip", "-n", network.netns, "address", "add", "10.20.0.2/24", "dev", "tap")
    command("ip", "-n", network.netns, "link", "set", "tap", "up")
    made.connect("server")
    return made


def inside(netns: str) -> list[str]:
    """The pids in a namespace."""
    return command("ip", "netns", "pids", netns).stdout.split()


def namespace_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def ordinary(name: str, **spec: object) -> dict[str, Any]:
    """The pod of a user of the cluster."""
    container = {"name": "main", "image": AGENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"]}
    usual = {"hostNetwork": True, "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": usual | {"containers": [container]} | spec}
