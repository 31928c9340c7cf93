"""Checks that a service's units share PID 1's mount namespace.

Their mounts are for others: agents, PID 1, docker. The options that give a unit a mount namespace differ between
versions of systemd (PrivateNetwork= does since 254), and an operator's drop-in can set one. So the running processes
and PID 1's mounts decide; the options only explain.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidespawn.host.directories import given_to_containers
from sidespawn.host_report.findings import Finding, Topic, ok, problem, warning
from sidespawn.host_report.units import Unit
from sidespawn.setup.systemd import SHIPPED
from sidespawn.system import tables
from sidespawn.system.places import Places

# By name, the values that need no mount namespace; see exec_needs_mount_namespace() in systemd 252 to 258. A test tries
# them.
OFF = frozenset(("", "no", "false", "n", "f", "off", "0"))
IMPLYING: Mapping[str, frozenset[str]] = dict.fromkeys(
    (
        "PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateIPC", "PrivatePIDs", "PrivateBPF", "ProtectSystem",
        "ProtectHome", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups",
        "DynamicUser", "RootDirectory", "RootImage", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths",
        "ExecPaths", "NoExecPaths", "TemporaryFileSystem", "BindPaths", "BindReadOnlyPaths", "BindLogSockets",
        "MountImages", "ExtensionImages", "ExtensionDirectories", "LogNamespace", "IPCNamespacePath",
    ),
    OFF,
) | {
    "RootDirectory": OFF | {"/"},
    "ProtectProc": OFF | {"default"},
    "ProcSubset": OFF | {"all"},
    "MountFlags": OFF | {"shared"},
}  # fmt: skip
# Options that did not always need one, with the first version of systemd in which they do. Each depends on another
# option that is not set: the first two on PrivateMounts=, for a /sys of the network namespace, the third on
# BindLogSockets=.
SINCE = {
    "PrivateNetwork": (254, "PrivateMounts"),
    "NetworkNamespacePath": (254, "PrivateMounts"),
    "MountAPIVFS": (257, "BindLogSockets"),
}


@dataclass(frozen=True, kw_only=True)
class Option:
    name: str
    value: str
    path: str  # the file that sets it

    def __str__(self) -> str:
        return f"{self.name}={self.value} in {self.path}"


@dataclass(frozen=True, kw_only=True)
class Facts:
    services: Mapping[str, str]  # enabled: name and engine
    units: tuple[Unit, ...]
    mounts: frozenset[str]  # mount points of PID 1, of those that spool units make
    namespaces: Mapping[int, str]  # mount namespaces, by pid; PID 1's among them
    options: Mapping[str, tuple[Option, ...]]  # options that give a unit a mount namespace, by the unit's name

    def unit(self, name: str) -> Unit:
        return next((each for each in self.units if each.name == name), Unit(name=name))


def look(services: Mapping[str, str], units: tuple[Unit, ...], version: int) -> Facts:
    ours = [each for each in units if each.name.endswith(".service")]
    return Facts(
        services=services,
        units=units,
        mounts=mount_points(frozenset(path for service in services for path in made_by_spool(service))),
        namespaces={pid: found for pid in (1, *(each.pid for each in ours)) if pid and (found := namespace(pid))},
        options={each.name: implying(read_options(each.files), version) for each in ours},
    )


def made_by_spool(service: str) -> tuple[str, ...]:
    """Return where the service's spool unit mounts something: first the service's own directory."""
    places = Places(service)
    return tuple(str(each) for each in (places.home, *given_to_containers(places)))


def mount_points(wanted: frozenset[str], pid: int = 1) -> frozenset[str]:
    return frozenset(row[4] for row in tables.mounts(Path(f"/proc/{pid}/mountinfo")) if row[4] in wanted)


def namespace(pid: int) -> str:
    """Return its mount namespace; empty if the process has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return os.readlink(f"/proc/{pid}/ns/mnt")
    return ""


def read_options(paths: Iterable[str]) -> dict[str, Option]:
    """Return the effective options of the section [Service]: an empty value resets earlier ones."""
    found: dict[str, Option] = {}
    for path in paths:
        with suppress(OSError):
            for name, value in options_of(Path(path).read_text(encoding="utf-8", errors="replace")):
                found.pop(name, None)
                if value:
                    found[name] = Option(name=name, value=value, path=path)
    return found


