"""The engine that writes static pods, with the real runtime, and small stand-ins for kubelet and runc."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidespawn.core.plan import Plan
from sidespawn.engines import NameTaken, Pins, containerd, kubernetes, kubernetes_runtime
from sidespawn.engines.kubernetes import Kubernetes
from sidespawn.errors import LaunchError, Reason
from sidespawn.system import oci
from sidespawn.system.files import closing
from sidespawn.system.processes import Output, end, identify
from tests.attacks.catalogue import attack
from tests.unit.test_kubernetes_runtime import recorded
from tests.unit.test_podman import ID, PINS, PLAN

pytestmark = pytest.mark.usefixtures("a_host")
RUNC = """\
#!/bin/sh
test -e {home}/fails && {{ echo '{{"level": "error", "msg": "no \\u001b such program"}}' >>{home}/log; exit 1; }}
sleep 600 >/dev/null 2>&1 &
echo $! >{home}/pid
mkdir -p {home}/runc/c-$!
"""
HOSTILE = ("--privileged", "$HOME", "$(HOME)", "$$(HOME)", "a\nb", '"', "", "\x1b", "\u2028", "x" * 60_000)


class Node(threading.Thread):
    """Runs each new pod through the runtime, as kubelet and containerd do."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self.home, self.seen, self.goes_on, self.waits = home, set[str](), True, False
        self.refusals: list[int] = []

    def run(self) -> None:
        while self.goes_on:
            for path in (self.home / "pods").glob("[!.]*"):
                if path.name not in self.seen and not self.waits:
                    self.seen.add(path.name)
                    with suppress(FileNotFoundError):
                        self.start_pod(json.loads(path.read_text()))
            time.sleep(0.002)

    def start_pod(self, pod: dict[str, Any]) -> int:
        description = recorded("container")
        description["annotations"] |= {
            f"io.kubernetes.cri.sandbox-{each}": pod["metadata"][each] for each in ("name", "namespace", "uid")
        }
        description["annotations"]["io.kubernetes.cri.sandbox-name"] += "-node1"
        program = pod["spec"]["containers"][0]
        description["process"]["args"] = [
            *program["command"],
            *(each.replace("$$", "$") for each in program["args"]),
        ]
        user = pod["spec"]["securityContext"]
        description["process"]["user"] = {"uid": user["runAsUser"], "gid": user["runAsGroup"]}
        (self.home / "config.json").write_text(json.dumps(description))
        options = ["--log", str(self.home / "log"), "create", "--bundle", str(self.home)]
        code = kubernetes_runtime.main(["runc", *options, "--pid-file", str(self.home / "pid"), pod["metadata"]["uid"]])
        self.refusals += [code] if code else []
        return code


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for each in ("pods", "homes/small/pins", "homes/other/pins", "bin"):
        (tmp_path / each).mkdir(parents=True)
    for module in (oci, kubernetes):
        monkeypatch.setattr(module, "HOMES", str(tmp_path / "homes"))
        monkeypatch.setattr(module, "RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(kubernetes, "STATIC_PODS", tmp_path / "pods")
    monkeypatch.setattr(kubernetes, "RUNC_ROOT", tmp_path / "runc")
    (tmp_path / "bin/runc").write_text(RUNC.format(home=tmp_path))
    (tmp_path / "bin/runc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def node(home: Path) -> Iterator[Node]:
    made = Node(home)
    made.start()
    yield made
    made.goes_on = False
    made.join()
    for each in kubernetes.runs():
        end(each.process, "KILL", 0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "START_TIMEOUT", 0.3)
    monkeypatch.setattr(kubernetes, "DOUBT", 0.1)


def pins(home: Path, service: str = "small") -> Pins:
    return replace(PINS, netns=home / f"homes/{service}/pins/{ID}.netns")


def start(home: Path, plan: Plan = PLAN) -> tuple[str, int]:
    return Kubernetes().start(plan, pins(home, plan.service), ID)


def kill(pid: int) -> None:
    process = identify(pid)
    assert process is not None
    end(process, "KILL", 0)


def pod_of(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Kubernetes().describe(plan, PINS, ID)[3])
    return found


def left(home: Path) -> list[str]:
    places = [*(home / "pods").iterdir(), *(home / "homes/small/pins").iterdir()]
    return sorted(each.name for each in places) + sorted(os.listdir(home / "runs") if (home / "runs").exists() else ())


# ---------------------------------------------------------------- what is written


def test_a_pod_says_what_the_plan_says_and_nothing_else() -> None:
    of_record, record, path, text = Kubernetes().describe(PLAN, PINS, ID)
    assert of_record == str(PINS.netns.with_name(f"{ID}.oci"))
    assert json.loads(record) == kubernetes.record(PLAN, PINS, ID, ID)
    assert path == f"/etc/kubernetes/manifests/sidespawn.{PLAN.name}.{ID}.json"
    assert json.loads(text) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"small-{PLAN.instance}-{ID[:12]}",
            "namespace": "sidespawn",
            "uid": ID,
            "labels": {"app.kubernetes.io/managed-by": "sidespawn", "io.sidespawn.service": "small"},
            "annotations": {
                "io.sidespawn.service": "small",
                "io.sidespawn.instance": PLAN.instance,
                "io.sidespawn.netns": PLAN.netns,
                "io.sidespawn.request": ID,
                "io.sidespawn.plan": PLAN.digest,
            },
        },
        "spec": {
            "runtimeClassName": "sidespawn",
            "hostNetwork": True,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "dnsPolicy": "Default",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": round(PLAN.grace),
            "priorityClassName": "system-node-critical",
            "priority": 2000001000,
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {
                "runAsUser": PLAN.uid,
                "runAsGroup": PLAN.gid,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "program",
                    "image": PLAN.image,
                    "imagePullPolicy": "Never",
                    "command": ["/.sidespawn"],
                    "args": [PLAN.command, *PLAN.arguments],
                    "resources": {
                        "requests": {"cpu": "5m", "memory": "8388608"},
                        "limits": {"memory": str(PLAN.limits.memory)},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
                    },
                }
            ],
        },
    }


