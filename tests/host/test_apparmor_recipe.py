"""An agent works with AppArmor's profile and the list of system calls for agents.

The recipes are those of docs/agents.md, word for word; `filled_in` has what is filled in.
"""

from __future__ import annotations

import errno
import json
import re
import shlex
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidespawn.testing.agent import NEUTRON, AgentContainer
from tests.attacks.stage import AGENT_IMAGE
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Network, Service, command, wait_until

CHECKOUT = Path(__file__).parents[2]
AGENTS = (CHECKOUT / "docs/agents.md").read_text(encoding="utf-8")
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
QUADLETS = Path("/etc/containers/systemd")
# The host's mount(8), from util-linux; the image has busybox's.
LOADER = "/host/lib64/ld-linux-x86-64.so.2 --library-path /host/lib/x86_64-linux-gnu"
NAMES = ("apparmor", "seccomp")


@dataclass(frozen=True, kw_only=True)
class Ground:
    service: Service
    podman_options: tuple[str, ...]
    security_options: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.service.name}-agent"

    def agent(self, *confined_by: str) -> AgentContainer:
        chosen = (each for each in self.security_options if each.split("=")[1] in confined_by)
        options = (*self.podman_options, "--volume=/usr:/host:ro,rslave")
        return AgentContainer(
            name=self.name, image=AGENT_IMAGE, state=self.service.state, service_options=options,
            security_options=tuple(chosen),
        )  # fmt: skip

    def filled_in(self, text: str, separator: str, of_option: str) -> str:
        """Return a recipe with the test's names; the command of Neutron's agent is replaced by one that waits."""
        options = separator.join(of_option.format(each.partition("=")[2]) for each in self.podman_options)
        for old, new in (
            ("neutron_dhcp_agent", self.name),
            ("sidespawn-spool@neutron-dhcp-dnsmasq.service", f"sidespawn-spool@{self.service.name}.service"),
            ("/var/lib/neutron:/var/lib/neutron", f"{self.service.state}:/var/lib/neutron"),
            ("... what `sidespawn enable` printed, for each of its services ...", options),
            ("# and a Volume= for each mount that `sidespawn enable` printed", options),
            ("AGENT-IMAGE", AGENT_IMAGE),
            ("exec neutron-dhcp-agent", "exec sleep infinity"),
        ):
            text = text.replace(old, new)
        return text


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    service = new_service()
    try:
        service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
        enabled = json.loads(command(*SIDESPAWN, "enable", "--json", service.name).stdout)
        yield Ground(
            service=service,
            podman_options=tuple(enabled["podman_options"]),
            security_options=tuple(enabled["security_options"]),
        )
    finally:
        service.clean()


@pytest.fixture(params=[("apparmor",), ("seccomp",), NAMES], ids="-".join)
def agent(ground: Ground, request: pytest.FixtureRequest) -> Iterator[AgentContainer]:
    """Run an agent confined by one of the two, and by both."""
    made = ground.agent(*request.param)
    made.start()
    yield made
    made.remove()


FIRST = re.search(r"sh -c '(.*) && exec neutron-dhcp-agent'", AGENTS)
WORK = {
    "add": "ip netns add {netns}",
    "veth": "ip link add {port} type veth peer name p{port} && ip link set {port} netns {netns}",
    "address": "ip -n {netns} address add 10.9.0.2/24 dev {port} && ip -n {netns} link set {port} up",
    "exec": "ip netns exec {netns} ip link show {port}",
    "sysfs": "ip netns exec {netns} ls /sys/class/net/{port} && ! ls /sys/class/net/{port}",
    # Like a program that was started in the namespace and uses its name again.
    "exec within exec": "ip netns exec {netns} ip netns exec {netns} ip link show {port}",
    "files of the namespace": "mkdir -p /etc/netns/{netns} && echo here >/etc/netns/{netns}/hosts && "
    "ip netns exec {netns} grep -q here /etc/hosts",
    "the first command": "{first}",
    "sysctl": "ip netns exec {netns} sysctl -qw net.ipv4.conf.all.arp_ignore=1",
    "signal": "sleep 60 & kill $! && kill -0 1",
    "command line": "tr '\\0' ' ' </proc/1/cmdline | grep -q .",
    "delete": "ip link delete p{port} && ip netns delete {netns} && rm -r /etc/netns/{netns}",
}


def test_an_agent_does_its_work(agent: AgentContainer) -> None:
    assert FIRST is not None
    unique = uuid.uuid4().hex[:8]
    for what, script in WORK.items():
        filled = script.format(netns=f"test-{unique}", port=f"t{unique}", first=FIRST[1])
        done = agent.exec(("sh", "-c", filled))
        assert done.code == 0, f"{what}: {done.stdout}{done.stderr}"


