"""The engine with real containerd and a loop in kubelet's place: the tests that every engine has, and its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.core.plan import Plan
from sidespawn.engines import Pins, kubernetes
from sidespawn.engines import containerd as ctr
from sidespawn.system.oci import RUNS
from tests.kubernetes import containerds, standin
from tests.lab.conftest import nothing_left_behind  # noqa: F401 - a fixture
from tests.lab.networks import wait_until
from tests.lab.test_engines import *  # noqa: F403
from tests.lab.test_engines import Ground, Kind, new_ground


def in_log(plan: Plan) -> str:
    return standin.said(kubernetes.pod_name(plan, "").rstrip("-"))


def write_pod(described: tuple[str, ...], plan: Plan, pins: Pins) -> None:
    kubernetes.write(*described)
    wait_until((Path(RUNS) / Path(described[0]).stem).exists)


# Oldest and newest; test_services.py has the one between.
@pytest.fixture(scope="module", params=(containerds.VERSIONS[0], containerds.VERSIONS[-1]))  # type: ignore[no-redef]
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with standin.node(request.param, containerds.AGENT) as containerd:
        told = ctr.CTR
        ctr.CTR = (f"{containerds.PROGRAMS[request.param]}/ctr", f"--address={containerd.socket}", told[-1])
        kind = Kind(
            name="kubernetes",
            adds=frozenset({"HOME"}),  # by runc
            restart=containerd.restart,
            journal="",
            carry_out=write_pod,
            said=in_log,
            has_slice=False,
        )
        with new_ground(kind) as made:
            yield made
        ctr.CTR = told