def test_arguments_are_values_that_kubelet_expands_nothing_in() -> None:
    args = pod_of(replace(PLAN, arguments=HOSTILE))["spec"]["containers"][0]["args"]
    assert args[1:4] == ["--privileged", "$$HOME", "$$(HOME)"]
    assert [each.replace("$$", "$") for each in args[1:]] == list(HOSTILE)


@pytest.mark.parametrize("instance", ["a", "Q-ABC", "q" * 64, "q-" * 32, "x-"])
def test_a_pods_name_is_one_for_kubernetes(instance: str) -> None:
    name = pod_of(replace(PLAN, service="s" * 40, instance=instance))["metadata"]["name"]
    assert set(name) <= kubernetes.DNS
    assert name[0] != "-" != name[-1]
    # With a node name of 100 characters: the longest names of pods and of their log directory.
    assert len(name) <= 253 - 101
    assert len(f"sidespawn_{name}-{'n' * 100}_{ID}") <= 255


def test_a_small_limit_is_no_less_than_what_is_requested() -> None:
    """Kubelet rejects such a pod."""
    small = pod_of(replace(PLAN, limits=replace(PLAN.limits, memory=2**20)))
    resources = small["spec"]["containers"][0]["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "1048576"


def test_the_record_holds_limits_that_the_host_can_enforce(home: Path) -> None:
    record = kubernetes.record(PLAN, PINS, ID, ID)
    assert record["resources"] == {
        "memory": {"limit": PLAN.limits.memory, "swap": PLAN.limits.memory},
        "pids": {"limit": PLAN.limits.tasks},
    }
    (home / "controllers").write_text("cpu\n")
    assert kubernetes.record(PLAN, PINS, ID, ID)["resources"] == {}


def test_a_host_without_a_limit_of_processes(home: Path) -> None:
    (home / "limits").write_text("Limit Soft Limit Hard Limit Units\nMax processes  unlimited  unlimited  processes\n")
    rlimits = {each["type"]: each["hard"] for each in kubernetes.record(PLAN, PINS, ID, ID)["process"]["rlimits"]}
    assert rlimits == {"RLIMIT_NOFILE": PLAN.limits.open_files, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 2**64 - 1}


# ---------------------------------------------------------------- starting


@pytest.mark.usefixtures("node")
def test_a_start_leaves_the_pod_and_the_note_of_what_runs(home: Path) -> None:
    container, pid = start(home)
    (found,) = Kubernetes().list("small")
    assert (found.id, found.pid, found.state, found.name) == (container, pid, "running", PLAN.name)
    assert (found.digest, found.request, found.netns) == (PLAN.digest, ID, PLAN.netns)
    assert Kubernetes().find(PLAN.name) == Kubernetes().find(container) == found
    assert left(home) == [f"sidespawn.{PLAN.name}.{container}.json", container]


@pytest.mark.parametrize(
    ("events", "group", "state"),
    [
        ("oom 3\noom_kill 1\n", "/kubepods.slice/kubepods-pod{}.slice", "exited, out of memory"),
        ("oom 3\noom_kill 0\n", "/kubepods.slice/kubepods-pod{}.slice", "exited"),
        ("", "/kubepods.slice/kubepods-pod{}.slice", "exited"),
        (None, "/kubepods.slice/kubepods-pod{}.slice", "exited"),  # kubelet has removed it, or there is no controller
        ("oom_kill 1\n", "/pods.slice", "exited"),  # that of other pods as well
    ],
)
@pytest.mark.usefixtures("node")
def test_an_end_for_its_memory_limit_is_reported(
    home: Path, monkeypatch: pytest.MonkeyPatch, events: str | None, group: str, state: str
) -> None:
    start(home)
    (run,) = kubernetes.runs()
    end(run.process, "KILL", 0)
    note = json.loads(run.path.read_text()) | {"group": group.format(run.uid)}
    run.path.write_text(json.dumps(note))
    monkeypatch.setattr(kubernetes, "CONTROL_GROUPS", home / "groups")
    if events is not None:
        path = home / "groups" / group.format(run.uid).strip("/")
        path.mkdir(parents=True)
        (path / "memory.events").write_text(events)
    found = Kubernetes().find(PLAN.name)
    assert found is not None
    assert found.state == state


@pytest.mark.usefixtures("node")
def test_each_start_has_a_uid_and_a_name_that_no_other_one_has(home: Path) -> None:
    names = set()
    for _ in range(3):
        container, _ = start(home)
        (path,) = (home / "pods").iterdir()
        names |= {container, json.loads(path.read_text())["metadata"]["name"]}
        Kubernetes().remove(PLAN.name)
    assert len(names) == 6


def test_kubelet_never_sees_half_a_pod(home: Path, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    real, early = Path.write_text, []

    def slow(path: Path, text: str, **how: Any) -> int:
        if path.parent == home / "pods":
            early.append(path.name)
        return real(path, text, **how)

    monkeypatch.setattr(Path, "write_text", slow)
    start(home)
    assert [each[0] for each in early] == ["."]
    assert not node.refusals


def test_a_runc_failure_is_reported_at_once(home: Path, node: Node) -> None:
    (home / "fails").touch()
    with pytest.raises(LaunchError, match=r"no .* such program") as caught:
        start(home)
    assert caught.value.reason is Reason.ENGINE_FAILED
    assert caught.value.message.isprintable()
    assert left(home) == []


def test_a_changed_pod_is_reported_at_once(home: Path, node: Node) -> None:
    node.waits = True
    thread = threading.Thread(target=change_the_pod, args=(home, node))
    thread.start()
    with pytest.raises(LaunchError, match="its command differs from the record"):
        start(home)
    thread.join()
    assert left(home) == []


def change_the_pod(home: Path, node: Node) -> None:
    while not (found := list((home / "pods").glob("[!.]*"))):
        time.sleep(0.002)
    found[0].write_text(found[0].read_text().replace("/.sidespawn", "/bin/sh"))
    node.waits = False


@pytest.mark.usefixtures("node")
def test_a_name_that_is_taken(home: Path) -> None:
    _, pid = start(home)
    with pytest.raises(NameTaken):
        start(home)
    (only,) = Kubernetes().list("small")
    assert only.pid == pid


@pytest.mark.usefixtures("node")
def test_one_of_several_starts_at_once_has_the_name(home: Path) -> None:
    started: list[int] = []

    def once() -> None:
        with suppress(NameTaken):
            started.append(start(home)[1])

    threads = [threading.Thread(target=once) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(started) == 1


@pytest.mark.usefixtures("impatient")
def test_without_a_kubelet_nothing_is_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containerd, "run", lambda *_: Output(0, f"{PLAN.image}\n", ""))
    with pytest.raises(LaunchError, match="kubelet does not start its pod within 0 s") as caught:
        start(home)
    assert caught.value.reason is Reason.ENGINE_TIMEOUT
    assert "kubectl describe" in caught.value.hint
    assert left(home) == []


def test_an_image_that_containerd_lacks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "DOUBT", 0.1)
    asked: list[tuple[str, ...]] = []

    def run(argv: tuple[str, ...], _: float) -> Output:
        asked.append(argv)
        return Output(0, "", "")

    monkeypatch.setattr(containerd, "run", run)
    with pytest.raises(LaunchError, match=f"containerd has no image {PLAN.image}") as caught:
        start(home)
    assert caught.value.reason is Reason.IMAGE_MISSING
    assert asked == [(*containerd.CTR, "images", "list", "--quiet")]
    assert left(home) == []


@pytest.mark.parametrize(
    ("image", "there"),
    [
        ("localhost/tool:1", True),
        ("tool:2", True),  # of docker.io/library
        ("tool", True),  # :latest
        ("some/tool", True),
        ("quay.io/x/tool@sha256:0123", True),
        ("localhost/tool:11", False),
        ("ool:2", False),
        ("localhost/tool", False),
        ("other/tool:2", False),
        ("", False),
    ],
)
def test_images_have_names_in_full(monkeypatch: pytest.MonkeyPatch, image: str, there: bool) -> None:
    names = [
        "localhost/tool:1",
        "docker.io/library/tool:2",
        "docker.io/library/tool:latest",
        "docker.io/some/tool:latest",
    ]
    names += ["quay.io/x/tool@sha256:0123", "sha256:4567"]
    monkeypatch.setattr(containerd, "run", lambda *_: Output(0, "\n".join(names) + "\n", ""))
    assert kubernetes.has_image(image) is there


def test_a_ctr_that_fails_says_nothing_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containerd, "run", lambda *_: Output(1, "", "no socket"))
    assert kubernetes.has_image("x") is None


