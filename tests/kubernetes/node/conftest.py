"""A cluster for the tests of each file: its start takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.node import cluster
from tests.kubernetes.node.cluster import Cluster
from tests.lab.conftest import nothing_left_behind  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def node() -> Iterator[Cluster]:
    with cluster.running() as made:
        yield made
