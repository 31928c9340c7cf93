"""The Kubernetes engine: a static pod for each side container, which the node's own kubelet runs through containerd.

It needs no API server and no credentials, because the kubelet runs the pods in its staticPodPath.  A pod says as much
of the plan as Kubernetes can express.  Our own runtime around runc, kubernetes_runtime.py, adds the rest: the namespace
by its path, capabilities, mounts, exactly the plan's environment.  containerd knows it as the handler `sidespawn` of
the RuntimeClass of that name.  Without the runtime, a pod's program cannot start.

Each start writes a new pod with a unique uid and name.  While its file exists, the side container holds its name,
running or not.  The runtime's notes and /proc tell what runs, not kubelet.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sidespawn.core.plan import Plan, container_name
from sidespawn.engines import LABEL, Found, NameTaken, Other, Pins, containerd, found, image_missing, labels, state_of
from sidespawn.engines.control_groups import CONTROL_GROUPS, controllers, process_limit
from sidespawn.errors import LaunchError, Reason, quoted
from sidespawn.frozen import dataclass
from sidespawn.system.oci import EXECUTABLE, HEX, HOMES, RUNC, RUNS
from sidespawn.system.processes import SHOWN, Process, end, is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every run milliseconds
    from typing import Any

STATIC_PODS = Path("/etc/kubernetes/manifests")
RUNC_ROOT = Path(RUNC) / "k8s.io"  # containerd adds its namespace
NAMESPACE = "sidespawn"
CLASS = "sidespawn"
WORD = "/.sidespawn"
PREFIX, SUFFIX = "sidespawn.", ".json"
START_TIMEOUT = 60.0  # seconds
QUERY_TIMEOUT = 30.0
DOUBT = 2.0  # after this long without a container, look for the image
PAUSE = 0.01
NO_LIMIT = 2**64 - 1
DNS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
# Of 253. The kubelet appends the node's name, and puts namespace, pod and uid into a directory's name.
NAME_CHARACTERS = 80
# Held by the one start that checks for a free name and takes it. Another run would wait at the service's own lock, and
# another service has other names. A lock on the pods' directory could be held by anyone who can read that.
NAMING = threading.Lock()
REQUESTED = 8 * 2**20  # bytes; no program needs less


@dataclass(frozen=True)
class Pod:
    """One of our pods in the directory."""

    path: Path
    name: str  # the side container's
    uid: str
    labels: dict[str, str]

    @property
    def service(self) -> str:
        return self.labels.get(f"{LABEL}service", "")

    @property
    def pin(self) -> Path:
        """Return the path of its record and outcome; see kubernetes_runtime.py."""
        return Path(HOMES) / self.service / "pins" / self.uid


@dataclass(frozen=True)
class Run:
    """A started program, as the runtime recorded it."""

    path: Path
    container: str
    process: Process
    labels: dict[str, str]
    pods_group: str  # its pod's control group; it outlives the program's for a while

    @property
    def uid(self) -> str:
        return self.path.name

    @property
    def name(self) -> str:
        return self.labels.get(f"{LABEL}name", "")


class Kubernetes:
    def start(self, plan: Plan, pins: Pins, request: str) -> tuple[str, int]:
        uid = os.urandom(16).hex()
        pin = pins.netns.with_name(uid)
        try:
            with NAMING:
                if self.find(plan.name) is not None:
                    raise NameTaken(plan.name)
                write(*self.describe(plan, pins, request, uid))
            return self.wait(plan, pin)
        except LaunchError:
            self.remove(uid)
            raise
        finally:
            for suffix in (".oci", ".taken", ".failed"):
                pin.with_suffix(suffix).unlink(missing_ok=True)

    def wait(self, plan: Plan, pin: Path) -> tuple[str, int]:
        """Wait until the program runs; return its container and pid, or 0 if it has ended."""
        made = outcome(plan, pin)
        fifo = RUNC_ROOT / made.container / "exec.fifo"  # the program's process waits here for its start
        give_up = time.monotonic() + START_TIMEOUT
        while time.monotonic() < give_up:
            if not is_alive(made.process):
                return made.container, 0
            if not fifo.exists():
                return made.container, made.process.pid
            time.sleep(PAUSE)
        raise not_started(plan, "made its container and does not start it")

    def describe(self, plan: Plan, pins: Pins, request: str, uid: str = "") -> tuple[str, ...]:
        """Return file and text of the record and of the pod. For people, with the request's id as uid."""
        uid = uid or request
        context = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": list(plan.capabilities)},
        }
        program = {
            "name": "program",
            "image": plan.image,
            "imagePullPolicy": "Never",
            # The second is for people; the runtime has the program's arguments from the record.
            "command": [WORD],
            "args": [each.replace("$", "$$") for each in (plan.command, *plan.arguments)],
            "resources": {
                "requests": {"cpu": "5m", "memory": str(min(REQUESTED, plan.limits.memory))},
                "limits": {"memory": str(plan.limits.memory)},
            },
            "securityContext": context,
        }
        spec = {
            "runtimeClassName": CLASS,
            "hostNetwork": True,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "dnsPolicy": "Default",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": max(1, round(plan.grace)),
            "priorityClassName": "system-node-critical",
            "priority": 2000001000,  # nothing that handles a static pod looks it up
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {
                "runAsUser": plan.uid,
                "runAsGroup": plan.gid,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [program],
        }
        metadata = {
            "name": pod_name(plan, uid),
            "namespace": NAMESPACE,
            "uid": uid,
            "labels": {"app.kubernetes.io/managed-by": "sidespawn", f"{LABEL}service": plan.service},
            "annotations": labels(plan, request),
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        path, of_record = STATIC_PODS / f"{PREFIX}{plan.name}.{uid}{SUFFIX}", pins.netns.with_name(f"{uid}.oci")
        return str(of_record), json.dumps(record(plan, pins, request, uid)), str(path), json.dumps(pod, indent=1)

    def find(self, name: str) -> Found | None:
        return next((each for each in everything() if name in (each.name, each.id)), None)

    def list(self, service: str) -> tuple[Found, ...]:
        return tuple(each for each in everything(service))

    def others(self) -> tuple[Other, ...]:
        return ()

    def remove(self, name: str) -> None:
        of_id = {each.uid for each in runs() if name in (each.container, each.name)} | {name}
        for pod in pods():  # first, so that kubelet does not restart it
            if pod.name == name or pod.uid in of_id:
                of_id.add(pod.uid)
                pod.path.unlink(missing_ok=True)
                withdraw(pod.pin)
        for each in runs():
            if each.uid in of_id or name in (each.container, each.name):
                end(each.process, "KILL", 0)
                each.path.unlink(missing_ok=True)

    def reap(self, service: str) -> None:
        # The kubelet continues a start that no one waits for, without its pins if they were removed now.
        for each in self.list(service):
            if each.state == "created":
                self.remove(each.id)
        for unfinished in STATIC_PODS.glob(f".{PREFIX}{container_name(service, '*')}{SUFFIX}"):  # by a killed run
            unfinished.unlink(missing_ok=True)
        left = {pod.uid for pod in pods()}
        for old in runs():  # of pods that something else removed
            if old.uid not in left and not is_alive(old.process):
                old.path.unlink(missing_ok=True)


def record(plan: Plan, pins: Pins, request: str, uid: str) -> dict[str, Any]:
    """Return the settings that the runtime adds to the description of the program's container."""
    most = {"NOFILE": plan.limits.open_files, "CORE": 0, "NPROC": process_limit()}
    rlimits = [
        {"type": f"RLIMIT_{kind}", "hard": NO_LIMIT if limit < 0 else limit, "soft": NO_LIMIT if limit < 0 else limit}
        for kind, limit in most.items()
    ]
    return {
        "namespace": NAMESPACE,
        "pod": pod_name(plan, uid),
        "hostname": request,
        "netns": str(pins.netns),
        "annotations": labels(plan, request) | {f"{LABEL}name": plan.name},
        "capabilities": [f"CAP_{each}" for each in plan.capabilities],
        "process": {
            "args": [plan.command, *plan.arguments],
            "env": [f"{name}={value}" for name, value in plan.environment],
            "user": {"uid": plan.uid, "gid": plan.gid},
            "cwd": "/",
            "rlimits": rlimits,
        }
        | ({"apparmorProfile": plan.apparmor} if plan.apparmor else {}),
        "mounts": mounts(plan, pins),
        "resources": limits(plan),
    }


def mounts(plan: Plan, pins: Pins) -> list[dict[str, Any]]:
    """Return the mounts, parents before mounts inside them."""
    small = [*EXECUTABLE, "noexec", "mode=1777", "size=64k"]
    made = [
        {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": small}
        for path in ("/dev/shm", *plan.scratch)  # noqa: S108 - in the container
    ]
    for mount, pin in zip(plan.mounts, pins.mounts, strict=True):
        made.append(bind(pin, mount.path, "rw" if mount.writable else "ro", "noexec"))
    for file, pin in zip(plan.configuration, pins.configuration, strict=True):
        made.append(bind(pin, file.path, "ro", "noexec"))
    for script, pin in zip(plan.scripts, pins.scripts, strict=True):
        made.append(bind(pin, script.path, "ro"))
    return sorted(made, key=lambda each: str(each["destination"]))


def bind(source: Path, target: str, *options: str) -> dict[str, Any]:
    found = ["bind", "rprivate", *EXECUTABLE, *options]
    return {"destination": target, "type": "bind", "source": str(source), "options": found}


def limits(plan: Plan) -> dict[str, Any]:
    """Return limits on memory and tasks, if the host's control groups have the controllers."""
    wanted = {
        "memory": {"memory": {"limit": plan.limits.memory, "swap": plan.limits.memory}},
        "pids": {"pids": {"limit": plan.limits.tasks}},
    }
    return {key: value for each in controllers() for key, value in wanted.get(each, {}).items()}


def pod_name(plan: Plan, uid: str) -> str:
    """Return a readable name that was never used: kubelet reuses a name only when all of the earlier pod is gone."""
    readable = "".join(each if each in DNS else "-" for each in f"{plan.service}-{plan.instance}".lower())
    return f"{readable[:NAME_CHARACTERS].strip('-')}-{uid[:12]}"


# ---------------------------------------------------------------- what is there


def pods() -> Iterator[Pod]:
    for path in sorted(STATIC_PODS.glob(f"{PREFIX}*{SUFFIX}")):
        name, _, uid = path.name.removeprefix(PREFIX).removesuffix(SUFFIX).rpartition(".")
        if is_uid(uid):
            with suppress(OSError, ValueError, KeyError):  # just removed, or not ours
                yield Pod(path, name, uid, json.loads(path.read_text(encoding="utf-8"))["metadata"]["annotations"])


def is_uid(text: str) -> bool:
    """Return whether it is one; a note that is being written has another name."""
    return len(text) == 32 and HEX.issuperset(text)


def runs() -> Iterator[Run]:
    """Yield the started programs whose pods exist, or did at the last check."""
    with suppress(FileNotFoundError):  # nothing has started since boot
        for name in sorted(filter(is_uid, os.listdir(RUNS))):
            with suppress(OSError, ValueError, KeyError):  # removed just now
                yield run_of(name)


def run_of(uid: str) -> Run:
    path = Path(RUNS) / uid
    told = json.loads(path.read_text(encoding="utf-8"))
    process = Process(int(told["pid"]), int(told["started"]))
    return Run(path, str(told["container"]), process, dict(told["annotations"]), str(told.get("group", "")))


def everything(service: str = "") -> Iterator[Found]:
    """Return all side containers, or a service's: running ones, with or without a pod, and pods where nothing runs."""
    there = list(pods())  # first, since a program that is recorded later has its pod
    started = {each.uid: each for each in runs()}
    alive = {each.uid for each in started.values() if is_alive(each.process)}
    for uid in alive:
        each = started[uid]
        if service in ("", each.labels[f"{LABEL}service"]):
            yield found(each.container, each.name, each.process.pid, "running", each.labels)
    for pod in there:
        if pod.uid not in alive and service in ("", pod.service):
            yield found(pod.uid, pod.name, 0, state_of_pod(pod, started.get(pod.uid)), pod.labels)


def state_of_pod(pod: Pod, started: Run | None) -> str:
    """Return the state of a pod in which nothing runs."""
    if started is None:
        # Its start may have been noted, and its record removed, since the notes were read.
        return "created" if is_being_made(pod.pin) or (Path(RUNS) / pod.uid).exists() else "exited"
    events = ""
    with suppress(OSError):  # the host lacks the controller, or kubelet has removed the pod's group
        events = (CONTROL_GROUPS / started.pods_group.lstrip("/") / "memory.events").read_text()
    kills = dict(line.split() for line in events.splitlines()).get("oom_kill", "0")
    return state_of("exited", pod.uid in started.pods_group and kills != "0")


def is_being_made(pin: Path) -> bool:
    return any(pin.with_suffix(each).exists() for each in (".oci", ".taken"))


def withdraw(pin: Path) -> None:
    """Withdraw the record from runtimes, and wait for one that has taken it."""
    with suppress(FileNotFoundError):
        pin.with_suffix(".oci").unlink()
    give_up = time.monotonic() + QUERY_TIMEOUT
    with suppress(FileNotFoundError), open(pin.with_suffix(".taken"), encoding="utf-8") as file:
        while time.monotonic() < give_up:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(PAUSE)


def write(record: str, text_of_record: str, path: str, text: str) -> None:
    """Write the record, then the pod. Raises LaunchError."""
    if not STATIC_PODS.is_dir():
        message = f"the kubelet's directory for static pods, {STATIC_PODS}, does not exist"
        hint = "set staticPodPath in kubelet's configuration and make the directory"
        raise LaunchError(Reason.ENGINE_FAILED, message, hint)
    unfinished = Path(path).with_name(f".{Path(path).name}")  # kubelet reads no file whose name begins with a dot
    try:
        Path(record).write_text(text_of_record, encoding="utf-8")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.rename(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise LaunchError(Reason.ENGINE_FAILED, f"{path} cannot be written: {error.strerror}") from None


# ---------------------------------------------------------------- waiting


def outcome(plan: Plan, pin: Path) -> Run:
    """Return the runtime's record of the container that it made. Raises LaunchError."""
    began = time.monotonic()
    looked = False
    while (waited := time.monotonic() - began) < START_TIMEOUT:
        with suppress(FileNotFoundError):
            return run_of(pin.name)
        with suppress(FileNotFoundError):
            message = json.loads(pin.with_suffix(".failed").read_text(encoding="utf-8"))["message"]
            raise LaunchError(Reason.ENGINE_FAILED, f"{plan.name} cannot start: {quoted(message[-SHOWN:], SHOWN)}")
        if waited > DOUBT and not looked:
            looked = True
            if has_image(plan.image) is False:  # kubelet would wait for it forever
                raise image_missing("containerd", plan.image)
        time.sleep(PAUSE)
    raise not_started(plan, "does not start its pod")


def has_image(image: str) -> bool | None:
    """Return whether containerd has the image; None if containerd's own command cannot tell: not every node has it."""
    try:
        return containerd.find_image(image) is not None
    except LaunchError:
        return None


def not_started(plan: Plan, what: str) -> LaunchError:
    hint = f"see: kubectl describe pod --namespace={NAMESPACE}, journalctl --unit=kubelet; sidespawn check"
    return LaunchError(Reason.ENGINE_TIMEOUT, f"{plan.name}: kubelet {what} within {START_TIMEOUT:.0f} s", hint)