@pytest.mark.usefixtures("impatient")
def test_a_host_without_ctr_only_waits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containerd, "CTR", (str(home / "none"),))
    with pytest.raises(LaunchError, match="does not start its pod"):
        start(home)


def test_a_directory_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full disks cause this."""
    real = Path.write_text

    def write_text(path: Path, text: str, **how: Any) -> int:
        if path.parent == home / "pods":
            raise OSError(28, "No space left on device")
        return real(path, text, **how)

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(LaunchError, match="cannot be written: No space left") as caught:
        start(home)
    assert caught.value.reason is Reason.ENGINE_FAILED
    assert left(home) == []


def test_without_the_directory_it_says_which(home: Path) -> None:
    (home / "pods").rmdir()
    with pytest.raises(LaunchError, match="pods, does not exist") as caught:
        start(home)
    assert "staticPodPath" in caught.value.hint
    assert Kubernetes().list("small") == ()


# ---------------------------------------------------------------- finding and removing


@pytest.mark.usefixtures("node")
def test_a_program_that_ended_keeps_its_name_until_it_is_removed(home: Path) -> None:
    _, pid = start(home)
    kill(pid)
    found = Kubernetes().find(PLAN.name)
    assert found is not None
    assert (found.pid, found.state, found.request) == (None, "exited", ID)
    with pytest.raises(NameTaken):
        start(home)
    Kubernetes().remove(PLAN.name)
    assert Kubernetes().find(PLAN.name) is None
    assert left(home) == []


@pytest.mark.usefixtures("node")
def test_removing_by_id_ends_it(home: Path) -> None:
    container, pid = start(home)
    Kubernetes().remove(container)
    assert identify(pid) is None
    assert left(home) == []
    Kubernetes().remove(container)  # there is nothing to remove: no error


@pytest.mark.usefixtures("node")
def test_what_runs_without_its_pod_is_found_and_removed(home: Path) -> None:
    """Someone removed the file by hand while kubelet was down."""
    _, pid = start(home)
    for path in (home / "pods").iterdir():
        path.unlink()
    (found,) = Kubernetes().list("small")
    assert found.pid == pid
    with pytest.raises(NameTaken):
        start(home)
    Kubernetes().remove(PLAN.name)
    assert identify(pid) is None
    assert left(home) == []


@pytest.mark.usefixtures("node")
def test_services_do_not_see_each_others(home: Path) -> None:
    start(home)
    start(home, replace(PLAN, service="other"))
    assert len(Kubernetes().list("small")) == len(Kubernetes().list("other")) == 1
    assert Kubernetes().list("smaller") == Kubernetes().list("*") == ()
    Kubernetes().remove("other_*")
    assert len(Kubernetes().list("other")) == 1
    Kubernetes().remove(replace(PLAN, service="other").name)
    assert len(Kubernetes().list("small")) == 1


@pytest.mark.usefixtures("node")
def test_a_pid_that_is_used_again_is_no_side_container(home: Path) -> None:
    container, pid = start(home)
    kill(pid)
    note = home / "runs" / container
    told = json.loads(note.read_text())
    note.write_text(json.dumps(told | {"pid": os.getpid()}))
    found = Kubernetes().find(PLAN.name)
    assert found is not None
    assert found.state == "exited"
    Kubernetes().remove(PLAN.name)  # and this process continues


@pytest.mark.usefixtures("node")
def test_a_note_that_is_being_written_is_not_looked_at(home: Path) -> None:
    """Notes get their name when they are complete. With a partial one, the program would run twice."""
    container, _ = start(home)
    (home / "runs" / container).rename(home / "runs" / f"{container}.new")
    assert [each.state for each in Kubernetes().list("small")] == ["exited"]
    (home / "runs" / f"{container}.new").rename(home / "runs" / container)
    assert [each.state for each in Kubernetes().list("small")] == ["running"]


@pytest.mark.usefixtures("node")
def test_a_program_just_started_has_not_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes were read earlier than records, and its record is already gone."""
    start(home)
    with monkeypatch.context() as before:
        before.setattr(kubernetes, "runs", lambda: ())
        assert [each.state for each in Kubernetes().list("small")] == ["created"]


