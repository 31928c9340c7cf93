"""A host whose DHCP agent is of the old kind: with podman's socket, and with helpers that it starts by it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidespawn.testing.network import Lan
from tests.lab.networks import SIDESPAWN, Network, Service, command, wait_until

IMAGE = "localhost/sidespawn-test/neutron-dhcp-agent:1"
STAND_IN = Path(__file__).parent / "inside/agent.py"
MAC = "fa:16:3e:00:00:01"
PATIENCE = 60


@dataclass
class Host:
    """With an agent of the old kind, which has a socket and everything else."""

    service: Service
    record: Path
    scripts: Path
    image: str = ""  # of the side containers; by default the preset's
    networks: list[Network] = field(default_factory=list)
    lans: list[Lan] = field(default_factory=list)

    @property
    def agent(self) -> str:
        return f"{self.service.name}-agent"

    def add_network(self) -> Network:
        made = self.service.network()
        (made.home / "options").write_text(json.dumps(made.options()))
        (made.home / "host").write_text(f"{MAC},host-10.openstacklocal,10.20.0.10\n")
        self.networks.append(made)
        return made

    def plug(self, network: Network) -> None:
        """Give the network a LAN with a client. Its dnsmasq serves its namespace."""
        number = len(self.lans)
        scripts = self.scripts / str(number)
        scripts.mkdir()
        made = Lan(f"lan-{self.service.name}-{number}", (MAC,), scripts)
        self.lans.append(made)
        made.make()
        peer = ("peer", "name", "tap", "netns", network.netns)
        command("ip", "-n", made.name, "link", "add", "server", "type", "veth", *peer)
        command("ip", "-n", network.netns, "address", "add", "10.20.0.2/24", "dev", "tap")
        command("ip", "-n", network.netns, "link", "set", "tap", "up")
        made.connect("server")

    def start(self) -> None:
        settings = {"image": IMAGE, "state": str(self.service.state)}
        (self.service.state / "settings.json").write_text(json.dumps(settings))
        shutil.copy(STAND_IN, self.service.state / "agent.py")
        volumes = ("/run/podman/podman.sock:/run/podman/podman.sock", "/run/netns:/run/netns:rshared")
        command(
            "podman", "run", "--detach", f"--name={self.agent}", "--privileged", "--network=host", "--pid", "host",
            *(f"--volume={each}" for each in volumes), "-v", f"{self.service.state}:/var/lib/neutron", IMAGE,
            "python3", "/var/lib/neutron/agent.py",
        )  # fmt: skip
        wait_until(lambda: len(self.old_helpers()) == len(self.networks), PATIENCE)

    def remove(self) -> None:
        for name in (self.agent, f"{self.agent}-before-sidespawn"):
            command("podman", "rm", "--force", "--time=0", "--ignore", name)
        old = [f"neutron-dnsmasq-{each.netns}" for each in self.networks]
        command("podman", "rm", "--force", "--time=0", "--ignore", *old)
        for each in self.lans:
            each.remove()
        self.service.clean()

    def old_helpers(self) -> set[str]:
        names = command("podman", "ps", "--format={{.Names}}").stdout.split()
        return {each.netns for each in self.networks if f"neutron-dnsmasq-{each.netns}" in names}

    def own_helpers(self) -> set[str]:
        """What sidespawn itself has started."""
        return {each.netns for each in self.networks if each.container in self.service.containers(every=False)}

    def inspect(self, name: str = "") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(command("podman", "container", "inspect", name or self.agent).stdout)[0]
        return found

    def settings(self) -> dict[str, Any]:
        """What makes the container what it is, without what changes while it runs."""
        changing = ("State", "Pid", "ConmonPidFile", "PidFile", "NetworkSettings", "LockNumber", "ExecIDs")
        return {key: value for key, value in self.inspect().items() if key not in changing}

    def role(self, name: str, **more: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        service = {
            "name": self.service.name,
            "preset": "neutron-dhcp-dnsmasq",
            "parameters": {"state_on_host": str(self.service.state)},
            **({"image": self.image} if self.image else {}),
        }
        given = {
            "agents": [{"container": self.agent, "services": [service]}],
            "record": str(self.record),
            "command": SIDESPAWN[0],
            "timeout": PATIENCE,
            "steady": 2,  # of migrate alone, as is the next
            "idle": 20,
        }
        variables = {f"{name}_{key}": value for key, value in (given | more).items()}
        return [{"name": "role", "ansible.builtin.include_role": {"name": f"sidespawn.host.{name}"}}], variables
