"""A data plane node of EDPM: a DHCP agent's Quadlet unit with the settings of EDPM's, and what starts in its image.

EDPM's template is not here: the unit says the same in our words. There are no images of EDPM's, so the agent's is the
project's Neutron image with what theirs do at a start: give all files to neutron, then run the agent as root.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.deploy import neutron
from tests.deploy.conftest import CHECKOUT
from tests.deploy.neutron import DHCP, Daemon
from tests.lab.networks import command
from tests.neutron.releases import AGENT_IMAGE

# Where podman's package has it, and a newer one than Debian 12's.
OWN_QUADLET = Path("/usr/libexec/podman/quadlet")
QUADLET = OWN_QUADLET if OWN_QUADLET.exists() else CHECKOUT / ".cache/quadlet/usr/libexec/podman/quadlet"
GENERATORS = Path("/run/systemd/system-generators")
UNITS = Path("/etc/containers/systemd")
IMAGE = "localhost/edpm/neutron-dhcp-agent:test"
CONTAINER = "neutron_dhcp_agent"
STATE = "/var/lib/neutron"
NEUTRON = 42435

START = f"""\
#!/bin/sh
set -e
chown -R {NEUTRON}:{NEUTRON} {STATE}
{DHCP.start(STATE)}"""


def unit(state: Path, *, name: str = CONTAINER, image: str = IMAGE) -> str:
    """What EDPM's template of the DHCP agent's unit says, and the volumes by which the tests' image has Neutron."""
    volumes = [
        "/run/netns:/run/netns:shared",
        f"{state}:{STATE}:shared,z",
        f"{state}/dhcp_agent_haproxy_wrapper:/usr/local/bin/haproxy:ro",
        f"{state}/dhcp_agent_dnsmasq_wrapper:/usr/local/bin/dnsmasq:ro",
        f"{state}/kill_scripts:/etc/neutron/kill_scripts:ro",
        *(f"{source}:{target}:ro" for source, target in neutron.SEEN),
    ]
    return "\n".join(
        (
            "[Unit]",
            "Description=DHCP agent, as EDPM starts it",
            "",
            "[Container]",
            f"Image={image}",
            f"ContainerName={name}",
            "User=root",
            "Network=host",
            "Environment=KOLLA_CONFIG_STRATEGY=COPY_ALWAYS",
            "Label=managed_by=edpm_ansible",
            *(f"Volume={each}" for each in volumes),
            "PodmanArgs=--log-driver=journald --privileged",
            "PodmanArgs=--cgroupns=host",
            "PodmanArgs=--pid=host",
            "",
            "[Service]",
            "Restart=always",
            "TimeoutStopSec=84",
            # podman 4.3 leaves this file when the container is removed, and refuses to start while it is there.
            *(["ExecStartPre=-/usr/bin/rm --force %t/%N.cid"] if QUADLET != OWN_QUADLET else []),
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        )
    )


@dataclass
class Node:
    """A node whose agent is started by Quadlet; `agent` is what talks to Neutron in it."""

    name: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")

    @property
    def state(self) -> Path:
        return Path("/var/lib") / f"sidespawn-{self.name}"

    @property
    def unit(self) -> Path:
        return UNITS / "edpm_neutron_dhcp_agent.container"

    @property
    def service(self) -> str:
        return "edpm_neutron_dhcp_agent.service"

    def prepare(self) -> None:
        make_image()
        command("ip", "netns", "add", "edpm-first")  # /run/netns is there and shared
        command("ip", "netns", "del", "edpm-first")
        self.state.mkdir()
        DHCP.prepare(self.state, STATE)
        UNITS.mkdir(parents=True, exist_ok=True)
        self.unit.write_text(unit(self.state))
        if QUADLET != OWN_QUADLET:
            # Where systemd looks for what makes units, beside those of the distribution.
            GENERATORS.mkdir(exist_ok=True)
            (GENERATORS / "quadlet").symlink_to(QUADLET)
        command("systemctl", "daemon-reload")  # as EDPM does

    def clean(self) -> None:
        command("podman", "rm", "--force", "--time=0", "--ignore", CONTAINER)
        command("systemctl", "stop", self.service, check=False)
        Path("/run", self.service).with_suffix(".cid").unlink(missing_ok=True)
        self.unit.unlink(missing_ok=True)
        shutil.rmtree(f"{self.unit}.d", ignore_errors=True)
        (GENERATORS / "quadlet").unlink(missing_ok=True)
        command("systemctl", "daemon-reload")
        command("podman", "rmi", "--force", IMAGE, check=False)
        shutil.rmtree(self.state, ignore_errors=True)

    def trouble(self) -> str:
        said = command("journalctl", "--lines=30", f"--unit={self.service}", "--no-pager", check=False)
        return f"{said.stdout}\n{neutron.logged(self.state)}"

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(command("podman", "container", "inspect", CONTAINER).stdout)[0]
        return found


def make_image() -> None:
    made, root = "edpm-image", Path("/run/edpm-image")
    start = root / "usr/local/bin/kolla_start"
    start.parent.mkdir(parents=True)
    start.write_text(START)
    start.chmod(0o755)
    command("podman", "create", f"--name={made}", AGENT_IMAGE, "true")
    command("podman", "cp", f"{root}/.", f"{made}:/")
    command("podman", "commit", "--quiet", '--change=CMD ["kolla_start"]', made, IMAGE)
    command("podman", "rm", made)
    shutil.rmtree(root)


@contextmanager
def running() -> Iterator[tuple[Node, Daemon]]:
    node = Node()
    daemon = Daemon(DHCP, node.state, node.trouble)
    try:
        node.prepare()
        yield node, daemon
    finally:
        with suppress(OSError, subprocess.SubprocessError):
            daemon.close()
        node.clean()
