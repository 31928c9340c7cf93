"""dibbler-client of a router, as older Neutron releases use it: a prefix is delegated and written to a file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from tests.lab.conftest import new_service
from tests.lab.networks import NEUTRON, Router, command, wait_until

STATE = "/var/lib/neutron"
HELPERS = "localhost/sidespawn-helpers:latest"
CONFIGURATION = """
# Config for dibbler-client.

# Use enterprise number based duid
duid-type duid-en 8888 0x{subnet}

# 8 (Debug) is most verbose. 7 (Info) is usually the best option
log-level 8

# No automatic downlink address assignment
downlink-prefix-ifaces "none"

# Use script to notify l3_agent of assigned prefix
script "{home}/notify.sh"

# Ask for prefix over the external gateway interface
iface "qg-test" {{
# Bind to generated LLA
bind-to-address fe80::1
# ask for address
    pd 1
}}
"""
SERVER = """\
log-level 7
iface "far" {
  t1 1800
  t2 2000
  prefered-lifetime 2700
  valid-lifetime 3600
  class { pool 2001:db8:1::/64 }
  pd-class {
    pd-pool 2001:db8:aa00::/40
    pd-length 64
  }
}
"""


@dataclass
class Delegated(Router):
    """A router with one subnet whose prefix comes from a server behind the gateway."""

    subnet: str

    @property
    def key(self) -> str:
        return f"{self.id}:{self.subnet}:qr-test"

    @property
    def tag(self) -> str:
        return f"dibbler-{self.key}"

    @property
    def home(self) -> Path:
        return self.service.state / "pd" / self.key

    @property
    def pid_file(self) -> Path:
        return self.home / "client.pid"

    @property
    def server(self) -> str:
        return f"server-{self.id[:8]}"

    @property
    def prefix(self) -> str:
        path = self.home / "prefix"
        return path.read_text() if path.exists() else ""

    def write(self, *changes: tuple[str, str]) -> None:
        text = CONFIGURATION.format(subnet=self.subnet.replace("-", ""), home=f"{STATE}/pd/{self.key}")
        for old, new in changes:
            text = text.replace(old, new)
        (self.home / "client.conf").write_text(text)

    def call(self, word: str, home: str = "") -> tuple[int, str]:
        return self.run(str(self.service.wrapper), word, "-w", home or f"{STATE}/pd/{self.key}")


@pytest.fixture
def router() -> Iterator[Delegated]:
    service = new_service("dibbler-client")
    service.enable("--preset=neutron-l3-dibbler", f"--set=state_on_host={service.state}")
    made = Delegated(service, str(uuid.uuid4()), str(uuid.uuid4()))
    for path in (made.home.parent, made.home):
        path.mkdir()
        os.chown(path, NEUTRON, NEUTRON)
    made.write()
    for name in (made.netns, made.server):
        command("ip", "netns", "add", name)
        command("ip", "-n", name, "link", "set", "lo", "up")
    command("ip", "-n", made.netns, "link", "add", "qg-test", "type", "veth", "peer", "far", "netns", made.server)
    for name, interface, address in ((made.netns, "qg-test", "fe80::1"), (made.server, "far", "fe80::2")):
        command("ip", "-n", name, "link", "set", interface, "addrgenmode", "none", "up")
        command("ip", "-n", name, "address", "add", f"{address}/64", "dev", interface, "nodad")
    yield made
    command("podman", "rm", "--force", "--time=0", "--ignore", made.server)
    service.clean()
    for name in (made.netns, made.server):
        command("ip", "netns", "del", name)


@pytest.fixture
def served(router: Delegated) -> Delegated:
    """Run a server that delegates prefixes."""
    configuration = router.service.state / "server.conf"
    configuration.write_text(SERVER)
    places = [f"--tmpfs=/{path}" for path in ("var/lib/dibbler", "var/log/dibbler")]
    mounted = f"--volume={configuration}:/etc/dibbler/server.conf:ro"
    rights = ("--cap-drop=all", "--cap-add=NET_BIND_SERVICE", f"--network=ns:/run/netns/{router.server}")
    command(
        *("podman", "run", "--detach", f"--name={router.server}", *rights, *places, mounted),
        *(HELPERS, "/usr/sbin/dibbler-server", "run"),
    )
    return router


def test_a_delegated_prefix_is_written_where_the_agent_reads_it(served: Delegated) -> None:
    assert served.call("start") == (0, "")
    pid = served.pid
    wait_until(lambda: served.prefix.startswith("2001:db8:aa"), patience=20)
    assert served.prefix.endswith("/64")
    assert (served.home / "prefix").stat().st_uid == NEUTRON

    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(NEUTRON)] * 4
    assert [int(status[name], 16) for name in ("CapEff", "CapBnd")] == [1 << 10] * 2  # NET_BIND_SERVICE
    assert served.key in Path(f"/proc/{pid}/cmdline").read_text()  # how Neutron recognises it
    assert served.call("start") == (0, "")
    assert served.pid == pid  # running already

    assert served.call("stop", str(served.home)) == (0, "")  # it reads the pid file in its working directory
    assert identify(pid) is None
    wait_until(lambda: "Received RELEASE" in command("podman", "logs", served.server).stdout)  # it was returned
    assert not served.pid_file.exists()
    assert served.service.containers() == {}
    code, complaint = served.call("stop", str(served.home))
    assert code != 0
    assert "No such process" in complaint

    assert served.call("start") == (0, "")
    pid = served.pid
    kill_script = str(served.service.places.agent / "dibbler-kill")
    assert served.run(kill_script, "9", str(pid)) == (0, "")  # Neutron ends it like this when another router takes over
    assert identify(pid) is None


def test_a_file_with_its_own_script_or_another_word_starts_nothing(router: Delegated) -> None:
    router.write((f"{STATE}/pd/{router.key}/notify.sh", "/tmp/x"))
    code, complaint = router.call("start")
    assert code == 77
    assert "(configuration-not-allowed)" in complaint
    router.write()
    code, complaint = router.call("install")
    assert code == 77
    assert "(option-not-allowed)" in complaint
    assert router.service.containers() == {}
