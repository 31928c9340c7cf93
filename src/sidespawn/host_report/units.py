"""Examines systemd's view of the services: the unit files on disk, and the current units."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidespawn.errors import LaunchError, Reason
from sidespawn.host_report.findings import Finding, Topic, ok, problem, warning
from sidespawn.setup.systemd import (
    METRICS,
    SHIPPED,
    SYSTEMCTL,
    all_units,
    command_of,
    filled_in,
    path_unit,
    podman_units,
    started_units,
    units,
)
from sidespawn.system.processes import last_line, run

# systemd.unit(5): the first directory with a file of that name wins.
DIRECTORIES = tuple(Path(each, "systemd/system") for each in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"))
PROPERTIES = ("Id", "LoadState", "ActiveState", "MainPID", "FragmentPath", "DropInPaths", "NeedDaemonReload")
METRICS_COMMAND = re.compile(r"^ExecStart=(.+) metrics --textfile ", re.MULTILINE)
CODE, SETTINGS = "run.py", "engines/containers.conf"  # of a package, what the units name
PODMANS_SETTINGS = re.compile(rf"^Environment=.*\bCONTAINERS_CONF_OVERRIDE=(\S+)/{re.escape(SETTINGS)}$", re.MULTILINE)
TIMEOUT = 60.0


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit as systemd has loaded it."""

    name: str
    active: str = "inactive"  # ActiveState
    pid: int = 0  # of the main process, 0 while none runs
    files: tuple[str, ...] = ()  # the unit file, then its drop-ins in the order in which they are read
    needs_reload: bool = False
    is_masked: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    files: Mapping[str, str]  # the installed unit files: content by path, by precedence
    shipped: Mapping[str, str]  # of this version: content by name, with @PYTHON@ and the like not filled in
    package: str  # where this version is
    packages: frozenset[str] = frozenset()  # of the packages that the files name, those with a run.py
    units: tuple[Unit, ...] = ()
    services: tuple[str, ...] = ()  # enabled


def unit_files() -> dict[str, str]:
    """Return every file of our units on this host. /lib may be the same directory as /usr/lib."""
    found: dict[Path, str] = {}
    for directory in dict.fromkeys(each.resolve() for each in DIRECTORIES):
        for path in sorted((*directory.glob("sidespawn*@.*"), *map(directory.joinpath, METRICS))):
            if path.is_file():
                found[path] = path.read_text(encoding="utf-8", errors="replace")
    return {str(path): content for path, content in found.items()}


def shipped_files() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(SHIPPED.glob("sidespawn*.*"))}


def loaded(services: Iterable[str]) -> tuple[Unit, ...]:
    """Return the loaded units. Raises LaunchError if systemd does not answer."""
    names = [name for service in services for name in (*all_units(service), *podman_units(service))]
    if not names:
        return ()
    done = run((SYSTEMCTL, "show", f"--property={','.join(PROPERTIES)}", *names), TIMEOUT)
    if done.code != 0:
        raise LaunchError(Reason.ENGINE_FAILED, f"systemctl show: {last_line(done.stderr)}")
    return tuple(parse(block) for block in done.stdout.strip().split("\n\n"))


def parse(block: str) -> Unit:
    said = dict(line.partition("=")[::2] for line in block.splitlines())
    return Unit(
        name=said.get("Id", ""),
        active=said.get("ActiveState", ""),
        pid=int(said.get("MainPID") or 0),
        files=tuple(path for path in (said.get("FragmentPath", ""), *said.get("DropInPaths", "").split()) if path),
        needs_reload=said.get("NeedDaemonReload") == "yes",
        is_masked=said.get("LoadState") == "masked",
    )


def existing_packages(files: Mapping[str, str]) -> frozenset[str]:
    named = {package for content in files.values() for _, package in [named_in(content)] if package}
    return frozenset(each for each in named if Path(each, CODE).exists())


def named_in(text: str) -> tuple[str, str]:
    """Return the interpreter and the package that a unit file names; empty if it names none."""
    python, package = command_of(text)
    settings = PODMANS_SETTINGS.search(text)
    return python, package or (settings[1] if settings else "")


def judge(facts: Facts) -> Iterator[Finding]:
    found = [*judge_files(facts), *judge_units(facts)]
    yield from found or [
        ok(Topic.UNITS, f"enabled services: {len(facts.services)}; their units are current and active")
    ]


def judge_files(facts: Facts) -> Iterator[Finding]:
    renew = f"sidespawn enable {facts.services[0] if facts.services else 'SERVICE'}"
    by_name: dict[str, list[str]] = {}
    for path in facts.files:
        by_name.setdefault(Path(path).name, []).append(path)
    for name, paths in by_name.items():
        yield from judge_file(facts, name, paths, renew)
    missing = [name for name in facts.shipped if name not in by_name] if facts.services else []
    if missing:
        found = f"unit files are missing: {', '.join(missing)}"
        yield problem(Topic.UNIT_FILES, found, "enabled services do not start", renew, command=renew)


