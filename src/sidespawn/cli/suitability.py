"""Whether this host can keep what a policy promises. Nothing here runs on a request."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sidespawn.core.policy import Policy
from sidespawn.engines.control_groups import controllers
from sidespawn.engines.podman import PODMAN
from sidespawn.errors import LaunchError
from sidespawn.host.processes import run

PACKAGE = Path(__file__).resolve().parent.parent


def warnings(policy: Policy) -> list[str]:
    """One sentence for each thing that an operator should know before an agent finds out."""
    found = []
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if release < (5, 6):
        found.append(f"Linux {release[0]}.{release[1]} has no openat2; requests will fail before Linux 5.6")
    there = controllers()
    for controller, what in (("memory", "memory"), ("pids", "number of tasks")):
        if controller not in there:
            found.append(f"the host's control groups have no {controller} controller: the {what} is not limited")
    if not Path(policy.agent.state_on_host).is_dir():
        found.append(f"{policy.agent.state_on_host}, the agent's state directory, is not there yet")
    if policy.side_container.engine == "podman":
        found += podman_warnings(policy)
    found += [f"{path} can be changed by others than root, and root executes it" for path in writable_code()]
    return found


def podman_warnings(policy: Policy) -> list[str]:
    if not Path(PODMAN).exists():
        return [f"{PODMAN} is not installed"]
    try:
        done = run((PODMAN, "image", "exists", policy.side_container.image), 30)
    except LaunchError as error:
        return [error.message]
    image = policy.side_container.image
    return (
        [] if done.code == 0 else [f"there is no image {image} on this host, and none is pulled when a request comes"]
    )


def writable_code() -> list[Path]:
    suspects = [PACKAGE, *PACKAGE.parents, *PACKAGE.rglob("*.py")]
    return [path for path in suspects if is_writable_by_others(path)][:3]


def is_writable_by_others(path: Path) -> bool:
    status = path.lstat()
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return status.st_uid != 0 or bool(status.st_mode & 0o022 and not sticky)