@pytest.mark.usefixtures("node")
def test_a_pod_that_a_killed_run_did_not_finish_is_removed(home: Path) -> None:
    """Another service with a similar name may be writing its own at this moment."""
    unfinished, *others = (
        home / "pods" / name
        for name in (f".sidespawn.{PLAN.name}.{ID}.json", f".sidespawn.small-2_x.{ID}.json", ".backup.json")
    )
    for each in (unfinished, *others):
        each.write_text("{")
    Kubernetes().reap("small")
    assert not unfinished.exists()
    assert all(each.exists() for each in others)


@attack(255)
@pytest.mark.usefixtures("node")
def test_a_lock_on_the_pods_directory_keeps_no_start_waiting(home: Path) -> None:
    """Hold a lock that anyone who can read the directory can take: another user of the host, or a pod that mounts /."""
    with closing(os.open(home / "pods", os.O_RDONLY)) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert start(home)


def test_other_files_in_the_directory_are_let_alone(home: Path) -> None:
    others = {
        "kube-apiserver.yaml": "apiVersion: v1\n",
        f"sidespawn.x.{ID}.json": "no JSON",
        f"sidespawn.y.{ID}.json": "{}",
        "sidespawn.z.0.json": "{}",
        f".sidespawn.a.{ID}.json": "{}",
    }
    for name, text in others.items():
        (home / "pods" / name).write_text(text)
    (home / "runs").mkdir()
    for name, text in {"a": "no JSON", "b": "{}", ".c.new": "{}"}.items():
        (home / "runs" / name).write_text(text)
    assert Kubernetes().list("small") == ()
    Kubernetes().remove("x")
    Kubernetes().reap("small")
    assert {each.name for each in (home / "pods").iterdir()} == set(others)


