"""What a kubelet makes of a pod's manifest when it calls a container runtime (pkg/kubelet/kuberuntime of Kubernetes).

Imports nothing but the standard library: what speaks CRI runs apart from the tests.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

KUBELET = Path("/var/lib/kubelet")
LOGS = Path("/var/log/pods")
SLICE = "testpods.slice"  # kubepods.slice, where there is a kubelet
MASKED = ("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
RUNTIME_DEFAULT = {"profile_type": "RuntimeDefault"}
SECCOMP = KUBELET / "seccomp"
MEMORY = {"Mi": 2**20, "Gi": 2**30}

NODE = "node1"

Manifest = dict[str, Any]


def as_read(manifest: Manifest) -> Manifest:
    """A static pod's, as kubelet changes it when it reads the file (pkg/kubelet/config/common.go)."""
    metadata = manifest["metadata"]
    return manifest | {"metadata": metadata | {"name": f"{metadata['name']}-{NODE}"}}


def namespaces(manifest: Manifest) -> dict[str, str]:
    spec = manifest["spec"]
    network, ipc = ("NODE" if spec.get(key) else "POD" for key in ("hostNetwork", "hostIPC"))
    return {"network": network, "pid": "NODE" if spec.get("hostPID") else "CONTAINER", "ipc": ipc}


def labels(manifest: Manifest) -> dict[str, str]:
    metadata: dict[str, Any] = manifest["metadata"]
    told = {f"io.kubernetes.pod.{each}": metadata[each] for each in ("name", "namespace", "uid")}
    return {**metadata.get("labels", {}), **told}


def log_directory(manifest: Manifest) -> Path:
    metadata = manifest["metadata"]
    return LOGS / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"


def sandbox(manifest: Manifest, attempt: int = 0) -> dict[str, Any]:
    """PodSandboxConfig, as generatePodSandboxConfig makes it."""
    metadata = manifest["metadata"]
    user = identity(manifest["spec"].get("securityContext", {}))
    contexts = [each.get("securityContext", {}) for each in manifest["spec"]["containers"]]
    return {
        "metadata": {each: metadata[each] for each in ("name", "namespace", "uid")} | {"attempt": attempt},
        "labels": labels(manifest),
        "annotations": metadata.get("annotations", {})
        | {
            "kubernetes.io/config.source": "file",
            "kubernetes.io/config.hash": metadata["uid"],
        },
        "log_directory": str(log_directory(manifest)),
        "linux": {
            "cgroup_parent": SLICE,
            "security_context": {
                "namespace_options": namespaces(manifest),
                "seccomp": RUNTIME_DEFAULT,
                "privileged": any(each.get("privileged", False) for each in contexts),
            }
            | user,
        },
    }


def container(manifest: Manifest, number: int = 0, attempt: int = 0) -> dict[str, Any]:
    """ContainerConfig, as generateContainerConfig makes it."""
    spec, metadata = manifest["spec"], manifest["metadata"]
    wanted = spec["containers"][number]
    home = KUBELET / "pods" / metadata["uid"]
    binds = {"/etc/hosts": home / "etc-hosts", "/dev/termination-log": home / f"containers/{wanted['name']}/0"}
    context = spec.get("securityContext", {}) | wanted.get("securityContext", {})
    capabilities = context.get("capabilities", {})
    limits = wanted.get("resources", {}).get("limits", {})
    return {
        "metadata": {"name": wanted["name"], "attempt": attempt},
        "image": {"image": wanted["image"], "user_specified_image": wanted["image"]},
        "command": [expanded(each) for each in wanted.get("command", ())],
        "args": [expanded(each) for each in wanted.get("args", ())],
        "envs": [{"key": each["name"], "value": each["value"]} for each in wanted.get("env", ())],
        "mounts": volumes(spec, wanted) + [{"container_path": to, "host_path": str(at)} for to, at in binds.items()],
        "labels": labels(manifest) | {"io.kubernetes.container.name": wanted["name"]},
        "annotations": {
            "io.kubernetes.container.hash": hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:8],
            "io.kubernetes.container.restartCount": str(attempt),
            "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
        },
        "log_path": f"{wanted['name']}/{attempt}.log",
        "linux": {
            "resources": {
                "cpu_shares": 5, "cpu_period": 100000, "oom_score_adj": 997,
                **({"memory_limit_in_bytes": size(limits["memory"])} if "memory" in limits else {}),
            },
            "security_context": {
                "namespace_options": namespaces(manifest),
                "privileged": context.get("privileged", False),
                "readonly_rootfs": context.get("readOnlyRootFilesystem", False),
                "no_new_privs": not context.get("allowPrivilegeEscalation", True),
                "seccomp": seccomp(context.get("seccompProfile", {"type": "Unconfined"})),
                "capabilities": {
                    "add_capabilities": capabilities.get("add", []), "drop_capabilities": capabilities.get("drop", [])
                },
                "masked_paths": MASKED,
                "readonly_paths": READ_ONLY,
            }
            | identity(context),
        },
    }  # fmt: skip


def volumes(spec: dict[str, Any], wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the kind hostPath."""
    paths = {each["name"]: each["hostPath"]["path"] for each in spec.get("volumes", ())}
    propagation = {"None": "PRIVATE", "HostToContainer": "HOST_TO_CONTAINER", "Bidirectional": "BIDIRECTIONAL"}
    return [
        {
            "container_path": each["mountPath"],
            "host_path": paths[each["name"]],
            "readonly": each.get("readOnly", False),
            "propagation": f"PROPAGATION_{propagation[each.get('mountPropagation', 'None')]}",
        }
        for each in wanted.get("volumeMounts", ())
    ]


def expanded(text: str) -> str:
    """`$$` stands for `$` (third_party/forked/golang/expansion); the pods here have no variables."""
    return text.replace("$$", "$")


def identity(context: dict[str, Any]) -> dict[str, Any]:
    fields = {"runAsUser": "run_as_user", "runAsGroup": "run_as_group"}
    return {field: {"value": context[key]} for key, field in fields.items() if key in context}


def seccomp(profile: dict[str, str]) -> dict[str, str]:
    name = profile.get("localhostProfile", "")
    return {"profile_type": profile["type"]} | ({"localhost_ref": str(SECCOMP / name)} if name else {})


def size(text: str | int) -> int:
    return int(text) if str(text).isdecimal() else int(str(text)[:-2]) * MEMORY[str(text)[-2:]]


def prepare(manifest: Manifest) -> None:
    """What the kubelet makes on the host before it calls."""
    home = KUBELET / "pods" / manifest["metadata"]["uid"]
    home.mkdir(parents=True, exist_ok=True)
    (home / "etc-hosts").write_text("127.0.0.1 localhost\n")
    for each in manifest["spec"]["containers"]:
        log = home / "containers" / each["name"]
        log.mkdir(parents=True, exist_ok=True)
        (log / "0").touch()
    log_directory(manifest).mkdir(parents=True, exist_ok=True)
