"""Examines running agents: do they have the service's current directories, and an AppArmor profile for namespaces?

An agent is found by its mounts: its processes see a service's spool, but not the service's own directory around it.
Any user of a host can make a user namespace with such mounts in it, so processes in one are not examined.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sidespawn.core.policy import Policy
from sidespawn.errors import LaunchError
from sidespawn.host.directories import IMAGE_IN_AGENT
from sidespawn.host_report.findings import Finding, Topic, ok, problem, warning
from sidespawn.setup import coverage, security_modules
from sidespawn.setup.services import policy_or_none
from sidespawn.system import tables
from sidespawn.system.places import Places
from sidespawn.system.processes import run, status_of

SYS_ADMIN = 1 << 21
TEST, PATIENCE = "/usr/bin/test", 3.0  # seconds
OPTION = f"--security-opt=apparmor={security_modules.AGENT}"
# Where the engines of the host place a container's control group. A user names groups only below user@UID.service.
ID = "[0-9a-f]{64}"
SLICES = r"(?:(?!user\.slice/)[^/\n]+\.slice/)+"
CONTAINER = re.compile(
    rf"""(?mx) ^0::/ (?:
        (?:{SLICES}|libpod_parent/(?:{ID}/)?) libpod-(?P<podman>{ID})
      | (?:{SLICES}docker-|docker/) (?P<docker>{ID})
      | (?:{SLICES}[a-z-]+-|kubepods/(?:[^/\n]+/){{1,2}}?) {ID}
      | {SLICES}[^/\n]+\.service/ (?:libpod-payload-|kubepods[^/\n]+:) {ID}  # --cgroups=split; no SystemdCgroup
    ) (?:\.scope)? (?:/|$)"""
)


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
    is_readable: bool = True  # if not, it has too many mounts, and may be no agent; `service` is empty


def look(services: Iterable[str]) -> tuple[Agent, ...]:
    names, found = tuple(services), dict[tuple[str, str], Agent]()
    if not names:
        return ()
    wanted = frozenset(path for name in names for path in places_of(name))
    hosts = devices(1, wanted)
    seen, users = {os.readlink("/proc/1/ns/mnt")}, os.readlink("/proc/1/ns/user")
    for pid in sorted(int(each.name) for each in Path("/proc").glob("[0-9]*")):
        with suppress(OSError):  # it has ended
            if os.readlink(f"/proc/{pid}/ns/user") != users:  # first: a namespace may have processes of both kinds
                continue
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            group = os.fsdecode(Path(f"/proc/{pid}/cgroup").read_bytes())
            # `ip netns exec` in an agent makes one more mount namespace in the same container. An agent can make any
            # number of them, each in another control group, and examining each takes a while.
            container = container_of(group)
            if ("", container) in found or not (missing := [each for each in names if (each, container) not in found]):
                continue
            try:
                theirs = devices(pid, wanted)
            except LaunchError:
                found["", container] = Agent(service="", pid=pid, is_readable=False)
                continue
            if os.readlink(f"/proc/{pid}/ns/user") != users:  # it made one after the first look
                continue
            for name in missing:
                places = Places(name)
                spool = str(places.spool)
                if spool in theirs and str(places.home) not in theirs:
                    is_current = theirs[spool] == hosts.get(spool)
                    agent = replace(look_at(name, pid, is_current, theirs), restart=restarting(group))
                    found[name, container] = agent
    return tuple(found.values())


def places_of(service: str) -> Iterator[str]:
    """Return where an agent of the service has its mounts, and the service's own directory."""
    places = Places(service)
    policy = policy_or_none(places)
    yield from (str(places.home), str(places.spool), *((policy.agent.wrapper,) if policy is not None else ()))


def container_of(control_group: str) -> str:
    """Return the container's own group, without the groups in it; without a container, the group's whole name."""
    found = CONTAINER.search(control_group)
    return found[0].rstrip("/") if found else control_group


def restarting(control_group: str) -> str:
    found = CONTAINER.search(control_group)
    known = found.groupdict() if found else {}
    return next((f"{engine} restart {name[:12]}" for engine, name in known.items() if name), "")


def look_at(service: str, pid: int, is_current: bool, mounts: Iterable[str]) -> Agent:
    policy, root = policy_or_none(Places(service)), Path(f"/proc/{pid}/root")
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


def devices(pid: int, points: frozenset[str]) -> dict[str, str]:
    """Return the device of each of these mount points, as MAJOR:MINOR; of stacked mounts the last, which is visible.
    Raises LaunchError if there are too many mounts to read."""
    return {row[4]: row[2] for row in tables.mounts(Path(f"/proc/{pid}/mountinfo")) if row[4] in points}


def judge(agents: tuple[Agent, ...], has_apparmor: bool) -> Iterator[Finding]:
    bad = [each for agent in agents for each in judge_agent(agent, has_apparmor)]
    yield from bad
    if not agents:
        yield ok(Topic.AGENTS, "no running agent mounts the directories of a service")
    elif not bad:
        yield ok(Topic.AGENTS, f"{len(agents)} running, with current directories")


def judge_agent(agent: Agent, has_apparmor: bool) -> Iterator[Finding]:
    if not agent.is_readable:
        found = f"the mounts of process {agent.pid} fill more than {tables.MOST >> 20} MiB"
        message = "if it is an agent, it was not checked"
        hint = f"see whose it is: systemctl status {agent.pid}; restart that container, then check again"
        yield warning(Topic.NOT_LOOKED_AT, found, message, hint, "agents")
        return
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
