"""haproxy as a router's metadata proxy: a request from the namespace reaches the agent, with the router's id."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from tests.lab.answers import agents_socket
from tests.lab.conftest import new_service
from tests.lab.networks import Router, command

STATE = "/var/lib/neutron"
# What Neutron writes for a router, including the lines that side containers make unnecessary.
CONFIGURATION = """
global
    log         /dev/log local0 info
    log-tag     haproxy-metadata-proxy-{id}
    user        root
    group       root
    maxconn     1024
    nbthread    2
    pidfile     /var/lib/neutron/external/pids/{id}.pid.haproxy
    daemon

defaults
    log global
    mode http
    option httplog
    option dontlognull
    option http-server-close
    option forwardfor
    retries                 3
    timeout http-request    30s
    timeout connect         30s
    timeout client          32s
    timeout server          32s
    timeout http-keep-alive 30s

listen listener
    bind :::9697

    server metadata /var/lib/neutron/metadata_proxy

    http-request del-header X-Neutron-Network-ID
    http-request set-header X-Neutron-Router-ID {id}
"""
ASK = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9697/', timeout=5).read().decode())"


class ProxiedRouter(Router):
    @property
    def configuration(self) -> Path:
        return self.service.state / "ns-metadata-proxy" / f"{self.id}.conf"

    def start(self) -> tuple[int, str]:
        return self.run(str(self.service.wrapper), "-f", f"{STATE}/ns-metadata-proxy/{self.id}.conf")

    def ask(self) -> str:
        return command("ip", "netns", "exec", self.netns, sys.executable, "-c", ASK).stdout.strip()


@pytest.fixture
def router() -> Iterator[ProxiedRouter]:
    service = new_service("haproxy")
    service.enable("--preset=neutron-l3-haproxy", f"--set=state_on_host={service.state}")
    made = ProxiedRouter(service, str(uuid.uuid4()))
    for path in (made.configuration.parent, made.pid_file.parent):
        path.mkdir(parents=True)
    made.configuration.write_text(CONFIGURATION.format(id=made.id))
    command("ip", "netns", "add", made.netns)
    command("ip", "-n", made.netns, "link", "set", "lo", "up")
    yield made
    service.clean()
    command("ip", "netns", "del", made.netns)


def test_a_request_from_the_namespace_reaches_the_agent_also_after_the_agents_restart(router: ProxiedRouter) -> None:
    socket = router.service.state / "metadata_proxy"
    with agents_socket(socket):
        assert router.start() == (0, "")
        pid = int(router.pid_file.read_text())
        assert router.ask() == f"X-Neutron-Router-ID {router.id}"
    with agents_socket(socket):
        assert router.ask() == f"X-Neutron-Router-ID {router.id}"
    assert router.start() == (0, "")
    assert int(router.pid_file.read_text()) == pid  # running already

    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == ["42435"] * 4
    assert int(status["CapEff"], 16) == 1 << 10  # NET_BIND_SERVICE
    assert router.id in Path(f"/proc/{pid}/cmdline").read_text()  # how Neutron recognises it

    assert router.run(str(router.service.kill_script), "15", str(pid)) == (0, "")
    assert identify(pid) is None
    assert not router.pid_file.exists()


def test_the_agents_state_can_be_read_and_not_written(router: ProxiedRouter) -> None:
    with agents_socket(router.service.state / "metadata_proxy"):
        assert router.start() == (0, "")
    mounts = Path(f"/proc/{router.pid_file.read_text().strip()}/mounts").read_text().splitlines()
    agent = next(line.split() for line in mounts if line.split()[1] == "/run/agent")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(agent[3].split(","))


def test_a_changed_file_starts_nothing_and_replaces_nothing(router: ProxiedRouter) -> None:
    router.configuration.write_text(CONFIGURATION.format(id=router.id) + "    errorfile 503 /etc/shadow\n")
    code, complaint = router.start()
    assert code == 77
    assert "errorfile" in complaint
    assert router.service.containers() == {}
