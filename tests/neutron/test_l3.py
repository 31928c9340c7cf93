"""The real neutron-l3-agent, run from its own main, with a highly available dual-stack router and all its helpers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from sidespawn.testing.network import Lan, has_namespace, remove_namespace
from tests.lab.answers import agents_socket
from tests.lab.networks import command, kill_process, wait_until
from tests.neutron import routers
from tests.neutron.agents import MANAGER, WRAPPERS, Agent
from tests.neutron.helpers import ASK, connect, lan
from tests.neutron.releases import NEWEST, OLD, image_of

PATIENCE = 180
SETTINGS = "ha_vrrp_advert_int = 1\nha_conntrackd_enabled = {conntrackd}"
MONITOR = "neutron-keepalived-state-change"


class Router:
    """One of the agent's routers, and a machine in its first network."""

    def __init__(self, agent: Agent, described: routers.Json, lan: Lan) -> None:
        self.agent, self.described, self.lan = agent, described, lan
        self.id = str(described["id"])
        self.netns = f"qrouter-{self.id}"
        self.machine = lan.clients[0].netns

    @property
    def has_conntrackd(self) -> bool:
        return self.agent.release == NEWEST  # new in 2024.1

    @property
    def pid_files(self) -> dict[str, Path]:
        state = self.agent.state
        files = {
            "haproxy": state / f"external/pids/{self.id}.pid.haproxy",
            "keepalived": state / f"ha_confs/{self.id}.pid.keepalived",
            MONITOR: state / f"external/pids/{self.id}.monitor.pid.{MONITOR}-monitor",
            "radvd": state / f"external/pids/{self.id}.pid.radvd",
        }
        return {**files, "conntrackd": state / f"ha_confs/{self.id}/conntrackd.pid"} if self.has_conntrackd else files

    def pids(self) -> dict[str, int]:
        """Return the pids of the helpers that have one."""
        found = {}
        for program, path in self.pid_files.items():
            text = path.read_text() if path.exists() else ""
            if text.strip() and identify(int(text)) is not None:
                found[program] = int(text)
        return found

    def is_complete(self) -> bool:
        return self.pids().keys() == self.pid_files.keys()

    @property
    def state(self) -> str:
        return (self.agent.state / "ha_confs" / self.id / "state").read_text()

    @property
    def told(self) -> list[str]:
        """Return what the server was told about it, in order."""
        return [state for router, state in self.agent.ask("states") if router == self.id]

    @property
    def vrrp(self) -> str:
        """Return the VRRP interface; its far end is in the same namespace."""
        return f"ha-{self.described['_ha_interface']['id']}"[:14]

    def addresses(self, netns: str) -> str:
        return command("ip", "-n", netns, "-oneline", "address", "show").stdout

    def has(self, address: str) -> bool:
        return f" {address}/" in self.addresses(self.netns)

    def works(self) -> bool:
        """Have a newly connected machine give itself an address and get metadata; an existing address proves nothing.

        The router is not connected again, because old releases take that for a failure.
        """
        machine = ("ip", "-n", self.machine)
        for verb in ("down", "up"):
            command(*machine, "link", "set", "eth0", verb)
        command(*machine, "address", "replace", "10.20.0.10/24", "dev", "eth0")
        command(*machine, "route", "replace", "default", "via", "10.20.0.1")
        wait_until(lambda: " 2001:db8:1:" in self.addresses(self.machine), PATIENCE)
        wait_until(lambda: self.metadata() == f"X-Neutron-Router-ID {self.id}", PATIENCE)
        return True

    def metadata(self) -> str:
        """Return the answer that the machine gets from the metadata address."""
        url = "http://169.254.169.254/"
        asked = command("ip", "netns", "exec", self.machine, sys.executable, "-c", ASK, url, check=False)
        return asked.stdout.strip()

    def wait_until(self, condition: str) -> None:
        wait_until(lambda: self.told[-1:] == [condition], PATIENCE)


