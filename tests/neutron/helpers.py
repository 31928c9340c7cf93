"""Checks that each helper does its job, with machines next to it instead of by asking Neutron."""

from __future__ import annotations

import re
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sidespawn.testing.agent import NEUTRON
from sidespawn.testing.network import Lan, remove_namespace
from tests.lab.answers import agents_socket
from tests.lab.networks import command, wait_until
from tests.lab.reports import Reports, is_watching
from tests.neutron import networks
from tests.neutron.agents import STATE, Agent

ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"

# haproxy's in each agent.
URLS = {"dhcp": "http://169.254.169.254/", "ovn": "http://169.254.169.254/", "l3": "http://127.0.0.1:9697/"}
NAMESPACES = {"dhcp": "qdhcp", "ovn": "ovnmeta", "l3": "qrouter"}
HEADERS = {"dhcp": "X-Neutron-Network-ID", "ovn": "X-OVN-Network-ID", "l3": "X-Neutron-Router-ID"}


class Helper(ABC):
    """One helper of an agent and its surroundings. `of` is the name that the process in the container uses for it."""

    name: str
    program: str
    has_reload = is_awaited = True

    def __init__(self, agent: Agent, owner: str) -> None:
        self.agent, self.owner = agent, owner
        self.around = ExitStack()
        self.changed = False

    @property
    def preset(self) -> str:
        return self.agent.presets[self.program]

    @property
    @abstractmethod
    def of(self) -> dict[str, Any]: ...

    @abstractmethod
    def works(self) -> bool:
        """Return whether it does its job, after `change` with the new settings."""

    def start(self) -> None:
        self.agent.do(self.program, "start", self.of)

    def change(self) -> None:
        self.changed = True
        self.agent.do(self.program, "change", self.of)

    def stop(self) -> None:
        self.agent.do(self.program, "stop", self.of)

    def settle(self) -> None:
        """Wait after each start: Neutron itself does not wait for all of its helpers."""
        if not self.is_awaited:
            wait_until(lambda: bool(self.status()["active"]), patience=30)

    def status(self) -> dict[str, Any]:
        return dict(self.agent.ask("status", helper=self.program, of=self.of))


class Dnsmasq(Helper):
    name = program = "dnsmasq"

    def __init__(self, agent: Agent, owner: str) -> None:
        super().__init__(agent, owner)
        self.network = networks.network(networks.subnet("10.20.0.0/24"), id=owner)
        networks.add_port(self.network, networks.MACS[0], 10)
        self.lan = self.around.enter_context(lan(agent, owner))
        self.around.callback(remove_namespace, f"qdhcp-{owner}")

    @property
    def of(self) -> dict[str, Any]:
        return {"network": self.network}

    def start(self) -> None:
        super().start()
        connect(self.lan)

    def change(self) -> None:
        networks.add_port(self.network, networks.MACS[1], 11)
        super().change()

    def works(self) -> bool:
        lease = self.lan.clients[int(self.changed)].ask()
        return lease is not None and lease.address == ("10.20.0.11" if self.changed else "10.20.0.10")


class Haproxy(Helper):
    """haproxy as metadata proxy; the test serves the agent's socket behind it."""

    name = program = "haproxy"

    def __init__(self, agent: Agent, owner: str) -> None:
        super().__init__(agent, owner)
        self.netns = f"{NAMESPACES[agent.kind]}-{owner}"
        agent.ask("make_namespace", name=self.netns)
        self.around.callback(remove_namespace, self.netns)
        command("ip", "-n", self.netns, "link", "set", "lo", "up")
        if agent.kind == "ovn":
            command("ip", "-n", self.netns, "address", "add", "169.254.169.254/32", "dev", "lo")
        self.around.enter_context(agents_socket(agent.state / "metadata/socket", owner=agent.uid))

    @property
    def of(self) -> dict[str, Any]:
        return {"owner": self.owner, "netns": self.netns, "timeout": 31 if self.changed else 30}

    def works(self) -> bool:
        url = URLS[self.agent.kind]
        asked = command("ip", "netns", "exec", self.netns, sys.executable, "-c", ASK, url, check=False)
        return asked.stdout.strip() == f"{HEADERS[self.agent.kind]} {self.owner}"


class Keepalived(Helper):
    name = program = "keepalived"

    def __init__(self, agent: Agent, owner: str) -> None:
        super().__init__(agent, owner)
        self.netns = f"qrouter-{owner}"
        agent.ask("make_namespace", name=self.netns)
        command("ip", "-n", self.netns, "link", "add", "ha-test", "type", "veth", "peer", "name", "ha-far")
        command("ip", "-n", self.netns, "address", "add", "169.254.192.1/18", "dev", "ha-test")
        for name in ("ha-far", "ha-test"):
            command("ip", "-n", self.netns, "link", "set", name, "up")

    @property
    def of(self) -> dict[str, Any]:
        addresses = [f"203.0.113.{2 if self.changed else 1}/24"]
        return {"owner": self.owner, "netns": self.netns, "interface": "ha-test", "addresses": addresses}

    def works(self) -> bool:
        mine, other = ("203.0.113.2", "203.0.113.1") if self.changed else ("203.0.113.1", "203.0.113.2")

        def has_taken_it() -> bool:
            there = command("ip", "-n", self.netns, "address", "show", "dev", "ha-test").stdout
            return f" {mine}/" in there and f" {other}/" not in there

        wait_until(has_taken_it, patience=30)
        return bool(self.agent.do(self.program, "check", self.of))