def test_the_first_command_works_by_the_mount_of_util_linux(ground: Ground) -> None:
    """Use other flags than busybox. Since 2.39, util-linux tries the new mount API first, which is denied here."""
    assert FIRST is not None
    script = FIRST[1].replace("mount ", f"{LOADER} /host/bin/mount ")
    made = ground.agent(*NAMES)
    made.start()
    try:
        made.exec(("sh", "-c", script), code=0)
        made.exec(("sysctl", "-qw", "net.ipv4.conf.lo.arp_ignore=0"), code=0)
    finally:
        made.remove()


def test_the_profile_that_podman_chooses_refuses_ip_netns(ground: Ground) -> None:
    """This explains the need for the option; the refusal is in no log."""
    made = ground.agent()
    options = tuple(each for each in made.options() if "apparmor=unconfined" not in each)
    done = command("podman", "run", "--rm", *options, AGENT_IMAGE, "ip", "netns", "add", "refused", check=False)
    assert done.returncode != 0
    assert "Permission denied" in done.stderr
    assert "DENIED" not in command("journalctl", "--dmesg", "--grep=apparmor.*refused", check=False).stdout


# ---------------------------------------------------------------- the printed recipes


def serves(ground: Ground, agent: AgentContainer) -> None:
    """Serve, reconfigure and give up a network of the agent's own, all from inside."""
    network = Network(ground.service, str(uuid.uuid4()), ground.service.state / "dhcp/x")
    home, options = f"/var/lib/neutron/dhcp/{network.id}", network.options()
    made = f"mkdir -p {home} && cd {home} && touch host addn_hosts opts leases"
    agent.exec(("sh", "-c", made), user=NEUTRON, code=0)
    agent.exec(("ip", "netns", "add", network.netns), code=0)
    try:
        agent.exec(("ip", "-n", network.netns, "link", "set", "lo", "up"), code=0)
        agent.exec(("ip", "netns", "exec", network.netns, "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1"), code=0)
        started = agent.exec_in(network.netns, f"dnsmasq-{network.id}", ("dnsmasq", *options))
        assert (started.code, started.stderr) == (0, "")
        pid = agent.exec(("cat", f"{home}/pid"), code=0).stdout.strip()
        agent.exec(("grep", "-q", network.id, f"/proc/{pid}/cmdline"), code=0)
        assert network.record is not None
        kill = ("/etc/neutron/kill_scripts/dnsmasq-kill", "9", pid)
        assert agent.exec_in(network.netns, f"dnsmasq-{network.id}", kill).code == 0
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 60)
    finally:
        command("ip", "netns", "delete", network.netns, check=False)


def expect_confined(agent: AgentContainer) -> None:
    """Check the profile, in enforce mode, and the list for agents, under which the new mount API does not exist."""
    label = Path(f"/proc/{agent.pid()}/attr/apparmor/current").read_text()
    assert "sidespawn-agent" in label.split()[0].split("//&"), label
    assert "sidespawn-agent (enforce)" in Path("/sys/kernel/security/apparmor/profiles").read_text().splitlines()
    fsopen = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall(430, b'x', 0), ctypes.get_errno())"
    assert agent.exec(("python3", "-c", fsopen), code=0).stdout == f"-1 {errno.ENOSYS}\n"


def test_the_podman_recipe(ground: Ground) -> None:
    (text,) = re.findall(r"^```sh podman\n(.*?)^```$", AGENTS, re.MULTILINE | re.DOTALL)
    agent = ground.agent(*NAMES)
    try:
        command("sh", "-c", ground.filled_in(text, " ", "--volume={}"))
        expect_confined(agent)
        serves(ground, agent)
    finally:
        agent.remove()


def test_the_quadlet_unit(ground: Ground) -> None:
    if not Path("/usr/lib/systemd/system-generators/podman-system-generator").exists():
        pytest.skip("podman has no Quadlet before 4.4")
    (text,) = re.findall(r"^```ini quadlet\n(.*?)^```$", AGENTS, re.MULTILINE | re.DOTALL)
    unit = QUADLETS / f"{ground.name}.container"
    unit.parent.mkdir(parents=True, exist_ok=True)
    try:
        named = f"[Container]\nContainerName={ground.name}\n"
        unit.write_text(ground.filled_in(text, "\n", "Volume={}").replace("[Container]\n", named))
        command("systemctl", "daemon-reload")
        command("systemctl", "start", f"{ground.name}.service", timeout=300)
        agent = ground.agent(*NAMES)
        expect_confined(agent)
        serves(ground, agent)
    finally:
        command("systemctl", "stop", f"{ground.name}.service", check=False, timeout=300)
        unit.unlink(missing_ok=True)
        command("systemctl", "daemon-reload")


def test_readme_and_enable_name_the_same_options(ground: Ground) -> None:
    assert ground.security_options == tuple(re.findall(r"--security-opt=(?:apparmor|seccomp)=[\w/.-]+", README))
    printed = command(*SIDESPAWN, "enable", ground.service.name).stdout
    assert all(each in shlex.split(printed, comments=False, posix=False) for each in ground.security_options)
