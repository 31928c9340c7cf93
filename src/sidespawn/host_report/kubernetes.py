"""Examines the Kubernetes engine: are kubelet and containerd configured to start side containers' pods?

Their configuration files belong to the node's operator; they are only read here.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidespawn.engines import agent_runtime
from sidespawn.engines.kubernetes import CLASS, STATIC_PODS
from sidespawn.errors import LaunchError
from sidespawn.host_report.findings import Finding, Topic, ok, problem, warning
from sidespawn.host_report.trusted_code import is_writable_by_others
from sidespawn.recipes import containers
from sidespawn.setup.systemd import PACKAGE
from sidespawn.system.oci import RUNC
from sidespawn.system.processes import last_line, run

CONTAINERD, CONTAINERDS_UNIT = "/usr/bin/containerd", "containerd.service"
CONFIGURATION = Path("/etc/containerd/config.toml")
BUSCTL, SYSTEMD = "/usr/bin/busctl", "org.freedesktop.systemd1"
KUBELET_CONFIGURATION = Path("/var/lib/kubelet/config.yaml")
RUNTIME = PACKAGE / "engines/kubernetes-runtime"
AGENT_CLASS, AGENT_RUNTIME = containers.CLASS, containers.RUNTIME
TIMEOUT = 60.0
MOST_PODS = 110  # kubelet's default
STRICT = ("AlwaysVerify", "NeverVerifyAllowlistedImages")


@dataclass(frozen=True, kw_only=True)
class Facts:
    is_installed: bool = True  # containerd
    error: str = ""  # of `containerd config dump`
    runtime: str = ""  # path of the handler
    root: str = ""  # runc's state directory for the handler
    lacks: str = ""  # the Python that the runtimes call, if it is missing
    has_directory: bool = True
    is_writable: bool = False  # others than root can write the directory
    says_directory: bool = True  # kubelet's configuration is there, with its staticPodPath
    reads: str = ""  # that path, if it is a different one
    lists_agents: bool = False  # whose containers share /run/netns
    is_list_safe: bool = True
    verifies_images: str = ""  # kubelet's policy for images that are on the node (from 1.33 on)
    agent_runtime: str = ""  # path of the handler for them
    has_pods_names: bool = False  # containerd's names of pods' network namespaces are in /run/netns
    unread: str = ""  # a file of the configuration that was changed after containerd was started


def look() -> Facts:
    if not Path(CONTAINERD).exists():
        return Facts(is_installed=False)
    says, python = setting("staticPodPath"), interpreter()
    facts = Facts(
        lacks="" if Path(python).exists() else python,
        has_directory=STATIC_PODS.is_dir(),
        is_writable=STATIC_PODS.is_dir() and any(map(is_writable_by_others, places())),
        says_directory=bool(says),
        reads=other_path(says),
        verifies_images=setting("imagePullCredentialsVerificationPolicy"),
        lists_agents=Path(agent_runtime.LIST).exists(),
        is_list_safe=agent_runtime.read_list(agent_runtime.LIST) is not None,
    )
    try:
        done = run((CONTAINERD, "config", "dump"), TIMEOUT)
        if done.code != 0:
            return replace(facts, error=last_line(done.stderr))
        configuration = tomllib.loads(done.stdout)
        handler, of_agents = handler_of(configuration), handler_of(configuration, AGENT_CLASS)
        has_names = not any(each.get("netns_mounts_under_state_dir") for each in plugins_of(configuration))
    except LaunchError as error:
        return replace(facts, error=error.message)
    except (ValueError, TypeError, AttributeError):
        return replace(facts, error="`containerd config dump` printed what cannot be read")
    facts = replace(facts, unread=unread(configuration, *running()))
    facts = replace(facts, agent_runtime=str(of_agents.get("BinaryName", "")), has_pods_names=has_names)
    return replace(facts, runtime=str(handler.get("BinaryName", "")), root=str(handler.get("Root", "")))


def running() -> tuple[int, float]:
    """Return containerd's pid, and when it was started; zeros if it does not run as the unit of its name."""
    path = f"/org/freedesktop/systemd1/unit/{CONTAINERDS_UNIT.replace('.', '_2e')}"
    asked = (BUSCTL, "get-property", SYSTEMD, path, f"{SYSTEMD}.Service", "MainPID", "ExecMainStartTimestamp")
    try:
        found = re.fullmatch(r"u ([0-9]+)\nt ([0-9]+)\n", run(asked, TIMEOUT).stdout)
    except LaunchError:
        found = None
    return (int(found[1]), int(found[2]) / 1e6) if found and int(found[1]) else (0, 0.0)


