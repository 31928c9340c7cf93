"""A finding of `sidespawn scan`: something that gives a container more of the host than sidespawn's agents need.

Programs read these as JSON, so a kind keeps its meaning once it is published; docs/scan.md lists them.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    ENGINE_SOCKET = "engine-socket"
    ENGINE_ADDRESS = "engine-address"
    ENGINE_LISTENER = "engine-listener"
    ENGINE_STORAGE = "engine-storage"
    RUN_DIRECTORY = "run-directory"
    PRIVILEGED = "privileged"
    HOST_PIDS = "host-pids"
    IMAGE_WRAPPERS = "image-wrappers"
    OLD_SIDE_CONTAINER = "old-side-container"
    WRAPPER_SCRIPT = "wrapper-script"
    KILL_SCRIPT = "kill-script"
    DEPLOYER_SETTING = "deployer-setting"
    UNIT_FILE = "unit-file"


class Deployment(StrEnum):
    KOLLA = "kolla-ansible"
    EDPM = "edpm"
    TRIPLEO = "tripleo"
    KUBERNETES = "kubernetes"
    QUADLET = "quadlet"
    COMPOSE = "compose"
    NONE = "none"


PRIVILEGES = re.compile(r"\b(is privileged|has the host's pids|has all capabilities)")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`where` is a container as ENGINE:NAME, or FILE:LINE. `is_agents` selects the hint."""

    kind: Kind
    where: str
    found: str
    deployment: Deployment = Deployment.NONE
    is_agents: bool = True

    @property
    def meaning(self) -> str:
        return MEANINGS[self.kind]

    @property
    def hint(self) -> str:
        kind = Kind.PRIVILEGED if self.kind is Kind.UNIT_FILE and PRIVILEGES.search(self.found) else self.kind
        others = None if self.is_agents else OTHERS.get((kind, self.deployment)) or OTHERS.get(kind)
        return others or HINTS.get((kind, self.deployment)) or HINTS[kind, Deployment.NONE]

    def as_row(self) -> dict[str, str]:
        """Return it for programs, which rely on the keys."""
        row = {key: str(value) for key, value in asdict(self).items() if key != "is_agents"}
        return row | {"meaning": self.meaning, "hint": self.hint}


def at(
    path: Path, number: int, kind: Kind, found: str, deployment: Deployment = Deployment.NONE, *, is_agents: bool = True
) -> Finding:
    return Finding(kind=kind, where=f"{path}:{number}", found=found, deployment=deployment, is_agents=is_agents)


MEANINGS = {
    Kind.ENGINE_SOCKET: (
        "anyone in this container can start any container of this engine, and so is root on the host, or the user "
        "that the engine runs as"
    ),
    Kind.ENGINE_ADDRESS: "this container reaches an engine by its address; an engine that runs as root makes it root",
    Kind.ENGINE_LISTENER: (
        "an engine that runs as root takes commands from the network: agents, which have the host's, reach it"
    ),
    Kind.ENGINE_STORAGE: "it can read the files of every container on the host, and change them if it may write",
    Kind.RUN_DIRECTORY: "an engine's socket appears in it as soon as the engine starts, beside those of systemd",
    Kind.PRIVILEGED: "nothing confines this container: it is root on the host",
    Kind.HOST_PIDS: "it sees every process on the host and, with its other privileges, can enter or kill them",
    Kind.IMAGE_WRAPPERS: "the image's own wrappers start helpers by an engine's socket",
    Kind.OLD_SIDE_CONTAINER: "a privileged helper that a legacy wrapper started; it runs until it is replaced",
    Kind.WRAPPER_SCRIPT: "a legacy wrapper: it enters the host's namespaces, or calls an engine, to start a helper",
    Kind.KILL_SCRIPT: "an old kill script: it enters the host's namespaces, or calls an engine, to end a helper",
    Kind.DEPLOYER_SETTING: "the deployer's next run restores sockets or legacy wrappers",
    Kind.UNIT_FILE: "the container has this again as soon as its unit starts it",
}

