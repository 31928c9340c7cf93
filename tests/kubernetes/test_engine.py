"""The engine with real containerd and a loop in kubelet's place: the tests that every engine has, and its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidespawn.core.plan import Plan
from sidespawn.engines import Pins, kubernetes
from sidespawn.system.oci import RUNS
from tests.kubernetes import containerds
from tests.kubernetes.containerds import Containerd
from tests.kubernetes.pods import LOGS
from tests.lab.conftest import nothing_left_behind  # noqa: F401 - a fixture
from tests.lab.networks import wait_until
from tests.lab.test_engines import *  # noqa: F403
from tests.lab.test_engines import Ground, Kind, new_ground

KUBELET = containerds.CRI.with_name("kubelet.py")


@contextmanager
def kubelet(containerd: Containerd, directory: Path) -> Iterator[None]:
    programs = (containerds.PYTHON, "-I", KUBELET, containerds.PROTOS)
    argv = [*map(str, programs), containerd.socket, str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as runs:
        assert runs.stdout is not None
        assert runs.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            runs.terminate()


def in_log(plan: Plan) -> str:
    """As kubelet keeps it: a line begins with its time, its stream and whether it is whole."""
    said = ""
    for path in LOGS.glob(f"sidespawn_{kubernetes.pod_name(plan, '').rstrip('-')}-*/program/0.log"):
        said += "".join(line.split(" ", 3)[3] for line in path.read_text().splitlines(keepends=True))
    return said


def write_pod(described: tuple[str, ...], plan: Plan, pins: Pins) -> None:
    for path, text in (described[:2], described[2:]):
        Path(path).write_text(text)
    wait_until((Path(RUNS) / Path(described[0]).stem).exists)


@pytest.fixture(scope="module", params=containerds.VERSIONS)  # type: ignore[no-redef]
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    directory = kubernetes.STATIC_PODS
    directory.mkdir(parents=True)
    with containerds.running(request.param, containerds.AGENT) as containerd:
        told = kubernetes.CTR
        kubernetes.CTR = (f"{containerds.PROGRAMS[request.param]}/ctr", f"--address={containerd.socket}", told[-1])
        kind = Kind(
            name="kubernetes",
            adds=frozenset({"HOME"}),  # by runc
            restart=containerd.restart,
            journal="",
            carry_out=write_pod,
            said=in_log,
            has_slice=False,
        )
        with kubelet(containerd, directory), new_ground(kind) as made:
            yield made
            made.clean()
            wait_until(lambda: "items" not in containerd.call("ListPodSandbox"), patience=30)
        kubernetes.CTR = told
    directory.rmdir()
    directory.parent.rmdir()
