"""haproxy as the metadata proxy of a whole host, as Neutron's Open vSwitch agent uses it, in the host's own network."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import HTTPServer
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from tests.data.corpus import HAPROXY
from tests.lab.answers import Answer, serving
from tests.lab.conftest import new_service
from tests.lab.networks import NEUTRON, Service, command

STATE = "/var/lib/neutron/"
(CALL,) = (call for call in HAPROXY if call.netns is None)
INSTANCE = "03e5f923-3cd9-59d1-91f6-b6bdde843db2"


@contextmanager
def nova() -> Iterator[int]:
    """Serve Nova's metadata and return the port."""
    with serving(server := HTTPServer(("127.0.0.1", 0), Answer)):
        yield server.server_port


@dataclass(frozen=True)
class Proxy:
    service: Service

    @property
    def pid_file(self) -> Path:
        return self.service.state / str(CALL.pid_file).removeprefix(STATE)

    def write(self, port: int, nova_port: int, *changes: tuple[str, str]) -> None:
        """Write what Neutron writes, for one instance whose address is the host's."""
        ((path, text),) = CALL.files.items()
        own = [("*:80", f"*:{port}"), ("192.0.2.10", "127.0.0.1"), ("127.0.0.1:8775", f"127.0.0.1:{nova_port}")]
        for old, new in (*own, *changes):
            assert old in text
            text = text.replace(old, new)
        (self.service.state / path.removeprefix(STATE)).write_text(text)

    def call(self, *argv: str) -> tuple[int, str]:
        done = command("env", "PROCESS_TAG=haproxy-host_metadata_proxy", *argv, check=False)
        return done.returncode, done.stderr

    def start(self) -> tuple[int, str]:
        return self.call(str(self.service.wrapper), *CALL.argv[1:])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    service = new_service("haproxy")
    service.enable(
        "--preset=neutron-ovs-metadata-haproxy", f"--set=state_on_host={service.state}", f"--set=port={port}"
    )
    made = Proxy(service)
    made.pid_file.parent.mkdir(parents=True)
    yield made
    service.clean()


def test_instances_in_the_hosts_network_differ_by_address(proxy: Proxy, port: int) -> None:
    with nova() as nova_port:
        proxy.write(port, nova_port)
        assert proxy.start() == (0, "")
        pid = int(proxy.pid_file.read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert answer.read().decode() == f"X-Instance-ID {INSTANCE}"
    assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/1/ns/net").st_ino
    for name in ("pid", "mnt", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/1/ns/{name}")
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(NEUTRON)] * 4
    assert int(status["CapEff"], 16) == 1 << 10  # NET_BIND_SERVICE
    assert "host_metadata_proxy" in Path(f"/proc/{pid}/cmdline").read_text()  # how Neutron recognises it

    assert proxy.start() == (0, "")
    assert int(proxy.pid_file.read_text()) == pid  # running already, also after a restart of the agent
    assert proxy.call(str(proxy.service.kill_script), "HUP", str(pid)) == (0, "")
    assert proxy.call(str(proxy.service.kill_script), "9", str(pid)) == (0, "")
    assert identify(pid) is None
    assert proxy.service.containers() == {}


def test_a_file_that_runs_programs_or_a_caller_in_a_namespace_starts_nothing(proxy: Proxy, port: int) -> None:
    proxy.write(port, 1, ("    daemon\n", "    daemon\n    external-check\n"))
    code, complaint = proxy.start()
    assert code == 77
    assert "external-check" in complaint
    proxy.write(port, 1)
    netns = f"qdhcp-{proxy.service.name}"
    command("ip", "netns", "add", netns)
    code, complaint = proxy.call("ip", "netns", "exec", netns, str(proxy.service.wrapper), *CALL.argv[1:])
    command("ip", "netns", "del", netns)
    assert code == 77
    assert "(namespace-not-allowed)" in complaint
    assert proxy.service.containers() == {}
