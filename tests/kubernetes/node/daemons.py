"""The daemons of a cluster for tests, as systemd units: etcd, the API server, controllers, the scheduler, a kubelet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sidespawn.engines.kubernetes import STATIC_PODS
from tests.kubernetes.containerds import CACHE
from tests.kubernetes.node.keys import Keys
from tests.kubernetes.pods import KUBELET, NODE
from tests.lab.networks import command, unit_state, wait_until

PROGRAMS = CACHE / "kubernetes"
DEBIAN = CACHE / "kubernetes-tools/usr/bin"
API = "https://127.0.0.1:6443"
ETCD, ETCD_PEERS = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
# Of the many, those that DaemonSets, service accounts and a node's readiness need.
CONTROLLERS = "daemonset,garbagecollector,namespace,nodelifecycle,serviceaccount,serviceaccount-token"


@dataclass(frozen=True)
class Daemon:
    """A transient unit."""

    argv: tuple[str, ...]

    @property
    def unit(self) -> str:
        return f"test-{Path(self.argv[0]).name}.service"

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
        """Return what it said since it was started."""
        run = command("systemctl", "show", "--property=InvocationID", "--value", self.unit).stdout.strip()
        return command("journalctl", "--quiet", "--output=cat", f"_SYSTEMD_INVOCATION_ID={run}").stdout


def etcd(home: Path) -> Daemon:
    listen = (f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}", f"--listen-peer-urls={ETCD_PEERS}")
    return Daemon((f"{DEBIAN}/etcd", f"--data-dir={home}/etcd", *listen))


def api_server(home: Path, keys: Keys) -> Daemon:
    served, client, issuer = keys.pair("api"), keys.pair("admin"), keys.pair("issuer")
    return Daemon(
        (
            f"{PROGRAMS}/kube-apiserver",
            f"--etcd-servers={ETCD}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--secure-port=6443",
            f"--tls-cert-file={served[0]}",
            f"--tls-private-key-file={served[1]}",
            f"--client-ca-file={keys.authority}",
            f"--kubelet-client-certificate={client[0]}",
            f"--kubelet-client-key={client[1]}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer={API}",
            f"--service-account-key-file={issuer[0]}",
            f"--service-account-signing-key-file={issuer[1]}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
            f"--cert-dir={home}/api",
        )
    )


def controller_manager(home: Path, keys: Keys) -> Daemon:
    return Daemon(
        (
            f"{PROGRAMS}/kube-controller-manager",
            f"--kubeconfig={keys.configuration('admin')}",
            f"--service-account-private-key-file={keys.pair('issuer')[1]}",
            f"--root-ca-file={keys.authority}",
            f"--controllers={CONTROLLERS}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--cert-dir={home}/controllers",
        )
    )


def scheduler(home: Path, keys: Keys) -> Daemon:
    access = f"--kubeconfig={keys.configuration('admin')}"
    return Daemon((f"{PROGRAMS}/kube-scheduler", access, "--leader-elect=false", f"--cert-dir={home}/scheduler"))


def kubelet(home: Path, keys: Keys, address: str, containerd: str) -> Daemon:
    """A kubelet that makes no control groups for pods, since a lab has no controllers."""
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(keys.authority)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "1Mi"},
        "failSwapOn": False,
        # As from 1.27 on. With the 5 of earlier ones, starts wait for the API: a static pod's mirror is made first.
        "kubeAPIQPS": 50,
        "kubeAPIBurst": 100,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "staticPodPath": str(STATIC_PODS),
        "volumePluginDir": f"{KUBELET}/plugins",
    }
    path = home / "kubelet.json"
    path.write_text(json.dumps(settings))
    return Daemon(
        (
            f"{PROGRAMS}/kubelet",
            f"--config={path}",
            f"--kubeconfig={keys.configuration('node')}",
            f"--root-dir={KUBELET}",
            f"--cert-dir={KUBELET}/pki",
            f"--hostname-override={NODE}",
            f"--node-ip={address}",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{containerd}",
            "--v=2",
        )
    )
