"""Reads a service's records, and those of the kernel's audit, from the journal."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from sidespawn.errors import Reason, SidespawnError
from sidespawn.host_report.journal import JOURNALCTL
from sidespawn.system.places import Places

# Any user of the host may write records with any fields except those with an underscore, which journald sets.
BY_ROOT = "_UID=0"


def read_journal(places: Places, event: str | tuple[str, ...], since: str | None = None) -> Iterator[dict[str, Any]]:
    """Return the service's records of one kind, or of several, oldest first."""
    kinds = (event,) if isinstance(event, str) else event
    yield from read(
        since, BY_ROOT, f"SIDESPAWN_SERVICE={places.service}", *(f"SIDESPAWN_EVENT={each}" for each in kinds)
    )


def read_audit(since: str) -> Iterator[str]:
    """Return the messages of the kernel and its audit, oldest first. Only they write with these transports."""
    for record in read(since, "_TRANSPORT=kernel", "_TRANSPORT=audit"):
        message = record.get("MESSAGE", "")
        if isinstance(message, str):  # otherwise it has control characters, or is too long
            yield message


def read(since: str | None, *matches: str) -> Iterator[dict[str, Any]]:
    require_journalctl()
    command = [JOURNALCTL, "--no-pager", "--quiet", "--all", "--output=json"]
    command += [f"--since={since}"] if since is not None else []
    with subprocess.Popen(
        [*command, *matches], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        yield from map(json.loads, process.stdout)
    if process.returncode != 0:
        raise SidespawnError(Reason.HOST_UNSUITABLE, f"journalctl ended with {process.returncode}")


def require_journalctl() -> None:
    if not os.path.exists(JOURNALCTL):
        raise SidespawnError(Reason.HOST_UNSUITABLE, "this host has no journalctl")
