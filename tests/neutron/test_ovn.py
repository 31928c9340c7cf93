"""The real neutron-ovn-metadata-agent, run from its own main, with OVN's real databases."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from sidespawn.testing.network import remove_namespace
from tests.lab.answers import Answer, serving
from tests.lab.networks import command, kill_process, wait_until
from tests.neutron.agents import MANAGER, STATE, WRAPPERS, Agent
from tests.neutron.helpers import ASK
from tests.neutron.ovn import Chassis, Network
from tests.neutron.releases import NEWEST, OLD

PATIENCE = 180
SETTINGS = """\
metadata_workers = 0
nova_metadata_host = 127.0.0.1
nova_metadata_port = {nova}

[ovn]
ovn_sb_connection = unix:{state}/ovn/db.sock

[ovs]
ovsdb_connection = unix:{state}/ovn/db.sock
"""


@pytest.fixture
def nova() -> Iterator[int]:
    """Serve Nova's metadata, which reports the requested instance, and return the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    with serving(server):
        yield server.server_address[1]


@pytest.fixture(params=[(NEWEST, WRAPPERS), (NEWEST, MANAGER), (OLD, WRAPPERS)], ids="-".join)
def ovn(request: pytest.FixtureRequest, nova: int) -> Iterator[Agent]:
    release, way = request.param
    made = Agent("ovn", way, interval=1, release=release, settings=SETTINGS.format(state=STATE, nova=nova))
    try:
        made.enable()
        yield made
    finally:
        made.clean()


def test_a_port_is_bound_and_asks_and_is_unbound(ovn: Agent) -> None:
    chassis = Chassis(f"{ovn.name}-ovn", ovn.state / "ovn")
    with ExitStack() as around:
        around.callback(chassis.remove)
        chassis.start()
        network = Network(chassis)
        around.callback(remove_namespace, network.netns)
        network.make()
        ovn.start("ovn.py")
        try:
            live(ovn, network)
        except AssertionError as failed:
            failed.add_note(ovn.trouble())
            raise


def live(agent: Agent, network: Network) -> None:
    pid_file = agent.state / f"external/pids/{network.id}.pid.haproxy"
    socket = agent.state / "metadata/socket"
    wait_until(socket.exists, PATIENCE)
    network.bind()
    wait_until(pid_file.exists, PATIENCE)
    pid = int(pid_file.read_text())
    (container,) = agent.services["haproxy"].containers().values()
    assert container.pid == pid
    with network.connected():
        answered = f"X-Instance-ID {network.instance}"
        wait_until(lambda: metadata(network) == answered, PATIENCE)

        # The agent dies: no one answers haproxy, which keeps running. The next agent finds it.
        agent.kill()
        assert metadata(network) == ""
        assert identify(pid) is not None
        Path(socket).unlink()
        agent.start("ovn.py")
        wait_until(socket.exists, PATIENCE)
        wait_until(lambda: metadata(network) == answered, PATIENCE)
        assert int(pid_file.read_text()) == pid

        # haproxy dies; the agent's ProcessMonitor restarts it.
        kill_process(pid)
        wait_until(lambda: pid_file.exists() and int(pid_file.read_text() or pid) != pid, PATIENCE)
        wait_until(lambda: metadata(network) == answered, PATIENCE)

    network.unbind()
    wait_until(network.is_gone, PATIENCE)
    wait_until(lambda: agent.services["haproxy"].containers() == {}, PATIENCE)


def metadata(network: Network) -> str:
    """Return the answer that the machine gets from the metadata address."""
    url = "http://169.254.169.254/"
    asked = command("ip", "netns", "exec", network.machine, sys.executable, "-c", ASK, url, check=False)
    return asked.stdout.strip()
