"""A DHCP network with deployers' settings: state, files in /etc/neutron and logs in their places."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.conftest import new_service
from tests.lab.networks import NEUTRON, Network, Service, command_lines, wait_until


@dataclass(frozen=True)
class Deployer:
    """Agent's paths. Those in `settings` are where this host has them, in the service's directory."""

    state: str  # state_path
    configuration: str  # dnsmasq_config_file
    logs: str  # dnsmasq_base_log_dir
    settings: tuple[tuple[str, str], ...]


KOLLA = Deployer(
    state="/var/lib/neutron/kolla",
    configuration="/etc/neutron/dnsmasq.conf",
    logs="/var/log/kolla/neutron",
    settings=(("config_dir_on_host", "etc/kolla/neutron-dhcp-agent"), ("kolla_log_dir_on_host", "volumes/kolla_logs")),
)
PACKSTACK = Deployer(
    state="/var/lib/neutron",
    configuration="/etc/neutron/dnsmasq-neutron.conf",
    logs="/var/log/neutron",
    settings=(("config_dir_on_host", "etc/neutron"), ("log_dir_on_host", "log/neutron")),
)
# What deployers' documentation recommends.
DNSMASQ = "# of the deployment\r\nlog-facility=/var/log/neutron/dnsmasq.log\nlog-queries\ndhcp-option-force=26,1400\n"


@pytest.fixture(params=[KOLLA, PACKSTACK], ids=["Kolla-Ansible", "packstack"])
def network(request: pytest.FixtureRequest) -> Iterator[tuple[Deployer, Network]]:
    deployer: Deployer = request.param
    service = new_service()
    settings = {"state": deployer.state, "state_on_host": str(service.state)}
    for name, place in deployer.settings:
        path = Path("/var/lib") / f"{service.state.name}-host" / place
        path.mkdir(parents=True)
        settings[name] = str(path)
    service.enable("--preset=neutron-dhcp-dnsmasq", *(f"--set={name}={value}" for name, value in settings.items()))
    yield deployer, service.network()
    service.clean()
    shutil.rmtree(Path("/var/lib") / f"{service.state.name}-host")


def on_host(service: Service, name: str) -> Path:
    found = service.places.policy.read_text().partition(f'{name} = "')[2].partition('"')[0]
    return Path(found)


def test_a_network_is_served(network: tuple[Deployer, Network]) -> None:
    deployer, served = network
    service = served.service
    (_, _), (logs_at, _) = deployer.settings
    (on_host(service, "config_dir_on_host") / deployer.configuration.rpartition("/")[2]).write_text(DNSMASQ)
    logs = on_host(service, logs_at) / deployer.logs.partition("/var/log/kolla")[2].lstrip("/") / served.id
    logs.mkdir(parents=True)
    os.chown(logs, NEUTRON, NEUTRON)
    options = [each.replace("/var/lib/neutron", deployer.state) for each in served.options(deployer.configuration)]
    log = f"{deployer.logs}/{served.id}/dhcp_dns_log"
    done = served.start(*options, "--log-queries", "--log-dhcp", f"--log-facility={log}")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{deployer.state}/dhcp/{served.id}/host" in command_lines()[served.pid]
    wait_until((logs / "dhcp_dns_log").exists)
    wait_until(lambda: "started, version" in (logs / "dhcp_dns_log").read_text())
    assert served.kill("HUP").returncode == served.kill("TERM").returncode == 0