MOUNTS = "remove the mount, and give the agent what `sidespawn options SERVICE...` prints"
ARGUMENTS = "start it without this, as docs/agents.md says"
KOLLA_VOLUMES = (
    "in globals.yml: remove it from AGENT_default_volumes, such as neutron_dhcp_agent_default_volumes, and set "
    "AGENT_extra_volumes to what `sidespawn options SERVICE... --print=kolla` prints"
)
EDPM_VOLUMES = (
    "remove it from edpm_neutron_AGENT_common_volumes, and add what `sidespawn options SERVICE... --print=quadlet` "
    "prints as a drop-in of its unit"
)
EDPM_PRIVILEGED = (
    "a drop-in NAME.container.d/50-sidespawn.conf with an empty PodmanArgs= and then your own; the template sets it"
)
TRIPLEO_WRAPPERS = (
    "set NeutronEnable{Dnsmasq,Haproxy,Radvd,Dibbler}DockerWrapper, NeutronEnableKeepalivedWrapper and "
    "OVNEnableHaproxyDockerWrapper to false"
)
TRIPLEO_TEMPLATE = "map the agent's OS::TripleO::Services:: entry to a template without it; no parameter changes it"
KUBERNETES_VOLUMES = "remove the hostPath volume from the pod's specification"
KUBERNETES_CONTEXT = (
    "remove privileged, its capabilities and hostPID from the pod's specification; see docs/kubernetes.md"
)
QUADLET_OPTIONS = (
    "remove the line from the unit; `sidespawn options SERVICE... --print=quadlet` prints what replaces it"
)
COMPOSE_OPTIONS = (
    "remove it from the compose file; `sidespawn options SERVICE... --print=compose` prints what replaces it"
)

HINTS = {
    (Kind.ENGINE_SOCKET, Deployment.NONE): MOUNTS,
    (Kind.ENGINE_SOCKET, Deployment.KOLLA): KOLLA_VOLUMES,
    (Kind.ENGINE_SOCKET, Deployment.EDPM): EDPM_VOLUMES,
    (Kind.ENGINE_SOCKET, Deployment.TRIPLEO): "remove it from DockerAdditionalSockets and from the agent's template",
    (Kind.ENGINE_SOCKET, Deployment.KUBERNETES): KUBERNETES_VOLUMES,
    (Kind.ENGINE_SOCKET, Deployment.QUADLET): QUADLET_OPTIONS,
    (Kind.ENGINE_SOCKET, Deployment.COMPOSE): COMPOSE_OPTIONS,
    (Kind.ENGINE_ADDRESS, Deployment.NONE): "remove the variable; with sidespawn, agents need no engine",
    (Kind.ENGINE_LISTENER, Deployment.NONE): (
        "have it listen on its socket only, or ask for certificates (docker's tlsverify)"
    ),
    (Kind.ENGINE_STORAGE, Deployment.NONE): MOUNTS,
    (Kind.ENGINE_STORAGE, Deployment.KOLLA): KOLLA_VOLUMES,
    (Kind.ENGINE_STORAGE, Deployment.EDPM): EDPM_VOLUMES,
    (Kind.ENGINE_STORAGE, Deployment.TRIPLEO): TRIPLEO_TEMPLATE,
    (Kind.ENGINE_STORAGE, Deployment.KUBERNETES): KUBERNETES_VOLUMES,
    (Kind.ENGINE_STORAGE, Deployment.QUADLET): QUADLET_OPTIONS,
    (Kind.ENGINE_STORAGE, Deployment.COMPOSE): COMPOSE_OPTIONS,
    (Kind.RUN_DIRECTORY, Deployment.NONE): "mount only what it needs of /run, such as /run/netns",
    (Kind.RUN_DIRECTORY, Deployment.TRIPLEO): TRIPLEO_TEMPLATE,
    (Kind.PRIVILEGED, Deployment.NONE): ARGUMENTS,
    (Kind.PRIVILEGED, Deployment.KOLLA): "privileged in neutron_services; its handlers need cap_add as well",
    (Kind.PRIVILEGED, Deployment.EDPM): EDPM_PRIVILEGED,
    (Kind.PRIVILEGED, Deployment.TRIPLEO): TRIPLEO_TEMPLATE,
    (Kind.PRIVILEGED, Deployment.QUADLET): QUADLET_OPTIONS,
    (Kind.PRIVILEGED, Deployment.COMPOSE): COMPOSE_OPTIONS,
    (Kind.PRIVILEGED, Deployment.KUBERNETES): KUBERNETES_CONTEXT,
    (Kind.HOST_PIDS, Deployment.NONE): ARGUMENTS,
    (Kind.HOST_PIDS, Deployment.EDPM): EDPM_PRIVILEGED,
    (Kind.HOST_PIDS, Deployment.TRIPLEO): TRIPLEO_TEMPLATE,
    (Kind.HOST_PIDS, Deployment.COMPOSE): COMPOSE_OPTIONS,
    (Kind.HOST_PIDS, Deployment.KUBERNETES): KUBERNETES_CONTEXT,
    (Kind.IMAGE_WRAPPERS, Deployment.NONE): MOUNTS,
    (Kind.IMAGE_WRAPPERS, Deployment.KOLLA): (
        "keep neutron_agents_wrappers and mount sidespawn's wrappers over them: "
        "`sidespawn options SERVICE... --print=kolla`"
    ),
    (Kind.OLD_SIDE_CONTAINER, Deployment.NONE): (
        "enable the service, and restart its agent: sidespawn adopts it, and the next start of the helper replaces it"
    ),
    (Kind.WRAPPER_SCRIPT, Deployment.NONE): "mount sidespawn's wrapper in its place, then delete the file",
    (Kind.WRAPPER_SCRIPT, Deployment.TRIPLEO): TRIPLEO_WRAPPERS,
    (Kind.WRAPPER_SCRIPT, Deployment.EDPM): (
        "mount sidespawn's wrapper in its place by a drop-in of the agent's unit; the next deployment writes "
        "the file again"
    ),
    (Kind.KILL_SCRIPT, Deployment.NONE): "mount sidespawn's kill script in its place, then delete the file",
    (Kind.KILL_SCRIPT, Deployment.EDPM): (
        "mount sidespawn's kill script in its place by a drop-in of the agent's unit; the next deployment writes "
        "the file again"
    ),
    (Kind.DEPLOYER_SETTING, Deployment.KOLLA): (
        "mount sidespawn's wrappers over the image's: the module kolla_globals writes what this setting then needs; or "
        "set it to no, and Neutron starts its helpers in the agents' containers"
    ),
    (Kind.DEPLOYER_SETTING, Deployment.NONE): (
        "remove it from the file and from what generates it: puppet-tripleo with hieradata of your templates; "
        "docs/tripleo.md has a tool for each"
    ),
    (Kind.UNIT_FILE, Deployment.NONE): QUADLET_OPTIONS,
    (Kind.UNIT_FILE, Deployment.EDPM): EDPM_VOLUMES,
    (Kind.UNIT_FILE, Deployment.TRIPLEO): TRIPLEO_TEMPLATE,
    (Kind.UNIT_FILE, Deployment.KUBERNETES): KUBERNETES_VOLUMES,
    (Kind.UNIT_FILE, Deployment.COMPOSE): COMPOSE_OPTIONS,
}

