"""Examines containers as their engine describes them, running or not.

Only an agent, a container that starts helpers, no longer needs privileges because of sidespawn. Other containers that
are privileged or have the host's pids become notes; an engine's socket or storage is a finding in any container.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sidespawn.core.adoption import names_of
from sidespawn.core.policy import Policy
from sidespawn.host_scan.findings import Deployment, Finding, Kind
from sidespawn.host_scan.sources import BELOW_STORAGE, OF_ENGINES, Sources, followed, is_beneath, joined, relative
from sidespawn.setup.syntaxes import KOLLA_WRAPPERS
from sidespawn.system.places import RUN

# neutron_dhcp_agent (Kolla), neutron_dhcp and ovn_metadata_agent (TripleO), edpm_neutron_dhcp_agent and the like.
# A name in a file may be an agent's, to keep us busy: no two parts of the pattern that repeat match the same text.
AGENT = re.compile(
    r"(\w+[_-])?(neutron|ovn_metadata|ovn)[_-]+([^\W_]+[_-]+)*(agent|dhcp|l3|ovn)|ovn[_-]metadata[_-]agent"
)
# OpenStack-Helm's pods: neutron-dhcp-agent-default-x7k2p.
AGENT_POD = re.compile(r"(neutron-(dhcp|l3|metadata|ovn-metadata)|ovn-metadata)-agent-")
# Where in a container legacy wrappers and kill scripts are.
SCRIPTS_WITHIN = (
    "/var/lib/neutron/*wrapper",
    "/var/lib/neutron/*/*wrapper",
    "/usr/local/lib/neutron-wrappers/*",
    *(
        f"{place}/{program}"
        for place in ("/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin")
        for program in (
            "dnsmasq",
            "haproxy",
            "keepalived",
            "radvd",
            "dibbler-client",
            "neutron-keepalived-state-change",
        )
    ),
)
KILL_SCRIPTS_WITHIN = ("/etc/neutron/kill_scripts/*", "/var/lib/neutron/kill_scripts/*")
# With one of these and the host's pids, a process can enter other processes, or load code into the kernel.
TRACING = {"ALL", "SYS_PTRACE", "SYS_MODULE"}
EVERYTHING = {"SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO"}  # podman lists all of them instead of ALL
ENGINE_VARIABLES = ("DOCKER_HOST", "CONTAINER_HOST")
ADDRESS = re.compile(
    r"(tcp|ssh|https?)://|[\w.-]*:\d+$|\[[0-9a-fA-F:]+\]:\d+$"
)  # docker takes one without a scheme as tcp


@dataclass(frozen=True, kw_only=True)
class ContainerMount:
    source: str
    target: str
    recursive: bool = True  # includes mounts under the source
    writable: bool = True


@dataclass(frozen=True, kw_only=True)
class Container:
    engine: str
    name: str
    running: bool = True
    restart: str = ""  # the engine's policy, such as `always`; empty without one
    privileged: bool = False
    host_pids: bool = False
    capabilities: frozenset[str] = frozenset()  # added, without CAP_
    mounts: tuple[ContainerMount, ...] = ()
    covered: tuple[str, ...] = ()  # targets of mounts that do not come from the host: volumes, tmpfs
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.engine}:{self.name}"

    @property
    def deployment(self) -> Deployment:
        labels = self.labels
        managed = labels.get("managed_by", "")
        if "kolla_version" in labels and "KOLLA_NAME" in self.environment:
            return Deployment.KOLLA
        if "edpm" in managed:
            return Deployment.EDPM
        if "tripleo" in managed or labels.get("config_id", "").startswith("tripleo"):
            return Deployment.TRIPLEO
        if any(key.startswith("io.kubernetes.") for key in labels):
            return Deployment.KUBERNETES
        if "com.docker.compose.project" in labels:
            return Deployment.COMPOSE
        if self.name.startswith("edpm_"):
            return Deployment.EDPM
        return Deployment.QUADLET if "PODMAN_SYSTEMD_UNIT" in labels else Deployment.NONE

    @property
    def is_of_sidespawn(self) -> bool:
        """Return whether it is an agent with a service's spool."""
        return any(is_beneath(each.source, str(RUN)) and each.source.endswith("/spool") for each in self.mounts)

    @property
    def is_agent(self) -> bool:
        names = self.name.split("/")[-2:]  # of a pod and a container, or of a container
        return self.is_of_sidespawn or any(AGENT.fullmatch(name) or AGENT_POD.match(name) for name in names)

    @property
    def is_side_container(self) -> bool:
        return "io.sidespawn.service" in self.labels


