"""HTTP servers that helpers talk to during a test: the agents' sockets, and Nova's metadata service."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer, ThreadingUnixStreamServer

NEUTRON = 42435  # uid of neutron in Kolla's images
# Headers in which Neutron's and OVN's metadata proxies, and Neutron towards Nova, name the instance they ask for.
HEADERS = ("X-Neutron-Network-ID", "X-Neutron-Router-ID", "X-OVN-Network-ID", "X-Instance-ID")


class Answer(BaseHTTPRequestHandler):
    """Answers with the identity of the client."""

    def do_GET(self) -> None:
        self.say(" ".join(f"{name} {self.headers[name]}" for name in HEADERS if name in self.headers))

    def say(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/plain; charset=utf-8")  # Neutron passes it on, and requires it
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "somebody"  # a Unix socket has no addresses

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def agents_socket(path: Path, answer: type[Answer] = Answer, owner: int = NEUTRON) -> Iterator[None]:
    """Serve a socket that agents recreate at each start. Only its owner can connect, as with Neutron 27."""
    path.unlink(missing_ok=True)
    with serving(ThreadingUnixStreamServer(str(path), answer)):
        os.chmod(path, 0o755)
        os.chown(path, owner, owner)
        yield
