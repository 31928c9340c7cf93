"""An ailment: one problem on a host, with the command that fixes it, and its place among the others.

Programs read these as JSON, so an id keeps its meaning once it is published; docs/operating.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from sidespawn.host_report.findings import Finding, State, Topic


class Sign(StrEnum):
    """Ids of problems that `sidespawn check` does not look for, besides the ids of its findings."""

    POLICY_UNSAFE = "policy-unsafe"
    POLICY_INVALID = "policy-invalid"
    POLICY_NOT_APPLIED = "policy-not-applied"
    NOT_ENABLED = "not-enabled"
    STATE_MISSING = "state-missing"
    IMAGE_MISSING = "image-missing"
    REQUESTS_FAIL = "requests-fail"
    REQUESTS_STUCK = "requests-stuck"
    KEEPS_ENDING = "keeps-ending"
    INSTANCE_LIMIT = "instance-limit"
    ORPHAN = "orphan"
    APPARMOR_DENIED = "apparmor-denied"
    SELINUX_DENIED = "selinux-denied"


Id = Topic | Sign

# From the ground up: an earlier one may cause later ones, and is fixed first.
ORDER: tuple[Id, ...] = (
    Topic.NOT_LOOKED_AT,
    Topic.KERNEL, Topic.CONTROL_GROUPS, Topic.MEMORY_CONTROLLER, Topic.PIDS_CONTROLLER,
    Topic.SYSTEMD, Topic.CODE, Topic.PYTHON, Topic.FILE_SYSTEMS,
    Topic.NETWORK_NAMESPACES, Topic.APPARMOR, Topic.APPARMOR_PROFILE, Sign.APPARMOR_DENIED,
    Topic.SELINUX, Topic.SELINUX_MODULE, Topic.SELINUX_LABELS, Sign.SELINUX_DENIED,
    Sign.POLICY_UNSAFE, Sign.POLICY_INVALID,
    Topic.UNIT_FILES, Topic.DAEMON_RELOAD, Topic.UNITS,
    Topic.PODMAN, Topic.PODMAN_STORAGE, Topic.PODMAN_SETTINGS, Topic.SYSTEMD_BUS,
    Topic.DOCKER, Topic.DOCKER_RUNTIME, Topic.DOCKER_LIVE_RESTORE,
    Topic.KUBERNETES, Topic.STATIC_PODS, Topic.KUBERNETES_AGENTS, Topic.ENGINES,
    Sign.STATE_MISSING, Sign.IMAGE_MISSING,
    Topic.MOUNT_NAMESPACE, Topic.SPOOL_MOUNTS, Sign.NOT_ENABLED, Sign.POLICY_NOT_APPLIED, Topic.SERVICE_UNITS,
    Topic.AGENTS, Topic.AGENT_MOUNTS, Topic.AGENT_RELEASE, Topic.AGENT_APPARMOR,
    Sign.REQUESTS_STUCK, Sign.KEEPS_ENDING, Sign.INSTANCE_LIMIT, Sign.REQUESTS_FAIL, Sign.ORPHAN,
    Topic.JOURNAL, Topic.LEFTOVERS, Topic.LEFTOVER_LINKS, Topic.LEFTOVER_DROP_INS, Topic.LEFTOVER_DIRECTORIES,
    Topic.LEFTOVER_ACCOUNTS, Topic.ROOT,
)  # fmt: skip
POLICY: frozenset[Id] = frozenset({Sign.POLICY_UNSAFE, Sign.POLICY_INVALID})
ENGINE: frozenset[Id] = frozenset(
    {Topic.ENGINES, Topic.PODMAN, Topic.PODMAN_STORAGE, Topic.SYSTEMD_BUS, Topic.DOCKER, Topic.DOCKER_RUNTIME}
    | {Topic.KUBERNETES, Topic.STATIC_PODS}
)
# What a security module forbids: to the service, its engine, its side containers or its agent.
CONFINED: frozenset[Id] = frozenset(
    {Topic.APPARMOR_PROFILE, Sign.APPARMOR_DENIED, Topic.SELINUX_MODULE, Topic.SELINUX_LABELS, Sign.SELINUX_DENIED}
)
RUNS: frozenset[Id] = frozenset({Topic.KERNEL, Topic.SYSTEMD, Topic.PYTHON, Topic.FILE_SYSTEMS, Topic.UNIT_FILES})
UP: frozenset[Id] = frozenset({*RUNS, *POLICY, Topic.SPOOL_MOUNTS})
# The possible causes of each: it cannot be fixed before its cause.
CAUSES: Mapping[Id, frozenset[Id]] = {
    Topic.PODMAN: frozenset({Topic.FILE_SYSTEMS}),
    Topic.DOCKER: frozenset({Topic.FILE_SYSTEMS}),
    Topic.ENGINES: frozenset({Topic.PODMAN, Topic.PODMAN_STORAGE, Topic.SYSTEMD_BUS, Topic.DOCKER}),
    Topic.DAEMON_RELOAD: frozenset({Topic.UNIT_FILES}),
    Topic.SPOOL_MOUNTS: RUNS | POLICY,
    Topic.SERVICE_UNITS: UP | {Topic.MOUNT_NAMESPACE},
    Topic.AGENT_MOUNTS: frozenset({Topic.SPOOL_MOUNTS}),
    Topic.LEFTOVER_DIRECTORIES: POLICY | {Sign.NOT_ENABLED},
    Sign.POLICY_NOT_APPLIED: frozenset({Topic.UNIT_FILES, Topic.SPOOL_MOUNTS, *POLICY}),
    Sign.APPARMOR_DENIED: frozenset({Topic.APPARMOR, Topic.APPARMOR_PROFILE}),
    Sign.SELINUX_DENIED: frozenset({Topic.SELINUX_MODULE, Topic.SELINUX_LABELS}),
    Sign.REQUESTS_STUCK: UP | ENGINE | {Topic.SERVICE_UNITS},
    Sign.KEEPS_ENDING: CONFINED | ENGINE | POLICY | {Sign.STATE_MISSING, Sign.POLICY_NOT_APPLIED, Topic.FILE_SYSTEMS},
    Sign.REQUESTS_FAIL: UP | ENGINE | CONFINED | {
        Topic.MOUNT_NAMESPACE, Topic.NETWORK_NAMESPACES, Topic.SERVICE_UNITS, Sign.STATE_MISSING, Sign.IMAGE_MISSING,
        Sign.POLICY_NOT_APPLIED, Sign.KEEPS_ENDING, Sign.INSTANCE_LIMIT,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ailment:
    """`advice` is for people, if no command does it or an operator must choose. `service` is empty for the host."""

    id: Id
    state: State
    found: str
    message: str  # its consequences
    command: str = ""
    advice: str = ""
    service: str = ""
    instance: str = ""  # of that service, if it concerns only one
    consequences: tuple[Ailment, ...] = ()


def ailment_of(finding: Finding, services: Iterable[str]) -> Ailment:
    """Return the ailment. A finding's subject is a service or a part of the host."""
    return Ailment(
        id=finding.id,
        state=finding.state,
        found=finding.found,
        message=finding.message,
        command=finding.command,
        advice=finding.hint,
        service=finding.subject if finding.subject in set(services) else "",
    )


