"""Examines running agents: do they have the service's current directories, and an AppArmor profile for namespaces?

An agent is found by its mounts: its processes see a service's spool, but not the service's own directory around it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sidespawn.core.policy import Policy
from sidespawn.errors import LaunchError, SidespawnError
from sidespawn.host.directories import IMAGE_IN_AGENT
from sidespawn.host.policies import load_policy
from sidespawn.host_report.findings import Finding, Topic, ok, problem, warning
from sidespawn.setup import coverage, security_modules
from sidespawn.system import tables
from sidespawn.system.places import Places
from sidespawn.system.processes import run, status_of

SYS_ADMIN = 1 << 21
TEST, PATIENCE = "/usr/bin/test", 3.0  # seconds
OPTION = f"--security-opt=apparmor={security_modules.AGENT}"


@dataclass(frozen=True, kw_only=True)
class Agent:
    service: str
    pid: int  # the lowest that its container has
    is_current: bool = True  # its spool is the host's
    profile: str = ""  # its AppArmor profile, with the mode; empty without AppArmor
    may_mount: bool = False  # it has CAP_SYS_ADMIN
    lacks: str = ""  # the program that its wrapper executes for local calls
    restart: str = ""  # the command of its engine
    release: str = ""  # of Neutron, if the presets do not know its calls
    is_vital: bool = False  # without the service's program, Neutron takes down what works


def look(services: Iterable[str]) -> tuple[Agent, ...]:
    names, found = tuple(services), dict[tuple[str, str], Agent]()
    if not names:
        return ()
    hosts = devices(1)
    seen = {os.readlink("/proc/1/ns/mnt")}
    for pid in sorted(int(each.name) for each in Path("/proc").glob("[0-9]*")):
        with suppress(OSError):  # it has ended
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            theirs, group = devices(pid), os.fsdecode(Path(f"/proc/{pid}/cgroup").read_bytes())
            # `ip netns exec` in an agent makes one more mount namespace in the same container. An agent can make any
            # number of them, each in another control group, and examining each takes a while.
            container = container_of(group)
            for name in names:
                places = Places(name)
                spool = str(places.spool)
                if (name, container) not in found and spool in theirs and str(places.home) not in theirs:
                    is_current = theirs[spool] == hosts.get(spool)
                    agent = replace(look_at(name, pid, is_current, theirs), restart=restarting(group))
                    found[name, container] = agent
    return tuple(found.values())


def container_of(control_group: str) -> str:
    """Return the id of the container, which contains its own groups; without one, the group's whole name."""
    found = re.search(r"[0-9a-f]{64}", control_group)
    return found[0] if found else control_group


def restarting(control_group: str) -> str:
    found = re.search(r"\b(libpod|docker)-([0-9a-f]{12})[0-9a-f]{52}\b", control_group)
    return f"{'podman' if found[1] == 'libpod' else 'docker'} restart {found[2]}" if found else ""


def look_at(service: str, pid: int, is_current: bool, mounts: Iterable[str]) -> Agent:
    policy, root = policy_of(service), Path(f"/proc/{pid}/root")
    effective = int(status_of(pid, b"CapEff:")[0], 16)
    return Agent(
        service=service,
        pid=pid,
        is_current=is_current,
        profile=profile(pid),
        may_mount=bool(effective & SYS_ADMIN),
        lacks=lacking(policy, mounts, root),
        release=unknown_release(policy, pid),
        is_vital=policy is not None and policy.table.program in coverage.VITAL,
    )


def unknown_release(policy: Policy | None, pid: int) -> str:
    release = coverage.release_of_agent(pid) if policy is not None and coverage.is_neutrons(policy) else ""
    return "" if coverage.is_covered(release) else release


def policy_of(service: str) -> Policy | None:
    with suppress(SidespawnError):
        return load_policy(Places(service))
    return None


def lacking(policy: Policy | None, mounts: Iterable[str], root: Path) -> str:
    """Return the program that a wrapper hides in the agent, unless the wrapper finds it elsewhere."""
    if policy is None or not policy.agent.local or policy.agent.wrapper not in mounts:
        return ""
    others = (f"{IMAGE_IN_AGENT}{policy.agent.wrapper}", f"{policy.agent.wrapper}.real")
    return "" if any(may_be_there(f"{root}{each}") for each in others) else policy.agent.wrapper


def may_be_there(path: str) -> bool:
    """Run in a command with a timeout: the agent's root may have a file system that never answers."""
    try:
        return any(run((TEST, operator, path), PATIENCE).code == 0 for operator in ("-e", "-L"))
    except LaunchError:
        return True


def profile(pid: int) -> str:
    # The second belongs to the first security module (Linux before 5.8 has no other).
    for name in ("attr/apparmor/current", "attr/current"):
        with suppress(OSError):
            return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace").strip("\0\n")
    return ""


def devices(pid: int) -> dict[str, str]:
    """Return the device of each mount point, as MAJOR:MINOR; of stacked mounts the last, which is visible."""
    return {row[4]: row[2] for row in tables.mounts(tables.read(Path(f"/proc/{pid}/mountinfo")))}


def judge(agents: tuple[Agent, ...], has_apparmor: bool) -> Iterator[Finding]:
    bad = [each for agent in agents for each in judge_agent(agent, has_apparmor)]
    yield from bad
    if not agents:
        yield ok(Topic.AGENTS, "no running agent mounts the directories of a service")
    elif not bad:
        yield ok(Topic.AGENTS, f"{len(agents)} running, with current directories")


def judge_agent(agent: Agent, has_apparmor: bool) -> Iterator[Finding]:
    who = f"the agent of {agent.service}, process {agent.pid},"
    if not agent.is_current:
        found = f"{who} has stale directories, from before the service was enabled again"
        yield problem(
            Topic.AGENT_MOUNTS,
            found,
            "its requests do not reach the host",
            "restart the agent",
            agent.service,
            agent.restart,
        )
    if agent.lacks:
        found = f"{who} has no {agent.lacks} beside the wrapper"
        message = "calls such as --version fail, and Neutron then disables features"
        way = f"start it with --mount=type=image,src=AGENT-IMAGE,dst={IMAGE_IN_AGENT}"
        yield problem(Topic.AGENT_MOUNTS, found, message, way, agent.service)
    if agent.release:
        found = f"{who} has Neutron {agent.release}, which the presets do not know"
        message = (
            coverage.CONSEQUENCE if agent.is_vital else "calls that differ from those of known releases are refused"
        )
        way = f"use a release from {' to '.join(coverage.ENDS)}, or `sidespawn disable {agent.service}`"
        yield (problem if agent.is_vital else warning)(Topic.AGENT_RELEASE, found, message, way, agent.service)
    if not has_apparmor or not agent.may_mount or not agent.profile:
        return
    name, _, mode = agent.profile.partition(" (")  # "unconfined" has no mode, and some profiles have it as their mode
    if security_modules.AGENT in name.split("//&"):  # Debian 13 stacks crun's own profile on the container's
        return
    if name == "unconfined" or mode == "unconfined)":
        found, message = (
            f"{who} has CAP_SYS_ADMIN and no AppArmor profile",
            "root in the agent can become root on the host",
        )
    else:
        found = f"{who} has CAP_SYS_ADMIN and AppArmor's profile {name}"
        message = "if this is the engine's default profile, it denies `ip netns add`, and no log says so"
    yield warning(Topic.AGENT_APPARMOR, found, message, f"start it with {OPTION}", agent.service)
