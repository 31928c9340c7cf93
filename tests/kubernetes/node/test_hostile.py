"""What is refused on a real node: each time with no program but its own in a service's namespace."""

from __future__ import annotations

import copy
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines.kubernetes import STATIC_PODS, Kubernetes, runs
from sidespawn.system.oci import RUNS
from sidespawn.system.processes import Process, is_alive
from tests.kubernetes.node.cluster import Cluster
from tests.kubernetes.node.pods import inside
from tests.kubernetes.pods import NODE
from tests.lab.networks import wait_until, wait_until_gone
from tests.lab.test_engines import PYTHON, STAY, Ground, Kind, new_ground

KIND = Kind(name="kubernetes")
NO_RECORD = "no record of such a side container"


@pytest.fixture(scope="module")
def ground(node: Cluster) -> Iterator[Ground]:
    with new_ground(KIND) as made:
        yield made


@dataclass
class Written:
    """A side container's pod and record, as the engine writes them; the pod is the test's to change."""

    pod: dict[str, Any]
    path: Path
    record: Path

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])

    @property
    def mirror(self) -> str:
        return f"{self.pod['metadata']['name']}-{NODE}"

    def place(self) -> None:
        """Where kubelet reads it."""
        unfinished = self.path.with_name(f".{self.path.name}")
        unfinished.write_text(json.dumps(self.pod))
        unfinished.rename(self.path)

    def started(self) -> Process:
        wait_until((Path(RUNS) / self.uid).exists, patience=60)
        return next(each.process for each in runs() if each.uid == self.uid)


@contextmanager
def written(node: Cluster, ground: Ground, code: str = STAY) -> Iterator[Written]:
    plan, request = ground.plan(code), uuid.uuid4().hex
    with ground.pins(plan, request) as pins:
        record, text, path, pod = Kubernetes().describe(plan, pins, request)
        Path(record).write_text(text)
        made = Written(json.loads(pod), Path(path), Path(record))
        try:
            yield made
        finally:
            ground.engine.remove(request)
            made.path.unlink(missing_ok=True)
            for suffix in (".oci", ".taken", ".failed"):
                made.record.with_suffix(suffix).unlink(missing_ok=True)
            wait_until(lambda: inside(ground.netns) == [], patience=60)


def wait_for_event(node: Cluster, pod: str, words: str) -> None:
    """That kubelet told of."""
    wait_until(lambda: any(words in each for each in node.messages(pod)), patience=90)


def test_a_copied_manifest_with_a_used_uid(node: Cluster, ground: Ground) -> None:
    with written(node, ground) as made:
        made.place()
        process = made.started()
        twin = copy.deepcopy(made.pod)
        twin["metadata"]["name"] += "-copy"
        copied = STATIC_PODS / "copy.json"
        copied.write_text(json.dumps(twin))
        try:
            node.kubelet.restart()  # it reads everything
            node.wait_for_kubelet()
            assert set(inside(ground.netns)) <= {str(process.pid)}
        finally:
            copied.unlink()


def test_a_restart_that_somebody_forces_by_restart_policy(node: Cluster, ground: Ground) -> None:
    with written(node, ground) as made:
        made.pod["spec"]["restartPolicy"] = "Always"
        made.place()
        process = made.started()
        os.kill(process.pid, 9)
        wait_for_event(node, made.mirror, "used already")
        assert inside(ground.netns) == []
        assert not is_alive(process)


def test_a_manifest_of_the_time_before_a_reboot(node: Cluster, ground: Ground) -> None:
    with written(node, ground) as made:
        made.place()
        process = made.started()
        # What a reboot does: no kubelet, no process, an empty /run.
        node.kubelet.kill()
        os.kill(process.pid, 9)
        wait_until_gone(process.pid)
        node.containerd.clean()
        (Path(RUNS) / made.uid).unlink()
        assert not made.record.exists()
        node.kubelet.start()
        node.wait_for_kubelet()
        wait_for_event(node, made.mirror, NO_RECORD)
        assert inside(ground.netns) == []


def test_a_program_that_uses_python_is_the_one_that_was_asked_for(node: Cluster, ground: Ground) -> None:
    """The pod's own words are for people: what runs is the record's."""
    with written(node, ground) as made:
        (program,) = made.pod["spec"]["containers"]
        program["args"] = [PYTHON, "-c", "print('mine')"]
        made.place()
        wait_for_event(node, made.mirror, "differs from the record")
        assert inside(ground.netns) == []
