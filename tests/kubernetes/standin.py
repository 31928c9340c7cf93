"""A node without a kubelet, for tests: containerd, and a loop that makes a kubelet's calls (kubelet.py)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidespawn.engines import kubernetes
from tests.kubernetes import containerds
from tests.kubernetes.containerds import Containerd
from tests.kubernetes.pods import LOGS
from tests.lab.networks import wait_until

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


@contextmanager
def node(version: str, *images: str, address: Path | None = None) -> Iterator[Containerd]:
    """One with these images, and with containerd at that address. When its tests are done, no pod may be left."""
    directory = kubernetes.STATIC_PODS
    directory.mkdir(parents=True)
    try:
        with containerds.running(version, *images, address=address) as containerd, kubelet(containerd, directory):
            yield containerd
            wait_until(lambda: "items" not in containerd.call("ListPodSandbox"), patience=30)
    finally:
        directory.rmdir()
        directory.parent.rmdir()


def said(pod: str) -> str:
    """By the programs of pods whose name begins so, as kubelet keeps it.

    A line begins with its time, its stream and whether it is whole.
    """
    text = ""
    for path in LOGS.glob(f"sidespawn_{pod}-*/program/0.log"):
        text += "".join(line.split(" ", 3)[3] for line in path.read_text().splitlines(keepends=True))
    return text
