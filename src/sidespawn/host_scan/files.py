"""Examines files of the three deployers, units, manifests and compose files for what gives a container more than
sidespawn's agents need.

A script counts if it enters the namespaces of PID 1, or makes an engine start, stop or enter a container; its name
alone is not enough. In units and in deployers' descriptions of containers, mount sources are judged like those of
running containers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from sidespawn.host_scan import compose, listeners, mounts, settings, units
from sidespawn.host_scan.containers import AGENT, KILL_SCRIPTS_WITHIN, SCRIPTS_WITHIN, Container, is_covered
from sidespawn.host_scan.findings import Deployment, Finding, Kind, at
from sidespawn.host_scan.sources import OF_ENGINES, Sources, followed, is_beneath, joined, relative
from sidespawn.host_scan.texts import LARGEST, Row, files, numbered, read, text_of
from sidespawn.host_scan.units import Assignment, Unit
from sidespawn.host_scan.yaml_entries import Entry, entries
from sidespawn.system.places import RUN

__all__ = ["LARGEST", "look", "read", "scripts", "scripts_of"]

LONGEST = 2000  # characters of a script's line that are searched: an agent may have written it, to keep us busy
# Under `root`: directories of TripleO's and EDPM's wrappers and kill scripts, and of other kill scripts.
WRAPPERS = ("var/lib/neutron/*wrapper", "var/lib/neutron/*/*wrapper", "usr/local/lib/neutron-wrappers/*")
KILL_SCRIPTS = ("var/lib/neutron/kill_scripts/*", "etc/neutron/kill_scripts/*")
# Manifests of the kubelet and of distributions with their own, and those that Quadlet's .kube units name.
MANIFESTS = tuple(
    f"{place}/{pattern}"
    for place in (
        "etc/kubernetes/manifests",
        "etc/containers/systemd/**",
        "var/lib/rancher/*/agent/pod-manifests",
        "var/lib/rancher/*/server/manifests",
    )
    for pattern in ("*.yaml", "*.yml", "*.json")
)
KUBELET = "var/lib/kubelet/config.yaml"
STARTUP = ("var/lib/tripleo-config/container-startup-config/**/*.json", "var/lib/edpm-config/**/*.json")

ENTERS = re.compile(
    r"\bnsenter\b.*(-\w*t\s*1\b|--target[=\s]\s*1\b)|\bnsenter\b.*/proc/1/ns/|\bchroot\s+/proc/1/root\b"
)
CALLS = re.compile(
    r"\b(podman|docker|nerdctl|crictl|podman-remote)\b(?:\s+-\S+)*\s+"
    r"(?:container\s+)?(run|exec|rm|kill|stop|start|restart|ps|create|inspect)\b"
)
REACHES = re.compile(
    r"--unix-socket[=\s]\s*\S*(docker|podman|containerd|crio)\.sock\b|\b(DOCKER|CONTAINER)_HOST=\S*[:/]"
)
VARIABLE = re.compile(r"""\b\w+=["']?(?:\S*/)?(podman|docker|nerdctl)\b["']?\s*$""")
QUOTES = re.compile(r"""["'],\s*["']""")  # between words of a list, as in Python
SAYS = re.compile(r"""\s*(echo|printf|logger|add_date)\b[^|;&`$]*$""")
COMMENT = re.compile(r"(^|\s)#.*")  # in YAML
AN_AGENTS = re.compile(r"neutron|ovn[_-]metadata|(^|[_/-])ovn[_-]agent")


def look(sources: Sources, root: Path = Path("/"), failed: list[str] | None = None) -> Iterator[Finding]:
    """Yield what the files give. Of a file that cannot be read to its end, add a sentence to `failed`."""
    failed = [] if failed is None else failed
    yield from scripts(root, WRAPPERS, Kind.WRAPPER_SCRIPT)
    yield from scripts(root, KILL_SCRIPTS, Kind.KILL_SCRIPT)
    yield from of_units(root, sources)
    yield from volumes(root, sources)
    yield from manifests(root, sources, failed)
    yield from startup_configurations(root, sources)
    yield from compose_files(root, sources, failed)
    yield from settings.look(root)
    for each in listeners.look(root):
        yield at(each.path, each.number, Kind.ENGINE_LISTENER, each.shown)


# ---------------------------------------------------------------- scripts


def scripts(root: Path, patterns: Iterable[str], kind: Kind) -> Iterator[Finding]:
    for path, rows in files(root, patterns):
        if found := first_call(rows):
            yield at(path, found[0], kind, found[1], deployment_of(root))


def scripts_of(container: Container, root: Path = Path("/")) -> Iterator[Finding]:
    """Yield wrappers and kill scripts that a container's mounts bring to the places where it would use them."""
    if container.is_side_container:
        return
    for mount in container.mounts:
        if is_beneath(mount.source, str(RUN)):
            continue
        for patterns, kind in ((SCRIPTS_WITHIN, Kind.WRAPPER_SCRIPT), (KILL_SCRIPTS_WITHIN, Kind.KILL_SCRIPT)):
            for path in sorted({path for each in patterns for path in brought(root, mount.source, mount.target, each)}):
                within = joined(mount.target, relative(str(path), str(root / mount.source.lstrip("/"))))
                text = "" if is_covered(container, mount, within) else text_of(path)
                if text and (found := first_call(numbered(text))):
                    yield at(path, found[0], kind, found[1], container.deployment)


def brought(root: Path, source: str, target: str, pattern: str) -> Iterator[Path]:
    """Yield the files of a mount whose paths in the container match."""
    origin = root / source.lstrip("/")
    if fnmatch(target, pattern) and target.count("/") == pattern.count("/"):
        yield origin
        return
    wanted, given = pattern.strip("/").split("/"), target.strip("/").split("/") if target.strip("/") else []
    if len(given) < len(wanted) and all(fnmatch(*each) for each in zip(given, wanted, strict=False)):
        with suppress(OSError):
            yield from origin.glob("/".join(wanted[len(given) :]))


def first_call(rows: Iterable[Row]) -> tuple[int, str] | None:
    for number, line in commands(rows):
        found = ENTERS.search(line) or CALLS.search(line) or REACHES.search(line) or VARIABLE.search(line)
        if found and not SAYS.match(line):
            return number, found[0].strip()
    return None


def commands(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield lines with those that continue them, cut off if they are long. Comments are left out."""
    held, start = "", 0
    for number, whole in rows:
        line = whole[:LONGEST]
        if line.lstrip().startswith("#"):
            continue
        start = start if held else number
        held = f"{held} {line.strip()}"[:LONGEST] if held else line
        if len(whole) <= LONGEST and held.endswith("\\"):
            held = held[:-1]
            continue
        yield start, QUOTES.sub(" ", without_comment(held))
        held = ""
    if held:
        yield start, QUOTES.sub(" ", without_comment(held))


def without_comment(line: str) -> str:
    before, hash_, _ = line.partition(" #")
    quotes = before.count('"') % 2 or before.count("'") % 2
    return line if quotes or not hash_ else before


# ---------------------------------------------------------------- units


def of_units(root: Path, sources: Sources) -> Iterator[Finding]:
    for kind in ("container", "pod"):
        for unit in units.load(root, units.QUADLET, kind):
            yield from judge_unit(unit, root, sources, is_quadlet=True)
    for unit in units.load(root, units.SYSTEMD, "service"):
        yield from judge_unit(unit, root, sources, is_quadlet=False)


def judge_unit(unit: Unit, root: Path, sources: Sources, *, is_quadlet: bool) -> Iterator[Finding]:
    deployment = deployment_of_unit(unit, is_quadlet=is_quadlet)
    is_agents = is_an_agents(f"{unit.path.relative_to(root)} {unit.last('ContainerName')}")
    given: dict[str, tuple[Assignment, str]] = {}
    is_served = False
    for each in unit.assignments:
        value = unit.expanded(each.value) if not is_quadlet else each.value
        for source in mounts.sources(each.key, value):
            is_served = is_served or (is_beneath(source, str(RUN)) and source.endswith("/spool"))
            if is_reaching(source, sources):
                path, number = unit.place_of(each, source if source in each.value else source.rpartition("/")[2])
                yield at(path, number, Kind.UNIT_FILE, f"mounts {source}", deployment, is_agents=is_agents)
        for what, text in mounts.privileges(each.key, value).items():
            given.setdefault(what, (each, text))
    if is_served and len(given) == 1:
        given.pop("has the host's pids", None)  # which the wrappers need
    if given and is_agents:
        assignment, text = next(iter(given.values()))
        yield at(*unit.place_of(assignment, text), Kind.UNIT_FILE, " and ".join(given), deployment)


def deployment_of_unit(unit: Unit, *, is_quadlet: bool) -> Deployment:
    labels = [each.value for each in unit.assignments if each.key in ("Label", "PodmanArgs")]
    if "edpm" in unit.name or any("managed_by=edpm" in label for label in labels):
        return Deployment.EDPM
    return Deployment.QUADLET if is_quadlet else Deployment.NONE


def volumes(root: Path, sources: Sources) -> Iterator[Finding]:
    """Return Quadlet's volumes, which containers mount by name."""
    for unit in units.load(root, units.QUADLET, "volume"):
        for each in unit.assignments:
            source = mounts.with_runtime_directory(each.value)
            if each.key == "Device" and is_reaching(source, sources):
                found = f"is a volume of {source}"
                yield at(each.path, each.rows[0][0], Kind.UNIT_FILE, found, Deployment.NONE, is_agents=False)


def is_an_agents(name: str) -> bool:
    return AN_AGENTS.search(name) is not None or AGENT.fullmatch(name) is not None


# ---------------------------------------------------------------- manifests and other descriptions of containers


def manifests(root: Path, sources: Sources, failed: list[str]) -> Iterator[Finding]:
    kubes = [unit.last("Yaml") for unit in units.load(root, units.QUADLET, "kube")]
    named = [each.strip("\"'") for each in kubes] + [f"{each}/*" for each in static_pods(root, failed)]
    own = (each.lstrip("/") for each in named if re.fullmatch(r"/[^*?\[\]]+(/\*)?", each))
    for path, rows in files(root, (*MANIFESTS, *own)):
        if units.USERS in str(path.relative_to(root)):
            continue
        lines = [line for _, line in rows]
        text = "\n".join(line if path.suffix == ".json" else COMMENT.sub("", line) for line in lines)
        values = entries(path, "\n".join(lines), failed)
        paths = {(each.line, each.value) for each in values if each.path[-2:] == ("hostPath", "path")}
        for number, source in sorted(paths | set(mounts.host_paths(text))):
            if is_reaching(source, sources):
                yield at(path, number, Kind.UNIT_FILE, f"mounts {source}", Deployment.KUBERNETES)
        yield from privileged_agents(path, values)


def static_pods(root: Path, failed: list[str]) -> list[str]:
    """Return where the kubelet is set to read its manifests."""
    values = entries(root / KUBELET, text_of(root / KUBELET) or "", failed)
    return [each.value.rstrip("/") for each in values if each.path == ("staticPodPath",)]


def privileged_agents(path: Path, found: Iterable[Entry]) -> Iterator[Finding]:
    """Yield containers of a manifest that are privileged and named like an agent."""
    found = tuple(found)
    names = {(each.document, each.path[:-1]): each.value for each in found if each.path[-1:] == ("name",)}
    for each in found:
        is_set = each.path[-2:] == ("securityContext", "privileged") and each.value.lower() == "true"
        if is_set and is_an_agents(names.get((each.document, each.path[:-2]), "")):
            yield at(path, each.line, Kind.UNIT_FILE, "is privileged", Deployment.KUBERNETES)


def startup_configurations(root: Path, sources: Sources) -> Iterator[Finding]:
    """Yield the files from which TripleO and EDPM start containers: JSON with volumes and privileged."""
    for path, lines in files(root, STARTUP):
        rows = list(lines)
        with suppress(ValueError, AttributeError, TypeError, RecursionError):
            content = json.loads("\n".join(line for _, line in rows))
            deployment = Deployment.EDPM if "edpm" in str(path.relative_to(root)) else Deployment.TRIPLEO
            is_agents = is_an_agents(str(path.relative_to(root)))
            for volume in content.get("volumes") or ():
                source = str(volume).partition(":")[0]
                if is_reaching(source, sources):
                    number = line_of(rows, source)
                    yield at(path, number, Kind.UNIT_FILE, f"mounts {source}", deployment, is_agents=is_agents)
            if content.get("privileged") is True and is_agents:
                yield at(path, line_of(rows, '"privileged"'), Kind.UNIT_FILE, "is privileged", deployment)


def compose_files(root: Path, sources: Sources, failed: list[str]) -> Iterator[Finding]:
    for service in compose.look(root, failed):
        is_agents = is_an_agents(service.name) or is_an_agents(service.container)
        is_served = False
        for source, number in service.mounts:
            is_served = is_served or (is_beneath(source, str(RUN)) and source.endswith("/spool"))
            if is_reaching(source, sources):
                found = f"{service.name} mounts {source}"
                yield at(service.path, number, Kind.UNIT_FILE, found, Deployment.COMPOSE, is_agents=is_agents)
        if is_agents:
            pids = [("has the host's pids", service.host_pids)] if service.host_pids and not is_served else []
            for what, number in (*service.privileged, *pids):
                yield at(service.path, number, Kind.UNIT_FILE, f"{service.name} {what}", Deployment.COMPOSE)


def line_of(rows: list[Row], text: str) -> int:
    return next((number for number, line in rows if text in line), 1)


def is_reaching(source: str, sources: Sources) -> bool:
    """Return whether it is one of them, or a directory with one in it."""
    if not source.startswith("/"):
        return False
    resolved = followed(source)
    inside = (*sources.present, *(store for store in sources.storage if os.path.isdir(store)))
    exact = resolved in sources.sockets | sources.storage | OF_ENGINES | {"/run", "/"}
    return exact or any(is_beneath(path, resolved) for path in inside) or sources.users_engine(resolved) != ""


def deployment_of(root: Path) -> Deployment:
    """Return the deployment. EDPM and TripleO have their scripts in the same places."""
    if (root / "var/lib/edpm-config").is_dir():
        return Deployment.EDPM
    return Deployment.TRIPLEO if (root / "var/lib/tripleo-config").is_dir() else Deployment.NONE
