"""conntrackd of highly available routers, as Neutron uses it: found by pgrep, queried and ended by its socket."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sidespawn.core.plan import container_name
from sidespawn.system.processes import Output, identify
from sidespawn.testing.agent import CAPABILITIES, AgentContainer
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Service, command, wait_until
from tests.lab.reports import Reports, is_watching

STATE = "/var/lib/neutron"
IMAGE = "localhost/sidespawn-agent:latest"
CONFIGURATION = """
General {{
    HashSize 32768
    HashLimit 131072
    Syslog on
    LockFile {home}/conntrackd.lock
    UNIX {{
        Path {home}/conntrackd.ctl
        Backlog 20
    }}
    SocketBufferSize 262142
    SocketBufferSizeMaxGrown 655355
    Filter From Kernelspace {{
        Protocol Accept {{
            TCP
            UDP
            ICMP
            IPv6-ICMP
        }}
        Address Ignore {{
            IPv4_address 127.0.0.1
            IPv6_address ::1
            IPv4_address {address}
        }}
    }}
}}
Sync {{
    Mode FTFW {{
    }}
    Multicast Default {{
        IPv4_address 225.0.0.50
        IPv4_interface {address}
        Group 3792
        Interface ha-test
        SndSocketBuffer 24985600
        RcvSocketBuffer 24985600
        Checksum on
    }}
}}"""


@dataclass(frozen=True)
class Tracking:
    """A router of the group, and Neutron's calls for it in the agent."""

    agent: AgentContainer
    service: Service
    id: str
    address: str

    @property
    def netns(self) -> str:
        return f"qrouter-{self.id}"

    @property
    def home(self) -> str:
        return f"{STATE}/ha_confs/{self.id}"

    @property
    def configuration(self) -> str:
        return f"{self.home}/conntrackd.conf"

    def write(self, *changes: tuple[str, str]) -> None:
        text = CONFIGURATION.format(home=self.home, address=self.address)
        for old, new in changes:
            text = text.replace(old, new)
        self.agent.write(self.configuration, text)
        self.agent.write(f"{self.home}/pattern", f"conntrackd -d -C {self.configuration}")

    def start(self) -> Output:
        """Start it like Neutron, which removes lock and socket first."""
        self.agent.exec(("rm", "-f", f"{self.home}/conntrackd.lock", f"{self.home}/conntrackd.ctl"), code=0)
        tag = f"default-service-{self.id}"
        return self.agent.exec_in(self.netns, tag, ("conntrackd", "-d", "-C", self.configuration))

    def pids(self) -> list[int]:
        """Return what Neutron writes into its pid file, right after the start.

        The pattern is in a file, because pgrep would find it in the arguments of `podman exec`, too.
        """
        found = self.agent.exec(("sh", "-c", 'pgrep -f "$(cat "$1")"', "sh", f"{self.home}/pattern")).stdout
        return [int(each) for each in found.split()]

    def ask(self, option: str) -> Output:
        """Ask in the agent's own namespace."""
        return self.agent.exec(("conntrackd", "-C", self.configuration, option))

    def kill(self, name: str, pid: int) -> Output:
        script = "/etc/neutron/kill_scripts/default-service-kill"
        return self.agent.exec_in(self.netns, f"default-service-{self.id}", (script, name, str(pid)))


def active_connections(router: Tracking, cache: str) -> int:
    """Return how many connections the router tracks itself (internal), or knows from its peer (external)."""
    lines = router.ask("-s").stdout.split(f"cache {cache}:")[1].splitlines()
    return int(lines[1].rpartition(":")[2])


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    made = new_service("conntrackd")
    made.enable("--preset=neutron-l3-conntrackd", f"--set=state_on_host={made.state}")
    yield made
    made.clean()


@pytest.fixture(scope="module")
def keepalived(service: Service) -> Iterator[Service]:
    """Enable another service of the same agent, which shares a kill script with conntrackd's."""
    made = replace(service, name=f"test-{uuid.uuid4().hex[:8]}", program="keepalived")
    made.enable("--preset=neutron-l3-keepalived", f"--set=state_on_host={made.state}")
    yield made
    made.disable()


@pytest.fixture(scope="module")
def agent(service: Service, keepalived: Service) -> Iterator[AgentContainer]:
    """Run an agent with the mounts that `sidespawn options` prints for both services."""
    printed = json.loads(command(*SIDESPAWN, "options", "--json", service.name, keepalived.name).stdout)
    made = AgentContainer(
        name=f"{service.name}-agent",
        image=IMAGE,
        state=service.state,
        service_options=tuple(each for each in printed["podman_options"] if "src=AGENT-IMAGE" not in each),
        capabilities=(*CAPABILITIES, "DAC_OVERRIDE"),  # the agent's root removes sockets of its user, and uses them
    )
    made.start()
    yield made
    made.remove()


