"""A data plane node of EDPM: a DHCP agent's Quadlet unit with the settings of EDPM's, and what starts in its image.

EDPM's template is not here: the unit says the same in our words. There are no images of EDPM's, so the agent's is the
project's Neutron image with what theirs do at a start: give all files to neutron, then run the agent as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy import kolla
from tests.deploy.conftest import CHECKOUT
from tests.lab.networks import command
from tests.neutron.agents import CONFIGURATION, INSIDE
from tests.neutron.releases import AGENT_IMAGE, NEWEST, VENVS

QUADLET = CHECKOUT / ".cache/quadlet/usr/libexec/podman/quadlet"
GENERATORS = Path("/run/systemd/system-generators")
UNITS = Path("/etc/containers/systemd")
VENV = VENVS[NEWEST]
IMAGE = "localhost/edpm/neutron-dhcp-agent:test"
STATE = "/var/lib/neutron"
NEUTRON = 42435

START = f"""\
#!/bin/sh
set -e
chown -R {NEUTRON}:{NEUTRON} {STATE}
export PYTHONPATH={INSIDE}:{CHECKOUT}/src PATH={VENV}/bin:/usr/local/bin:/usr/sbin:/usr/bin PYTHONWARNINGS=ignore
cd {STATE}
exec {VENV}/bin/python3 -B -W ignore {INSIDE}/daemon.py --config-file {STATE}/neutron.conf <questions >answers 2>>stderr
"""


def unit(state: Path, *, name: str = "neutron_dhcp_agent", image: str = IMAGE) -> str:
    """What EDPM's template of the DHCP agent's unit says, and the volumes by which the tests' image has Neutron."""
    volumes = [
        "/run/netns:/run/netns:shared",
        f"{state}:{STATE}:shared,z",
        f"{state}/dhcp_agent_haproxy_wrapper:/usr/local/bin/haproxy:ro",
        f"{state}/dhcp_agent_dnsmasq_wrapper:/usr/local/bin/dnsmasq:ro",
        f"{state}/kill_scripts:/etc/neutron/kill_scripts:ro",
        *(f"{each}:{each}:ro" for each in (VENV, INSIDE, CHECKOUT / "src")),
        *(f"{VENV}/etc/neutron/{each}:/etc/neutron/{each}:ro" for each in ("rootwrap.conf", "rootwrap.d")),
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
        for name in ("", "lock", "metadata"):
            (self.state / name).mkdir()
        for name in ("questions", "answers"):
            os.mkfifo(self.state / name)
        rootwrap = f"{VENV}/bin/neutron-rootwrap"
        text = CONFIGURATION.format(
            state=STATE,
            privsep=f"{VENV}/bin/privsep-helper",
            isolated=False,
            kill_scripts="/etc/neutron/kill_scripts",
            interval=1,
            settings="",
            root_helper=f"{rootwrap} /etc/neutron/rootwrap.conf",
            root_helper_daemon=f"{rootwrap}-daemon /etc/neutron/rootwrap.conf",
        )
        (self.state / "neutron.conf").write_text(text)
        UNITS.mkdir(parents=True, exist_ok=True)
        self.unit.write_text(unit(self.state))
        # Where systemd looks for what makes units, beside those of the distribution.
        GENERATORS.mkdir(exist_ok=True)
        (GENERATORS / "quadlet").symlink_to(QUADLET)
        command("systemctl", "daemon-reload")  # as EDPM does

    def clean(self) -> None:
        command("podman", "rm", "--force", "--time=0", "--ignore", kolla.CONTAINER)
        command("systemctl", "stop", self.service, check=False)
        # A podman that has the generator removes it with the container; 4.3 does not.
        Path("/run", self.service).with_suffix(".cid").unlink(missing_ok=True)
        self.unit.unlink(missing_ok=True)
        shutil.rmtree(f"{self.unit}.d", ignore_errors=True)
        (GENERATORS / "quadlet").unlink(missing_ok=True)
        command("systemctl", "daemon-reload")
        command("podman", "rmi", "--force", IMAGE, check=False)
        shutil.rmtree(self.state, ignore_errors=True)

    def trouble(self) -> str:
        logs = [
            path.read_text().splitlines()[-30:]
            for name in ("stderr", "neutron.log")
            if (path := self.state / name).exists()
        ]
        said = command("journalctl", "--lines=30", f"--unit={self.service}", "--no-pager", check=False)
        return "\n".join((said.stdout, *(line for log in logs for line in log)))


class Daemon(kolla.Daemon):
    """The agent that the node's unit runs."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.state = node.state


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
    daemon = Daemon(node)
    command("ip", "netns", "add", "edpm-first")  # /run/netns is there and shared
    command("ip", "netns", "del", "edpm-first")
    try:
        node.prepare()
        yield node, daemon
    finally:
        with suppress(OSError, subprocess.SubprocessError):
            daemon.close()
        node.clean()
