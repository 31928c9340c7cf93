"""The minimal recipe of an agent's container: agents work with all of it, and fail without any part of it.

The work is what Neutron's agents do themselves, with their commands and system calls; helpers are requested through
the wrappers. docs/agents.md prints the recipe, which is compared here.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.lab.networks import SIDESPAWN, command

IMAGE = "localhost/sidespawn-neutron-agent:latest"
DOCS = Path(__file__).parents[2] / "docs/agents.md"
# The part of /proc/sys that depends on the reader's namespace; engines mount all of it read-only.
SYSCTLS = "mount --bind /proc/sys/net /proc/sys/net && mount -o remount,rw,bind /proc/sys/net"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    capabilities: tuple[str, ...]
    network: str = "host"
    pid: str = "host"
    propagation: str = "rshared"
    namespaces: str = "/run/netns"
    first: str = SYSCTLS  # the container's first command, before the agent
    seccomp: str = ""  # the engine's default

    def options(self) -> tuple[str, ...]:
        return (
            "--cap-drop=all",
            *(f"--cap-add={each}" for each in self.capabilities),
            "--security-opt=no-new-privileges",
            *((f"--security-opt=seccomp={self.seccomp}",) if self.seccomp else ()),
            f"--network={self.network}",
            f"--pid={self.pid}",
            f"--volume=/run/netns:{self.namespaces}:{self.propagation}",
        )


# The work of an agent, by name: a script that exits with 0 if it worked. $N is the namespace, $I an interface, $S the
# agent's state. The host checks the results of some.
NAMESPACE = {
    "makes a namespace that the host sees": 'ip netns add "$N"',
    "makes an interface of the host's and moves it there": 'ip link add "$I" type veth peer name "p$I" && '
    'ip link set "$I" netns "$N" && ip -n "$N" link set "$I" up && ip -n "$N" link set lo up',
    "gives it an address": 'ip -n "$N" address add 169.254.169.254/32 dev lo && '
    'ip -n "$N" address add 10.9.0.2/24 dev "$I"',
}
SYSCTL = {"sets a sysctl of the namespace": 'ip netns exec "$N" sysctl -qw net.ipv4.conf.all.arp_ignore=1'}
END = {"removes all of it": 'ip link delete "p$I" && ip netns delete "$N"'}


def helper(program: str, pid_file: str, *arguments: str) -> dict[str, str]:
    call = " ".join((f'PROCESS_TAG={program}-"$ID"', f"/usr/sbin/{program}", *arguments))
    return {
        f"starts {program}": f'ip netns exec "$N" env {call}',
        f"finds {program} by its pid": f'tr "\\0" " " <"/proc/$(cat {pid_file})/cmdline" | grep -q "$ID"',
        f"reloads {program}": f'ip netns exec "$N" /etc/neutron/kill_scripts/{program}-kill HUP "$(cat {pid_file})"',
        f"stops {program}": f'ip netns exec "$N" /etc/neutron/kill_scripts/{program}-kill 15 "$(cat {pid_file})"',
    }


DNSMASQ = (
    '--no-hosts --no-resolv --pid-file="$S/dhcp/$ID/pid" --dhcp-hostsfile="$S/dhcp/$ID/host"'
    ' --addn-hosts="$S/dhcp/$ID/addn_hosts" --dhcp-optsfile="$S/dhcp/$ID/opts" --dhcp-leasefile="$S/dhcp/$ID/leases"'
    " --dhcp-match=set:ipxe,175 --dhcp-userclass=set:ipxe6,iPXE --local-service --bind-dynamic"
    ' --dhcp-range="set:subnet-$ID,10.9.0.0,static,255.255.255.0,86400s" --dhcp-option-force=option:mtu,1450'
    " --dhcp-lease-max=256 --conf-file=/dev/null --domain=openstacklocal"
)
FILES = {"writes its files": 'mkdir -p "$S/dhcp/$ID" && cd "$S/dhcp/$ID" && touch host addn_hosts opts leases'}
ROUTING = {
    "routes": 'ip -n "$N" route add default via 10.9.0.1 && ip -n "$N" rule add from 10.9.0.0/24 table 16',
    "filters packets": 'printf "*nat\\n-A POSTROUTING -j MASQUERADE\\nCOMMIT\\n" | ip netns exec "$N" iptables-restore'
    ' && ip netns exec "$N" iptables-save -t nat | grep -q MASQUERADE',
    "announces an address": 'ip netns exec "$N" busybox arping -U -c 1 -w 1 -I "$I" 10.9.0.2 >/dev/null',
}

BOTH = ("NET_ADMIN", "SYS_ADMIN")
WORK: dict[str, tuple[Recipe, dict[str, str]]] = {
    "dhcp": (
        Recipe(capabilities=BOTH),
        NAMESPACE | SYSCTL | FILES | helper("dnsmasq", '"$S/dhcp/$ID/pid"', DNSMASQ) | END,
    ),
    "l3": (Recipe(capabilities=(*BOTH, "NET_RAW")), NAMESPACE | SYSCTL | ROUTING | END),
    "ovn": (Recipe(capabilities=BOTH), NAMESPACE | SYSCTL | END),
}
# What fails first without each part. `None`: no work of this agent.
WITHOUT: tuple[tuple[str, str, dict[str, object], str], ...] = (
    ("dhcp", "SYS_ADMIN", {"capabilities": ("NET_ADMIN",), "first": "true"}, "makes a namespace that the host sees"),
    ("dhcp", "NET_ADMIN", {"capabilities": ("SYS_ADMIN",)}, "makes an interface of the host's and moves it there"),
    ("dhcp", "the host's network", {"network": "none"}, "makes an interface of the host's and moves it there"),
    ("dhcp", "the host's pids", {"pid": "private"}, "finds dnsmasq by its pid"),
    ("dhcp", "rshared, but rslave", {"propagation": "rslave"}, "makes a namespace that the host sees"),
    ("dhcp", "rshared, but rprivate", {"propagation": "rprivate"}, "makes a namespace that the host sees"),
    ("dhcp", "/run/netns", {"namespaces": "/run/elsewhere"}, "makes a namespace that the host sees"),
    ("dhcp", "writable sysctls", {"first": "true"}, "sets a sysctl of the namespace"),
    ("l3", "NET_RAW", {"capabilities": BOTH}, "announces an address"),
    (
        "l3",
        "NET_ADMIN",
        {"capabilities": ("NET_RAW", "SYS_ADMIN")},
        "makes an interface of the host's and moves it there",
    ),
    (
        "l3",
        "SYS_ADMIN",
        {"capabilities": ("NET_ADMIN", "NET_RAW"), "first": "true"},
        "makes a namespace that the host sees",
    ),
    ("ovn", "SYS_ADMIN", {"capabilities": ("NET_ADMIN",), "first": "true"}, "makes a namespace that the host sees"),
    ("ovn", "NET_ADMIN", {"capabilities": ("SYS_ADMIN",)}, "makes an interface of the host's and moves it there"),
)


@dataclass
class Ground:
    """A service for the agent, its state on the host, and its mounts."""

    service: str
    state: Path
    mounts: tuple[str, ...]

    def first_failure(self, agent: str, recipe: Recipe) -> str | None:
        """Return the first part of the agent's work that fails with this recipe, or None."""
        _, work = WORK[agent]
        unique = str(uuid.uuid4())
        netns, interface, name = f"qdhcp-{unique}", f"t{unique[:8]}", f"recipe-{unique[:8]}"
        environment = {"N": netns, "I": interface, "S": "/var/lib/neutron", "ID": unique}
        options = (*recipe.options(), *self.mounts, *(f"--env={key}={value}" for key, value in environment.items()))
        first = f"{recipe.first} && exec sleep 600"
        command("podman", "run", "--detach", "--pull=never", f"--name={name}", *options, IMAGE, "sh", "-c", first)
        started = False
        try:
            for what, script in work.items():
                done = command("podman", "exec", name, "sh", "-c", script, check=False)
                started = started or what.startswith("starts")
                if done.returncode != 0 or not self.host_sees(what, netns, f"p{interface}"):
                    print(f"{agent}: cannot: {what}: {done.stderr.strip()[-200:]}")
                    return what
            return None
        finally:
            command("podman", "rm", "--force", "--time=0", name)
            if started:
                command(*SIDESPAWN, "stop", "--all", self.service)
            command("ip", "link", "delete", f"p{interface}", check=False)
            command("ip", "netns", "delete", netns, check=False)

    def host_sees(self, what: str, netns: str, interface: str) -> bool:
        """Return whether that is visible on the host; most of an agent's work has no effect here."""
        seen = {
            "makes a namespace that the host sees": ("ip", "-n", netns, "link", "show", "lo"),
            "makes an interface of the host's and moves it there": ("ip", "link", "show", interface),
        }
        return what not in seen or command(*seen[what], check=False).returncode == 0


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    state = Path("/var/lib") / f"sidespawn-{name}"
    state.mkdir()
    policy = Path("/etc/sidespawn") / f"{name}.toml"
    policy.parent.mkdir(exist_ok=True)
    # As the agent is root in its container, its files are root's: docs/neutron.md.
    policy.write_text(
        f'extends = "neutron-dhcp-dnsmasq"\n[parameters]\nstate_on_host = "{state}"\nuid = 0\ngid = 0\n'
        '[side_container]\ncapabilities = ["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SETGID", "SETUID"]\n'
    )
    enabled = json.loads(command(*SIDESPAWN, "enable", "--json", name).stdout)
    yield Ground(name, state, (*enabled["podman_options"], f"--volume={state}:/var/lib/neutron:rw,rprivate"))
    command(*SIDESPAWN, "disable", "--purge", name)
    command("rm", "-r", str(state))


