"""Reads containerd's containers from their bundles: of Kubernetes' pods, and of other clients than docker.

A bundle is what the runtime was told (OCI runtime specification, config.json). It exists while the container does, so
pods that are not running have none. Nothing is asked of containerd.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidespawn.errors import LaunchError, Reason
from sidespawn.host_scan.containers import EVERYTHING, Container, ContainerMount
from sidespawn.host_scan.texts import read

# State directories of containerd, also as k3s, k0s and MicroK8s run it.
STATES = ("run/containerd", "run/k3s/containerd", "run/k0s/containerd", "var/snap/microk8s/common/run/containerd")
TASKS = "io.containerd.runtime.v2.task"
DOCKERS = "moby"  # docker's namespace, whose containers docker describes
CRI = "io.kubernetes.cri."
HOSTS_PIDS = "/proc/1/ns/pid"


def of_containerd(root: Path = Path("/")) -> Iterator[Container]:
    """Yield running containers. Raises LaunchError if some cannot be read, after the others."""
    places = [place for state in STATES if (place := root / state / TASKS).is_dir()]
    if places and os.geteuid() != 0:
        raise LaunchError(Reason.HOST_UNSUITABLE, "only root can see the containers of containerd")
    failed = ""
    for path in sorted(path for place in places for path in place.glob("*/*/config.json")):
        if path.parent.parent.name != DOCKERS and (text := read(path)):
            try:
                found = container(path.parent.name, json.loads(text))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                failed = f"{path} is no description of a container: {error}"
                continue
            if found:
                yield found
    if failed:
        raise LaunchError(Reason.ENGINE_FAILED, failed)


def container(identity: str, told: Mapping[str, Any]) -> Container | None:
    """Return the container that a runtime was told of; None for a pod's sandbox, which has no mounts that matter."""
    notes = told.get("annotations") or {}
    if notes.get(f"{CRI}container-type") == "sandbox":
        return None
    process, linux = told.get("process") or {}, told.get("linux") or {}
    added = {
        str(each).upper().removeprefix("CAP_") for each in (process.get("capabilities") or {}).get("bounding") or ()
    }
    pids = next((each for each in linux.get("namespaces") or () if each.get("type") == "pid"), None)
    return Container(
        engine="containerd",
        name=name(identity, notes),
        privileged=added >= EVERYTHING and not linux.get("maskedPaths") and not linux.get("readonlyPaths"),
        host_pids=pids is None or is_hosts(str(pids.get("path") or "")),
        capabilities=frozenset(added),
        mounts=tuple(
            ContainerMount(
                source=str(each["source"]),
                target=str(each["destination"]),
                recursive="bind" not in (each.get("options") or ()),
                writable="ro" not in (each.get("options") or ()),
            )
            for each in told.get("mounts") or ()
            if str(each.get("source", "")).startswith("/")
            and {"bind", "rbind"} & {*each.get("options", ()), each.get("type")}
        ),
        covered=tuple(str(each["destination"]) for each in told.get("mounts") or () if each.get("type") == "tmpfs"),
        environment=dict(str(each).partition("=")[::2] for each in process.get("env") or ()),
        labels={str(key): str(value) for key, value in notes.items()},
    )


def is_hosts(path: str) -> bool:
    """Return whether it is the host's pid namespace. With hostPID, containerd names that of the pod's sandbox."""
    with suppress(OSError, ValueError):
        return path == HOSTS_PIDS or os.path.samefile(path, HOSTS_PIDS)
    return False


def name(identity: str, notes: Mapping[str, Any]) -> str:
    """Return NAMESPACE/POD/CONTAINER of Kubernetes, a name that nerdctl gave, or the start of the id."""
    pod = [str(notes.get(f"{CRI}{each}") or "") for each in ("sandbox-namespace", "sandbox-name", "container-name")]
    return "/".join(each for each in pod if each) or str(notes.get("nerdctl/name") or identity[:12])
