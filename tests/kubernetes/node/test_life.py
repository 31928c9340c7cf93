"""The life of a side container on a real node: the tests of tests/lab/test_lifecycle.py, asked for as agents ask."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from tests.kubernetes.node.cluster import Cluster
from tests.kubernetes.node.pods import inside
from tests.kubernetes.test_services import manifests, output_in_files, runs, sandboxes  # noqa: F401 - a fixture
from tests.lab.conftest import *  # noqa: F403 - fixtures
from tests.lab.networks import Service, command, wait_until
from tests.lab.test_lifecycle import *  # noqa: F403

# Of other engines.
del test_what_an_earlier_version_named_is_kept_until_it_ends  # noqa: F821
del test_a_container_whose_store_is_torn_is_replaced  # noqa: F821


@pytest.fixture(scope="module")  # type: ignore[no-redef]
def engine(node: Cluster) -> str:
    return "kubernetes"


def test_it_outlives_the_service_that_started_it(service: Service) -> None:  # type: ignore[no-redef]
    network = service.network()
    network.start()
    command("systemctl", "stop", service.unit)
    time.sleep(0.3)
    assert identify(network.pid) is not None
    assert "/k8s.io/" in Path(f"/proc/{network.pid}/cgroup").read_text()


def test_disable_leaves_no_manifest_no_mirror_and_no_sandbox(node: Cluster, service: Service) -> None:
    networks = [service.network() for _ in range(3)]
    for network in networks:
        network.start()
    # Kubelet may forget a mirror that it has not yet said to be running (docs/kubernetes.md).
    wait_until(lambda: phases(node, service) == ["Running"] * 3, patience=60)
    assert len(manifests(service)) == len(sandboxes(node.containerd, service)) == 3
    service.disable()
    assert (manifests(service), runs(service)) == ([], [])
    assert [inside(network.netns) for network in networks] == [[], [], []]
    wait_until(lambda: phases(node, service) == [], patience=120)
    wait_until(lambda: sandboxes(node.containerd, service) == [], patience=120)


def phases(node: Cluster, service: Service) -> list[str]:
    """Return the phase of each of its mirrors."""
    return [each["status"]["phase"] for each in node.side_pods(service.name)]
