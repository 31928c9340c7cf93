"""Examines compose files in the usual places: of all services, mounts; of agents, whether they are privileged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidespawn.host_scan.texts import files
from sidespawn.host_scan.yaml_entries import Entry, entries

PLACES = (
    "", "etc/*/", "etc/*/*/", "opt/", "opt/*/", "opt/*/*/", "srv/", "srv/*/", "srv/*/*/", "root/", "root/*/",
    "root/*/*/", "home/*/", "home/*/*/", "home/*/*/*/", "usr/local/*/", "var/lib/*/", "var/lib/*/*/",
)  # fmt: skip
# Also a name such as docker-compose.production.yml, which is given with -f.
PATTERNS = tuple(f"{place}*compose*.y*ml" for place in PLACES)
TRUE = {"true", "yes", "on"}
# ${NAME:-default} and ${NAME-default}. What else sets a variable is not known here.
DEFAULT = re.compile(r"\$\{\w+:?-([^${}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Service:
    """A container in a compose file: sources of mounts and privileges, each with its line."""

    path: Path
    name: str
    container: str
    mounts: tuple[tuple[str, int], ...]
    privileged: tuple[tuple[str, int], ...]  # what it is, in words
    host_pids: int | None  # the line


def look(root: Path, failed: list[str]) -> Iterator[Service]:
    for path, rows in files(root, PATTERNS):
        lines = [line for _, line in rows]
        yield from services(path, entries(path, "\n".join(lines), failed))


def services(path: Path, found: Sequence[Entry]) -> Iterator[Service]:
    volumes = devices(found)
    # Version 1 has services at the top.
    start = 1 if any(each.path[0] == "services" for each in found if each.path) else 0
    by_name: dict[str, list[Entry]] = {}
    for each in found:
        if len(each.path) > start + 1 and in_services(each, start):
            own = Entry(path=each.path[start + 1 :], value=DEFAULT.sub(r"\1", each.value), line=each.line)
            by_name.setdefault(each.path[start], []).append(own)
    for name, mine in by_name.items():
        yield Service(
            path=path,
            name=name,
            container=next((each.value for each in mine if each.path == ("container_name",)), name),
            mounts=tuple(mounts(mine, volumes)),
            privileged=tuple(privileged(mine)),
            host_pids=next((each.line for each in mine if each.path == ("pid",) and each.value == "host"), None),
        )


def in_services(entry: Entry, start: int) -> bool:
    return start == 0 or entry.path[0] == "services"


def mounts(service: Sequence[Entry], volumes: dict[str, str]) -> Iterator[tuple[str, int]]:
    for each in service:
        if each.path[0] == "volumes":
            if len(each.path) == 2 and ":" in each.value:
                source = each.value.partition(":")[0]
                yield volumes.get(source, source), each.line
            elif len(each.path) == 3 and each.path[2] in ("source", "src"):
                yield volumes.get(each.value, each.value), each.line
        elif each.path == ("use_api_socket",) and each.value.lower() in TRUE:
            yield "/var/run/docker.sock", each.line


def privileged(service: Sequence[Entry]) -> Iterator[tuple[str, int]]:
    for each in service:
        if each.path == ("privileged",) and each.value.lower() in TRUE:
            yield "is privileged", each.line
        elif each.path[0] == "cap_add" and each.value.upper() in ("ALL", "CAP_ALL"):
            yield "has all capabilities", each.line


def devices(found: Sequence[Entry]) -> dict[str, str]:
    """Return the host's paths that the file's volumes bind."""
    options: dict[str, dict[str, str]] = {}
    for each in found:
        if len(each.path) == 4 and each.path[0] == "volumes" and each.path[2] == "driver_opts":
            options.setdefault(each.path[1], {})[each.path[3]] = DEFAULT.sub(r"\1", each.value)
    return {
        name: given["device"]
        for name, given in options.items()
        if "device" in given and {"bind", "rbind"} & set(given.get("o", "").split(","))
    }
