"""README's five minutes, word for word: the commands are read from the page and executed one after the other.

What is replaced is what the page leaves open: AGENT-IMAGE and each … by the options that a step's text names.
"""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from release.__main__ import build
from tests.lab.networks import DNSMASQ_FILES, NEUTRON
from tests.machine.agents import IMAGE, make_image
from tests.machine.pages import steps
from vm.cache import default_cache
from vm.checkout import HOME
from vm.machine import Machine
from vm.wheels import ensure_wheels

PAGE, HEADING = "README.md", "Five minutes to first use on a real host"
SERVICE, AGENT, VOLUME = "neutron-dhcp-dnsmasq", "five-minutes-agent", "neutron"
STATE = f"/var/lib/containers/storage/volumes/{VOLUME}/_data"
WHEELS = "/root/wheels"
REFUSED = 77
TRACES = (
    "ls -d /run/sidespawn /etc/sidespawn/* /etc/systemd/system/sidespawn* /etc/systemd/system/*.wants/sidespawn*;"
    " podman ps --all --format='{{.Names}}'; systemctl list-units --all --plain --no-legend 'sidespawn*'"
)


@pytest.fixture
def host(machine: Machine) -> Iterator[Machine]:
    """Without the checkout's command, with an image of an agent and the agent's state, and with wheels for pip."""
    python = machine.run("python3 -c 'import sys; print(*sys.version_info[:2], sep=\".\")'").stdout.strip()
    machine.copy_in(ensure_wheels(default_cache(), python), WHEELS)
    machine.run("mv /usr/local/bin/sidespawn /root/sidespawn-command")
    make_image(machine)
    machine.run(f"podman volume create {VOLUME}")
    yield machine
    machine.run(
        f"podman rm --force --time=0 {AGENT}; podman volume rm {VOLUME}; rm -rf /opt/sidespawn build {WHEELS};"
        " ! dpkg-query --show sidespawn || apt-get purge --yes sidespawn; rm -f sidespawn_*.deb;"
        " mv /root/sidespawn-command /usr/local/bin/sidespawn; ip -all netns delete"
    )


def carry_out(machine: Machine, command: str, expected: int = 0) -> str:
    """As it stands, in a shell of its own; what it printed."""
    offline = f"export PIP_NO_INDEX=1 PIP_FIND_LINKS={WHEELS}"
    done = machine.run(f"{offline}\n{command}", timeout=120, check=False)
    assert done.returncode == expected, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("by_apt", "command"),
    [
        pytest.param(True, "/usr/bin/sidespawn", id="package", marks=pytest.mark.part("five-minutes-package")),
        pytest.param(False, "/opt/sidespawn/bin/sidespawn", id="checkout", marks=pytest.mark.part("five-minutes-pip")),
    ],
)
def test_the_five_minutes(host: Machine, tmp_path: Path, by_apt: bool, command: str) -> None:
    install, check, enable, start, look, back = steps(PAGE, HEADING)
    install = [each for each in install if each.startswith("apt ") == by_apt]
    if by_apt:
        (deb,) = build("deb", "", tmp_path)
        host.copy_in(deb, f"{HOME}/{deb.name}")
    network = str(uuid.uuid4())
    home = f"{STATE}/dhcp/{network}"
    files = " ".join(f"{home}/{name}" for name in DNSMASQ_FILES)
    host.run(f"mkdir -p {home}; touch {files}; chown -R {NEUTRON}:{NEUTRON} {STATE}")
    for each in (*install, *check):
        carry_out(host, each)
    assert host.run("readlink -f $(command -v sidespawn)").stdout == f"{command}\n"

    (command,) = enable
    printed = carry_out(host, command.replace("AGENT-IMAGE", IMAGE))
    options = [each.replace("AGENT-IMAGE", IMAGE) for each in re.findall(r"^ +(--\S+)$", printed, re.MULTILINE)]
    (command,) = start
    if not any("apparmor" in option for option in options):
        command = re.sub(r"--security-opt=apparmor=\S+", "", command)
    own = ("--detach", f"--name={AGENT}", f"--volume={VOLUME}:/var/lib/neutron")
    for more in (own, [option for option in options if option not in command]):
        command = command.replace("…", shlex.join(more), 1)
    carry_out(host, command.replace("AGENT-IMAGE", IMAGE))
    pid_file = f"{home}/pid"
    host.run(f"until [[ -s {pid_file} ]]; do sleep 0.5; done", timeout=60)

    shown = [carry_out(host, each, REFUSED if "explain" in each else 0) for each in look]
    assert f"{SERVICE}_qdhcp-{network}" in shown[0]
    assert "is running, pid" in shown[1]
    assert "--dhcp-script" in shown[2]
    (command,) = back
    host.run(f"podman stop --time=0 {AGENT}")
    carry_out(host, command)
    assert host.run(TRACES, check=False).stdout.split() == [AGENT]