def unread(configuration: dict[str, Any], pid: int, started: float) -> str:
    """Return a file of the configuration that was changed later than containerd was started; empty without one.

    The time of the inode's change counts: a file that is moved into its place may have any time of modification.
    """
    if not pid:
        return ""
    imports = [each for each in configuration.get("imports", []) if isinstance(each, str) and each.startswith("/")]
    files = [own_configuration(pid), *(path for each in imports for path in Path("/").glob(each.lstrip("/")))]
    for path in files:
        with suppress(OSError):
            if path.stat().st_ctime > started:
                return str(path)
    return ""


def own_configuration(pid: int) -> Path:
    """Return the configuration that a running containerd was given."""
    with suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
        if found := re.search(r"(?:^| )(?:--config|-c)[= ](/\S+)", line):
            return Path(found[1])
    return CONFIGURATION


def interpreter() -> str:
    """Return the Python that the runtimes call; a package names its own there."""
    found = re.search(r"(/\S+) -IS ", RUNTIME.read_text(encoding="utf-8"))
    return found[1] if found else ""


def other_path(reads: str) -> str:
    """Return kubelet's staticPodPath if it is a different directory from ours, which may be a link to it."""
    return reads if reads and Path(reads).resolve() != STATIC_PODS.resolve() else ""


def places() -> set[Path]:
    """Return the paths that lead to the directory, by its name and through a link."""
    real = STATIC_PODS.resolve()
    every = {STATIC_PODS, *STATIC_PODS.parents, real, *real.parents}
    return {each for each in every if not each.is_symlink()}  # a link can be changed by writing its directory


def most_pods() -> int:
    most = setting("maxPods")
    return int(most) if re.fullmatch(r"[0-9]{1,9}", most) else MOST_PODS


def setting(key: str) -> str:
    """Return a plain top-level value of kubelet's configuration, which is YAML or JSON.

    Empty without one, or if only root can read the file.
    """
    kubelet = ""
    with suppress(OSError):
        kubelet = KUBELET_CONFIGURATION.read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"""^(?:{key}|\s*"{key}"):[ \t]*["']?([^"',#\s]+)""", kubelet, re.MULTILINE)
    return found[1] if found else ""


def handler_of(configuration: dict[str, Any], name: str = CLASS) -> dict[str, Any]:
    """Return a handler's options; empty without it."""
    for plugin in plugins_of(configuration):
        runtimes = plugin.get("containerd", {}).get("runtimes", {})
        if name in runtimes:
            return dict(runtimes[name].get("options", {}))
    return {}


