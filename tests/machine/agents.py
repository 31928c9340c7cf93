"""Agents in a machine as docs/agents.md tells people to run them: by its Quadlet unit, as it stands there.

Where podman has no Quadlet, as on Debian 12, a unit executes the page's podman command.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.networks import DNSMASQ_FILES, NEUTRON
from tests.machine.pages import fenced
from vm.machine import Machine

PROGRAM = Path(__file__).parent / "inside/neutron-dhcp-agent"
IMAGE = "localhost/machine-dhcp-agent"
PAGE = "docs/agents.md"
SERVICE, STATE, UNIT = "neutron-dhcp-dnsmasq", "/var/lib/neutron", "neutron_dhcp_agent"  # as the page has them
QUADLETS, UNITS = "/etc/containers/systemd", "/etc/systemd/system"
PLACE_FOR_MOUNTS = "# and a Volume= for each mount that `sidespawn enable` printed\n"
PLACE_FOR_OPTIONS = "    ... what `sidespawn enable` printed, for each of its services ... \\\n"
PLAIN_UNIT = """
[Unit]
Wants=sidespawn-spool@{service}.service
After=sidespawn-spool@{service}.service
[Service]
Restart=always
ExecStartPre=-/usr/bin/podman rm --force {unit}
ExecStart=/usr/bin/{command}
ExecStopPost=-/usr/bin/podman rm --force {unit}
[Install]
WantedBy=multi-user.target
"""


def make_image(machine: Machine) -> None:
    """The small agent's image, with a program of the name that Neutron's has."""
    machine.run("mkdir -p /root/agent-image")
    machine.copy_in(PROGRAM, "/root/agent-image/neutron-dhcp-agent")
    recipe = "FROM localhost/sidespawn-agent:latest\nCOPY neutron-dhcp-agent /usr/bin/\nCMD neutron-dhcp-agent\n"
    machine.run(f"podman build --quiet --tag={IMAGE} --file=- /root/agent-image", stdin=recipe.encode())


@dataclass
class Agent:
    """An agent with some networks, and a service with its dnsmasqs. A second one has other names than the page."""

    machine: Machine
    engine: str
    suffix: str = ""
    networks: list[str] = field(default_factory=lambda: [str(uuid.uuid4()) for _ in range(2)])

    @property
    def service(self) -> str:
        return f"{SERVICE}{self.suffix}"

    @property
    def state(self) -> str:
        return f"{STATE}{self.suffix}"

    @property
    def unit(self) -> str:
        return f"{UNIT}{self.suffix}"

    @property
    def has_quadlet(self) -> bool:
        return self.machine.run("[[ -e /usr/libexec/podman/quadlet ]]", check=False).returncode == 0

    def enable(self) -> None:
        """As an operator does, up to the running agent."""
        homes = " ".join(f"{self.state}/dhcp/{network}" for network in self.networks)
        files = " ".join(f"{self.state}/dhcp/{{{','.join(self.networks)}}}/{name}" for name in DNSMASQ_FILES)
        self.machine.run(f"mkdir -p {homes} && touch {files} && chown -R {NEUTRON}:{NEUTRON} {self.state}")
        if self.machine.run("[[ -e /sys/fs/selinux/enforce ]]", check=False).returncode == 0:
            self.machine.run(f"chcon --recursive --type=container_file_t {self.state}")
        done = self.machine.run(
            f"sidespawn enable {self.service} --preset={SERVICE} --engine={self.engine} --json"
            f" --image=localhost/sidespawn-helpers:latest --set=state_on_host={self.state}"
        )
        enabled = json.loads(done.stdout)
        if self.has_quadlet:
            text, path = self.quadlet(enabled), f"{QUADLETS}/{self.unit}.container"
            start = f"systemctl start {self.unit}"
        else:
            text, path = self.plain_unit(enabled), f"{UNITS}/{self.unit}.service"
            start = f"systemctl enable --now {self.unit}"
        self.machine.run(f"mkdir -p {QUADLETS} && cat >{path}", stdin=text.encode())
        self.machine.run(f"systemctl daemon-reload && {start}")

    def quadlet(self, enabled: dict[str, list[str]]) -> str:
        """The page's unit, with what it leaves to the reader filled in from what `enable` printed."""
        text = fenced(PAGE, "ini quadlet")
        if not any("apparmor" in option for option in enabled["security_options"]):
            text = "".join(line for line in text.splitlines(keepends=True) if "apparmor" not in line.lower())
        mounts = [
            option.replace("--volume=", "Volume=") if option.startswith("--volume=") else f"PodmanArgs={option}"
            for option in enabled["podman_options"]
        ]
        mounts.append(f"PodmanArgs=--mount=type=image,src={IMAGE},dst=/run/sidespawn/image")
        mounts += [
            f"PodmanArgs={option}" for option in enabled["security_options"] if option.split("=")[-1] not in text
        ]
        assert text.count(PLACE_FOR_MOUNTS) == 1
        text = text.replace(PLACE_FOR_MOUNTS, "".join(f"{line}\n" for line in mounts)).replace("AGENT-IMAGE", IMAGE)
        return text.replace(f"={STATE}:", f"={self.state}:").replace(f"@{SERVICE}.", f"@{self.service}.")

    def plain_unit(self, enabled: dict[str, list[str]]) -> str:
        """A unit with the page's command; in a unit as in a shell, a backslash continues a line."""
        text = fenced(PAGE, "sh podman")
        if not any("apparmor" in option for option in enabled["security_options"]):
            text = "".join(line for line in text.splitlines(keepends=True) if "apparmor" not in line)
        options = [*enabled["podman_options"], f"--mount=type=image,src={IMAGE},dst=/run/sidespawn/image"]
        options += [option for option in enabled["security_options"] if option.split("=")[-1] not in text]
        for found, put in (
            (PLACE_FOR_OPTIONS, "".join(f"    {option} \\\n" for option in options)),
            (f"--detach --name={UNIT}", f"--name={self.unit}"),
            (f"={STATE}:", f"={self.state}:"),
            ("AGENT-IMAGE", IMAGE),
        ):
            assert text.count(found) == 1
            text = text.replace(found, put)
        return PLAIN_UNIT.format(service=self.service, unit=self.unit, command=text)

    def disable(self) -> None:
        self.machine.run(
            f"systemctl stop {self.unit}; rm --force {QUADLETS}/{self.unit}.container {UNITS}/{self.unit}.service"
            f" {UNITS}/*.wants/{self.unit}.service; systemctl daemon-reload;"
            f" systemctl reset-failed {self.unit};"  # the agent ended by TERM
            f" sidespawn disable {self.service} --purge; rm -r {self.state}; "
            + "; ".join(f"ip netns delete qdhcp-{network}" for network in self.networks)
        )

    def helpers(self) -> dict[str, str]:
        """The pid of what runs by the name of its namespace, where it is a dnsmasq in that very namespace."""
        listed = self.machine.run(f"sidespawn ps {self.service} --json").stdout
        pids = {row["netns"]: str(row["pid"]) for row in json.loads(listed) if row["pid"]}
        within = "ip netns pids {0} | xargs --no-run-if-empty ps -o pid=,comm="
        look = "".join(f"echo {netns} $({within.format(netns)});" for netns in pids)
        rows = (line.split() for line in self.machine.run(look, check=False).stdout.splitlines())
        return {netns: words[0] for netns, *words in rows if words == [pids[netns], "dnsmasq"]}

    def wait_until_served(self) -> None:
        """Until each network has its dnsmasq."""
        wanted = {f"qdhcp-{network}" for network in self.networks}
        give_up = time.monotonic() + self.machine.scaled(60)
        while (found := self.helpers().keys()) != wanted:
            assert time.monotonic() < give_up, f"{sorted(found)} instead of {sorted(wanted)}\n{self.report()}"
            time.sleep(1)

    def report(self) -> str:
        return self.machine.run(
            f"systemctl --no-pager --full status {self.unit} 'sidespawn*@{self.service}*'; podman ps --all;"
            f" journalctl --boot --no-pager --lines=60 _SYSTEMD_UNIT={self.unit}.service + UNIT={self.unit}.service"
            f" + SIDESPAWN_SERVICE={self.service}",
            check=False,
        ).stdout