class Radvd(Helper):
    name = program = "radvd"

    def __init__(self, agent: Agent, owner: str) -> None:
        super().__init__(agent, owner)
        self.netns, self.machine = f"qrouter-{owner}", f"lan-{owner[:8]}"
        agent.ask("make_namespace", name=self.netns)
        command("ip", "netns", "add", self.machine)
        self.around.callback(remove_namespace, self.machine)
        peer = ("peer", "name", "eth0", "netns", self.machine)
        command("ip", "-n", self.netns, "link", "add", "qr-test", "type", "veth", *peer)
        # The agent would do this if it could write sysctls.
        forward = "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
        command("ip", "netns", "exec", self.netns, "sh", "-c", forward)
        command("ip", "-n", self.netns, "link", "set", "qr-test", "up")
        command("ip", "-n", self.machine, "link", "set", "eth0", "up")

    @property
    def of(self) -> dict[str, Any]:
        prefixes = ["2001:db8:1::/64", "2001:db8:2::/64"] if self.changed else ["2001:db8:1::/64"]
        return {"owner": self.owner, "netns": self.netns, "interface": "qr-test", "prefixes": prefixes}

    def works(self) -> bool:
        """Have the machine next to the router get an address in the prefix; an existing address proves nothing."""
        prefix = "2001:db8:2:" if self.changed else "2001:db8:1:"
        command("ip", "-n", self.machine, "link", "set", "eth0", "down")
        command("ip", "-n", self.machine, "link", "set", "eth0", "up")
        wait_until(lambda: f" {prefix}" in command("ip", "-n", self.machine, "address").stdout, patience=30)
        return True


class Conntrackd(Helper):
    """conntrackd of keepalived's router."""

    name = program = "conntrackd"
    has_reload = False

    @property
    def of(self) -> dict[str, Any]:
        return {"owner": self.owner, "netns": f"qrouter-{self.owner}", "interface": "ha-test"}

    def works(self) -> bool:
        """Have Neutron's own conntrackd find it by its socket, in the agent."""
        configuration = f"{STATE}/ha_confs/{self.owner}/conntrackd.conf"
        user = NEUTRON if self.agent.contained else 0
        asked = self.agent.container.exec(("conntrackd", "-C", configuration, "-s"), user=user)
        return asked.code == 0 and "cache internal:" in asked.stdout


class StateChange(Helper):
    """The monitor of a router without keepalived. The test adds and removes the router's address."""

    name = program = "neutron-keepalived-state-change"
    has_reload = is_awaited = False

    def __init__(self, agent: Agent, owner: str) -> None:
        super().__init__(agent, str(uuid.uuid4()))
        self.netns, self.interface = f"qrouter-{self.owner}", f"ha-{self.owner}"[:14]
        agent.ask("make_namespace", name=self.netns)
        self.around.callback(remove_namespace, self.netns)
        command("ip", "-n", self.netns, "link", "add", self.interface, "type", "veth", "peer", "name", "far")
        for name in ("far", self.interface):
            command("ip", "-n", self.netns, "link", "set", name, "up")
        self.reports = Reports(agent.state / "keepalived-state-change", owner=agent.uid)
        self.around.enter_context(self.reports.served())

    @property
    def of(self) -> dict[str, Any]:
        return {"owner": self.owner, "netns": self.netns}

    def works(self) -> bool:
        """Check that the agent hears of both changes."""
        pid = int(self.status()["pid"])
        wait_until(lambda: is_watching(pid), patience=30)
        for verb, state in (("add", "primary"), ("del", "backup")):
            self.reports.told.clear()
            command("ip", "-n", self.netns, "address", verb, "169.254.0.7/24", "dev", self.interface)
            wait_until(lambda state=state: (self.owner, state) in self.reports.told, patience=30)  # type: ignore[misc]
        return True


@contextmanager
def lan(agent: Agent, owner: str) -> Iterator[Lan]:
    """Return where inside/interface.py puts the far end of the network's interface."""
    made = Lan(f"lan-{owner[:8]}", networks.MACS, agent.state)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def connect(lan: Lan) -> None:
    """Connect the far ends created since the last call."""
    for port in re.findall(r"^\d+: (far\w+)@", command("ip", "-n", lan.name, "-o", "link").stdout, re.MULTILINE):
        lan.connect(port)


OF = {"dhcp": (Dnsmasq, Haproxy), "l3": (Haproxy, Keepalived, Radvd, Conntrackd, StateChange), "ovn": (Haproxy,)}


@contextmanager
def all_of(agent: Agent) -> Iterator[list[Helper]]:
    """Return all helpers of the agent, for the same network or router, without starting them."""
    owner = str(uuid.uuid4())
    with ExitStack() as stack:
        made: list[Helper] = []
        for kind in OF[agent.kind]:
            helper = kind(agent, owner)
            stack.enter_context(helper.around)
            made.append(helper)
        yield made