# Of containers that are not known as agents. If one starts helpers, sidespawn can replace what it uses an engine for.
NOT_AGENTS = "remove it unless the container needs it, and then treat the container as root on the host"
STARTS_HELPERS = "if it starts helpers, `sidespawn options SERVICE...{}` prints what replaces it"
REMOVABLE = (Kind.ENGINE_SOCKET, Kind.ENGINE_STORAGE, Kind.PRIVILEGED, Kind.HOST_PIDS, Kind.UNIT_FILE)
OTHERS: dict[Kind | tuple[Kind, Deployment], str] = {
    **dict.fromkeys(REMOVABLE, NOT_AGENTS),
    Kind.ENGINE_ADDRESS: NOT_AGENTS,
    **{
        (kind, deployment): f"{NOT_AGENTS}. {where}"
        for kind in (Kind.ENGINE_SOCKET, Kind.ENGINE_STORAGE, Kind.UNIT_FILE)
        for deployment, where in (
            (Deployment.KOLLA, "In globals.yml, its own NAME_default_volumes or NAME_extra_volumes has it"),
            (Deployment.EDPM, "Its own role's volumes have it"),
            (Deployment.TRIPLEO, "Its own service's template has it"),
            (Deployment.KUBERNETES, "It is a hostPath volume in the pod's specification"),
            (Deployment.QUADLET, f"It is in its unit; {STARTS_HELPERS.format(' --print=quadlet')}"),
            (Deployment.COMPOSE, f"It is in the compose file; {STARTS_HELPERS.format(' --print=compose')}"),
            (Deployment.NONE, "If" + STARTS_HELPERS.format("").removeprefix("if")),
        )
    },
    (Kind.RUN_DIRECTORY, Deployment.TRIPLEO): "mount only what it needs of /run",
    Kind.RUN_DIRECTORY: "mount only what it needs of /run",
}