@pytest.mark.parametrize("agent", WORK)
def test_an_agent_can_do_its_work_with_the_recipe(ground: Ground, agent: str) -> None:
    assert ground.first_failure(agent, WORK[agent][0]) is None


@pytest.mark.parametrize(
    ("agent", "part", "change", "fails"), WITHOUT, ids=[f"{case[0]}-{case[1]}" for case in WITHOUT]
)
def test_no_part_of_the_recipe_can_be_left_out(
    ground: Ground, agent: str, part: str, change: dict[str, object], fails: str
) -> None:
    assert ground.first_failure(agent, replace(WORK[agent][0], **change)) == fails  # type: ignore[arg-type]


def test_the_host_pids_are_for_looking_up_helpers_only(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that use sidespawn.agent.client or the process manager do not need them."""
    recipe, work = WORK["dhcp"]
    without = {what: script for what, script in work.items() if "finds" not in what}
    monkeypatch.setitem(WORK, "dhcp", (recipe, without))
    assert ground.first_failure("dhcp", replace(recipe, pid="private")) is None


# ---------------------------------------------------------------- docs/agents.md


def test_the_docs_show_the_recipe() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for agent, (recipe, _) in WORK.items():
        row = re.search(rf"^\| {agent} \|(.*)\|$", text, re.MULTILINE)
        assert row is not None, f"no row for {agent}"
        assert set(re.findall(r"[A-Z]+_[A-Z]+", row[1])) == set(recipe.capabilities)
    dhcp = WORK["dhcp"][0]
    shown = re.search(r"```sh podman\n(.*?)```", text, re.DOTALL)
    quadlet = re.search(r"```ini quadlet\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    assert quadlet is not None
    options = set(shown[1].replace("\\\n", " ").split())
    assert set(dhcp.options()) <= options
    assert dhcp.first in shown[1]
    lines = quadlet[1].splitlines()
    for line in ("DropCapability=all", "Network=host", "PodmanArgs=--pid=host", "NoNewPrivileges=true"):
        assert line in lines
    assert f"AddCapability={' '.join(dhcp.capabilities)}" in lines
    assert "Volume=/run/netns:/run/netns:rshared" in lines
    # tests/host runs both on an AppArmor host.
    named = {"apparmor=sidespawn-agent", "seccomp=/run/sidespawn/agent-seccomp.json"}
    assert {f"--security-opt={each}" for each in named} <= options
    assert "PodmanArgs=--security-opt=apparmor=sidespawn-agent" in lines
    assert "SeccompProfile=/run/sidespawn/agent-seccomp.json" in lines
    assert dhcp.first in quadlet[1]
    for _, part, _, fails in WITHOUT:
        assert f"| {part} |" in text, part
        assert fails in text
