"""A chassis of OVN: its databases, ovn-northd, and Open vSwitch with a userspace datapath.

ovn-controller is left out: the test says which port is bound, and makes the connections.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sidespawn.testing.network import has_namespace, remove_namespace
from tests.lab.networks import command, wait_until

IMAGE = "localhost/sidespawn-ovn:latest"
DATABASE = "unix:/ovn/db.sock"
START = f"""
set -e
cd /ovn
mkdir -p /run/openvswitch /run/ovn
ovsdb-tool create nb.db /usr/share/ovn/ovn-nb.ovsschema
ovsdb-tool create sb.db /usr/share/ovn/ovn-sb.ovsschema
ovsdb-tool create vswitch.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server --detach --no-chdir --remote=punix:/ovn/db.sock nb.db sb.db vswitch.db
ovs-vsctl --db={DATABASE} --no-wait init
ovn-northd --detach --no-chdir --ovnnb-db={DATABASE} --ovnsb-db={DATABASE}
exec /usr/lib/openvswitch-switch/ovs-vswitchd --enable-dummy=override --disable-system {DATABASE}
"""


@dataclass(frozen=True)
class Chassis:
    """Runs the daemons. `directory` has the sockets of all three databases."""

    name: str
    directory: Path
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def start(self) -> None:
        self.directory.mkdir()
        options = (f"--name={self.name}", "--network=none", f"--volume={self.directory}:/ovn:rw,rprivate")
        command("podman", "run", "--detach", *options, IMAGE, "sh", "-c", START)
        wait_until(
            lambda: command(*self.call("ovs-vsctl", "--may-exist", "add-br", "br-int"), check=False).returncode == 0, 60
        )
        self.run("ovs-vsctl", "set", "Open_vSwitch", ".", f"external_ids:system-id={self.id}")
        self.run("ovn-sbctl", "chassis-add", self.id, "geneve", "127.0.0.1")
        (chassis,) = self.run("ovn-sbctl", "--bare", "--columns=_uuid", "list", "Chassis").split()
        self.run("ovn-sbctl", "create", "Chassis_Private", f"name={self.id}", f"chassis={chassis}")

    def call(self, program: str, *arguments: str) -> tuple[str, ...]:
        return ("podman", "exec", self.name, program, f"--db={DATABASE}", "--timeout=20", *arguments)

    def run(self, program: str, *arguments: str) -> str:
        return command(*self.call(program, *arguments)).stdout

    def remove(self) -> None:
        command("podman", "rm", "--force", "--time=0", "--ignore", self.name)


@dataclass(frozen=True)
class Network:
    """A network in the northbound database, as Neutron's server writes it, with ports for metadata and one machine."""

    chassis: Chassis
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    port: str = field(default_factory=lambda: str(uuid.uuid4()))
    instance: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def netns(self) -> str:
        return f"ovnmeta-{self.id}"

    @property
    def machine(self) -> str:
        return f"lan-{self.id[:8]}"

    @property
    def tap(self) -> str:
        """Return Open vSwitch's end of the pair of interfaces that the agent creates."""
        return f"tap{self.id[:10]}0"

    def make(self) -> None:
        switch, metadata = f"neutron-{self.id}", str(uuid.uuid4())
        nb = ("ovn-nbctl", "--wait=sb")
        self.chassis.run(*nb, "ls-add", switch)
        ports = {
            metadata: (
                "localport",
                "fa:16:3e:00:00:02 10.20.0.2",
                noted(self.netns, "10.20.0.2/24", "network:distributed"),
            ),
            self.port: ("", "fa:16:3e:00:00:10 10.20.0.10", noted(self.instance, "10.20.0.10/24", "compute:nova")),
        }
        for name, (kind, address, external) in ports.items():
            add = ("lsp-add", switch, name, "--", "lsp-set-type", name, kind, "--", "lsp-set-addresses", name, address)
            self.chassis.run(*nb, *add, "--", "set", "Logical_Switch_Port", name, *external)

    def bind(self) -> None:
        self.chassis.run("ovn-sbctl", "lsp-bind", self.port, self.chassis.id)

    def unbind(self) -> None:
        self.chassis.run("ovn-sbctl", "lsp-unbind", self.port)

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Connect a machine, in a separate namespace, to the port with a bridge instead of OVN."""
        bridge, port = f"br-{self.id[:8]}", f"far{self.id[:8]}"
        command("ip", "link", "add", bridge, "type", "bridge")
        command("ip", "netns", "add", self.machine)
        try:
            command("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", self.machine)
            for end in (port, self.tap):
                command("ip", "link", "set", end, "master", bridge, "up")
            command("ip", "link", "set", bridge, "up")
            inside = ("ip", "-n", self.machine)
            command(*inside, "address", "add", "10.20.0.10/24", "dev", "eth0")
            command(*inside, "link", "set", "eth0", "up")
            command(*inside, "route", "add", "169.254.169.254", "via", "10.20.0.2")
            yield
        finally:
            remove_namespace(self.machine)
            command("ip", "link", "delete", bridge)

    def is_gone(self) -> bool:
        return not has_namespace(self.netns)


def noted(device: str, cidr: str, owner: str) -> tuple[str, ...]:
    """Return what Neutron records about a port."""
    values = {"device_id": device, "device_owner": owner, "cidrs": cidr, "project_id": str(uuid.uuid4()), "mtu": "1450"}
    return tuple(f'external_ids:"neutron:{name}"="{value}"' for name, value in values.items())
