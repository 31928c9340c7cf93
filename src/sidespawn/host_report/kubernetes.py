"""Kubernetes as the engine: what kubelet and containerd must know so that a side container's pod starts.

Both are configured by files of the node's operator, which are read here and never written.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidespawn.engines.kubernetes import CLASS, STATIC_PODS
from sidespawn.errors import LaunchError
from sidespawn.host_report.findings import Finding, Topic, ok, problem, warning
from sidespawn.host_report.trusted_code import is_writable_by_others
from sidespawn.setup.systemd import PACKAGE
from sidespawn.system.oci import RUNC
from sidespawn.system.processes import last_line, run

CONTAINERD = "/usr/bin/containerd"
KUBELET_CONFIGURATION = Path("/var/lib/kubelet/config.yaml")
RUNTIME = PACKAGE / "engines/kubernetes-runtime"
TIMEOUT = 60.0
MOST_PODS = 110  # kubelet's default


@dataclass(frozen=True, kw_only=True)
class Facts:
    is_installed: bool = True  # containerd
    error: str = ""  # of `containerd config dump`
    runtime: str = ""  # path of the handler
    root: str = ""  # where the handler has runc keep its state
    has_directory: bool = True
    is_writable: bool = False  # the directory, by others than root
    reads: str = ""  # kubelet's staticPodPath, where its configuration says one
    most_pods: int = MOST_PODS


def look() -> Facts:
    if not Path(CONTAINERD).exists():
        return Facts(is_installed=False)
    kubelet = KUBELET_CONFIGURATION.read_text(encoding="utf-8") if KUBELET_CONFIGURATION.exists() else ""
    most = setting(kubelet, "maxPods")
    facts = Facts(
        has_directory=STATIC_PODS.is_dir(),
        is_writable=STATIC_PODS.is_dir() and any(map(is_writable_by_others, (STATIC_PODS, *STATIC_PODS.parents))),
        reads=setting(kubelet, "staticPodPath"),
        most_pods=int(most) if most.isdecimal() else MOST_PODS,
    )
    try:
        done = run((CONTAINERD, "config", "dump"), TIMEOUT)
        if done.code != 0:
            return replace(facts, error=last_line(done.stderr))
        handler = handler_of(tomllib.loads(done.stdout))
    except LaunchError as error:
        return replace(facts, error=error.message)
    except (tomllib.TOMLDecodeError, AttributeError):
        return replace(facts, error="`containerd config dump` printed what cannot be read")
    return replace(facts, runtime=str(handler.get("BinaryName", "")), root=str(handler.get("Root", "")))


def setting(kubelet: str, key: str) -> str:
    """A plain value at the top of kubelet's configuration, which is YAML or JSON; empty if it is not there so."""
    found = re.search(rf"""^(?:{key}|\s*"{key}"):[ \t]*["']?([^"',#\s]+)""", kubelet, re.MULTILINE)
    return found[1] if found else ""


def handler_of(configuration: dict[str, Any]) -> dict[str, Any]:
    """The options of our handler; empty without one. Where it stands differs between containerd 1 and 2."""
    for plugin in ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"):
        runtimes = configuration.get("plugins", {}).get(plugin, {}).get("containerd", {}).get("runtimes", {})
        if CLASS in runtimes:
            return dict(runtimes[CLASS].get("options", {}))
    return {}


def judge(facts: Facts) -> Iterator[Finding]:
    cannot = "Kubernetes cannot start a side container"
    if not facts.is_installed:
        hint = "this engine needs a node with containerd; enable the service with another --engine"
        yield problem(Topic.KUBERNETES, f"{CONTAINERD} is not installed", cannot, hint)
        return
    if facts.error:
        yield problem(Topic.KUBERNETES, f"containerd's configuration: {facts.error}", cannot, "correct it")
    elif (facts.runtime, facts.root) != (str(RUNTIME), RUNC):
        wanted = json.dumps({"BinaryName": str(RUNTIME), "Root": RUNC})
        found = f"containerd's handler {CLASS} is {facts.runtime or 'not there'}"
        found += f", its Root {facts.root or 'not set'}" if facts.runtime == str(RUNTIME) else ""
        hint = f"options of runtimes.{CLASS}: {wanted}, then restart containerd; see docs/kubernetes.md"
        yield problem(Topic.KUBERNETES, found, cannot, hint)
    else:
        yield ok(Topic.KUBERNETES, f"containerd has the handler {CLASS}, {facts.runtime}")
    if facts.reads not in ("", str(STATIC_PODS)):
        found = f"kubelet reads static pods from {facts.reads}, not from {STATIC_PODS}"
        yield problem(Topic.STATIC_PODS, found, cannot, f"set staticPodPath: {STATIC_PODS} and restart kubelet")
    elif not facts.has_directory:
        found = f"{STATIC_PODS}, kubelet's directory for static pods, is not there"
        hint = f"make it, and set staticPodPath: {STATIC_PODS} in kubelet's configuration"
        yield problem(Topic.STATIC_PODS, found, cannot, hint)
    elif facts.is_writable:
        found = f"{STATIC_PODS} can be changed by others than root"
        yield warning(Topic.STATIC_PODS, found, "who can write there is root on this node", "chown root, chmod go-w")
    else:
        yield ok(Topic.STATIC_PODS, f"static pods lie in {STATIC_PODS}")
