"""What the tests on machines found, machine by machine, and the tables that show it: docs/hosts.md has what passed,
HACKING.md how long it took.

    SIDESPAWN_WRITE_TABLE=1 ./dev vm test …     adds what it finds to results.json, and writes the tables
    .venv/bin/python -m tests.machine.results   writes the tables again

A run replaces what earlier ones found of the parts that it has; with other versions than theirs it replaces all.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from tests.tables import Row, Table
from vm.cache import CHECKOUT

RESULTS = Path(__file__).parent / "results.json"
PAGE = CHECKOUT / "docs/hosts.md"
HOSTS = {
    "bookworm-apparmor": "Debian 12, AppArmor",
    "trixie-apparmor": "Debian 13, AppArmor",
    "sid-apparmor": "Debian sid, AppArmor",
    "trixie-selinux": "Debian 13, SELinux",
}
TABLE = Table(PAGE, ("", *HOSTS.values()))
TIMES = Table(CHECKOUT / "HACKING.md", ("part", *HOSTS.values()))
VERSIONS = {
    "kernel": "Linux",
    "systemd": "systemd",
    "podman": "podman",
    "docker": "docker",
    "python": "Python",
    "mode": "the security module is",
    "date": "tried on",
}
PARTS = {
    "demo-podman": "[the demo](engines.md) with podman",
    "demo-systemd": "the demo with systemd, from an image",
    "demo-systemd-host": "the demo with systemd, with the host's own programs",
    "demo-docker": "the demo with docker",
    "five-minutes-package": "README's five minutes, word for word, installed from the Debian package",
    "five-minutes-pip": "the same, installed by pip",
    "package": "the package's life: install, upgrade under load, remove, purge",
    "reboot": (
        "after a reboot everything comes back by itself; the agent is the Quadlet unit of [agents.md](agents.md), or"
        " where podman has no Quadlet, a unit with that page's podman command"
    ),
    "power-cut": "the same after a power failure",
    "edpm": "[EDPM](edpm.md)'s unit with podman's own generator: a lease without privileges, also after a reboot",
    "limits": "limits of memory and tasks are enforced, with podman and systemd",
    "limits-docker": "the same with docker",
    "versions": "agents keep running while the host changes between 0.1.0 and this version",
    "mount-namespaces": "the host sees the units' mounts; with 0.1.0's units, the test detects hidden ones",
    "lab": "tests of units' confinement and of the engine systemd (`tests/lab`)",
    "lab-all": "all of `tests/lab`",
    "module": "the security module denies things",
    "apparmor": "what AppArmor and the list of system calls deny an agent and a side container, each tried",
    "selinux-module": "the SELinux module comes and goes with the demo, and the audit log has only the listed denials",
    "selinux": "what SELinux denies agents and side containers, each tried",
    "contained": "an agent in the recipe of `sidespawn agent-options` works, and each attempt to get out fails",
    "fips": "the demo with only OpenSSL's FIPS provider",
    "machine": "functions of the machines that tests rely on",
}
SIGNS = {True: "yes", False: "**no**", None: "—"}


def read() -> dict[str, dict[str, Any]]:
    """By the machine's kind."""
    return dict(json.loads(RESULTS.read_text()))


def add(result: dict[str, Any]) -> None:
    """Of one run, as `./dev vm test` prints it."""
    results, kind = read(), f"{result['release']}-{result['module']}"
    new = {**result, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    old = results.get(kind, {})
    if all(old.get(each) == new.get(each) for each in VERSIONS if each != "date"):
        for each in ("parts", "seconds"):
            new[each] = {**old.get(each, {}), **new[each]}
    results[kind] = new
    RESULTS.write_text(json.dumps(results, indent=4, sort_keys=True) + "\n")
    write(results)


def write(results: dict[str, dict[str, Any]]) -> None:
    TABLE.write(rows(results))
    TIMES.write(times(results))


def rows(results: dict[str, dict[str, Any]]) -> list[Row]:
    found = [results.get(kind, {}) for kind in HOSTS]
    versions = [(name, *(str(each.get(key, SIGNS[None])) for each in found)) for key, name in VERSIONS.items()]
    return versions + [
        (what, *(SIGNS[each.get("parts", {}).get(part)] for each in found)) for part, what in PARTS.items()
    ]


def times(results: dict[str, dict[str, Any]]) -> list[Row]:
    """Minutes, of parts that passed: one that fails may end early."""
    found = [results.get(kind, {}) for kind in HOSTS]

    def shown(result: dict[str, Any], part: str) -> str:
        seconds = result.get("seconds", {}).get(part)
        return f"{seconds / 60:.1f}" if seconds and result["parts"][part] else SIGNS[None]

    return [(f"`{part}`", *(shown(each, part) for each in found)) for part in PARTS]


if __name__ == "__main__":
    write(read())