def judge(container: Container, sources: Sources, presets: Iterable[Policy]) -> Iterator[Finding]:
    if container.is_side_container:
        return
    if is_old_side_container(container, presets):
        yield of(container, Kind.OLD_SIDE_CONTAINER, f"{container.name} {'runs' if container.running else 'is there'}")
        return
    reaching = [*judge_mounts(container, sources), *judge_environment(container)]
    yield from reaching
    if container.is_agent or reaching:
        yield from judge_privileges(container)
    if container.environment.get("KOLLA_NEUTRON_WRAPPERS") == "true" and not hides_kollas_wrappers(container):
        yield of(container, Kind.IMAGE_WRAPPERS, f"nothing is mounted over {KOLLA_WRAPPERS}")


def notes(container: Container, findings: Iterable[Finding]) -> Iterator[str]:
    if not container.is_side_container and not any(each.where == container.where for each in findings):
        more = [name for name, has in (("privileged", container.privileged), ("host pids", container.host_pids)) if has]
        if more and not container.is_agent:
            yield f"{container.where}: {', '.join(more)}; not the name of a known agent"


def of(container: Container, kind: Kind, found: str) -> Finding:
    if not container.running:
        found += ", stopped" + (f", with restart policy {container.restart}" if container.restart else "")
    deployment, is_agents = container.deployment, container.is_agent
    return Finding(kind=kind, where=container.where, found=found, deployment=deployment, is_agents=is_agents)


def is_old_side_container(container: Container, presets: Iterable[Policy]) -> bool:
    return any(policy.adopt and names_of(policy, policy.adopt, container.name) is not None for policy in presets)


def judge_mounts(container: Container, sources: Sources) -> Iterator[Finding]:
    for mount in container.mounts:
        source, shown = followed(mount.source), f"{mount.source} is mounted at {mount.target}"
        if source != mount.source:
            shown += f" and leads to {source}"
        if reached := sorted(reached_sockets(container, mount, source, sources)):
            more = "" if reached == [source] else f", with {', '.join(reached)}"
            yield of(container, Kind.ENGINE_SOCKET, shown + more)
        elif user := sources.users_engine(source):
            yield of(container, Kind.ENGINE_SOCKET, f"{shown}: the engine of user {user}, with that user's rights")
        elif is_run(source, mount) and not is_covered(container, mount, mount.target):
            yield of(container, Kind.RUN_DIRECTORY, shown)
        if is_storage(source, mount, sources):
            yield of(container, Kind.ENGINE_STORAGE, f"{shown}, {'writable' if mount.writable else 'read-only'}")


def reached_sockets(container: Container, mount: ContainerMount, source: str, sources: Sources) -> Iterator[str]:
    for path in sources.sockets:
        is_below = is_beneath(path, source) and path in sources.present and reaches(source, path, mount)
        target = joined(mount.target, relative(path, source))
        if path == source or (is_below and not is_covered(container, mount, target)):
            yield path


def reaches(source: str, path: str, mount: ContainerMount) -> bool:
    """Return whether the mount includes the path: without recursion, only what is on the source's own file system."""
    return mount.recursive or device(source) == device(path)


def device(path: str) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return 0


def is_run(source: str, mount: ContainerMount) -> bool:
    return source == "/run" or source in OF_ENGINES or (source == "/" and reaches("/", "/run", mount))


def is_storage(source: str, mount: ContainerMount, sources: Sources) -> bool:
    """Return whether it is the storage or a directory around it, but not a volume in it."""
    exact = any(source == store + below for store in sources.storage for below in BELOW_STORAGE)
    around = (store for store in sources.storage if is_beneath(store, source) and os.path.isdir(store))
    return exact or any(reaches(source, store, mount) for store in around)


def is_covered(container: Container, mount: ContainerMount, target: str) -> bool:
    """Return whether another mount of the container covers this path."""
    others = [*container.covered, *(each.target for each in container.mounts if each is not mount)]
    return any(is_beneath(target, each) and len(each) > len(mount.target) for each in others)


def judge_environment(container: Container) -> Iterator[Finding]:
    for name in ENGINE_VARIABLES:
        value = container.environment.get(name, "")
        if ADDRESS.match(value):
            yield of(container, Kind.ENGINE_ADDRESS, f"{name}={value}")


def judge_privileges(container: Container) -> Iterator[Finding]:
    if container.privileged:
        yield of(container, Kind.PRIVILEGED, "it is privileged")
    elif "ALL" in container.capabilities or container.capabilities >= EVERYTHING:
        yield of(container, Kind.PRIVILEGED, "it has all capabilities")
    tracing = sorted(container.capabilities & TRACING)
    if container.host_pids and (container.privileged or tracing or not container.is_of_sidespawn):
        more = f", and {', '.join(tracing)}" if tracing else ""
        yield of(container, Kind.HOST_PIDS, f"it has the host's pids{more}")


def hides_kollas_wrappers(container: Container) -> bool:
    return any(
        is_beneath(each.target, KOLLA_WRAPPERS) and is_beneath(each.source, str(RUN)) for each in container.mounts
    )
