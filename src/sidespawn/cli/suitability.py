"""Whether this host can keep what a policy promises. Nothing here runs on a request."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from sidespawn.cli import accounts, hardening, security_modules
from sidespawn.cli.systemd import INSTALLED
from sidespawn.core.policy import Policy
from sidespawn.engines import docker, systemd_bus, systemd_roots
from sidespawn.engines.control_groups import controllers
from sidespawn.engines.podman import PODMAN
from sidespawn.errors import LaunchError
from sidespawn.host.processes import run

PACKAGE = Path(__file__).resolve().parent.parent
NEED_PROC = frozenset({"neutron-keepalived-state-change"})  # it calls ps, and writes to /dev/stdout
DOCKER_RUNTIME = PACKAGE / "engines/docker-runtime"


MONITOR = "mode is monitor: arguments that no rule allows are logged and passed on; see sidespawn learn --help"


def warnings(policy: Policy) -> list[str]:
    """One sentence for each thing that an operator should know before an agent finds out."""
    found = [MONITOR] if policy.is_monitor else []
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if release < (5, 6):
        found.append(f"Linux {release[0]}.{release[1]} has no openat2; requests will fail before Linux 5.6")
    there = controllers()
    for controller, what in (("memory", "memory"), ("pids", "number of tasks")):
        if controller not in there:
            found.append(f"the host's control groups have no {controller} controller: the {what} is not limited")
    if not Path(policy.agent.state_on_host).is_dir():
        found.append(f"{policy.agent.state_on_host}, the agent's state directory, is not there yet")
    found += ENGINES[policy.side_container.engine](policy.side_container.image)
    if policy.side_container.engine == "systemd":
        found += account_warnings(policy)
    found += security_modules.warnings(policy.side_container.apparmor)
    found += [f"{path} can be changed by others than root, and root executes it" for path in writable_code()]
    return found


def unit_warnings(policy: Policy) -> list[str]:
    """Of a service that is enabled: whether its unit is allowed what its policy, as it stands now, takes."""
    if not any(INSTALLED.glob(f"*.wants/sidespawn@{policy.service}.socket")) or hardening.is_current(policy):
        return []
    return [f"the unit is confined as an earlier policy or version needed it: sidespawn enable {policy.service}"]


def podman_warnings(image: str) -> list[str]:
    if not Path(PODMAN).exists():
        return [f"{PODMAN} is not installed"]
    try:
        done = run((PODMAN, "image", "exists", image), 30)
    except LaunchError as error:
        return [error.message]
    return [] if done.code == 0 else [no_image(image)]


def docker_warnings(image: str) -> list[str]:
    try:
        info = docker.ask("GET", "/info", "", 30).body
        has_image = docker.ask("GET", f"/images/{docker.in_url(image)}/json", "", 30).status == 200
    except LaunchError as error:
        return ["; ".join(filter(None, (error.message, error.hint)))]
    found = [] if has_image else [no_image(image)]
    there = info.get("Runtimes", {}).get(docker.RUNTIME, {}).get("path")
    if there != str(DOCKER_RUNTIME):
        wanted = json.dumps({"runtimes": {docker.RUNTIME: {"path": str(DOCKER_RUNTIME)}}})
        found.append(f"docker refuses side containers until daemon.json has {wanted}; then: systemctl reload docker")
    if not info.get("LiveRestoreEnabled"):
        found.append('side containers end when docker restarts, until daemon.json has {"live-restore": true}')
    return found


def systemd_warnings(image: str) -> list[str]:
    try:
        with systemd_bus.Bus(30):
            pass
    except LaunchError as error:
        return [error.message]
    if image == systemd_roots.HOST:
        return []
    if not image.startswith("/"):
        return podman_warnings(image)  # what keeps it mounted
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
            f"{policy.table.program} needs /proc, which a side container of systemd has not; use podman or docker"
        )
    if side_container.uid == 0:
        found.append(
            "systemd gives no pid namespace, and the program runs as root: one that is taken over could signal every"
            " process of this host; podman and docker do not have that"
        )
    return found


def no_image(image: str) -> str:
    return f"there is no image {image} on this host, and none is pulled when a request comes"


ENGINES = {"podman": podman_warnings, "docker": docker_warnings, "systemd": systemd_warnings}


def writable_code() -> list[Path]:
    suspects = [PACKAGE, *PACKAGE.parents, *PACKAGE.rglob("*.py"), DOCKER_RUNTIME]
    return [path for path in suspects if is_writable_by_others(path)][:3]


def is_writable_by_others(path: Path) -> bool:
    status = path.lstat()
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return status.st_uid != 0 or bool(status.st_mode & 0o022 and not sticky)
