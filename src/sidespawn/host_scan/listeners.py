"""Finds where docker and podman listen, by units, drop-ins and docker's own configuration, running or not.

Only addresses to listen at count: `hosts` in daemon.json, -H of dockerd, the argument of `podman system service`, and
ListenStream of their socket units.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidespawn.host_scan import units
from sidespawn.host_scan.mounts import program, with_runtime_directory, words
from sidespawn.host_scan.texts import files, text_of
from sidespawn.host_scan.units import Unit

# Here puppet-tripleo, in releases with docker, makes docker listen on DockerAdditionalSockets.
DOCKER = ("etc/sysconfig/docker", "etc/sysconfig/docker-network", "etc/default/docker")
DAEMON = ("etc/docker/daemon.json", "var/snap/docker/current/config/daemon.json")
NAMES = ("docker", "podman")
OLD_DAEMON = (("docker", "daemon"), ("docker", "-d"))
LOCAL = ("unix:", "fd:", "npipe:", "/", "$", "@")
STORAGE = re.compile(r"""(?m)^\s*(?:graphroot|rootless_storage_path)\s*=\s*["'](/[^"']*)["']""")


@dataclass(frozen=True, kw_only=True)
class Listener:
    path: Path
    number: int
    shown: str  # as it is written
    address: str
    is_dockers: bool
    asks: bool = False  # for a certificate, by its own command line

    @property
    def is_network(self) -> bool:
        return not self.address.startswith(LOCAL) and self.address != ""


def look(root: Path) -> Iterator[Listener]:
    """Yield those on the network that ask for no certificate."""
    found = list(every(root))
    certified = any(settings.get("tlsverify") is True for _, settings in daemons(root))
    certified = certified or any(each.asks for each in found if each.is_dockers) or asking_options(root)
    for each in found:
        if each.is_network and not (each.is_dockers and certified):
            yield each


def local(root: Path) -> Iterator[str]:
    """Yield the paths of sockets at which docker or podman are set to listen."""
    for each in every(root):
        path = each.address.removeprefix("unix:")
        if each.address.startswith(("unix:", "/")) and path.startswith("/"):
            yield "/" + path.lstrip("/")


def storage(root: Path) -> Iterator[str]:
    """Yield directories that docker and podman are set to store containers in."""
    for _, settings in daemons(root):
        yield from (str(settings[key]) for key in ("data-root", "graph") if settings.get(key))
    for path in ("etc/containers/storage.conf",):
        yield from (found for found in STORAGE.findall(text_of(root / path) or ""))


def every(root: Path) -> Iterator[Listener]:
    for unit in units.load(root, units.SYSTEMD, "service"):
        yield from of_service(unit)
    for unit in units.load(root, units.SYSTEMD, "socket"):
        yield from of_socket(unit)
    for path, settings in daemons(root):
        hosts = settings.get("hosts")
        for each in hosts if isinstance(hosts, list) else ():
            yield Listener(
                path=path, number=line_of(path, str(each)), shown=str(each), address=str(each), is_dockers=True
            )
    for path, rows in files(root, DOCKER):
        for number, line in rows:
            if not line.lstrip().startswith("#"):
                for address in hosts_of(words(re.sub(r"^\s*(?:export\s+)?\w+=", "", line))):
                    yield Listener(path=path, number=number, shown=address, address=address, is_dockers=True)


def of_service(unit: Unit) -> Iterator[Listener]:
    for each in unit.assignments:
        if each.key != "ExecStart":
            continue
        given = words(with_runtime_directory(unit.expanded(each.value)))
        programs = [program(word) for word in given]
        # The forms of docker before 1.13. A later -d or --host belongs to a container.
        was_daemon = any(pair in zip(programs, given[1:], strict=False) for pair in OLD_DAEMON)
        if "dockerd" in programs or was_daemon:
            asks = bool({"--tlsverify", "--tlsverify=true", "--tlsverify=1"} & set(given))
            for address in hosts_of(given):
                path, number = unit.place_of(each, address)
                yield Listener(path=path, number=number, shown=address, address=address, is_dockers=True, asks=asks)
        elif "podman" in programs and "service" in given and "system" in given:
            for address in given[given.index("service") + 1 :]:
                if address.startswith(("tcp:", "unix:")):
                    path, number = unit.place_of(each, address)
                    yield Listener(path=path, number=number, shown=address, address=address, is_dockers=False)


def of_socket(unit: Unit) -> Iterator[Listener]:
    name = unit.name.removesuffix(".socket")
    service = unit.last("Service").removesuffix(".service") or name
    if not {name, service} & set(NAMES):
        return
    for each in unit.assignments:
        if each.key == "ListenStream":
            address, is_dockers = with_runtime_directory(each.value), "docker" in (name, service)
            number, shown = each.rows[0][0], f"ListenStream={each.value}"
            yield Listener(path=each.path, number=number, shown=shown, address=address, is_dockers=is_dockers)


def hosts_of(given: list[str]) -> Iterator[str]:
    """Return the values of dockerd's -H. An address without a scheme is one on the network."""
    following = iter(given)
    for word in following:
        if word in ("-H", "--host"):
            yield next(following, "")
        elif found := re.fullmatch(r"(?:--host=|-H=?)(.+)", word):
            yield found[1]


def daemons(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield docker's configuration files; with one that is not valid, docker does not start."""
    for path, rows in files(root, DAEMON):
        try:
            settings = json.loads("\n".join(line for _, line in rows))
        except (ValueError, RecursionError):
            continue
        if isinstance(settings, dict):
            yield path, settings


def asking_options(root: Path) -> bool:
    lines = (line for _, rows in files(root, DOCKER) for _, line in rows if not line.lstrip().startswith("#"))
    return any(re.search(r"--tlsverify(?!=(?:false|0))", line) for line in lines)


def line_of(path: Path, text: str) -> int:
    lines = (text_of(path) or "").splitlines()
    return next((number for number, line in enumerate(lines, start=1) if json.dumps(text) in line), 1)