def plugins_of(configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tables of the plugin that serves kubelet; containerd 1 and 2 name it differently."""
    plugins = configuration.get("plugins", {})
    return [plugins.get(each, {}) for each in ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri")]


def judge(facts: Facts) -> Iterator[Finding]:
    cannot = "Kubernetes cannot start a side container"
    if not facts.is_installed:
        hint = "this engine needs a node with containerd; enable the service with another --engine"
        yield problem(Topic.KUBERNETES, f"{CONTAINERD} is not installed", cannot, hint)
        return
    yield from judge_containerd(facts, cannot)
    if facts.verifies_images in STRICT:
        found = f"kubelet's imagePullCredentialsVerificationPolicy is {facts.verifies_images}"
        message = "kubelet may refuse to start an image that it has not pulled itself"
        hint = f"use {STRICT[1]}, and name the policies' images in preloadedImagesVerificationAllowlist"
        yield warning(Topic.KUBERNETES, found, message, hint)
    if facts.lists_agents and not facts.error:
        yield judge_agents(facts)
    if facts.reads:
        found = f"kubelet reads static pods from {facts.reads}, not from {STATIC_PODS}"
        hint = f"make {STATIC_PODS} a link to it; or set staticPodPath: {STATIC_PODS} and restart kubelet"
        yield problem(Topic.STATIC_PODS, found, cannot, hint)
    elif not facts.has_directory:
        found = f"{STATIC_PODS}, kubelet's directory for static pods, is not there"
        hint = f"make it, and set staticPodPath: {STATIC_PODS} in kubelet's configuration"
        yield problem(Topic.STATIC_PODS, found, cannot, hint)
    elif facts.is_writable:
        found = f"{STATIC_PODS} can be changed by others than root"
        yield warning(Topic.STATIC_PODS, found, "who can write there is root on this node", "chown root, chmod go-w")
    elif not facts.says_directory:
        found = f"{KUBELET_CONFIGURATION} does not say where kubelet reads static pods"
        message = f"unless an option of kubelet does, {cannot}"
        hint = f"set staticPodPath: {STATIC_PODS} there and restart kubelet"
        yield warning(Topic.STATIC_PODS, found, message, hint)
    else:
        yield ok(Topic.STATIC_PODS, f"static pods are in {STATIC_PODS}")


def judge_containerd(facts: Facts, cannot: str) -> Iterator[Finding]:
    if facts.error:
        yield problem(Topic.KUBERNETES, f"containerd's configuration: {facts.error}", cannot, "correct it")
    elif (facts.runtime, facts.root) != (str(RUNTIME), RUNC):
        wanted = json.dumps({"BinaryName": str(RUNTIME), "Root": RUNC})
        found = f"containerd's handler {CLASS} is {facts.runtime or 'not there'}"
        found += f", its Root {facts.root or 'not set'}" if facts.runtime == str(RUNTIME) else ""
        hint = f"options of runtimes.{CLASS}: {wanted}, then restart containerd; see docs/kubernetes.md"
        yield problem(Topic.KUBERNETES, found, cannot, hint)
    elif facts.lacks:
        found = f"there is no {facts.lacks}, which containerd's handler {CLASS} calls"
        yield problem(Topic.KUBERNETES, found, cannot, "install python3")
    else:
        yield ok(Topic.KUBERNETES, f"containerd has the handler {CLASS}, {facts.runtime}")
    if facts.unread:
        found = f"containerd runs with an outdated configuration: {facts.unread} was changed after its start"
        restart = f"systemctl restart {CONTAINERDS_UNIT}"
        message = "what was changed there does not hold yet, so side containers may not start"
        yield warning(Topic.KUBERNETES, found, message, restart, command=restart)


def judge_agents(facts: Facts) -> Finding:
    cannot = f"pods of the class {AGENT_CLASS} do not start"
    if not facts.is_list_safe:
        found = f"{agent_runtime.LIST} can be written by others than root"
        return problem(Topic.KUBERNETES_AGENTS, found, cannot, "chown root, chmod go-w")
    if facts.agent_runtime != str(AGENT_RUNTIME):
        found = f"containerd's handler {AGENT_CLASS} is {facts.agent_runtime or 'not there'}"
        hint = f"options of runtimes.{AGENT_CLASS}: {json.dumps({'BinaryName': str(AGENT_RUNTIME)})}"
        return problem(
            Topic.KUBERNETES_AGENTS, found, cannot, f"{hint}, then restart containerd; see docs/kubernetes.md"
        )
    if facts.has_pods_names:
        found = f"containerd keeps the names of pods' network namespaces in {agent_runtime.NETNS}"
        message = (
            "the listed agents can enter the network of every pod on this node, and have containerd, which is root,"
            " mount over or remove any file by a link in place of a name"
        )
        hint = "drain the node, set netns_mounts_under_state_dir = true and restart containerd; see docs/kubernetes.md"
        return problem(Topic.KUBERNETES_AGENTS, found, message, hint)
    return ok(Topic.KUBERNETES_AGENTS, f"containerd has the handler {AGENT_CLASS}, {facts.agent_runtime}")
