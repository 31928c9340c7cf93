"""An agent's pod that is not privileged, with the runtime for agents, under real containerd: what it can do.

And which pods the runtime refuses.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines.agent_runtime import LIST
from sidespawn.recipes.containers import CAPABILITIES, KUBELET, NAMESPACE, Agent, kubernetes
from sidespawn.recipes.system_calls import OCI_FILE
from sidespawn.testing.agent import NEUTRON, namespaces_of_a_group, process_status
from tests.attacks.catalogue import attack
from tests.kubernetes import containerds, pods
from tests.kubernetes.containerds import AGENT, Containerd, Refused
from tests.lab.conftest import nothing_left_behind  # noqa: F401 - a fixture
from tests.lab.networks import command, wait_until
from tests.lab.test_engines import NET_ADMIN, mask

SYS_ADMIN = 21
# clone(2) on x86-64, for a child in a user namespace of its own, on the parent's stack.
CLONE = "import ctypes; assert ctypes.CDLL(None).syscall(56, 0x10000011, 0, 0, 0, 0) >= 0"
Manifest = dict[str, Any]


@pytest.fixture(scope="module", params=containerds.VERSIONS)
def containerd(request: pytest.FixtureRequest) -> Iterator[Containerd]:
    with containerds.running(request.param, AGENT) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def listed() -> Iterator[Path]:
    """As docs/kubernetes.md says."""
    command("ip", "netns", "add", "sidespawn-first")  # so that the directory is there, and a mount
    command("ip", "netns", "delete", "sidespawn-first")
    path = Path(LIST)
    path.parent.mkdir(exist_ok=True)
    path.write_text("openstack/dhcp\nopenstack/init\n")
    profile = pods.SECCOMP / KUBELET
    profile.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(OCI_FILE, profile)
    with namespaces_of_a_group():
        yield path
    shutil.rmtree(profile.parent)
    path.unlink()
    path.parent.rmdir()


@pytest.fixture(autouse=True)
def nothing_runs(containerd: Containerd) -> Iterator[None]:
    before = names()
    yield
    containerd.clean()
    for name in names() - before:
        command("ip", "netns", "delete", name)


def names() -> set[str]:
    return {line.split()[0] for line in command("ip", "netns", "list").stdout.splitlines()}


def manifest(script: str = "sleep infinity") -> Manifest:
    """Return a pod with what `sidespawn agent-options --for kubernetes` prints."""
    agent = Agent(uid=NEUTRON, gid=NEUTRON, capabilities=CAPABILITIES["dhcp"], image=AGENT, name="dhcp")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "namespace": NAMESPACE, "uid": str(uuid.uuid4())},
        "spec": kubernetes(replace(agent, program=("sh", "-c", script))),
    }


@dataclass
class Pod:
    containerd: Containerd
    manifest: Manifest
    container: str = ""
    sandbox: str = ""

    def run(self) -> None:
        pods.prepare(self.manifest)
        config, handler = pods.sandbox(self.manifest), self.manifest["spec"]["runtimeClassName"]
        self.sandbox = self.containerd.call("RunPodSandbox", config=config, runtime_handler=handler)["pod_sandbox_id"]
        asked = {"pod_sandbox_id": self.sandbox, "sandbox_config": config, "config": pods.container(self.manifest)}
        self.container = self.containerd.call("CreateContainer", **asked)["container_id"]
        self.containerd.call("StartContainer", container_id=self.container)

    @property
    def pid(self) -> int:
        status = self.containerd.call("ContainerStatus", container_id=self.container, verbose=True)
        return int(json.loads(status["info"]["info"])["pid"])

    def execute(self, *argv: str) -> tuple[int, str]:
        done = self.containerd.call("ExecSync", container_id=self.container, cmd=argv, timeout=20)
        return int(done.get("exit_code", 0)), done.get("stderr", "")


def is_mounted(name: str) -> bool:
    """Return whether the host sees the namespace, and not only a file."""
    return any(
        line.split()[4] == f"/run/netns/{name}" for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )


def test_the_host_sees_namespaces_that_it_makes_and_they_outlive_it(containerd: Containerd) -> None:
    name = f"q-{uuid.uuid4().hex[:8]}"
    pod = Pod(
        containerd, manifest(f"ip netns add {name} && ip netns exec {name} ip link set lo up; exec sleep infinity")
    )
    pod.run()
    wait_until(lambda: "UP" in command("ip", "-n", name, "link", "show", "lo", check=False).stdout)
    assert is_mounted(name)
    containerd.clean()
    assert is_mounted(name)
    # And the other way round: what is made and deleted on the host is so for the next pod.
    pod = Pod(containerd, manifest())
    pod.run()
    other = f"q-{uuid.uuid4().hex[:8]}"
    command("ip", "netns", "add", other)
    seen = f"/proc/{pod.pid}/root/run/netns"
    wait_until(lambda: f"/run/netns/{other} " in Path(f"/proc/{pod.pid}/mountinfo").read_text())
    assert {name, other} <= set(os.listdir(seen))
    command("ip", "netns", "delete", name)
    assert name not in os.listdir(seen)


def test_with_plain_runc_the_host_does_not_see_them(containerd: Containerd) -> None:
    """So it is the runtime that makes the difference."""
    name = f"q-{uuid.uuid4().hex[:8]}"
    made = manifest(f"ip netns add {name}; exec sleep infinity")
    made["spec"]["runtimeClassName"] = "runc"
    made["spec"]["securityContext"]["runAsUser"] = 0
    pod = Pod(containerd, made)
    pod.run()
    time.sleep(1)
    assert not is_mounted(name)
    with suppress(OSError):
        (Path("/run/netns") / name).unlink()


@attack(244)
def test_it_is_contained(containerd: Containerd) -> None:
    pod = Pod(containerd, manifest())
    pod.run()
    # containerd returns when runc is about to execute the program.
    wait_until(lambda: process_status(pod.pid)["Seccomp"] == "2")
    status = process_status(pod.pid)
    assert {status[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {mask(NET_ADMIN, SYS_ADMIN)}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split() == [str(NEUTRON)] * 4
    for kind in ("pid", "ipc", "mnt"):
        assert os.stat(f"/proc/{pod.pid}/ns/{kind}").st_ino != os.stat(f"/proc/1/ns/{kind}").st_ino
    # What the recipe's list and the user refuse, also to what is executed in it later.
    for argv in (
        ("mount", "-t", "tmpfs", "tmpfs", "/mnt"),
        ("unshare", "--user", "true"),
        ("python3", "-c", CLONE),
        ("sh", "-c", "echo x >/proc/sys/kernel/core_pattern"),
    ):  # fmt: skip
        code, _ = pod.execute(*argv)
        assert code != 0, argv
    assert pod.execute("id")[0] == 0


def refused(containerd: Containerd, made: Manifest, what: str) -> None:
    pod = Pod(containerd, made)
    with pytest.raises(Refused, match=what):
        pod.run()
    assert not pod.container or containerd.call("ContainerStatus", container_id=pod.container)["status"]["state"] != (
        "CONTAINER_RUNNING"
    )


@attack(242)
def test_a_pod_that_the_list_does_not_name(containerd: Containerd) -> None:
    made = manifest()
    made["metadata"]["namespace"] = "tenant"
    refused(containerd, made, "names no container tenant/")
    made = manifest()
    made["spec"]["containers"][0]["name"] = "other"
    refused(containerd, made, "names no container openstack/other")


def of_pod(key: str, value: object) -> Callable[[Manifest], None]:
    def change(made: Manifest) -> None:
        made["spec"][key] = value

    return change


def of_container(key: str, value: object) -> Callable[[Manifest], None]:
    def change(made: Manifest) -> None:
        made["spec"]["containers"][0]["securityContext"][key] = value

    return change


def another_mount(made: Manifest) -> None:
    made["spec"]["volumes"].append({"name": "run", "hostPath": {"path": "/run/lock"}})
    mount = {"name": "run", "mountPath": "/mnt", "mountPropagation": "Bidirectional"}
    made["spec"]["containers"][0]["volumeMounts"].append(mount)


@attack(243)
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (of_pod("securityContext", {"runAsUser": 0}), "other than root"),
        (of_pod("hostPID", True), "host's pids"),
        (of_pod("hostIPC", True), "host's ipc"),
        (of_container("privileged", True), "no capability but|allowPrivilegeEscalation"),
        (of_container("allowPrivilegeEscalation", True), "allowPrivilegeEscalation"),
        (of_container("capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN", "SYS_PTRACE"]}), "no capability but"),
        (another_mount, "no other mount"),
    ],
    ids=["root", "pids", "ipc", "privileged", "escalation", "capability", "mount"],
)
def test_a_listed_pod_that_is_not_contained(
    containerd: Containerd, change: Callable[[Manifest], None], what: str
) -> None:
    made = manifest()
    change(made)
    refused(containerd, made, what)


@contextmanager
def changed(path: Path, *, mode: int) -> Iterator[None]:
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(0o644)


def test_a_list_that_others_can_write(containerd: Containerd, listed: Path) -> None:
    with changed(listed, mode=0o666):
        refused(containerd, manifest(), "can be written by others")
