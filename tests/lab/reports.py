"""The socket of Neutron's L3 agent by which routers' state-change monitors report to it."""

from __future__ import annotations

import os
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.lab.networks import NEUTRON


@dataclass
class Reports:
    """What the agent was told: router and state."""

    path: Path
    told: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def served(self) -> Iterator[None]:
        """The agent's socket, made anew as at each start of an agent."""
        told = self.told

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append((self.headers["X-Neutron-Router-Id"], self.headers["X-Neutron-State"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def address_string(self) -> str:
                return "script"

            def log_message(self, *arguments: object) -> None:
                pass

        self.path.unlink(missing_ok=True)
        with socketserver.ThreadingUnixStreamServer(str(self.path), Answer) as server:
            os.chown(self.path, NEUTRON, NEUTRON)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


def is_watching(pid: int) -> bool:
    """Whether the kernel tells anybody in the process's network namespace of IPv4 addresses (RTMGRP_IPV4_IFADDR)."""
    rows = (line.split() for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:])
    return any(row[1] == "0" and int(row[3], 16) & 0x10 for row in rows)
