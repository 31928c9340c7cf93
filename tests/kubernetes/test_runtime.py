"""Our runtime under real containerd, called as a kubelet calls it: what a side container gets, and all that is refused.

What runs is read from /proc, where neither containerd nor the program can say otherwise.
"""

from __future__ import annotations

import copy
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sidespawn.core.plan import Plan
from sidespawn.engines import kubernetes
from sidespawn.engines.kubernetes import Kubernetes
from sidespawn.system.oci import RUNS
from sidespawn.system.processes import Process, identify
from tests.attacks.catalogue import attack
from tests.kubernetes import containerds, pods
from tests.kubernetes.containerds import AGENT, Containerd, Refused
from tests.lab.conftest import nothing_left_behind  # noqa: F401 - a fixture
from tests.lab.networks import command, wait_until
from tests.lab.test_engines import (
    HOSTILE,
    NET_ADMIN,
    NET_RAW,
    STATE,
    STAY,
    UID,
    Ground,
    Kind,
    Running,
    mask,
    new_ground,
)

KIND = Kind(name="kubernetes", adds=frozenset({"HOME"}))


@pytest.fixture(scope="module", params=containerds.VERSIONS)
def containerd(request: pytest.FixtureRequest) -> Iterator[Containerd]:
    with containerds.running(request.param, AGENT) as made:
        yield made


@pytest.fixture(scope="module")
def ground(containerd: Containerd) -> Iterator[Ground]:
    with new_ground(KIND) as made:
        yield made


@dataclass
class Pod:
    """A pod as its manifest says, and its record; what kubelet does with it, step by step."""

    containerd: Containerd
    plan: Plan
    manifest: dict[str, Any]
    record: Path
    sandbox: str = ""
    container: str = ""
    handler: str = "sidespawn"

    @property
    def uid(self) -> str:
        return str(self.manifest["metadata"]["uid"])

    def run_sandbox(self) -> None:
        pods.prepare(self.manifest)
        asked = pods.sandbox(self.manifest)
        self.sandbox = self.containerd.call("RunPodSandbox", config=asked, runtime_handler=self.handler)[
            "pod_sandbox_id"
        ]

    def run_container(self, attempt: int = 0) -> None:
        asked = {"pod_sandbox_id": self.sandbox, "sandbox_config": pods.sandbox(self.manifest)}
        config = pods.container(self.manifest, attempt=attempt)
        self.container = self.containerd.call("CreateContainer", config=config, **asked)["container_id"]
        self.containerd.call("StartContainer", container_id=self.container)

    def run(self) -> Running:
        self.run_sandbox()
        self.run_container()
        runs = Running(self.plan, self.process())
        # containerd returns when runc is about to execute the program.
        wait_until(lambda: runs.arguments()[:1] == [self.plan.command])
        return runs

    def process(self) -> Process:
        status = self.containerd.call("ContainerStatus", container_id=self.container, verbose=True)
        found = identify(json.loads(status["info"]["info"])["pid"])
        assert found is not None
        return found

    def outcome(self, suffix: str) -> Any:
        return json.loads(self.record.with_suffix(suffix).read_text())


@contextmanager
def written(containerd: Containerd, ground: Ground, plan: Plan | None = None) -> Iterator[Pod]:
    plan = plan or ground.plan()
    request = uuid.uuid4().hex
    with ground.pins(plan, request) as pins:
        record, text, _, manifest = Kubernetes().describe(plan, pins, request)
        Path(record).write_text(text)
        try:
            yield Pod(containerd, plan, pods.as_read(json.loads(manifest)), Path(record))
        finally:
            for suffix in (".oci", ".taken", ".failed"):
                Path(record).with_suffix(suffix).unlink(missing_ok=True)
            (Path(RUNS) / request).unlink(missing_ok=True)


def inside(ground: Ground) -> list[str]:
    """The pids in the service's namespace."""
    return command("ip", "netns", "pids", ground.netns).stdout.split()


def refused(what: str, pod: Pod, *, sandbox: bool = False) -> None:
    with pytest.raises(Refused, match=what):
        pod.run_sandbox() if sandbox else pod.run_container()


@pytest.fixture(autouse=True)
def nothing_runs(containerd: Containerd, ground: Ground) -> Iterator[None]:
    yield
    containerd.clean()
    wait_until(lambda: inside(ground) == [])


# ---------------------------------------------------------------- what a side container gets


