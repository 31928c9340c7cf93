"""What helpers talk to by HTTP, as long as a test wants it: the agents' sockets, and Nova's metadata service."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer, ThreadingUnixStreamServer

NEUTRON = 42435  # the uid of neutron in Kolla's images
# By which Neutron's and OVN's metadata proxies, and Neutron towards Nova, say for whom they ask.
HEADERS = ("X-Neutron-Network-ID", "X-Neutron-Router-ID", "X-OVN-Network-ID", "X-Instance-ID")


class Answer(BaseHTTPRequestHandler):
    """Says who asked."""

    def do_GET(self) -> None:
        self.say(" ".join(f"{name} {self.headers[name]}" for name in HEADERS if name in self.headers))

    def say(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/plain; charset=utf-8")  # Neutron passes it on, and insists on it
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "somebody"  # a socket in a directory has no addresses

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
    """An agent's socket, recreated as at each start of an agent. Only its owner can connect, as with Neutron 27."""
    path.unlink(missing_ok=True)
    with serving(ThreadingUnixStreamServer(str(path), answer)):
        os.chmod(path, 0o755)
        os.chown(path, owner, owner)
        yield