def judge_file(facts: Facts, name: str, paths: list[str], renew: str) -> Iterator[Finding]:
    """Judge all files of one name; the first is in effect."""
    path, topic = paths[0], Topic.UNIT_FILES
    python, package = named_in(facts.files[path])
    metrics = METRICS_COMMAND.search(facts.files[path])
    text = filled_in(facts.shipped.get(name, ""), python, package, metrics[1] if metrics else "")
    remove, renewed = f"rm {path}; systemctl daemon-reload", renew if facts.services else ""
    if name not in facts.shipped:
        message = "an earlier version installed it, and systemd still offers it"
        yield warning(topic, f"{path} is from another version", message, remove, path, remove)
    elif package and package not in facts.packages:
        found = f"{path} {f'runs {package}/{CODE}' if python else f'names {package}/{SETTINGS}'}, which does not exist"
        yield problem(topic, found, "every request fails", renew, path, renewed)
    elif paths[1:]:
        found = f"{path} hides {', '.join(paths[1:])}"
        yield warning(
            topic, found, "upgrades of the package have no effect", f"unless intended: {remove}", path, remove
        )
    elif package not in ("", facts.package):
        message = f"enabled services run that one, not {facts.package}"
        yield warning(topic, f"{path} belongs to the sidespawn in {package}", message, renew, path, renewed)
    elif facts.files[path] != text:
        message = "it is from another version, or was changed by hand"
        hint = f"{renew}, which renews it; put your own changes into a drop-in"
        yield warning(topic, f"{path} differs from this version's", message, hint, path, renewed)


def judge_units(facts: Facts) -> Iterator[Finding]:
    """Judge units that must be active: are they, and do they match the files on disk?"""
    stale = [each.name for each in facts.units if each.needs_reload and not each.is_masked]
    if stale:
        found = f"systemd has older versions of {', '.join(stale)} in memory than on disk"
        reload = "systemctl daemon-reload"
        yield warning(Topic.DAEMON_RELOAD, found, "the changes are not in effect", reload, command=reload)
    by_name = {each.name: each for each in facts.units}
    for service in facts.services:
        own = (*units(service), path_unit(service), *started_units(service), *podman_units(service))
        masked = [by_name[name] for name in own if name in by_name and by_name[name].is_masked]
        if masked:
            yield judge_masked(service, masked)
            continue
        needed = (*started_units(service)[1:], *units(service), path_unit(service))
        down = [name for name in needed if name in by_name and by_name[name].active != "active"]
        main = by_name.get(f"sidespawn@{service}.service")
        socket = by_name.get(f"sidespawn-podman@{service}.socket")
        if down:
            found = f"{service}: {', '.join(f'{name} is {by_name[name].active}' for name in down)}"
            # A path unit does not start while something blocks its path, which `enable` removes.
            is_path = path_unit(service) in down
            start = f"sidespawn enable {service}" if is_path else f"systemctl start {' '.join(down)}"
            hint = f"{start}; why: systemctl status {' '.join(down)}"
            is_only_timer = down == [f"sidespawn@{service}.timer"]
            judged = warning if is_only_timer else problem
            message = "nothing is cleaned up" if is_only_timer else "its agents' requests are not served"
            yield judged(Topic.SERVICE_UNITS, found, message, hint, service, start)
        elif socket is not None and socket.active == "failed":
            found = f"{service}: {socket.name}, at which it asks podman, has failed"
            restart = f"systemctl reset-failed {socket.name}; systemctl restart sidespawn@{service}.socket"
            hint = f"see journalctl --unit={socket.name}; then: {restart}"
            yield problem(Topic.SERVICE_UNITS, found, "its agents' requests are not served", hint, service, restart)
        elif main is not None and main.active == "failed":
            found = f"{service}: {main.name} has failed"
            restart = f"systemctl reset-failed {main.name}; systemctl restart sidespawn@{service}.socket"
            hint = f"see journalctl --unit={main.name}; then: {restart}"
            yield problem(Topic.SERVICE_UNITS, found, "its agents' requests are not served", hint, service, restart)


def judge_masked(service: str, masked: list[Unit]) -> Finding:
    """`systemctl mask` has linked a unit to /dev/null: it does not start, not even by hand."""
    names = " ".join(each.name for each in masked)
    runtime = "--runtime " if any(path.startswith("/run/") for each in masked for path in each.files[:1]) else ""
    unmask = f"systemctl unmask {runtime}{names}; sidespawn enable {service}"
    found = f"{service}: {', '.join(f'{each.name} is masked' for each in masked)}"
    message = "its agents' requests are not served, or will not be after the next boot"
    return problem(Topic.SERVICE_UNITS, found, message, f"if unintended: {unmask}", service, unmask)