@contextmanager
def made_router(agent: Agent) -> Iterator[Router]:
    """Prepare a router with a metadata service and all else that it needs, without creating it."""
    described = routers.router(routers.interface("10.20.0.1/24", "2001:db8:1::1/64"))
    with ExitStack() as around:
        network = lan(agent, described["_interfaces"][0]["network_id"])
        router = Router(agent, described, around.enter_context(network))
        around.callback(remove_namespace, router.netns)
        around.enter_context(agents_socket(agent.state / "metadata/socket", owner=agent.uid))
        try:
            yield router
        except AssertionError as failed:
            failed.add_note(agent.trouble())
            raise


@pytest.fixture(scope="module")
def old_image() -> Iterator[str]:
    with image_of(OLD) as name:
        yield name


@pytest.fixture(params=[(NEWEST, WRAPPERS), (NEWEST, MANAGER), (OLD, WRAPPERS)], ids="-".join)
def l3(request: pytest.FixtureRequest) -> Iterator[Agent]:
    release, way = request.param
    image = request.getfixturevalue("old_image") if release == OLD else ""
    made = Agent("l3", way, interval=1, release=release, release_image=image)
    made.settings = SETTINGS.format(conntrackd=release == NEWEST)
    try:
        made.enable()
        made.start("l3.py")
        yield made
    finally:
        made.clean()


def test_a_router_comes_and_goes_and_everything_is_killed_once(l3: Agent) -> None:
    with made_router(l3) as router:
        live(router)


def live(router: Router) -> None:
    agent = router.agent
    # A router is created. Once keepalived has taken the addresses and the monitor has told the agent, the rest starts.
    agent.ask("put_router", router=router.described)
    router.wait_until("active")
    wait_until(router.is_complete, PATIENCE)
    connect(router.lan)
    assert router.state == "primary"
    assert all(router.has(each) for each in ("10.20.0.1", "203.0.113.10", "2001:db8:1::1"))
    assert router.works()
    pids = router.pids()
    for program, pid in pids.items():
        (container,) = agent.services[program].containers().values()
        assert container.pid == pid
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/run/netns/{router.netns}").st_ino

    # The agent dies. Its helpers keep running; the next one finds them and interrupts none.
    router.described["_ha_state"] = "active"  # the server's current state
    agent.kill()
    assert router.works()
    agent.start("l3.py")
    # The router gets another network: keepalived and radvd read their files again.
    router.described["_interfaces"].append(routers.interface("10.30.0.1/24", "2001:db8:2::1/64"))
    agent.ask("put_router", router=router.described)
    wait_until(lambda: router.has("10.30.0.1") and router.has("2001:db8:2::1"), PATIENCE)
    assert router.works()
    assert router.pids() == pids
    assert router.told == []
    assert router.state == "primary"

    # It loses its VRRP network, and gets it back.
    command("ip", "-n", router.netns, "link", "set", router.vrrp, "down")
    router.wait_until("standby")
    assert router.state == "backup"
    wait_until(lambda: router.pids().keys() == pids.keys() - {"haproxy", "radvd"}, PATIENCE)
    command("ip", "-n", router.netns, "link", "set", router.vrrp, "up")
    router.wait_until("active")
    wait_until(router.is_complete, PATIENCE)
    assert router.works()

    # Each helper dies; the agent's ProcessMonitor restarts it.
    for program in router.pids():
        wait_until(router.is_complete, PATIENCE)  # without keepalived, the router hands over, and others end as well
        pid = router.pids()[program]
        kill_process(pid)
        wait_until(lambda program=program, pid=pid: router.pids().get(program, pid) != pid, PATIENCE)  # type: ignore[misc]
    wait_until(router.is_complete, PATIENCE)
    router.wait_until("active")
    assert router.works()

    agent.ask("delete_router", router_id=router.id)
    wait_until(lambda: not has_namespace(router.netns), PATIENCE)
    # Helpers that ended by themselves, and conntrackd, which Neutron's own command ends, stay a while for their logs.
    wait_until(lambda: not any(each.containers(every=False) for each in agent.services.values()), PATIENCE)
    assert router.pids() == {}
