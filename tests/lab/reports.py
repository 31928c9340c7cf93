"""The L3 agent's socket, to which routers' state-change monitors report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.answers import NEUTRON, Answer, agents_socket


@dataclass
class Reports:
    """Reports to the agent: routers and their states."""

    path: Path
    owner: int = NEUTRON
    told: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def served(self) -> Iterator[None]:
        """Serve the agent's socket, recreated as at each start of an agent."""
        told = self.told

        class Note(Answer):
            def do_POST(self) -> None:  # noqa: N802 - by this name it is called
                told.append((self.headers["X-Neutron-Router-Id"], self.headers["X-Neutron-State"]))
                self.say("")

            do_GET = do_POST  # noqa: N815 - the monitor in Python reports by GET

        with agents_socket(self.path, Note, self.owner):
            yield


def is_watching(pid: int) -> bool:
    """Return whether anything in the process's network namespace gets IPv4 address events (RTMGRP_IPV4_IFADDR)."""
    rows = (line.split() for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:])
    return any(row[1] == "0" and int(row[3], 16) & 0x10 for row in rows)
