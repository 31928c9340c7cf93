"""A cluster of one node for tests: containerd, a real kubelet, an API server with etcd, controllers and a scheduler.

What a lab lacks is made up for here: the kernel's settings are the machine's, so what the kubelet would write is shown
to it as written already.
"""

from __future__ import annotations

import json
import shutil
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines.kubernetes import NAMESPACE, STATIC_PODS
from tests.kubernetes import containerds
from tests.kubernetes.containerds import CHECKOUT, Containerd
from tests.kubernetes.node import daemons
from tests.kubernetes.node.daemons import API, DEBIAN, PROGRAMS, Daemon
from tests.kubernetes.node.keys import Keys
from tests.kubernetes.pods import KUBELET, LOGS, NODE
from tests.lab.networks import command, wait_until

MANIFESTS = CHECKOUT / "integrations/kubernetes"
HOME = Path("/run/test-cluster")
# The newest that speaks the version of CRI that this kubelet does.
CONTAINERD = "1.7"
HELPERS = "localhost/sidespawn-helpers:latest"
ADDRESS, GATEWAY, LINK = "10.99.0.1", "10.99.0.2", "node0"
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
class Cluster:
    containerd: Containerd
    keys: Keys
    etcd: Daemon = field(init=False)
    api: Daemon = field(init=False)
    controllers: Daemon = field(init=False)
    scheduler: Daemon = field(init=False)
    kubelet: Daemon = field(init=False)

    def __post_init__(self) -> None:
        self.etcd = daemons.etcd(HOME)
        self.api = daemons.api_server(HOME, self.keys)
        self.controllers = daemons.controller_manager(HOME, self.keys)
        self.scheduler = daemons.scheduler(HOME, self.keys)
        self.kubelet = daemons.kubelet(HOME, self.keys, ADDRESS, self.containerd.socket)

    @property
    def call(self) -> tuple[str, ...]:
        """An administrator's kubectl."""
        return (f"{DEBIAN}/kubectl", f"--kubeconfig={self.keys.configuration('admin')}")

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """What it printed; with `check` off, its errors as well."""
        done = command(*self.call, *arguments, check=check)
        return done.stdout if check else done.stdout + done.stderr

    def get(self, path: str) -> Any:
        """What the API server says to an administrator. Raises OSError when it says nothing or no."""
        context = ssl.create_default_context(cafile=str(self.keys.authority))
        context.load_cert_chain(*self.keys.pair("admin"))
        with urllib.request.urlopen(f"{API}{path}", timeout=30, context=context) as answer:
            return json.load(answer)

    def pods(self, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]
        return found

    def side_pods(self, service: str = "") -> list[dict[str, Any]]:
        """Return the mirrors of side containers' pods, of one service or of all."""
        return self.pods(NAMESPACE, f"io.sidespawn.service={service}" if service else "")

    def messages(self, pod: str, namespace: str = NAMESPACE) -> list[str]:
        """Return the messages of events that are about it."""
        events = self.get(f"/api/v1/namespaces/{namespace}/events")["items"]
        return [each["message"] for each in events if each["involvedObject"]["name"] == pod]

    def apply(self, *objects: dict[str, Any]) -> None:
        path = HOME / "apply.json"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
        self.kubectl("apply", f"--filename={path}")

    def answers(self) -> bool:
        with suppress(OSError):
            return bool(self.get("/api/v1/nodes"))
        return False

    def is_ready(self) -> bool:
        """As the API says of the node."""
        with suppress(OSError):
            told = self.get(f"/api/v1/nodes/{NODE}")["status"]["conditions"]
            return any((each["type"], each["status"]) == ("Ready", "True") for each in told)
        return False

    def running_pods(self) -> list[dict[str, Any]]:
        """Sandboxes of side containers, as containerd knows them; kubelet removes ended ones once a minute."""
        found = self.containerd.call("ListPodSandbox", filter={"state": {"state": "SANDBOX_READY"}}).get("items", ())
        return [each for each in found if each["metadata"]["namespace"] == NAMESPACE]

    def start_api(self) -> None:
        self.api.start()
        try:
            wait_until(self.answers, patience=120)
        except AssertionError:
            raise AssertionError(f"the API server does not start:\n{self.api.said()[-8000:]}") from None

    def wait_for_kubelet(self) -> None:
        """Wait until it has looked at the static pods, and has had time for what it would do at once."""
        try:
            wait_until(lambda: READ in self.kubelet.said(), patience=60)
            wait_until(self.is_ready, patience=120)
        except AssertionError:
            raise AssertionError(f"the node does not become ready:\n{self.kubelet.said()[-8000:]}") from None
        time.sleep(SETTLE)


def version() -> str:
    """Return the kubelet's version, as it says."""
    return command(f"{PROGRAMS}/kubelet", "--version").stdout.split()[-1]


@contextmanager
def running() -> Iterator[Cluster]:
    if not all((place / name).exists() for place, name in ((PROGRAMS, "kube-scheduler"), (DEBIAN, "etcd"))):
        pytest.skip("needs Kubernetes in .cache, which ./dev test kubernetes builds")
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
        made = Cluster(containerd, Keys(HOME / "keys", NODE, API))
        for daemon in (made.etcd, made.api, made.controllers, made.scheduler, made.kubelet):
            stack.callback(daemon.stop)
        made.etcd.start()
        made.start_api()
        # As an administrator brings them. ValidatingAdmissionPolicy is newer than this API server.
        for name in ("namespace", "runtime-classes"):
            made.kubectl("apply", f"--filename={MANIFESTS}/{name}.yaml")
        for daemon in (made.controllers, made.scheduler, made.kubelet):
            daemon.start()
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
