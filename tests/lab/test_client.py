"""A Python program in the agent asks for helpers itself: without wrapper, kill script, or the host's pids."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sidespawn.agent import client
from sidespawn.agent.client import Client
from tests.lab.networks import Network, Service


@pytest.fixture
def asking(shared_service: Service) -> Iterator[Client]:
    yield Client(shared_service.name, timeout=30)


@pytest.fixture
def network(shared_service: Service) -> Network:
    return shared_service.network()


def start(asking: Client, network: Network, *more: str) -> client.Helper:
    tag = {"PROCESS_TAG": f"dnsmasq-{network.id}"}
    return asking.start(["dnsmasq", *network.options(), *more], netns=network.netns, environment=tag)


def test_a_helpers_life(asking: Client, network: Network) -> None:
    helper = start(asking, network)
    assert (helper.pid, helper.container) == (network.pid, network.container)
    assert start(asking, network) == helper
    assert asking.is_running(helper.pid)
    asking.signal(helper.pid, "HUP")
    asking.stop(helper.pid)
    assert not asking.is_running(helper.pid)
    asking.stop(helper.pid)  # it has already ended


def test_a_refusal_has_its_reason(asking: Client, network: Network) -> None:
    with pytest.raises(client.Rejected) as refused:
        start(asking, network, "--dhcp-script=/tmp/evil")
    assert refused.value.reason == "option-not-allowed"
    assert "--dhcp-script" in refused.value.message


def test_a_failure_has_its_reason(asking: Client, network: Network) -> None:
    (network.home / "leases").unlink()
    (network.home / "leases").mkdir()
    with pytest.raises(client.Failed) as failed:
        start(asking, network)
    assert failed.value.reason == "exited"


def test_a_foreign_pid_is_not_a_helper(asking: Client) -> None:
    assert not asking.is_running(os.getpid())
    with pytest.raises(client.NoSuchProcess):
        asking.signal(os.getpid(), "TERM")


def test_a_missing_service_is_reported() -> None:
    with pytest.raises(client.Unavailable):
        Client("no-such-service").is_running(4711)
