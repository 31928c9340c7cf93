"""Examines containers.conf(5): what does podman give every side container, whatever its policy says?

Requests to podman set explicitly what they can. `engines/containers.conf`, which podman reads last, empties the rest.
podman before 4.5 does not read it. Later versions cannot empty a list that the host keeps with `{append = true}`.

The files are merged as podman does it; versions differ (podman's sources at v4.3.1, v5.4.2, v5.8.0 and 6.0.0-dev).
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidespawn.host_report.findings import Finding, Topic, ok, warning
from sidespawn.setup import hardening
from sidespawn.setup.systemd import PACKAGE

Version = tuple[int, ...]

OURS = PACKAGE / "engines/containers.conf"
VENDOR, HOST, ROOT = Path("/usr/share/containers"), Path("/etc/containers"), Path("/root/.config/containers")
NAME = "containers.conf"
READS_OURS, READS_ROOTS, ONE_MAIN_FILE = (4, 5), (5, 0), (6, 0)  # the first version of podman that does

# Lists of what is added to a container, with the first version that adds it to those of its API.
LISTS: Mapping[str, Version] = {
    "containers.annotations": (4, 0),
    "containers.cgroup_conf": READS_OURS,
    "containers.default_sysctls": (4, 0),
    "containers.default_ulimits": READS_OURS,
    "containers.devices": (4, 0),
    "containers.volumes": (4, 0),
}
# Values that take some of a container's confinement away.
LOOSE: Mapping[str, object] = {
    "containers.apparmor_profile": "unconfined",
    "containers.label": False,
    "engine.no_pivot_root": True,
}
# The time zone's file, and what podman writes into the container's resolv.conf.
HARMLESS = ("containers.tz", "containers.dns_servers", "containers.dns_options", "containers.dns_searches")
# The file of every distribution has it. Group 0 may open ICMP sockets.
STOCK = ("containers.default_sysctls", "net.ipv4.ping_group_range=0 0")
SET_BY_REQUESTS = ("nofile", "nproc", "core")  # ulimits


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value of a key; of a list, one item."""

    file: str
    key: str  # TABLE.NAME
    value: object
    is_item: bool = False  # of a list
    is_appended: bool = False  # its file says so of the list, which later files then cannot replace
    helps_upgrade: bool = False  # podman 4.5 would not give it to side containers


@dataclass(frozen=True, kw_only=True)
class Facts:
    version: str = ""
    settings: tuple[Setting, ...] = ()  # those that reach side containers
    unreadable: Mapping[str, str] | None = None  # why, by file


def look(version: str, numbers: Version) -> Facts:
    documents, unreadable = read(files(numbers))
    ours, _ = read((OURS,))
    with_ours = tuple(reaching(merged({**documents, **ours}), numbers))
    if numbers >= READS_OURS:
        return Facts(version=version, settings=with_ours, unreadable=unreadable)
    stay = {(each.file, each.key, str(each.value)) for each in with_ours}
    settings = tuple(
        replace(each, helps_upgrade=(each.file, each.key, str(each.value)) not in stay)
        for each in reaching(merged(documents), numbers)
    )
    return Facts(version=version, settings=settings, unreadable=unreadable)


def files(version: Version) -> tuple[Path, ...]:
    """Return the files that root's podman reads, in order, whether they exist or not."""
    if version >= ONE_MAIN_FILE:
        main = next((each / NAME for each in (ROOT, HOST, VENDOR) if (each / NAME).exists()), VENDOR / NAME)
        rootful = "containers.rootful.conf.d"
        drop_ins: dict[str, Path] = {}
        places = [home / name for home in (VENDOR, HOST) for name in (f"{NAME}.d", rootful)]
        for directory in (*places, ROOT / f"{NAME}.d"):
            drop_ins |= {each.name: each for each in in_directory(directory)}
        return (main, *(drop_ins[name] for name in sorted(drop_ins)))
    homes = (HOST, ROOT) if version >= READS_ROOTS else (HOST,)
    return (VENDOR / NAME, *(path for home in homes for path in (home / NAME, *in_directory(home / f"{NAME}.d"))))


def in_directory(path: Path) -> tuple[Path, ...]:
    names = sorted(os.listdir(path)) if path.is_dir() else []
    return tuple(path / name for name in names if name.endswith(".conf") and not (path / name).is_dir())