def options_of(text: str) -> Iterator[tuple[str, str]]:
    section = ""
    for line in map(str.strip, text.replace("\\\n", " ").splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


def implying(options: Mapping[str, Option], version: int) -> tuple[Option, ...]:
    found = [each for name, off in IMPLYING.items() if (each := options.get(name)) and each.value.lower() not in off]
    for name, (since, unless) in SINCE.items():
        if version >= since and unless not in options and name in options and options[name].value.lower() not in OFF:
            found.append(options[name])
    return tuple(found)


def judge(facts: Facts) -> Iterator[Finding]:
    spools = [each for service in facts.services for each in judge_spool(facts, service)]
    runs = [each for service in facts.services for each in judge_service(facts, service)]
    if facts.services:
        yield from spools or [ok(Topic.SPOOL_MOUNTS, "the host sees the mounts of every sidespawn-spool@")]
        yield from runs or [ok(Topic.MOUNT_NAMESPACE, "every sidespawn@ shares the host's mount namespace")]


def judge_spool(facts: Facts, service: str) -> Iterator[Finding]:
    """Judge a spool unit by whether PID 1 sees its mounts, as its processes are gone; options tell about the next."""
    unit, places = facts.unit(f"sidespawn-spool@{service}.service"), Places(service)
    unseen = [each for each in made_by_spool(service) if each not in facts.mounts]
    reasons = facts.options.get(unit.name, ())
    restart = f"systemctl restart {unit.name}"
    hint = f"{restart}; then restart the agents of {service}"
    if reasons and (unit.active != "active" or not unseen):
        found = f"{unit.name} will run in a private mount namespace when it is started again"
        message = f"{because(reasons)}: the host will not see its mounts, and no request will arrive"
        yield warning(Topic.SPOOL_MOUNTS, found, message, without(reasons, service), service)
    if unit.active != "active" or not unseen:
        return
    more = f", nor at {len(unseen) - 1} directories in it" if str(places.home) in unseen else ""
    found = f"{unit.name} is active, but the host has no mount at {unseen[0] if more else ', '.join(unseen)}{more}"
    if reasons:
        message = f"{because(reasons)}: the host does not see its mounts, and no request arrives"
        yield problem(Topic.SPOOL_MOUNTS, found, message, f"{without(reasons, service)}; {hint}", service)
    elif str(places.spool) in unseen:
        yield problem(
            Topic.SPOOL_MOUNTS, found, "something has unmounted it, and no request arrives", hint, service, restart
        )
    else:
        message = "an earlier version made the directories, with less separation from containers"
        renew = f"sidespawn enable {service}"
        yield warning(Topic.SPOOL_MOUNTS, found, message, f"{renew}; then restart its agents", service, renew)


def judge_service(facts: Facts, service: str) -> Iterator[Finding]:
    """Judge the running process or, if none runs, the options of the next one."""
    for name in (f"sidespawn@{service}.service", f"sidespawn-podman@{service}.service"):
        unit = facts.unit(name)
        reasons, mine = facts.options.get(name, ()), facts.namespaces.get(unit.pid, "")
        if mine == facts.namespaces[1] or not (mine or reasons):
            continue
        found = f"{name} {'runs' if mine else 'will run'} in a private mount namespace"
        hint = without(reasons, service) if reasons else f"look for what implies one: systemctl cat {name}"
        if name.startswith("sidespawn-podman@"):
            message = "each side container keeps a copy of all mounts of the host, which slows down every start"
            yield warning(Topic.MOUNT_NAMESPACE, found, f"{because(reasons)}: {message}", hint, service)
        else:
            message = f"{facts.services[service]} cannot see what it mounts for side containers, and every start fails"
            yield problem(Topic.MOUNT_NAMESPACE, found, f"{because(reasons)}: {message}", hint, service)


def because(reasons: tuple[Option, ...]) -> str:
    return f"{', '.join(map(str, reasons)) or 'an unknown option'} gives it a private mount namespace"


def without(reasons: tuple[Option, ...], service: str) -> str:
    """Return what to do about the options: rewrite our own files, remove an operator's options."""
    shipped = {path.name for path in SHIPPED.iterdir()} | {"engine.conf"}
    foreign = [each for each in reasons if each.path.rpartition("/")[2] not in shipped]
    if not foreign:
        return f"sidespawn enable {service}, which renews the units"
    return f"remove {', '.join(f'{each.name}= from {each.path}' for each in foreign)}; systemctl daemon-reload"