# ---------------------------------------------------------------- after a run that was killed


def written(home: Path, uid: str, *suffixes: str) -> Path:
    """Write a pod whose start is no longer awaited."""
    _, _, path, text = Kubernetes().describe(PLAN, PINS, ID, uid)
    unfinished = home / "pod"
    unfinished.write_text(text)
    unfinished.rename(path)
    for suffix in suffixes:
        (home / f"homes/small/pins/{uid}{suffix}").write_text(json.dumps(kubernetes.record(PLAN, PINS, ID, uid)))
    return Path(path)


@pytest.mark.parametrize("suffix", [".oci", ".taken"])
def test_a_start_without_a_waiting_caller_is_undone(home: Path, suffix: str) -> None:
    pod = written(home, "a" * 32, suffix)
    (found,) = Kubernetes().list("small")
    assert (found.pid, found.state) == (None, "created")
    Kubernetes().reap("small")
    assert not pod.exists()
    assert not (home / f"homes/small/pins/{'a' * 32}.oci").exists()


def test_kubelet_cannot_continue_with_it(home: Path) -> None:
    node = Node(home)
    pod = json.loads(written(home, "a" * 32, ".oci").read_text())
    Kubernetes().reap("small")
    assert node.start_pod(pod) == 1
    assert Kubernetes().list("small") == ()


def test_a_runtime_that_is_making_the_container_is_waited_for(home: Path) -> None:
    """Otherwise its pins would disappear while runc mounts them."""
    uid = "a" * 32
    written(home, uid, ".taken")
    taken = home / f"homes/small/pins/{uid}.taken"
    order: list[str] = []

    def make() -> None:
        with open(taken) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked.set()
            time.sleep(0.2)
            order.append("made")

    locked = threading.Event()
    thread = threading.Thread(target=make)
    thread.start()
    locked.wait()
    Kubernetes().reap("small")
    order.append("reaped")
    thread.join()
    assert order == ["made", "reaped"]


@pytest.mark.usefixtures("node")
def test_what_runs_and_what_has_ended_is_spared(home: Path) -> None:
    _, pid = start(home)
    ended = written(home, "b" * 32)
    Kubernetes().reap("small")
    assert identify(pid) is not None
    assert ended.exists()


@pytest.mark.usefixtures("node")
def test_notes_of_pods_that_are_gone_are_removed(home: Path) -> None:
    _, pid = start(home)
    kill(pid)
    for path in (home / "pods").iterdir():
        path.unlink()
    Kubernetes().reap("small")
    assert left(home) == []
