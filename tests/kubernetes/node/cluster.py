"""A node for tests: containerd and a real kubelet, with no more of an API server than a kubelet needs (api.py).

Each is a unit of systemd's. What a lab lacks is made up for here: control groups there have no controllers, so the
kubelet makes no groups for pods; and the kernel's settings are the machine's, so what kubelet would write is shown to
it as written already.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines.kubernetes import CLASS, NAMESPACE, STATIC_PODS
from tests.kubernetes import containerds
from tests.kubernetes.containerds import CACHE, Containerd
from tests.kubernetes.pods import KUBELET, LOGS, NODE
from tests.lab.networks import command, unit_state, wait_until

PROGRAM = CACHE / "kubernetes/kubelet"
HOME = Path("/run/test-cluster")
# The newest that speaks the version of CRI that this kubelet does.
CONTAINERD = "1.7"
HELPERS = "localhost/sidespawn-helpers:latest"
ADDRESS, GATEWAY, LINK = "10.99.0.1", "10.99.0.2", "node0"
API, PORT = "http://127.0.0.1:6444", "6444"
# As the kubelet would set them.
KERNEL = {
    "vm/overcommit_memory": 1,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
# Where the engine looks for it when an image seems to be missing.
SOCKET = Path("/run/containerd/containerd.sock")
KMSG = Path("/dev/kmsg")
CNI = Path("/etc/cni/net.d/10-test.conflist")
# No pod here has a network of the cluster's; without the file the node would never be ready.
NO_NETWORK = {"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "loopback"}]}
READ = 'SyncLoop (ADD, "file")'  # what kubelet says when it has read its static pods, also if there are no pods
SETTLE = 3.0  # seconds


@dataclass
class Daemon:
    """A transient unit."""

    name: str
    argv: tuple[str, ...]

    @property
    def unit(self) -> str:
        return f"test-{self.name}.service"

    def start(self) -> None:
        command("systemd-run", "--quiet", "--collect", f"--unit={self.unit}", *self.argv)

    def stop(self) -> None:
        command("systemctl", "stop", self.unit, check=False)  # it may have failed
        wait_until(lambda: unit_state(self.unit) == "inactive")

    def kill(self) -> None:
        command("systemctl", "kill", "--signal=KILL", self.unit)
        wait_until(lambda: unit_state(self.unit) in ("inactive", "failed"))

    def restart(self) -> None:
        self.stop()
        self.start()

    def said(self) -> str:
        """Since it was started."""
        run = command("systemctl", "show", "--property=InvocationID", "--value", self.unit).stdout.strip()
        return command("journalctl", "--quiet", "--output=cat", f"_SYSTEMD_INVOCATION_ID={run}").stdout


@dataclass
class Cluster:
    containerd: Containerd
    api: Daemon = field(init=False)
    kubelet: Daemon = field(init=False)

    def __post_init__(self) -> None:
        program = Path(__file__).with_name("api.py")
        self.api = Daemon("kube-apiserver", ("/usr/bin/python3", "-I", str(program), PORT, CLASS))
        self.kubelet = Daemon("kubelet", kubelet(self.containerd))

    def get(self, path: str) -> Any:
        """What the API server says. Raises OSError when it says nothing or no."""
        with urllib.request.urlopen(f"{API}{path}", timeout=30) as answer:
            return json.load(answer)

    def side_pods(self) -> list[dict[str, Any]]:
        """The mirrors of side containers' pods."""
        found: list[dict[str, Any]] = self.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
        return found

    def messages(self, pod: str) -> list[str]:
        """Of events that are about it."""
        events = self.get(f"/api/v1/namespaces/{NAMESPACE}/events")["items"]
        return [each["message"] for each in events if each["involvedObject"]["name"] == pod]

    def answers(self) -> bool:
        with suppress(OSError):
            return bool(self.get("/api/v1/nodes"))
        return False

    def running_pods(self) -> list[dict[str, Any]]:
        """Sandboxes of side containers, as containerd knows them; kubelet removes ended ones once a minute."""
        found = self.containerd.call("ListPodSandbox", filter={"state": {"state": "SANDBOX_READY"}}).get("items", ())
        return [each for each in found if each["metadata"]["namespace"] == NAMESPACE]

    def start_api(self) -> None:
        self.api.start()
        wait_until(self.answers, patience=30)

    def wait_for_kubelet(self) -> None:
        """Until it has looked at the static pods; then it has had time for what it would do at once."""
        try:
            wait_until(lambda: READ in self.kubelet.said(), patience=60)
        except AssertionError:
            raise AssertionError(f"the kubelet does not start:\n{self.kubelet.said()[-8000:]}") from None
        time.sleep(SETTLE)


def kubelet(containerd: Containerd) -> tuple[str, ...]:
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupsPerQOS": False,
        "contentType": "application/json",
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "1Mi"},
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "staticPodPath": str(STATIC_PODS),
        "volumePluginDir": f"{KUBELET}/plugins",
    }
    access = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": API}}],
        "users": [{"name": "node", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "node"}}],
        "current-context": "test",
    }
    for name, content in (("kubelet", settings), ("access", access)):
        (HOME / f"{name}.json").write_text(json.dumps(content))
    return (
        str(PROGRAM),
        f"--config={HOME}/kubelet.json",
        f"--kubeconfig={HOME}/access.json",
        f"--root-dir={KUBELET}",
        f"--cert-dir={KUBELET}/pki",
        f"--hostname-override={NODE}",
        f"--node-ip={ADDRESS}",
        "--container-runtime=remote",
        f"--container-runtime-endpoint=unix://{containerd.socket}",
        "--v=2",
    )


@contextmanager
def running() -> Iterator[Cluster]:
    if not PROGRAM.exists():
        pytest.skip("needs a kubelet in .cache, which ./dev test kubernetes builds")
    with ExitStack() as stack:
        for path in (STATIC_PODS, HOME):
            path.mkdir(parents=True)
            stack.callback(shutil.rmtree, path)
        stack.callback(shutil.rmtree, LOGS, ignore_errors=True)
        stack.callback(shutil.rmtree, KUBELET, ignore_errors=True)
        stack.enter_context(what_a_lab_lacks())
        SOCKET.parent.mkdir(exist_ok=True)
        images = (containerds.AGENT, HELPERS)
        containerd = stack.enter_context(containerds.running(CONTAINERD, *images, address=SOCKET, has_slices=False))
        made = Cluster(containerd)
        stack.callback(made.api.stop)
        made.start_api()
        stack.callback(made.kubelet.stop)
        made.kubelet.start()
        made.wait_for_kubelet()
        yield made


@contextmanager
def what_a_lab_lacks() -> Iterator[None]:
    with ExitStack() as stack:
        for number, (name, value) in enumerate(KERNEL.items()):
            shown = HOME / f"kernel-{number}"
            shown.write_text(f"{value}\n")
            command("mount", "--bind", str(shown), f"/proc/sys/{name}")
            stack.callback(command, "umount", f"/proc/sys/{name}")
        if not KMSG.exists():
            KMSG.symlink_to("/dev/null")
            stack.callback(KMSG.unlink)
        command("ip", "link", "add", LINK, "type", "bridge")
        stack.callback(command, "ip", "link", "del", LINK)
        command("ip", "address", "add", f"{ADDRESS}/24", "dev", LINK)
        command("ip", "link", "set", LINK, "up")
        command("ip", "route", "add", "default", "via", GATEWAY)
        CNI.parent.mkdir(parents=True, exist_ok=True)
        CNI.write_text(json.dumps(NO_NETWORK))
        stack.callback(CNI.unlink)
        yield
