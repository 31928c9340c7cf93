"""As much of an API server as a kubelet needs to start static pods of a RuntimeClass, for tests that need no more.

    api.py PORT CLASS...

The classes have handlers of the same name. What a kubelet writes is taken and shown to it again; nothing is changed
by anyone else, so a watch never ends. Imports nothing but the standard library.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WATCH = 300.0  # seconds
CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
LISTS = {
    "csidrivers": ("storage.k8s.io/v1", "CSIDriverList"),
    "events": ("v1", "EventList"),
    "nodes": ("v1", "NodeList"),
    "pods": ("v1", "PodList"),
    "runtimeclasses": ("node.k8s.io/v1", "RuntimeClassList"),
    "services": ("v1", "ServiceList"),
}
NOT_FOUND = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
STORE: dict[str, dict[str, Any]] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        last = path.rpartition("/")[2]
        if "watch=" in query:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            time.sleep(WATCH)
        elif last in LISTS:
            version, kind = LISTS[last]
            items = [each for place, each in list(STORE.items()) if place.rpartition("/")[0].endswith(f"/{last}")]
            self.say(200, {"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": items})
        else:
            self.say_stored(path)

    def do_POST(self) -> None:
        path, made = self.path.partition("?")[0], self.body()
        made.setdefault("metadata", {})["uid"] = str(uuid.uuid4())
        self.keep(f"{path}/{made['metadata'].get('name', '')}", made, 201)

    def do_PUT(self) -> None:
        self.keep(self.path.partition("?")[0], self.body(), 200)

    def do_PATCH(self) -> None:
        self.body()
        self.say_stored(self.path.partition("?")[0].removesuffix("/status"))

    def do_DELETE(self) -> None:
        self.body()
        found = STORE.pop(self.path.partition("?")[0], None)
        self.say(200 if found else 404, found or NOT_FOUND)

    def body(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        return read

    def keep(self, path: str, stored: dict[str, Any], code: int) -> None:
        STORE[path] = stored
        self.say(code, stored)

    def say_stored(self, path: str) -> None:
        self.say(200 if path in STORE else 404, STORE.get(path, NOT_FOUND))

    def say(self, code: int, told: dict[str, Any]) -> None:
        text = json.dumps(told).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        pass


def main() -> None:
    port, *classes = sys.argv[1:]
    for name in classes:
        about = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}}
        STORE[f"{CLASSES}/{name}"] = about | {"handler": name}
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
