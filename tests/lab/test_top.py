"""`sidespawn top` on a service with a side container, also after its agent exceeded its limits."""

from __future__ import annotations

import json

import pytest

from tests.lab.networks import SIDESPAWN, Service, command


@pytest.fixture(scope="module")
def engine() -> str:
    return "podman"


def test_it_shows_what_runs_and_what_was_refused(service: Service) -> None:
    network = service.network()
    network.start()
    network.start("--dhcp-script=/tmp/x")
    found = json.loads(command(*SIDESPAWN, "top", service.name, "--once", "--json").stdout)
    (shown,), (side_container,) = found["services"], found["side_containers"]
    assert (shown["service"], shown["state"], shown["mode"]) == (service.name, "serving", "enforce")
    assert (shown["answered"]["running"], shown["answered"]["rejected"], shown["side_containers"]) == (1, 1, 1)
    assert (side_container["pid"], side_container["netns"]) == (network.pid, network.netns)
    assert side_container["memory"] > 1 << 20
    service_row, _, _, container_row = command(*SIDESPAWN, "top", service.name, "--once").stdout.splitlines()[1:]
    assert service_row.split()[:2] == [service.name, "serving"]
    assert container_row.split()[0] == network.container
