"""radvd for a router, as Neutron's L3 agent uses it: a client configures itself from its advertisements."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from tests.lab.conftest import new_service
from tests.lab.networks import Router, command, wait_until

STATE = "/var/lib/neutron"
ADVERTISEMENT = """
interface qr-test
{{
   AdvSendAdvert on;
   MinRtrAdvInterval 3;
   MaxRtrAdvInterval 4;
   AdvLinkMTU 1450;

   prefix {prefix}
   {{
        AdvOnLink on;
        AdvAutonomous on;
   }};
}};
"""


class AdvertisingRouter(Router):
    """A router whose namespace has a port into a client's namespace."""

    @property
    def client(self) -> str:
        return f"client-{self.id[:8]}"

    @property
    def configuration(self) -> Path:
        return self.service.state / "ra" / f"{self.id}.radvd.conf"

    def start(self) -> tuple[int, str]:
        files = ("-C", f"{STATE}/ra/{self.id}.radvd.conf", "-p", f"{STATE}/external/pids/{self.id}.pid.radvd")
        return self.run(str(self.service.wrapper), *files, "-m", "syslog", "-u", "root")

    def client_addresses(self) -> str:
        return command("ip", "-n", self.client, "-6", "address", "show", "dynamic").stdout


@pytest.fixture
def router() -> Iterator[AdvertisingRouter]:
    service = new_service("radvd")
    service.enable("--preset=neutron-l3-radvd", f"--set=state_on_host={service.state}")
    made = AdvertisingRouter(service, str(uuid.uuid4()))
    for path in (made.configuration.parent, service.state / "external/pids"):
        path.mkdir(parents=True)
    for name in (made.netns, made.client):
        command("ip", "netns", "add", name)
    command("ip", "-n", made.netns, "link", "add", "qr-test", "type", "veth", "peer", "name", "eth0")
    command("ip", "-n", made.netns, "link", "set", "eth0", "netns", made.client)
    forwarding = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
    command("ip", "netns", "exec", made.netns, "sh", "-c", forwarding)
    command("ip", "-n", made.netns, "link", "set", "qr-test", "up")
    command("ip", "-n", made.client, "link", "set", "eth0", "up")
    show = ("ip", "-n", made.netns, "-6", "address", "show", "dev", "qr-test")
    wait_until(lambda: "fe80::" in (shown := command(*show).stdout) and "tentative" not in shown)
    yield made
    service.clean()
    for name in (made.netns, made.client):
        command("ip", "netns", "del", name)


def test_a_client_gets_its_address_and_the_next_prefix_after_a_reload(router: AdvertisingRouter) -> None:
    router.configuration.write_text(ADVERTISEMENT.format(prefix="2001:db8:1::/64"))
    assert router.start() == (0, "")
    pid = router.pid
    wait_until(lambda: "2001:db8:1:" in router.client_addresses(), patience=20)

    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16)) == (1 << 13, 1 << 13)  # NET_RAW
    assert router.id in Path(f"/proc/{pid}/cmdline").read_text()  # how Neutron recognises it

    router.configuration.write_text(ADVERTISEMENT.format(prefix="2001:db8:2::/64"))
    assert router.kill("HUP") == (0, "")
    wait_until(lambda: "2001:db8:2:" in router.client_addresses(), patience=20)
    assert router.pid == pid

    router.configuration.write_text(ADVERTISEMENT.format(prefix="2001:db8:3::/64") + "include /etc/shadow;\n")
    code, complaint = router.kill("HUP")
    assert code == 0  # refusals_fail is false
    assert "(configuration-not-allowed)" in complaint
    assert identify(pid) is not None

    assert router.kill("9") == (0, "")  # Neutron ends it like this
    assert identify(pid) is None


def test_a_file_that_is_not_allowed_starts_nothing(router: AdvertisingRouter) -> None:
    router.configuration.write_text("root:x:0:0:root:/root:/bin/bash\n")
    code, complaint = router.start()
    assert code == 0  # refusals_fail is false
    assert "line 1 of" in complaint
    assert router.service.containers() == {}