@attack(63)
def test_the_program_has_what_the_record_says(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground, ground.plan(STAY, *HOSTILE)) as pod:
        runs = pod.run()
        assert runs.arguments() == [pod.plan.command, *pod.plan.arguments]
        assert runs.namespace("net") == os.stat(f"/run/netns/{ground.netns}").st_ino
        status = runs.status()
        assert {status[f"Cap{each}"] for each in ("Prm", "Eff", "Bnd", "Amb")} == {mask(NET_ADMIN, NET_RAW)}
        assert status["Uid"].split() == status["Gid"].split() == [str(UID)] * 4
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert runs.environment() == {"HOME": "/var/lib/neutron"} | dict(pod.plan.environment)
        assert runs.limits()["Max open files"] == ["512", "512"]
        assert not pod.record.exists()


def test_its_namespaces_are_neither_the_hosts_nor_the_pods(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground) as pod:
        runs = pod.run()
        sandbox = json.loads(
            containerd.call("PodSandboxStatus", pod_sandbox_id=pod.sandbox, verbose=True)["info"]["info"]
        )["pid"]
        for kind in ("ipc", "mnt", "net", "pid", "uts", "cgroup"):
            for other in (1, sandbox):
                assert runs.namespace(kind) != os.stat(f"/proc/{other}/ns/{kind}").st_ino, kind
        assert runs.namespace("user") == os.stat("/proc/1/ns/user").st_ino
        # What kubelet is told is what it asked for: else it would make the pod again.
        told = containerd.call("PodSandboxStatus", pod_sandbox_id=pod.sandbox)["status"]
        assert told["linux"]["namespaces"]["options"]["network"] == "NODE"
        # The pod's own container does nothing, and could do nothing.
        assert os.stat(f"/proc/{sandbox}/ns/net").st_ino != os.stat("/proc/1/ns/net").st_ino
        holds = Running(pod.plan, Process(sandbox, 0)).status()
        assert {holds[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {mask()}


def test_it_has_the_plans_mounts_and_none_of_kubelets(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground) as pod:
        runs = pod.run()
        mine = {each.path for each in pod.plan.mounts} | {
            "/run/tool",
            "/run/scripts/say",
            pod.plan.configuration[0].path,
        }
        found = {path for path in runs.mounts() if path.split("/")[1] not in ("dev", "proc", "sys")}
        assert found == {"/", *mine}
        assert "ro" in runs.mounts()["/"]
        assert {"/etc/hosts", "/dev/termination-log", "/etc/resolv.conf"} & runs.mounts().keys() == set()
        assert {"rw", "nosuid", "nodev", "noexec"} <= runs.mounts()[pod.plan.mounts[0].path]
        assert Path(f"{runs.proc}/root{STATE}/conf/{pod.plan.instance}.conf").read_text() == "told = 1\n"


def test_the_runtime_notes_what_runs_and_for_whom(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground) as pod:
        runs = pod.run()
        (found,) = kubernetes.runs()
        assert (found.uid, found.container, found.process) == (pod.uid, pod.container, runs.process)
        assert found.name == pod.plan.name
        assert found.labels["io.sidespawn.plan"] == pod.plan.digest


def test_it_outlives_containerd(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground) as pod:
        runs = pod.run()
        containerd.kill()
        assert identify(runs.process.pid) == runs.process
        (found,) = kubernetes.runs()
        assert found.process == runs.process
        containerd.start()
        assert pod.process() == runs.process
        assert containerd.call("ContainerStatus", container_id=pod.container)["status"]["state"] == "CONTAINER_RUNNING"


# ---------------------------------------------------------------- what is refused, with nothing left in the namespace


@attack(233)
def test_a_pod_of_somebody_else_with_the_class(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground) as pod:
        pod.manifest["metadata"]["uid"] = uuid.uuid4().hex
        refused("no record of such a side container", pod, sandbox=True)
        assert inside(ground) == []
        pod.manifest["metadata"]["uid"] = str(uuid.uuid4())  # as the API server gives them
        refused("no record of such a side container", pod, sandbox=True)


@attack(235)
@pytest.mark.parametrize("uid", ["..", "../../x", "", "0" * 31, "0" * 33, "G" * 32])
def test_no_uid_leads_elsewhere(containerd: Containerd, ground: Ground, uid: str) -> None:
    with written(containerd, ground) as pod:
        config = pods.sandbox(pod.manifest)
        config["metadata"]["uid"] = uid
        with pytest.raises(Refused):
            containerd.call("RunPodSandbox", config=config, runtime_handler="sidespawn")
        assert pod.record.exists()


@attack(234)
def test_a_copy_of_a_pod_whose_uid_was_used(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground) as pod:
        runs = pod.run()
        twin = Pod(containerd, pod.plan, copy.deepcopy(pod.manifest), pod.record)
        twin.manifest["metadata"]["name"] += "-copy"
        refused("no record of such a side container", twin, sandbox=True)
        assert inside(ground) == [str(runs.process.pid)]


@attack(238)
def test_a_second_start_in_a_pod_whose_program_runs_or_has_ended(containerd: Containerd, ground: Ground) -> None:
    """As kubelet does when somebody has set restartPolicy: Always."""
    with written(containerd, ground) as pod:
        runs = pod.run()
        again = replace(pod)
        with pytest.raises(Refused, match="used already"):
            again.run_container(attempt=1)
        assert inside(ground) == [str(runs.process.pid)]
        containerd.call("StopContainer", container_id=pod.container, timeout=0)
        with pytest.raises(Refused, match="used already"):
            again.run_container(attempt=2)
        assert inside(ground) == []


@attack(239)
def test_a_pod_of_the_time_before_a_reboot(containerd: Containerd, ground: Ground) -> None:
    """/run is empty then, with all records."""
    with written(containerd, ground) as pod:
        pod.record.unlink()
        refused("no record of such a side container", pod, sandbox=True)


@attack(241)
def test_a_record_that_is_withdrawn_after_the_sandbox(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground) as pod:
        pod.run_sandbox()
        pod.record.unlink()
        refused("used already", pod)
        assert inside(ground) == []


@attack(237)
def test_exec(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground) as pod:
        runs = pod.run()
        with pytest.raises(Refused, match="not entered"):
            containerd.call("ExecSync", container_id=pod.container, cmd=["/usr/bin/id"], timeout=5)
        for verb in ("exec", "checkpoint"):
            options = ("--exec-id=x", pod.container, "/usr/bin/id") if verb == "exec" else (pod.container,)
            assert containerd.ctr("tasks", verb, *options, check=False).returncode != 0
        assert inside(ground) == [str(runs.process.pid)]


@attack(236)
def test_the_class_mapped_to_plain_runc(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground) as pod:
        pod.handler = "runc"
        pod.run_sandbox()
        refused("/.sidespawn", pod)
        assert inside(ground) == []


def other(key: str, value: Any) -> Any:
    def change(manifest: dict[str, Any]) -> None:
        manifest["spec"]["containers"][0][key] = value

    return change


def confined_less(key: str, value: Any) -> Any:
    def change(manifest: dict[str, Any]) -> None:
        manifest["spec"]["containers"][0]["securityContext"][key] = value

    return change


def another_user(manifest: dict[str, Any]) -> None:
    manifest["spec"]["securityContext"]["runAsUser"] = 0


def no_seccomp(manifest: dict[str, Any]) -> None:
    del manifest["spec"]["securityContext"]["seccompProfile"]


@attack(240)
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (other("command", ["/usr/bin/python3"]), "command"),
        (other("args", ["/usr/bin/python3", "-c", "print(1)"]), "command"),
        (other("args", []), "command"),
        (another_user, "user"),
        (no_seccomp, "seccomp profile"),
        (confined_less("readOnlyRootFilesystem", False), "read-only root"),
        (confined_less("allowPrivilegeEscalation", True), "allowPrivilegeEscalation"),
    ],
    ids=["a command", "other arguments", "no arguments", "user", "seccomp", "root", "escalation"],
)
def test_a_pod_that_is_not_what_was_written(containerd: Containerd, ground: Ground, change: Any, what: str) -> None:
    with written(containerd, ground) as pod:
        change(pod.manifest)
        pod.run_sandbox()
        refused(what, pod)
        assert inside(ground) == []
        assert what in pod.outcome(".failed")["message"]
        with pytest.raises(Refused, match="used already"):  # there is no second try
            pod.run_container(attempt=1)


def test_what_runc_says_is_told(containerd: Containerd, ground: Ground) -> None:
    with written(containerd, ground, ground.plan(command="/usr/bin/no-such-program")) as pod:
        pod.run_sandbox()
        refused("no-such-program", pod)
        assert "no-such-program" in pod.outcome(".failed")["message"]
