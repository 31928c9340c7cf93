"""Checks that this host can keep what a policy promises. Nothing here runs on a request."""

from __future__ import annotations

from pathlib import Path

from sidespawn import host_report
from sidespawn.core.policy import Policy
from sidespawn.engines import docker, kubernetes, systemd_roots
from sidespawn.engines.api import in_url
from sidespawn.engines.podman import PODMAN
from sidespawn.engines.systemd import PRIVATE_PIDS
from sidespawn.errors import LaunchError
from sidespawn.host_report import service_manager
from sidespawn.host_report.findings import Finding
from sidespawn.host_report.kubernetes import most_pods
from sidespawn.host_report.trusted_code import is_writable_by_others
from sidespawn.setup import accounts, hardening, security_modules, systemd
from sidespawn.setup.services import Service, is_enabled
from sidespawn.system.processes import run

NEED_PROC = frozenset({"neutron-keepalived-state-change"})  # it calls ps, and writes to /dev/stdout
MONITOR = "mode is monitor: arguments that no rule allows are logged and passed on; see sidespawn learn --help"


def host_findings(policy: Policy) -> tuple[Finding, ...]:
    """Return the findings of the host's report that concern the policy's service and are not ok."""
    return host_report.concerning(Service(name=policy.service, policy=policy, is_enabled=is_enabled(policy.service)))


def policy_warnings(policy: Policy) -> list[str]:
    """Return what this policy needs and the host lacks, one sentence for each thing to know in advance."""
    found = [MONITOR] if policy.is_monitor else []
    if not Path(policy.agent.state_on_host).is_dir():
        found.append(f"{policy.agent.state_on_host}, the agent's state directory, does not exist yet")
    found += IMAGES[policy.side_container.engine](policy.side_container.image)
    if policy.side_container.engine == "systemd":
        found += account_warnings(policy)
    if policy.side_container.engine == "kubernetes":
        found += pod_warnings(policy, most_pods())
    side = policy.side_container
    return found + security_modules.warnings(side.engine, side.image, side.apparmor)


def unit_warnings(policy: Policy) -> list[str]:
    """Return what an enabled service's unit lacks of the rights that its current policy needs."""
    if not is_enabled(policy.service):
        return []
    found = []
    if not hardening.is_current(policy):
        found.append("the unit's confinement is stale")
    if systemd.wakes_by_path(policy.service) is not policy.agent.wakes_by_path:
        found.append("the service's way of waking (wake) is stale")
    return [f"{each}; run: sidespawn enable {policy.service}" for each in found]


def podman_image(image: str) -> list[str]:
    try:
        done = run((PODMAN, "image", "exists", image), 30)
    except LaunchError:
        return []  # the host's report says so
    return [no_image(image)] if done.code == 1 else []


def docker_image(image: str) -> list[str]:
    try:
        answer = docker.ask("GET", f"/images/{in_url(image)}/json", "", 30)
    except LaunchError:
        return []  # the host's report says so
    return [no_image(image)] if answer.status == 404 else []


def systemd_image(image: str) -> list[str]:
    if image == systemd_roots.HOST:
        return []
    if not image.startswith("/"):
        if kubernetes.has_image(image):
            return []
        if not Path(PODMAN).exists():
            return [f"neither {PODMAN}, which would keep the image mounted, is there, nor the image in containerd"]
        return podman_image(image)
    if not Path(image).is_dir():
        return [f"there is no directory {image} on this host"]
    suspects = (Path(image), *Path(image).parents)
    return [f"{path} can be changed by others than root" for path in suspects if is_writable_by_others(path)]


def account_warnings(policy: Policy) -> list[str]:
    side_container = policy.side_container
    found = []
    if side_container.image == systemd_roots.HOST and not Path(side_container.command).exists():
        found.append(f"this host has no {side_container.command}")
    for line in accounts.missing(side_container.uid, side_container.gid):
        found.append(f"systemd needs an account that this host lacks, and that `sidespawn enable` makes: {line}")
    if policy.table.program in NEED_PROC:
        found.append(
            f"{policy.table.program} needs /proc, which the systemd engine does not provide; use podman or docker"
        )
    return found + confinement_warnings(policy)


def confinement_warnings(policy: Policy) -> list[str]:
    """Return what podman and docker would prevent a taken-over program from doing; docs/engines.md has details."""
    side_container, found = policy.side_container, []
    has_private_pids = service_manager.look().number >= PRIVATE_PIDS
    if side_container.uid == 0 and not has_private_pids:
        found.append(
            f"systemd gives no pid namespace before version {PRIVATE_PIDS}, and the program runs as root: one that is"
            " taken over could signal every process of this host; podman and docker do not have that"
        )
    if "NET_ADMIN" in side_container.capabilities and not side_container.host_network:
        lack = (
            "opens a program's output in the host's network"
            if has_private_pids
            else f"gives no pid namespace before version {PRIVATE_PIDS}"
        )
        where = "of this host" if has_private_pids else "of this host and of other namespaces"
        found.append(
            f"systemd {lack}, and the program has NET_ADMIN: one that is taken over could change every interface"
            f" {where}; podman and docker do not have that"
        )
    return found


def no_image(image: str) -> str:
    return f"image {image} is not on this host, and requests never pull images"


def kubernetes_image(image: str) -> list[str]:
    return [no_image(image)] if kubernetes.has_image(image) is False else []


def pod_warnings(policy: Policy, most: int) -> list[str]:
    """Warn if there may be too many pods: kubelet counts each side container as one, and ends others to make room."""
    if policy.limits.instances < most:
        return []
    found = f"the policy allows {policy.limits.instances} side containers and kubelet {most} pods"
    return [f"{found}; lower instances in [limits], or raise maxPods in kubelet's configuration"]


IMAGES = {
    "podman": podman_image,
    "docker": docker_image,
    "systemd": systemd_image,
    "kubernetes": kubernetes_image,
}
