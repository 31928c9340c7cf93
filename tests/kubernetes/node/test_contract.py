"""The engine with a real kubelet: the tests that every engine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.node.cluster import Cluster
from tests.kubernetes.test_engine import in_log, write_pod
from tests.lab.networks import wait_until
from tests.lab.test_engines import *  # noqa: F403
from tests.lab.test_engines import Ground, Kind, new_ground


@pytest.fixture(scope="module")  # type: ignore[no-redef]
def ground(node: Cluster) -> Iterator[Ground]:
    kind = Kind(
        name="kubernetes",
        adds=frozenset({"HOME"}),  # by runc
        restart=node.containerd.restart,
        journal="",
        carry_out=write_pod,
        said=in_log,
        has_slice=False,
    )
    with new_ground(kind) as made:
        yield made
        made.clean()
        wait_until(lambda: not node.running_pods(), patience=60)
