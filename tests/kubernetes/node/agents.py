"""An agent as a DaemonSet, for tests. It carries out the commands that are put into its state directory."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidespawn.engines.agent_runtime import LIST
from sidespawn.testing.agent import NEUTRON, namespaces_of_a_group
from tests.kubernetes.containerds import AGENT
from tests.kubernetes.node.cluster import Cluster
from tests.lab.networks import SIDESPAWN, Network, Service, command, wait_until

STATE = "/var/lib/neutron"
NETNS = "/run/netns"
CONTAINED = {
    "runAsUser": NEUTRON,
    "runAsGroup": NEUTRON,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN"]},
}
# Not by `kubectl exec`: what it executes has none of the capabilities that the runtime for agents makes ambient.
LOOP = """\
cd "$1" || exit
while sleep 0.1; do
    [ -e ask ] || continue
    sh -e ./ask >said 2>&1
    echo $? >answer.new && rm ask && mv answer.new answer
done
"""


@dataclass(frozen=True)
class Agent:
    """A pod with the host's network and the service's mounts.

    It is contained by the class for agents, or runs as openstack-helm runs agents: privileged, with the host's pids.
    """

    cluster: Cluster
    service: Service
    is_contained: bool = True

    @property
    def name(self) -> str:
        return f"agent-{self.service.name}"

    @property
    def desk(self) -> Path:
        return self.service.state / "agent"

    def mounts(self) -> list[dict[str, Any]]:
        done = command(*SIDESPAWN, "options", self.service.name, "--json")
        found: list[dict[str, Any]] = json.loads(done.stdout)["agent_mounts"]
        return found

    def pod(self, release: str) -> dict[str, Any]:
        wanted = [(each["source"], each["target"], each["writable"]) for each in self.mounts()]
        wanted += [(str(self.service.state), STATE, True), (NETNS, NETNS, True)]
        mounts: list[dict[str, Any]] = [
            {"name": f"v{number}", "mountPath": target, "readOnly": not writable}
            for number, (_, target, writable) in enumerate(wanted)
        ]
        if not self.is_contained:
            mounts[-1]["mountPropagation"] = "Bidirectional"
        container = {
            "name": "agent",
            "image": AGENT,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", LOOP, "sh", f"{STATE}/agent"],
            "env": [{"name": "RELEASE", "value": release}],
            "securityContext": CONTAINED if self.is_contained else {"privileged": True},
            "volumeMounts": mounts,
        }
        return {
            "hostNetwork": True,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            "volumes": [{"name": f"v{number}", "hostPath": {"path": each[0]}} for number, each in enumerate(wanted)],
            **({"runtimeClassName": "sidespawn-agent"} if self.is_contained else {"hostPID": True}),
        }

    def roll_out(self, release: str) -> None:
        self.desk.mkdir(exist_ok=True)
        os.chown(self.desk, NEUTRON, NEUTRON)
        labels = {"app": self.name}
        template = {"metadata": {"labels": labels}, "spec": self.pod(release)}
        self.cluster.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": {"name": self.name, "namespace": "default"},
                "spec": {"selector": {"matchLabels": labels}, "template": template},
            }
        )
        self.wait()

    def wait(self) -> None:
        self.cluster.kubectl("rollout", "status", f"daemonset/{self.name}", "--timeout=110s")
        wait_until(lambda: len(self.pods()) == 1, patience=60)

    def pods(self) -> list[str]:
        """Their uids; those that are being ended count."""
        return [each["metadata"]["uid"] for each in self.cluster.pods("default", f"app={self.name}")]

    def ask(self, *argv: str) -> tuple[int, str]:
        """Its exit status in the agent's pod, and what it said. Programs of the service are named as on the host."""
        places = {str(each["source"]): str(each["target"]) for each in self.mounts()}
        unfinished, answer = self.desk / "ask.new", self.desk / "answer"
        answer.unlink(missing_ok=True)
        unfinished.write_text(f"{shlex.join(places.get(each, each) for each in argv)}\n")
        unfinished.rename(self.desk / "ask")
        wait_until(answer.exists, patience=120)
        return int(answer.read_text()), (self.desk / "said").read_text()

    def run(self, *argv: str) -> str:
        code, said = self.ask(*argv)
        assert code == 0, said
        return said

    def start(self, network: Network) -> None:
        self.run(*network.call())

    def kill(self, network: Network, name: str) -> None:
        self.run("ip", "netns", "exec", network.netns, str(self.service.kill_script), name, str(network.pid))

    def remake_netns(self, network: Network) -> None:
        command("ip", "netns", "del", network.netns)
        self.run("ip", "netns", "add", network.netns)
        self.run("ip", "-n", network.netns, "link", "set", "lo", "up")

    def remove(self) -> None:
        self.cluster.kubectl("delete", f"daemonset/{self.name}", "--ignore-not-found", "--wait=true")
        wait_until(lambda: not self.pods(), patience=60)


@contextmanager
def listed(text: str) -> Iterator[None]:
    """Prepare the node for agents of the class, as docs/kubernetes.md says."""
    path = Path(LIST)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    try:
        with namespaces_of_a_group():
            yield
    finally:
        path.unlink()
        with suppress(OSError):  # services have their policies there
            path.parent.rmdir()