@pytest.fixture
def routers(agent: AgentContainer, service: Service) -> Iterator[tuple[Tracking, Tracking]]:
    """Make two routers that hear each other."""
    first, second = (Tracking(agent, service, str(uuid.uuid4()), f"169.254.192.{number}") for number in (1, 2))
    for each in (first, second):
        command("ip", "netns", "add", each.netns)
    command("ip", "-n", first.netns, "link", "add", "ha-test", "type", "veth", "peer", "ha-test", "netns", second.netns)
    for each in (first, second):
        command("ip", "-n", each.netns, "address", "add", f"{each.address}/18", "dev", "ha-test")
        for name in ("lo", "ha-test"):
            command("ip", "-n", each.netns, "link", "set", name, "up")
        each.write()
    yield first, second
    command(*SIDESPAWN, "stop", service.name, "--all")
    for each in (first, second):
        command("ip", "netns", "del", each.netns)


def test_neutron_finds_one_process_asks_it_and_ends_it(routers: tuple[Tracking, Tracking]) -> None:
    router, other = routers
    for each in routers:
        done = each.start()
        assert (done.code, done.stderr) == (0, "")
        assert len(each.pids()) == 1
        assert each.ask("-n").code == 0
    (pid,) = router.pids()
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == ["42435"] * 4
    assert [int(status[name], 16) for name in ("CapEff", "CapBnd")] == [1 << 12] * 2  # NET_ADMIN
    assert (Path(f"/proc/{pid}/ns/net").stat().st_ino) == Path(f"/run/netns/{router.netns}").stat().st_ino

    # A connection that one router tracks is reported to the other.
    inside = ("ip", "netns", "exec", router.netns)
    command(*inside, "iptables", "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
    send = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x', ('169.254.192.2', 53))"
    command(*inside, sys.executable, "-c", send)
    wait_until(lambda: active_connections(router, "internal") == 1)
    wait_until(lambda: active_connections(other, "external") == 1)

    agent = router.agent
    agent.kill()
    agent.remove()
    agent.start()
    assert router.pids() == [pid]  # it survived the agent

    assert router.ask("-k").code == 0
    wait_until(lambda: identify(pid) is None)
    assert router.start().code == 0
    (again,) = router.pids()
    assert again != pid
    assert len(other.pids()) == 1

    assert router.kill("9", again).code == 0
    assert identify(again) is None
    assert router.pids() == []
    gone = router.kill("9", again)
    assert gone.code != 0
    assert "No such process" in gone.stderr


def test_what_ended_by_its_socket_is_swept(routers: tuple[Tracking, Tracking]) -> None:
    router, _ = routers
    assert router.start().code == 0
    assert router.ask("-k").code == 0
    service = router.service
    wait_until(lambda: service.containers(every=False) == {})
    service.wait_until_idle()
    command(*SIDESPAWN, "sync", service.name)
    assert service.containers() == {}


def test_a_file_with_another_path_starts_nothing(routers: tuple[Tracking, Tracking]) -> None:
    router, other = routers
    router.write((f"{router.home}/conntrackd.lock", f"{other.home}/conntrackd.lock"))
    done = router.start()
    assert done.code == 77
    assert "(configuration-not-allowed)" in done.stderr
    assert router.service.containers() == {}


@pytest.fixture
def monitor(service: Service) -> Iterator[Service]:
    """Enable the service for the script that watches a router's address and then calls conntrackd."""
    made = replace(service, name=f"test-{uuid.uuid4().hex[:8]}", program="neutron-keepalived-state-change")
    made.enable("--preset=neutron-l3-keepalived-state-change", f"--set=state_on_host={made.state}")
    yield made
    made.disable()


def test_the_state_change_monitor_has_it_synchronise(routers: tuple[Tracking, Tracking], monitor: Service) -> None:
    router, _ = routers
    assert router.start().code == 0
    pid_file = f"external/pids/{router.id}.monitor.pid.neutron-keepalived-state-change-monitor"
    router.agent.write(f"{STATE}/{pid_file}", "")
    options = {
        "router_id": router.id,
        "namespace": router.netns,
        "conf_dir": router.home,
        "log-file": f"{router.home}/neutron-keepalived-state-change.log",
        "monitor_interface": "ha-test",
        "monitor_cidr": "169.254.0.7/24",
        "pid_file": f"{STATE}/{pid_file}",
        "state_path": STATE,
    }
    arguments = [each for name, value in options.items() for each in (f"--{name}", value)]
    reports = Reports(router.service.state / "keepalived-state-change")
    with reports.served():
        command(str(monitor.wrapper), *arguments, "--enable_conntrackd")
        pid = int((router.service.state / pid_file).read_text())
        wait_until(lambda: is_watching(pid))
        command("ip", "-n", router.netns, "address", "add", "169.254.0.7/24", "dev", "ha-test")
        wait_until(lambda: (router.id, "primary") in reports.told)
    container = f"CONTAINER_NAME={container_name(router.service.name, router.netns)}"

    def said() -> str:
        command("journalctl", "--sync", check=False)
        return command("journalctl", "--output=cat", "--quiet", container).stdout

    # First, as the backup, it resynchronises; as the primary it commits, flushes, and sends all.
    for done in ("resync requested", "committing all external caches", "flushing caches", "sending bulk update"):
        wait_until(lambda done=done: done in said())  # type: ignore[misc]
    assert "cannot find protocol" not in said()
