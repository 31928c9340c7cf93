"""Does the work of Neutron's DHCP agent for a network, as observed with neutron 29: its files, command and checks."""

from __future__ import annotations

from sidespawn.cli.demo.stage import NETWORK
from sidespawn.system.processes import Output
from sidespawn.testing.agent import STATE, AgentContainer

HOME = f"{STATE}/dhcp/{NETWORK}"
PID_FILE = f"{HOME}/pid"
NETNS = f"qdhcp-{NETWORK}"
TAG = f"dnsmasq-{NETWORK}"
SUBNET = "0d4e9c52-3a86-4b6f-9a53-7c1f0b2d8e44"
INTERFACE = "tap7c91d0e2-4f"  # tap and the first 11 characters of the port's id
SWITCH_PORT = "port0"
SERVER, ROUTER, PREFIX, MTU = "10.100.0.2", "10.100.0.1", 24, "1450"
KILL_SCRIPT = "/etc/neutron/kill_scripts/dnsmasq-kill"
# Neutron's question before it uses host tags: it starts no daemon, so the agent's own dnsmasq answers.
PROBE = ("env", "LC_ALL=C", "PATH=/sbin:/usr/sbin", "dnsmasq", "--test", "--dhcp-host=tag:foo")
COMMAND = (
    "dnsmasq",
    "--no-hosts",
    "--no-resolv",
    f"--pid-file={PID_FILE}",
    f"--dhcp-hostsfile={HOME}/host",
    f"--addn-hosts={HOME}/addn_hosts",
    f"--dhcp-optsfile={HOME}/opts",
    f"--dhcp-leasefile={HOME}/leases",
    "--dhcp-match=set:ipxe,175",
    "--dhcp-userclass=set:ipxe6,iPXE",
    "--local-service",
    "--bind-dynamic",
    f"--dhcp-range=set:subnet-{SUBNET},10.100.0.0,static,255.255.255.0,86400s",
    f"--dhcp-option-force=option:mtu,{MTU}",
    "--dhcp-lease-max=256",
    "--conf-file=/dev/null",
    "--domain=openstacklocal",
)


def address(number: int) -> str:
    """Return the address of the port number 1, 2, …"""
    return f"10.100.0.{9 + number}"


def write_files(agent: AgentContainer, macs: tuple[str, ...]) -> None:
    """Write the network's ports, with these MAC addresses, as the user neutron."""
    names = [(mac, address(number), f"host-{address(number).replace('.', '-')}") for number, mac in enumerate(macs, 1)]
    files = {
        "host": "".join(f"{mac},{name}.openstacklocal,{ip}\n" for mac, ip, name in names),
        "addn_hosts": "".join(f"{ip}\t{name}.openstacklocal {name}\n" for _, ip, name in names),
        "opts": f"tag:subnet-{SUBNET},option:router,{ROUTER}",
    }
    for file, text in files.items():
        agent.write(f"{HOME}/{file}", text)


def write_leases(agent: AgentContainer, mac: str) -> None:
    """Write the leases once, before the first start; afterwards the file belongs to dnsmasq."""
    agent.write(f"{HOME}/leases", f"0 {mac} {address(1)} * *\n")


def start(agent: AgentContainer) -> Output:
    return agent.exec_in(NETNS, TAG, COMMAND)


def kill(agent: AgentContainer, signal: str, pid: int) -> Output:
    return agent.exec_in(NETNS, TAG, (KILL_SCRIPT, signal, str(pid)))


def active_pid(agent: AgentContainer) -> int | None:
    """Return the pid in the file if Neutron considers it active: a process with the network in its arguments."""
    script = f'pid=$(cat {PID_FILE}) && tr "\\0" " " </proc/$pid/cmdline | grep -q {NETWORK} && echo $pid'
    done = agent.exec(("sh", "-c", script))
    return int(done.stdout) if done.code == 0 else None
