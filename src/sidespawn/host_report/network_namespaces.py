"""Examines /run/netns: can every agent find names in it, do names that it adds reach the host, are others at risk?"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sidespawn.host_report.findings import Finding, Topic, ok, warning
from sidespawn.system import kernel, tables
from sidespawn.system.files import entries_of
from sidespawn.system.namespaces import Hidden, opened_names
from sidespawn.system.places import NAMESPACES

MOST = 1_000_000  # names that count
ENGINES = ("cni-", "netns-")  # how the names begin that containerd, CRI-O and podman make


@dataclass(frozen=True, kw_only=True)
class Facts:
    mode: int | None  # permissions, None if it does not exist
    names: int = 0
    of_engines: int = 0  # how many of them engines have made for the networks of containers
    is_shared: bool = True  # the mount that it is or is on
    is_hidden: bool = False  # another file system is mounted over it


def look() -> Facts:
    """Collect facts without touching mounts of agents, which may never answer, or whose `..` they could use."""
    try:
        with opened_names(NAMESPACES) as held:
            mode = kernel.device_and_mode(held)[1]
            with entries_of(held, MOST) as entries:
                names = len(entries)
                of_engines = sum(each.name.startswith(ENGINES) for each in entries)
    except Hidden:
        return Facts(mode=0o755, is_hidden=True)
    except (FileNotFoundError, NotADirectoryError):
        return Facts(mode=None)
    shared = is_shared(tables.mounts(Path("/proc/1/mountinfo")), str(NAMESPACES))
    return Facts(mode=stat.S_IMODE(mode), names=names, of_engines=of_engines, is_shared=shared)


def is_shared(mounts: Iterable[tables.Row], path: str) -> bool:
    """Return whether this mount propagates: `shared:N` before the hyphen (proc(5)); the last one is visible."""
    last: tables.Row = []
    for row in mounts:
        is_above = path == row[4] or path.startswith(row[4].rstrip("/") + "/")
        if is_above and (not last or len(row[4]) >= len(last[4])):
            last = row
    return any(field.startswith("shared:") for field in last[6 : last.index("-") if "-" in last else 6])


def judge(facts: Facts, services: tuple[str, ...]) -> Iterator[Finding]:
    topic = Topic.NETWORK_NAMESPACES
    if facts.mode is None:
        if services:
            hint = f"systemctl restart sidespawn-spool@{services[0]}.service, or mkdir --mode=755 {NAMESPACES}"
            make = f"mkdir --mode=755 {NAMESPACES}"
            yield warning(topic, f"{NAMESPACES} does not exist", "no agent can mount it", hint, command=make)
        else:
            yield ok(topic, f"{NAMESPACES} does not exist yet; the first service makes it")
        return
    found = []
    if facts.is_hidden:
        message = "no request for a network namespace can be served"
        hint = f"find out which agent did it: findmnt {NAMESPACES}; umount {NAMESPACES}"
        found.append(warning(topic, f"another file system is mounted over {NAMESPACES}", message, hint))
    if facts.mode & 0o555 != 0o555:
        message = "agents that are not root cannot find their namespace; all their requests are refused"
        way = f"chmod 755 {NAMESPACES}"
        found.append(warning(topic, f"{NAMESPACES} has mode {facts.mode:04o}", message, way, command=way))
    if facts.of_engines and services:
        text = f"in {NAMESPACES}, an engine keeps {facts.of_engines} of its containers' networks"
        message = (
            "an agent that may make names there can enter these networks, and have the engine, which is root, mount"
            " over or remove any file by a link in place of a name"
        )
        hint = "run such containers on another host, or with the host's network; on Kubernetes see docs/kubernetes.md"
        found.append(warning(topic, text, message, hint))
    if not facts.is_shared:
        message = "namespaces that an agent adds are not seen by the host"
        way = f"mount --bind {NAMESPACES} {NAMESPACES}; mount --make-shared {NAMESPACES}"
        text = f"{NAMESPACES} is on a mount that is not shared"
        found.append(warning(topic, text, message, f"{way}; restart the agents", command=way))
    yield from found or [ok(topic, f"{NAMESPACES}: {facts.names}, shared")]
