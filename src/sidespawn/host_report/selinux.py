"""Examines SELinux: mode, policy, our module, and the labels of what agents and engines share with the host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sidespawn.errors import LaunchError
from sidespawn.host_report.findings import Finding, Topic, ok, warning
from sidespawn.setup import hardening, selinux
from sidespawn.system.places import NAMESPACES, RUN, Places
from sidespawn.system.processes import run

CONFIGURATION = Path("/etc/selinux/config")
# podman's files outside its store. If podman was run by hand, a service may not be able to read them.
PODMAN_LEAVES = tuple(map(str, (*selinux.PODMAN, *selinux.FILES)))
RELABEL = re.compile(r"Would relabel (?P<path>\S+) from (?P<old>\S+) to (?P<new>\S+)")
TIMEOUT = 120.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    mode: str  # enforcing, permissive, or disabled
    policy: str = ""  # SELINUXTYPE
    has_module: bool = True  # of this version
    wrong: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # actual and expected label, by path
    error: str = ""  # why the labels were not compared


def look(services: Iterable[str]) -> Facts:
    if not hardening.has_selinux():
        return Facts(mode="disabled")
    policy = policy_name(CONFIGURATION.read_text(encoding="utf-8") if CONFIGURATION.exists() else "")
    wrong, error = wrong_labels(services)
    return Facts(
        mode="enforcing" if hardening.SELINUX.read_text().strip() == "1" else "permissive",
        policy=policy,
        has_module=selinux.is_current(),
        wrong=wrong,
        error=error,
    )


def policy_name(text: str) -> str:
    found = re.search(r"^SELINUXTYPE=(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def wrong_labels(services: Iterable[str]) -> tuple[dict[str, tuple[str, str]], str]:
    """Return what restorecon would change, and its message if it could not tell."""
    paths = [str(Places(each).home) for each in services]
    found: dict[str, tuple[str, str]] = {}
    # Not the content of /run/netns: restorecon may not look at namespaces, whose labels are never set.
    for options, tops in ((("-R",), (*paths, *PODMAN_LEAVES)), ((), (str(NAMESPACES),))):
        existing = [each for each in tops if os.path.exists(each)]
        if not existing:
            continue
        try:
            done = run((selinux.RESTORECON, "-n", "-v", "-F", *options, *existing), TIMEOUT)
        except LaunchError as error:
            return {}, error.message
        found |= parse(done.stdout)
    return found, ""


def parse(text: str) -> dict[str, tuple[str, str]]:
    """Return the types that differ. Users and categories may differ, and restorecon -F would change them too."""
    found = {}
    for row in RELABEL.finditer(text):
        with suppress(IndexError):
            old, new = row["old"].split(":")[2], row["new"].split(":")[2]
            in_podmans = row["path"].startswith(tuple(map(str, selinux.PODMAN)))
            if old != new and (old in selinux.UNREADABLE or not in_podmans):  # the containers' files there are theirs
                found[row["path"]] = (old, new)
    return found


def judge(facts: Facts, services: tuple[str, ...]) -> Iterator[Finding]:
    if facts.mode == "disabled":
        yield ok(Topic.SELINUX, "the kernel does not have SELinux")
        return
    yield ok(Topic.SELINUX, f"SELinux is {facts.mode}, with the policy {facts.policy or 'of an unknown name'}")
    if services:
        yield judge_module(facts, services[0])
    yield from judge_labels(facts, services)


def judge_module(facts: Facts, service: str) -> Finding:
    unlabelled = "agents confined by SELinux cannot use their spool"
    if not facts.has_module:
        found = "the policy does not contain this version's module"
        way = f"sidespawn enable {service}"
        return warning(Topic.SELINUX_MODULE, found, unlabelled, way, command=way)
    return ok(Topic.SELINUX_MODULE, "sidespawn's module is installed")


def judge_labels(facts: Facts, services: tuple[str, ...]) -> Iterator[Finding]:
    if facts.error:
        hint = "install policycoreutils"
        yield warning(
            Topic.SELINUX_LABELS, f"labels were not compared: {facts.error}", "a wrong label would not be noticed", hint
        )
        return
    roots: dict[str, list[str]] = {}
    for path in facts.wrong:
        root = next((each for each in PODMAN_LEAVES if path == each or path.startswith(f"{each}/")), "")
        root = root or "/".join(path.split("/")[:4])  # /run/sidespawn/SERVICE, or /run/netns
        roots.setdefault(root, []).append(path)
    for root, paths in roots.items():
        old, new = facts.wrong[paths[0]]
        found = f"{paths[0]} is labelled {old} instead of {new}" + (f", and {len(paths) - 1} more" if paths[1:] else "")
        by_podman = root in PODMAN_LEAVES
        message = "left by a podman that was run by hand" if by_podman else "agents may not be able to use it"
        message = f"{message}; where SELinux enforces, the service's podman cannot read it" if by_podman else message
        # No restorecon where an agent can write: the agent could change where the names lead in the meantime.
        service = root.removeprefix(f"{RUN}/")
        anew = f"sidespawn disable {service}, then enable it again and restart its agent"
        hint = f"restorecon -F {root}" if service == root else anew
        # Not restorecon -R: running containers have files there with other labels.
        hint = "`sidespawn enable` of any service repairs it" if by_podman else hint
        of_host = f"restorecon -F {root}" if service == root else ""
        command = f"sidespawn enable {services[0]}" if by_podman and services else "" if by_podman else of_host
        yield warning(Topic.SELINUX_LABELS, found, message, hint, root, command)
    if not roots:
        yield ok(
            Topic.SELINUX_LABELS, "services, namespaces and podman's own directories are labelled as they should be"
        )
