"""Examines units and files of the three deployers that give a container more than sidespawn's agents need.

A script counts if it enters the namespaces of PID 1, or makes an engine start, stop or enter a container; its name
alone is not enough. In units and in deployers' descriptions of containers, mount sources are judged like those of
running containers.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from os.path import realpath
from pathlib import Path

from sidespawn.host_scan import mounts
from sidespawn.host_scan.findings import Deployment, Finding, Kind
from sidespawn.host_scan.sources import Sources, is_beneath
from sidespawn.system.files import closing, read_up_to

LARGEST = 1 << 20  # bytes read of a file
LONGEST = 2000  # characters of a script's line that are searched: an agent may have written it, to keep us busy
# Under `root`: directories of TripleO's and EDPM's wrappers and kill scripts, and of other kill scripts.
WRAPPERS = ("var/lib/neutron/*wrapper", "var/lib/neutron/*/*wrapper", "usr/local/lib/neutron-wrappers/*")
KILL_SCRIPTS = ("var/lib/neutron/kill_scripts/*", "etc/neutron/kill_scripts/*")
UNITS = (
    "etc/containers/systemd/**/*.container",
    "etc/containers/systemd/**/*.container.d/*.conf",
    "usr/share/containers/systemd/**/*.container",
    "run/containers/systemd/**/*.container",
    "etc/systemd/system/*.service",
    "etc/systemd/system/*.service.d/*.conf",
)
# Units of users' own service managers, whose engines only have those users' rights.
USERS_UNITS = "etc/containers/systemd/users"
VOLUMES = tuple(f"{place}/containers/systemd/**/*.volume" for place in ("etc", "usr/share", "run"))
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
STARTUP = ("var/lib/tripleo-config/container-startup-config/**/*.json", "var/lib/edpm-config/**/*.json")
HIERADATA = ("etc/puppet/hieradata/**/*",)
# Here puppet-tripleo, in releases with docker, makes docker listen on DockerAdditionalSockets.
DOCKER = ("etc/sysconfig/docker", "etc/default/docker")
LISTENERS = (
    *DOCKER,
    "etc/docker/daemon.json",
    *(f"etc/systemd/system/{unit}" for name in ("docker", "podman") for unit in (f"{name}.*", f"{name}.*.d/*.conf")),
)

ENTERS = re.compile(r"\bnsenter\b.*(-t\s*1\b|--target[=\s]1\b)|\bnsenter\b.*/proc/1/ns/")
CALLS = re.compile(r"\b(podman|docker|nerdctl|crictl)\b(?:\s+-\S+)*\s+(run|exec|rm|kill|stop|start|ps|create)\b")
VARIABLE = re.compile(r"""\b\w+=["']?(?:\S*/)?(podman|docker|nerdctl)\b["']?\s*$""")
SETTING = re.compile(r"additional_sockets|(dhcp|l3|ovn_metadata)_agent_wrappers", re.IGNORECASE)
LISTENS = re.compile(r"(?:-H|--host)[=\s]+unix://(?!(?:/var)?/run/docker\.sock(?![\w.-]))[^\s'\"]+")
ON_THE_NETWORK = re.compile(r"tcp://[^\s\"',\]]*|^\s*ListenStream\s*=\s*(?![/%@])[\w.:\[\]]+")
CERTIFICATES = re.compile(r"""\btlsverify\b(?!["']?\s*[:=]\s*["']?false)""")
COMMENT = re.compile(r"(^|\s)#.*")  # in YAML
PRIVILEGED = re.compile(r"(^|[\s=])--privileged(?!=false)(\s|=|$)")


def look(sources: Sources, root: Path = Path("/")) -> Iterator[Finding]:
    yield from scripts(root, WRAPPERS, Kind.WRAPPER_SCRIPT)
    yield from scripts(root, KILL_SCRIPTS, Kind.KILL_SCRIPT)
    yield from units(root, sources)
    yield from volumes(root, sources)
    yield from manifests(root, sources)
    yield from startup_configurations(root, sources)
    yield from settings(root, HIERADATA, SETTING)
    yield from settings(root, DOCKER, LISTENS)
    yield from listeners(root)


def scripts(root: Path, patterns: tuple[str, ...], kind: Kind) -> Iterator[Finding]:
    for path, lines in files(root, patterns):
        for number, whole in lines:
            line = whole[:LONGEST]
            if not line.lstrip().startswith("#") and (
                found := ENTERS.search(line) or CALLS.search(line) or VARIABLE.search(line)
            ):
                yield at(path, number, kind, found[0].strip(), deployment_of(root))
                break


def units(root: Path, sources: Sources) -> Iterator[Finding]:
    for path, lines in files(root, UNITS):
        if path.is_relative_to(root / USERS_UNITS):
            continue
        is_quadlet = ".container" in path.name or ".container.d" in str(path)
        emptied = emptied_keys(path)
        for number, line in lines:
            if line.lstrip().startswith(("#", ";")) or line.partition("=")[0].strip() in emptied:
                continue
            deployment = Deployment.EDPM if "edpm" in str(path) else Deployment.NONE
            for source in mounts.sources(line):
                if is_reaching(source, sources):
                    yield at(path, number, Kind.UNIT_FILE, f"mounts {source}", deployment)
            if PRIVILEGED.search(line) and (is_quadlet or CALLS.search(line)) and is_an_agents(path):
                yield at(path, number, Kind.UNIT_FILE, "is privileged", deployment)


def volumes(root: Path, sources: Sources) -> Iterator[Finding]:
    """Return Quadlet's volumes, which containers mount by name."""
    for path, lines in files(root, VOLUMES):
        for number, line in lines:
            key, _, value = mounts.with_runtime_directory(line).partition("=")
            if key.strip() == "Device" and is_reaching(value.strip(), sources):
                yield at(path, number, Kind.UNIT_FILE, f"is a volume of {value.strip()}", Deployment.NONE)


def manifests(root: Path, sources: Sources) -> Iterator[Finding]:
    for path, lines in files(root, MANIFESTS):
        text = "\n".join(line if path.suffix == ".json" else COMMENT.sub("", line) for _, line in lines)
        for number, source in mounts.host_paths(text):
            if is_reaching(source, sources):
                yield at(path, number, Kind.UNIT_FILE, f"mounts {source}", Deployment.KUBERNETES)


def listeners(root: Path) -> Iterator[Finding]:
    """Yield where an engine listens on the network, unless one of docker's files makes it ask for certificates."""
    found = {path: list(lines) for path, lines in files(root, LISTENERS)}
    certified = any(CERTIFICATES.search(line) for lines in found.values() for _, line in lines)
    for path, lines in found.items():
        is_dockers = "podman" not in str(path.relative_to(root))
        for number, line in lines:
            is_comment = line.lstrip().startswith(("#", ";"))
            if not is_comment and (address := ON_THE_NETWORK.search(line)) and not (is_dockers and certified):
                yield at(path, number, Kind.ENGINE_LISTENER, address[0].strip(), Deployment.NONE)


def emptied_keys(path: Path) -> set[str]:
    """Return the keys of a Quadlet unit that a drop-in beside it empties, so the unit's own values do not apply."""
    drop_ins = path.with_name(f"{path.name}.d").glob("*.conf") if path.suffix == ".container" else ()
    texts = [read(each).decode(errors="replace") for each in drop_ins]
    return {found for text in texts for found in re.findall(r"(?m)^[ \t]*(\w+)[ \t]*=[ \t]*$", text)}


def is_an_agents(path: Path) -> bool:
    return re.search(r"neutron|ovn_metadata|ovn-metadata", str(path)) is not None


def startup_configurations(root: Path, sources: Sources) -> Iterator[Finding]:
    """Yield the files from which TripleO and EDPM start containers: JSON with volumes and privileged."""
    for path, lines in files(root, STARTUP):
        rows = list(lines)
        with suppress(ValueError, AttributeError, TypeError, RecursionError):
            content = json.loads("\n".join(line for _, line in rows))
            deployment = Deployment.EDPM if "edpm" in str(path) else Deployment.TRIPLEO
            for volume in content.get("volumes") or ():
                source = str(volume).partition(":")[0]
                if is_reaching(source, sources):
                    yield at(path, line_of(rows, source), Kind.UNIT_FILE, f"mounts {source}", deployment)
            if content.get("privileged") is True and is_an_agents(path):
                yield at(path, line_of(rows, '"privileged"'), Kind.UNIT_FILE, "is privileged", deployment)


def line_of(rows: list[tuple[int, str]], text: str) -> int:
    return next((number for number, line in rows if text in line), 1)


def settings(root: Path, patterns: tuple[str, ...], setting: re.Pattern[str]) -> Iterator[Finding]:
    for path, lines in files(root, patterns):
        for number, line in lines:
            if not line.lstrip().startswith("#") and (found := setting.search(line)):
                yield at(path, number, Kind.DEPLOYER_SETTING, found[0], Deployment.TRIPLEO)


def is_reaching(source: str, sources: Sources) -> bool:
    """Return whether it is one of them, or a directory with one in it."""
    if not source.startswith("/"):
        return False
    resolved = realpath(source)
    inside = (*sources.present, *(store for store in sources.storage if os.path.isdir(store)))
    exact = resolved in sources.sockets | sources.storage | {"/run", "/"}
    return exact or any(is_beneath(path, resolved) for path in inside)


def files(root: Path, patterns: tuple[str, ...]) -> Iterator[tuple[Path, Iterator[tuple[int, str]]]]:
    """Yield each file once, with its numbered lines. A file that is not text has none."""
    for path in sorted({each for pattern in patterns for each in root.glob(pattern)}):
        text = read(path)
        if b"\0" not in text:
            yield path, enumerate(text.decode(errors="replace").splitlines(), start=1)


def read(path: Path) -> bytes:
    """Return a regular file's content; empty if it is too large or something else.

    Some of the directories belong to agents, whose links may lead anywhere. So a path is opened only once it is known
    to be a regular file, and reading does not wait for kernel files that would block.
    """
    with suppress(OSError), closing(os.open(path, os.O_PATH | os.O_CLOEXEC)) as found:
        if stat.S_ISREG(os.fstat(found).st_mode):
            with closing(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as descriptor:
                text = read_up_to(descriptor, LARGEST + 1)
                return text if len(text) <= LARGEST else b""
    return b""


def deployment_of(root: Path) -> Deployment:
    """Return the deployment. EDPM and TripleO have their scripts in the same places."""
    if (root / "var/lib/edpm-config").is_dir():
        return Deployment.EDPM
    return Deployment.TRIPLEO if (root / "var/lib/tripleo-config").is_dir() else Deployment.NONE


def at(path: Path, number: int, kind: Kind, found: str, deployment: Deployment) -> Finding:
    return Finding(kind=kind, where=f"{path}:{number}", found=found, deployment=deployment)
