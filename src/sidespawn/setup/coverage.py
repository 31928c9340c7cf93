"""Checks that the presets know the calls of the agent's Neutron release. Nothing here runs on a request.

If a router's state-change monitor cannot be started, the router stays up but reports no failover. So for that monitor,
a warning is not enough.

Only names are read in images and agents, since a link in one of them may lead anywhere. A file system that an agent has
mounted may never answer, so another process examines its files, with a timeout.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidespawn.core.policy import Policy
from sidespawn.engines.podman import PODMAN
from sidespawn.errors import LaunchError, Reason, SidespawnError
from sidespawn.system.processes import run

# By the first number of the version. tests/data/README.md says how their calls were recorded.
RELEASES = {
    22: "2023.1",
    23: "2023.2",
    24: "2024.1",
    25: "2024.2",
    26: "2025.1",
    27: "2025.2",
    28: "2026.1",
    29: "2026.2",
}
ENDS = min(RELEASES.values()), max(RELEASES.values())
VITAL = frozenset({"neutron-keepalived-state-change"})
PLACES = (
    "usr/lib/python3*/*-packages",
    "usr/local/lib/python3*/*-packages",
    "usr/lib64/python3*/*-packages",
    "var/lib/kolla/venv/lib/python3*/*-packages",
    "var/lib/openstack/lib/python3*/*-packages",
    "opt/*/lib/python3*/*-packages",
)
PATIENCE = 5  # seconds
LOOK = "import sys, pathlib, sidespawn.setup.coverage as it; print(it.release_in(pathlib.Path(sys.argv[1])))"
INSTALLED = re.compile(r"neutron-([0-9]{1,4}(\.[0-9]{1,4}){0,3})[.-].*info")
CONSEQUENCE = "without their state-change monitor routers report no failover"


def is_neutrons(policy: Policy) -> bool:
    """Return whether the policy extends a preset for Neutron's agents or, by its name, is a copy of one."""
    rules = (policy.options_rule, *(each.rule for each in policy.options.values()))
    return any(rule.rpartition("/")[2].startswith("neutron-") for rule in rules)


def is_covered(release: str) -> bool:
    """Return whether the presets cover a release (26.0.6 or 2025.1); an empty one, which no one knows, counts as
    covered."""
    return not release or release in RELEASES.values() or release.partition(".")[0] in map(str, RELEASES)


def release_in(root: Path) -> str:
    """Return the version of Neutron whose packages are there; empty if none is found."""
    for pattern in PLACES:
        with suppress(OSError):
            for path in root.glob(f"{pattern}/neutron-*info"):
                if found := INSTALLED.fullmatch(path.name):
                    return found[1]
    return ""


def release_of_agent(pid: int) -> str:
    """Return the same for the files that an agent's process sees; also empty if they do not answer in time."""
    try:
        done = run((sys.executable, "-I", "-c", LOOK, f"/proc/{pid}/root"), PATIENCE)
    except LaunchError:
        return ""
    return done.stdout.strip() if done.code == 0 else ""


@contextmanager
def mounted(image: str) -> Iterator[Path | None]:
    """Mount the image's files read-only; None if podman cannot show them."""
    try:
        done = run((PODMAN, "image", "mount", image), 60)
    except LaunchError:
        yield None
        return
    path = Path(done.stdout.strip())
    try:
        yield path if done.code == 0 and path.is_absolute() and path.is_dir() else None
    finally:
        if done.code == 0:
            with suppress(LaunchError):
                run((PODMAN, "image", "unmount", image), 60)


def uncovered(release: str) -> str:
    return f"Neutron {release} is not among the releases whose calls the presets know, {' to '.join(ENDS)}"


def problems(policy: Policy, release: str = "", agent_image: str = "") -> list[str]:
    """Return why calls may fail with this release of Neutron, which is declared or found in the agent's image."""
    if not is_neutrons(policy):
        return []
    side_container, found = policy.side_container, []
    if not release and agent_image:
        with mounted(agent_image) as root:
            release = release_in(root) if root else ""
    if policy.table.program in VITAL and side_container.engine == "podman":
        program = policy.agent.wrapper if side_container.scripts else side_container.command
        with mounted(side_container.image) as root:
            if root is not None and not is_file_in(root, program):
                found.append(f"the image {side_container.image} has no {program}")
            release = release or (release_in(root) if root else "")
    if release and not is_covered(release):
        found.append(uncovered(release))
    return found


def is_file_in(root: Path, path: str) -> bool:
    """Return whether it is a file there. A link counts, since it would be followed in the image, not here."""
    place = root / path.lstrip("/")
    return place.is_symlink() or place.is_file()


def require(policy: Policy, found: list[str]) -> None:
    """Raise SidespawnError if these problems would cost routers their failover."""
    if found and policy.table.program in VITAL:
        hint = "use the agent's own image, of a known release; or enable it anyway with --uncovered"
        raise SidespawnError(Reason.HOST_UNSUITABLE, f"{'; '.join(found)}; {CONSEQUENCE}", hint)
