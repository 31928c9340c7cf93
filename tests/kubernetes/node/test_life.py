"""The life of a side container on a real node: the tests of tests/lab/test_lifecycle.py, asked for as agents ask."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from tests.kubernetes.node.cluster import Cluster
from tests.kubernetes.test_services import output_in_files  # noqa: F401 - a fixture
from tests.lab.conftest import *  # noqa: F403 - fixtures
from tests.lab.networks import Service, command
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
