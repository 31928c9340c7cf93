"""What is refused in a cluster: each time with no program but its own in a service's namespace."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines.kubernetes import NAMESPACE, STATIC_PODS, Kubernetes, runs
from sidespawn.system.oci import RUNS
from sidespawn.system.processes import Process, is_alive
from tests.kubernetes.node.agents import CONTAINED, listed
from tests.kubernetes.node.cluster import Cluster
from tests.kubernetes.node.pods import inside, ordinary
from tests.kubernetes.pods import NODE
from tests.lab.networks import command, wait_until, wait_until_gone
from tests.lab.test_engines import PYTHON, STAY, Ground, Kind, new_ground

KIND = Kind(name="kubernetes")
NO_RECORD = "no record of such a side container"
CLASS = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "sidespawn"}}
FORWARDED, OF_THE_HOST, OF_THE_PROGRAM = 18080, 18081, 18082
LISTEN = f"""\
import socket, time
made = socket.create_server(("127.0.0.1", {OF_THE_PROGRAM}))
while True: time.sleep(60)
"""


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


def wait_for_event(node: Cluster, pod: str, words: str, namespace: str = NAMESPACE) -> None:
    """That kubelet told of."""
    wait_until(lambda: any(words in each for each in node.messages(pod, namespace)), patience=90)


def wait_for_mirror(node: Cluster, made: Written) -> None:
    """Wait until the API says that it runs."""
    running = ("Running", made.mirror)
    wait_until(lambda: running in [(each["status"]["phase"], name_of(each)) for each in node.side_pods()], patience=60)


def name_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


@contextmanager
def refused(node: Cluster, pod: dict[str, Any], words: str) -> Iterator[None]:
    """A pod that some user has made by the API, and which the node does not start."""
    node.apply(pod)
    name = name_of(pod)
    try:
        wait_for_event(node, name, words, "default")
        # As containerd says. The pod's phase is Running as well while kubelet tries again and again.
        for each in node.containerd.call("ListContainers").get("containers", ()):
            if each["labels"]["io.kubernetes.pod.name"] == name:
                status = node.containerd.call("ContainerStatus", container_id=each["id"])["status"]
                assert int(status.get("started_at", 0)) == 0, "none was ever started"
        yield
    finally:
        node.kubectl("delete", "pod", name, "--namespace=default")


def test_a_tenants_pod_with_the_class(node: Cluster, ground: Ground) -> None:
    """Beside a side container, whose uid and namespace it cannot have: the API server gives it others."""
    with written(node, ground) as made:
        made.place()
        process = made.started()
        pod = copy.deepcopy(made.pod) | {"metadata": {**made.pod["metadata"], "name": "tenant", "namespace": "default"}}
        for key in ("priority", "priorityClassName", "nodeName"):
            pod["spec"].pop(key, None)
        for each in (pod, ordinary("other", runtimeClassName="sidespawn")):
            with refused(node, each, NO_RECORD):
                assert inside(ground.netns) == [str(process.pid)]


def test_a_pod_with_the_agents_class_that_the_node_does_not_list(node: Cluster) -> None:
    pod = ordinary("unlisted", runtimeClassName="sidespawn-agent")
    (container,) = pod["spec"]["containers"]
    container |= {
        "securityContext": CONTAINED,
        "volumeMounts": [{"name": "netns", "mountPath": "/run/netns"}],
    }
    pod["spec"]["volumes"] = [{"name": "netns", "hostPath": {"path": "/run/netns"}}]
    with listed("default/agent\n"), refused(node, pod, "names no container default/main"):
        pass
    with refused(node, pod, "is missing"):
        pass


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


def test_the_class_mapped_to_plain_runc(node: Cluster, ground: Ground) -> None:
    with written(node, ground) as made, mapped(node, "runc"):
        made.place()
        wait_for_event(node, made.mirror, "/.sidespawn")
        assert inside(ground.netns) == []
        assert made.record.exists()
        made.path.unlink()


@contextmanager
def mapped(node: Cluster, handler: str) -> Iterator[None]:
    """With this handler; the API lets no one change that of a class that exists."""
    for name in (handler, "sidespawn"):
        node.kubectl("delete", "runtimeclass", "sidespawn")
        node.apply(CLASS | {"handler": name})
        time.sleep(2)  # until the kubelet knows
        if name == handler:
            yield


def test_kubectl_exec(node: Cluster, ground: Ground) -> None:
    with written(node, ground) as made:
        made.place()
        process = made.started()
        wait_for_mirror(node, made)
        said = node.kubectl("exec", f"--namespace={NAMESPACE}", made.mirror, "--", "/usr/bin/id", check=False)
        assert "uid=" not in said
        assert "not entered" in said
        assert inside(ground.netns) == [str(process.pid)]


def test_kubectl_port_forward_reaches_the_hosts_loopback_and_not_the_programs(node: Cluster, ground: Ground) -> None:
    """As with every pod of the host's network. An API server with our admission policies refuses it; this has none."""
    command("ip", "-n", ground.netns, "link", "set", "lo", "up")
    with written(node, ground, LISTEN) as made, socket.create_server(("127.0.0.1", OF_THE_HOST)) as server:
        threading.Thread(target=greet, args=(server,), daemon=True).start()
        made.place()
        made.started()
        wait_for_mirror(node, made)
        assert through(node, made, OF_THE_HOST) == b"the host"
        assert through(node, made, OF_THE_PROGRAM) == b""


def greet(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"the host")


def through(node: Cluster, made: Written, port: int) -> bytes:
    """What comes from there to one who connects by `kubectl port-forward`."""
    argv = (*node.call, "port-forward", f"--namespace={NAMESPACE}", f"pod/{made.mirror}", f"{FORWARDED}:{port}")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forwards:
        assert forwards.stdout is not None
        try:
            assert "Forwarding" in forwards.stdout.readline()
            with socket.create_connection(("127.0.0.1", FORWARDED), timeout=30) as connection:
                try:
                    return connection.recv(100)
                except ConnectionResetError:
                    return b""
        finally:
            forwards.terminate()


def test_a_program_that_uses_python_is_the_one_that_was_asked_for(node: Cluster, ground: Ground) -> None:
    """The pod's own words are for people: what runs is the record's."""
    with written(node, ground) as made:
        (program,) = made.pod["spec"]["containers"]
        program["args"] = [PYTHON, "-c", "print('mine')"]
        made.place()
        wait_for_event(node, made.mirror, "differs from the record")
        assert inside(ground.netns) == []
