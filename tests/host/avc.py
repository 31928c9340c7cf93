"""SELinux denials in the audit daemon's log."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

LOG = Path("/var/log/audit/audit.log")
PATTERN = re.compile(
    r"denied +\{ (?P<permissions>[^}]+) \}.*? scontext=\w+:\w+:(?P<source>\w+).*? tcontext=\w+:\w+:(?P<target>\w+)"
    r".*? tclass=(?P<kind>\w+)"
)
FLUSHED = 2.0  # seconds that the daemon may take to write


@dataclass(frozen=True, kw_only=True)
class Denial:
    source: str  # a domain (source type)
    permissions: str
    target: str  # a target type
    kind: str  # the class of object

    @property
    def row(self) -> tuple[str, str]:
        return self.source, f"{self.permissions} of {self.target}:{self.kind}"


def position() -> int:
    time.sleep(FLUSHED)
    return os.stat(LOG).st_size


def denials(since: int) -> list[Denial]:
    time.sleep(FLUSHED)
    with LOG.open(encoding="utf-8", errors="replace") as file:
        file.seek(since)
        return parse(file.read())


def parse(text: str) -> list[Denial]:
    return [Denial(**found.groupdict()) for line in text.splitlines() if (found := PATTERN.search(line))]
