"""Describes, for each engine, the container of an agent that makes network namespaces without a security module.

Pure: facts about the host are passed in. An agent needs all parts together; docs/agents.md says what fails without each
part, and what an attacker can reach.

podman gives a user other than root ambient capabilities. docker does not (moby issue 8460): there the container starts
as root, and setpriv of util-linux, in the agent's image, switches to the user before the agent's program starts.
no_new_privs prevents a way back. Kubernetes does not either: there the node's runtime for agents adds them, shares
/run/netns with the host, and enforces the rest of the recipe (engines/agent_runtime.py).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidespawn.engines import agent_runtime
from sidespawn.recipes import yaml_text
from sidespawn.recipes.system_calls import FILE, OCI_FILE

ENGINES = ("podman", "docker", "quadlet", "kubernetes")
# By Neutron agent: for `ip netns`, and for the agent's work in the namespaces.
CAPABILITIES = {
    "dhcp": ("NET_ADMIN", "SYS_ADMIN"),
    "l3": ("NET_ADMIN", "NET_RAW", "SYS_ADMIN"),
    "ovn": ("NET_ADMIN", "SYS_ADMIN"),
}
TO_BECOME_THE_USER = ("SETGID", "SETPCAP", "SETUID")
NAMES = {"dhcp": "neutron-dhcp-agent", "l3": "neutron-l3-agent", "ovn": "neutron-ovn-metadata-agent"}  # of containers
NAMESPACES = agent_runtime.NETNS
TMPFILES = "/etc/tmpfiles.d/sidespawn-agents.conf"

CLASS = "sidespawn-agent"
RUNTIME = Path(agent_runtime.__file__).with_name("agent-runtime")
KUBELET = "sidespawn/contained-agent.json"  # under the kubelet's /var/lib/kubelet/seccomp
NAMESPACE = "openstack"  # the agents'; operators may have another
HANDLER = f"""\
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{CLASS}]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{CLASS}.options]
    BinaryName = "{RUNTIME}"
    SystemdCgroup = true
"""
CLUSTER = (
    "kubectl apply --kustomize integrations/kubernetes",
    f"kubectl label namespace {NAMESPACE} sidespawn.io/agents=allowed",
)


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A file or directory of the host in the agent, without shared propagation."""

    source: str
    target: str
    writable: bool

    @property
    def volume(self) -> str:
        return f"{self.source}:{self.target}:{'rw' if self.writable else 'ro'},rprivate"


@dataclass(frozen=True, kw_only=True)
class Agent:
    """The subject of the recipe. `program` is the container's command; empty for the image's."""

    uid: int
    gid: int
    capabilities: tuple[str, ...]
    mounts: tuple[Mount, ...] = ()
    more: tuple[str, ...] = ()  # options for the host's security modules, for podman and docker
    image: str = "AGENT-IMAGE"
    name: str = "agent"
    program: tuple[str, ...] = ()


def preparation(agent: Agent, engine: str) -> list[str]:
    """Return shell commands that root runs once on the host."""
    lines = [
        f"printf 'd {NAMESPACES} 2775 root {agent.gid}\\n' >{TMPFILES}",
        f"systemd-tmpfiles --create {TMPFILES}",
    ]
    if engine == "kubernetes":
        lines.append(f"install -D -m 644 {OCI_FILE} /var/lib/kubelet/seccomp/{KUBELET}")
        lines.append(f"mkdir -p {Path(agent_runtime.LIST).parent}")
        lines.append(f"printf '{NAMESPACE}/{agent.name}\\n' >>{agent_runtime.LIST}")
    return lines


def podman(agent: Agent) -> list[str]:
    """Return options of `podman run`."""
    return [
        f"--user={agent.uid}:{agent.gid}",
        "--cap-drop=all",
        *(f"--cap-add={each}" for each in agent.capabilities),
        "--security-opt=no-new-privileges",
        f"--security-opt=seccomp={FILE}",
        "--security-opt=unmask=/proc/sys",
        *common(agent),
    ]


def docker(agent: Agent) -> list[str]:
    """Return options of `docker run`; `become` goes in front of the agent's program."""
    return [
        "--user=0:0",
        "--cap-drop=ALL",
        *(f"--cap-add={each}" for each in sorted((*agent.capabilities, *TO_BECOME_THE_USER))),
        "--security-opt=no-new-privileges",
        f"--security-opt=seccomp={FILE}",
        "--security-opt=systempaths=unconfined",
        *common(agent),
    ]


def common(agent: Agent) -> list[str]:
    return [
        *agent.more,
        "--network=host",
        f"--volume={NAMESPACES}:{NAMESPACES}:rshared",
        *(f"--volume={each.volume}" for each in agent.mounts),
    ]