def read(paths: Iterable[Path]) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """Return the files' content by name, and why others cannot be read."""
    documents: dict[str, Mapping[str, Any]] = {}
    unreadable = {}
    for path in paths:
        try:
            documents[str(path)] = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # tomllib's and UnicodeDecodeError are of the latter
            unreadable[str(path)] = str(error.strerror if isinstance(error, OSError) else error).lower()
    return documents, unreadable


def merged(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Setting, ...]]:
    """Return each key's values. Later files replace a list, unless it has, or had before, `{append = true}`."""
    found: dict[str, tuple[Setting, ...]] = {}
    appended: dict[str, bool] = {}
    for file, document in documents.items():
        for table, content in folded(document).items():
            for name, value in folded(content).items():
                key = f"{table}.{name}"
                is_list = isinstance(value, list)
                items = value if is_list else [value]
                says = [each["append"] for each in items if isinstance(each, dict) and "append" in each]
                appended[key] = kept = bool(says[-1] if says else appended.get(key))
                new = tuple(
                    Setting(file=file, key=key, value=each, is_item=is_list, is_appended=True in says)
                    for each in items
                    if not isinstance(each, dict)
                )
                found[key] = (*found.get(key, ()), *new) if kept else new
    return found


def folded(content: object) -> dict[str, Any]:
    """Return a table's content with small letters as keys, since podman accepts both; empty if it is no table."""
    return {key.lower(): value for key, value in content.items()} if isinstance(content, dict) else {}


def reaching(settings: Mapping[str, tuple[Setting, ...]], version: Version) -> Iterator[Setting]:
    for key, values in settings.items():
        for each in values:
            if key in LISTS:
                if version >= LISTS[key] and not is_set_by_requests(each):
                    yield each
            elif key in LOOSE:
                if each.value == LOOSE[key] and is_enforced(key):
                    yield each
            elif key in HARMLESS and each.value:
                yield each


def is_set_by_requests(setting: Setting) -> bool:
    name = str(setting.value).partition("=")[0].strip().lower()
    return setting.key == "containers.default_ulimits" and name in SET_BY_REQUESTS


def is_enforced(key: str) -> bool:
    """Return whether this host has what the setting would switch off."""
    if key == "containers.apparmor_profile":
        return hardening.has_apparmor()
    return key != "containers.label" or hardening.has_selinux()


def is_harmless(setting: Setting) -> bool:
    return setting.key in HARMLESS or (setting.key, setting.value) == STOCK


def judge(facts: Facts) -> Iterator[Finding]:
    topic = Topic.PODMAN_SETTINGS
    for file, why in (facts.unreadable or {}).items():
        hint = f"correct {file}; see containers.conf(5)"
        yield warning(topic, f"{file}: {why}", "its settings were not checked", hint, file)
    serious = [each for each in facts.settings if not is_harmless(each)]
    for file in dict.fromkeys(each.file for each in serious):
        yield of_file(file, [each for each in serious if each.file == file], facts.version)
    if not serious and not facts.unreadable:
        small = [each for each in facts.settings if is_harmless(each)]
        told = "; ".join(
            f"{file}: {shown(each for each in small if each.file == file)}"
            for file in dict.fromkeys(each.file for each in small)
        )
        nothing = "no setting in containers.conf adds to side containers or loosens them"
        yield ok(topic, f"side containers get only harmless settings of the host: {told}" if told else nothing)


def of_file(file: str, settings: list[Setting], version: str) -> Finding:
    adds = [each for each in settings if each.key in LISTS]
    does = ["adds to every side container, whatever its policy says"] if adds else []
    does += ["confines side containers less than it should"] if adds != settings else []
    hint = f"override them in {HOST}/{NAME}.d" if file.startswith(f"{VENDOR}/") else "remove them there"
    if any(each.is_appended for each in settings):
        hint += ", or only `append = true`"
    if all(each.helps_upgrade for each in settings):
        hint += f", or upgrade podman to {'.'.join(map(str, READS_OURS))} or later"
    return warning(
        Topic.PODMAN_SETTINGS, f"{file}: {shown(settings)}", f"podman {version} {' and '.join(does)}", hint, file
    )


def shown(settings: Iterable[Setting]) -> str:
    """Return the settings as in the file, on one line."""
    by_key: dict[str, list[Setting]] = {}
    for each in settings:
        by_key.setdefault(each.key, []).append(each)
    return ", ".join(
        f"{key.partition('.')[2]} = {json.dumps(told if same[0].is_item else told[0], default=str)}"
        for key, same in by_key.items()
        for told in ([each.value for each in same],)
    )