def in_order(found: Iterable[Ailment]) -> tuple[Ailment, ...]:
    """Return the causes in the order in which to fix them, each with its consequences.

    Causes that make requests fail come first.
    """
    known = sorted(found, key=lambda each: (ORDER.index(each.id), each.state is not State.PROBLEM, each.service))
    below: dict[int, list[Ailment]] = {}
    causes = []
    for each in known:
        cause = next((number for number, other in enumerate(known) if is_cause(other, each)), None)
        if cause is None:
            causes.append(each)
        else:
            below.setdefault(root(cause, known), []).append(each)
    whole = [replace(each, consequences=tuple(below.get(known.index(each), ()))) for each in causes]
    return tuple(sorted(whole, key=lambda each: not is_problem(each)))


def is_problem(cause: Ailment) -> bool:
    return any(each.state is State.PROBLEM for each in (cause, *cause.consequences))


def root(number: int, known: list[Ailment]) -> int:
    """Return the root cause; the search ends, since each cause comes before its consequence in ORDER."""
    above = next((each for each, other in enumerate(known) if is_cause(other, known[number])), None)
    return number if above is None else root(above, known)


def is_cause(one: Ailment, other: Ailment) -> bool:
    if one.instance and other.instance and one.instance != other.instance:
        return False
    return one.id in CAUSES.get(other.id, ()) and one.service in ("", other.service)