def become(agent: Agent) -> list[str]:
    """Return the command before the agent's program, for engines that give no ambient capabilities."""
    wanted = ",".join(("-all", *(f"+{each.lower()}" for each in agent.capabilities)))
    return [
        "setpriv",
        f"--reuid={agent.uid}",
        f"--regid={agent.gid}",
        "--clear-groups",
        f"--inh-caps={wanted}",
        f"--ambient-caps={wanted}",
        f"--bounding-set={wanted}",
        "--",
        *agent.program,
    ]


def quadlet(agent: Agent) -> str:
    """Return the [Container] section."""
    lines = [
        "[Container]",
        f"Image={agent.image}",
        f"User={agent.uid}",
        f"Group={agent.gid}",
        "DropCapability=all",
        f"AddCapability={' '.join(agent.capabilities)}",
        "NoNewPrivileges=true",
        f"SeccompProfile={FILE}",
        "PodmanArgs=--security-opt=unmask=/proc/sys",
        *(f"PodmanArgs={each}" for each in agent.more),
        "Network=host",
        f"Volume={NAMESPACES}:{NAMESPACES}:rshared",
        *(f"Volume={each.volume}" for each in agent.mounts),
        *([f"Exec={' '.join(agent.program)}"] if agent.program else []),
    ]
    return "\n".join(lines) + "\n"


def kubernetes(agent: Agent) -> dict[str, Any]:
    """Return a pod's specification for the node's runtime for agents, which adds what Kubernetes cannot express.

    Settings that are Kubernetes' defaults are there to replace those of an agent that was privileged.
    """
    volumes = {f"sidespawn-{number}": mount for number, mount in enumerate(agent.mounts)}
    container = {
        "name": agent.name,
        "image": agent.image,
        **({"command": list(agent.program)} if agent.program else {}),
        "securityContext": {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": list(agent.capabilities)},
            "seccompProfile": {"type": "Localhost", "localhostProfile": KUBELET},
        },
        "volumeMounts": [
            {"name": "netns", "mountPath": NAMESPACES},
            *(
                {"name": name, "mountPath": mount.target} | ({} if mount.writable else {"readOnly": True})
                for name, mount in volumes.items()
            ),
        ],
    }
    sources = {"netns": NAMESPACES} | {name: mount.source for name, mount in volumes.items()}
    return {
        "runtimeClassName": CLASS,
        "hostNetwork": True,
        "hostPID": False,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsUser": agent.uid, "runAsGroup": agent.gid},
        "containers": [container],
        # containerd would make a directory that is missing, unless its type is given.
        "volumes": [
            {"name": name, "hostPath": {"path": source, "type": "Directory"}} for name, source in sources.items()
        ],
    }


def notes(engine: str) -> list[str]:
    """Return what the recipe does not do by itself."""
    found = [
        "use the process manager or the client, which need none of the host's pids: docs/client.md",
        "use an image without setuid programs: host users can reach the agent's files through mounts in /run/netns",
    ]
    if engine == "docker":
        found.append(
            "append the agent's program to the command, which changes to the agent's user; the image needs setpriv"
        )
    if engine == "kubernetes":
        found += [
            f"{agent_runtime.LIST} must also name the pod's other containers, such as init containers",
            f"if the agent's namespace is not {NAMESPACE}, use its name in that list and for the label",
            "set netns_mounts_under_state_dir in containerd's configuration, or agents can enter each pod's network",
        ]
    return found


def recipe(agent: Agent, engine: str) -> dict[str, Any]:
    """Return everything that `sidespawn agent-options --json` prints."""
    made: dict[str, Any] = {"engine": engine, "preparation": preparation(agent, engine), "notes": notes(engine)}
    if engine == "quadlet":
        return made | {"unit": quadlet(agent)}
    if engine == "kubernetes":
        return made | {"containerd": HANDLER, "cluster": list(CLUSTER), "pod_spec": kubernetes(agent)}
    if engine == "docker":
        return made | {"options": docker(agent), "command": become(agent)}
    return made | {"options": podman(agent), "command": list(agent.program)}


def shown(made: dict[str, Any]) -> str:
    """Return the same as text for people to copy."""
    node = "each node" if made["engine"] == "kubernetes" else "the host"
    parts = [f"# once, on {node}, as root:", *made["preparation"], ""]
    if "unit" in made:
        parts.append(made["unit"])
    elif "pod_spec" in made:
        parts += [
            "# in containerd's configuration (version 2 of it; see docs/kubernetes.md), then restart containerd:",
            made["containerd"],
            "# once, for the cluster:",
            *made["cluster"],
            "",
            "# in the DaemonSet, under spec.template.spec:",
            *yaml_text.lines(made["pod_spec"]),
            "",
        ]
    else:
        lines = [
            *(shlex.quote(each) for each in made["options"]),
            " ".join(["AGENT-IMAGE", *map(shlex.quote, made["command"])]),
        ]
        parts.append(f"{made['engine']} run \\\n    " + " \\\n    ".join(lines) + "\n")
    return "\n".join((*parts, *(f"# {each}" for each in made["notes"])))
