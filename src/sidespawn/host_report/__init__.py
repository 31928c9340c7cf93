"""Examines the host for `sidespawn check`. Nothing here runs on a request, and nothing changes the host.

Each module examines one thing. It collects facts, and its `judge` turns them into findings without looking again, so
that tests can supply the facts of any host. An error in one module becomes a finding and does not stop the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping

from sidespawn.errors import SidespawnError
from sidespawn.host_report import (
    agents,
    apparmor,
    engines,
    file_systems,
    journal,
    kernel,
    leftovers,
    mount_namespaces,
    network_namespaces,
    selinux,
    service_manager,
    trusted_code,
    units,
)
from sidespawn.host_report.findings import Finding, State, Topic, warning
from sidespawn.setup import hardening
from sidespawn.setup.services import Service, enabled, engines_in_use
from sidespawn.setup.systemd import PACKAGE, is_booted

Look = Callable[[tuple[Service, ...]], Iterable[Finding]]


def report(services: Iterable[Service]) -> tuple[Finding, ...]:
    """Return all findings, the worst first."""
    known = tuple(services)
    looks = dict(ALWAYS)
    if os.geteuid() == 0 and is_booted():
        looks |= FOR_ROOT
    found = [each for topic, look in looks.items() for each in attempt(topic, look, known)]
    if os.geteuid() != 0:
        message = "engines, units, mounts, agents and security modules were not checked"
        found.append(warning(Topic.ROOT, "this was not run as root", message, "run as root: sidespawn check"))
    return tuple(sorted(found, key=lambda each: ORDER[each.state]))


def concerning(service: Service) -> tuple[Finding, ...]:
    """Return the findings that are not ok and concern this service, or would if it were enabled."""
    known = (service,)
    looks: dict[str, Look] = {"kernel": look_at_kernel, "code": look_at_code}
    if os.geteuid() == 0:
        looks["engines"] = look_at_engine
    if os.geteuid() == 0 and service.is_enabled:
        looks |= {topic: look for topic, look in FOR_ROOT.items() if topic not in ("engines", "leftovers")}
    found = (each for topic, look in looks.items() for each in attempt(topic, look, known))
    return tuple(each for each in found if each.state is not State.OK)


def attempt(topic: str, look: Look, services: tuple[Service, ...]) -> Iterator[Finding]:
    try:
        yield from look(services)
    except Exception as error:  # noqa: BLE001 - whatever it is, an operator needs the other findings
        said, hint = f"{type(error).__name__}: {error}", ""
        if isinstance(error, SidespawnError):
            said, hint = error.message, error.hint
        found, message = f"{topic}: {said}", "this part of the host was not checked"
        hint = hint or "fix this error, then check again"
        yield warning(Topic.NOT_LOOKED_AT, found, message, hint, topic)


def look_at_kernel(services: tuple[Service, ...]) -> Iterator[Finding]:
    yield from kernel.judge(kernel.look(enabled(services)))


def look_at_systemd(services: tuple[Service, ...]) -> Iterator[Finding]:
    yield from service_manager.judge(service_manager.look(), engines_in_use(services))


def look_at_code(_: tuple[Service, ...]) -> Iterator[Finding]:
    yield trusted_code.judge_writable(trusted_code.writable_code())


def look_at_python(_: tuple[Service, ...]) -> Iterator[Finding]:
    yield from trusted_code.judge(trusted_code.look(units.unit_files()))


def look_at_engines(services: tuple[Service, ...]) -> Iterator[Finding]:
    used = engines_in_use(services)
    yield from engines.judge(engines.look(used), used)


def look_at_engine(services: tuple[Service, ...]) -> Iterator[Finding]:
    for each in services:
        if each.policy is not None:
            yield from engines.judge_of(each.policy.side_container.engine)


def look_at_units(services: tuple[Service, ...]) -> Iterator[Finding]:
    files, names = units.unit_files(), enabled(services)
    facts = units.Facts(
        files=files,
        shipped=units.shipped_files(),
        package=str(PACKAGE),
        packages=units.existing_packages(files),
        units=units.loaded(names),
        services=names,
    )
    yield from units.judge(facts)


def look_at_mounts(services: tuple[Service, ...]) -> Iterator[Finding]:
    chosen = {
        each.name: each.policy.side_container.engine if each.policy else "podman"
        for each in services
        if each.is_enabled
    }
    if chosen:
        version = service_manager.look().number
        yield from mount_namespaces.judge(mount_namespaces.look(chosen, units.loaded(chosen), version))


def look_at_agents(services: tuple[Service, ...]) -> Iterator[Finding]:
    yield from agents.judge(agents.look(enabled(services)), hardening.has_apparmor())


def look_at_apparmor(services: tuple[Service, ...]) -> Iterator[Finding]:
    yield from apparmor.judge(apparmor.look(), enabled(services))


def look_at_selinux(services: tuple[Service, ...]) -> Iterator[Finding]:
    names = enabled(services)
    yield from selinux.judge(selinux.look(names), names)


def look_at_network_namespaces(services: tuple[Service, ...]) -> Iterator[Finding]:
    yield from network_namespaces.judge(network_namespaces.look(), enabled(services))


def look_at_file_systems(services: tuple[Service, ...]) -> Iterator[Finding]:
    yield from file_systems.judge(file_systems.look(engines_in_use(services)))


def look_at_journal(_: tuple[Service, ...]) -> Iterator[Finding]:
    yield from journal.judge(journal.look())


def look_at_leftovers(services: tuple[Service, ...]) -> Iterator[Finding]:
    yield from leftovers.judge(leftovers.look(services))


ORDER = {State.PROBLEM: 0, State.WARNING: 1, State.OK: 2}
ALWAYS: Mapping[str, Look] = {
    "kernel": look_at_kernel,
    "systemd": look_at_systemd,
    "python": look_at_python,
    "code": look_at_code,
}
FOR_ROOT: Mapping[str, Look] = {
    "engines": look_at_engines,
    "units": look_at_units,
    "mount-namespaces": look_at_mounts,
    "agents": look_at_agents,
    "network-namespaces": look_at_network_namespaces,
    "file-systems": look_at_file_systems,
    "apparmor": look_at_apparmor,
    "selinux": look_at_selinux,
    "journal": look_at_journal,
    "leftovers": look_at_leftovers,
}
