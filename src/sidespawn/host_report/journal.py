"""Examines the journal, which contains verdicts and the output of side containers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidespawn.host_report.findings import Finding, Topic, ok, warning

JOURNALCTL = "/usr/bin/journalctl"
SOCKET = Path("/run/systemd/journal/socket")
PERSISTENT, VOLATILE = Path("/var/log/journal"), Path("/run/log/journal")


@dataclass(frozen=True, kw_only=True)
class Facts:
    has_journalctl: bool
    listens: bool = True
    storage: str = "persistent"  # or volatile, or empty: nothing is stored


def look() -> Facts:
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    kept = (name for name, path in (("persistent", PERSISTENT), ("volatile", VOLATILE)) if (path / machine).is_dir())
    storage = next(kept, "") if machine else ""
    return Facts(has_journalctl=os.path.exists(JOURNALCTL), listens=listens(SOCKET), storage=storage)


def listens(path: Path) -> bool:
    """Return whether a process has the socket open: its file stays if the journal is stopped."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect(str(path))
    except OSError:
        return False
    return True


def judge(facts: Facts) -> Iterator[Finding]:
    lost = "verdicts and the output of side containers are lost"
    if not facts.listens:
        hint = "systemctl start systemd-journald.socket systemd-journald.service"
        yield warning(Topic.JOURNAL, f"nothing listens at {SOCKET}", lost, hint, command=hint)
    elif not facts.has_journalctl:
        hint = "install the package that has it"
        yield warning(Topic.JOURNAL, f"there is no {JOURNALCTL}", "sidespawn logs and learn do not work", hint)
    elif not facts.storage:
        hint = "set Storage=auto in /etc/systemd/journald.conf, then: systemctl restart systemd-journald"
        yield warning(Topic.JOURNAL, "the journal stores nothing", lost, hint)
    elif facts.storage == "volatile":
        yield ok(
            Topic.JOURNAL, f"the journal is kept in memory until the next boot; mkdir {PERSISTENT} keeps it longer"
        )
    else:
        yield ok(Topic.JOURNAL, "the journal is kept on disk")
