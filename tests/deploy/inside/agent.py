"""What Neutron's DHCP agent does with its helpers, in a container of the old kind or of sidespawn's.

For each network in its state it starts dnsmasq in the place of one that runs, and starts it again when it has ended.
With podman's socket it does so as the old wrappers do, otherwise by what stands in the place of dnsmasq.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

STATE = Path("/var/lib/neutron")
SOCKET = "/run/podman/podman.sock"
KILL = "/etc/neutron/kill_scripts/dnsmasq-kill"


class Podman(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


def call(method: str, path: str, body: object = None) -> None:
    podman = Podman("localhost")
    podman.request(method, f"/v4.0.0/libpod/containers/{path}", json.dumps(body), {"Content-Type": "application/json"})
    answer = podman.getresponse()
    said = answer.read()
    if answer.status >= 400 and answer.status != 404:
        raise RuntimeError(f"{method} {path}: {answer.status} {said!r}")


def start_as_before(network: str, options: list[str]) -> None:
    name, settings = f"neutron-dnsmasq-qdhcp-{network}", json.loads((STATE / "settings.json").read_text())
    call("DELETE", f"{name}?force=true")
    container = {
        "name": name,
        "image": settings["image"],
        "command": ["/usr/sbin/dnsmasq", "--keep-in-foreground", *options],
        "privileged": True,
        "user": "root",
        "netns": {"nsmode": "path", "value": f"/run/netns/qdhcp-{network}"},
        "pidns": {"nsmode": "host"},
        "mounts": [{"type": "bind", "source": settings["state"], "destination": str(STATE), "options": ["rbind"]}],
    }
    call("POST", "create", container)
    call("POST", f"{name}/start")


def in_namespace(network: str, *argv: str) -> int:
    inside = ["ip", "netns", "exec", f"qdhcp-{network}", "env", f"PROCESS_TAG=dnsmasq-{network}"]
    return subprocess.run([*inside, *argv], check=False).returncode


def running(network: str) -> int | None:
    try:
        pid = int((STATE / "dhcp" / network / "pid").read_text())
        return pid if network.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() else None
    except (OSError, ValueError):
        return None


def stop(network: str) -> None:
    pid = running(network)
    if pid is None:
        return
    if os.path.exists(SOCKET):
        os.kill(pid, signal.SIGTERM)
    else:
        in_namespace(network, KILL, "15", str(pid))
    while running(network) == pid:
        time.sleep(0.05)


def start(network: str) -> None:
    options = json.loads((STATE / "dhcp" / network / "options").read_text())
    if os.path.exists(SOCKET):
        start_as_before(network, options)
    else:
        in_namespace(network, "/usr/sbin/dnsmasq", *options)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    networks = sorted(each.name for each in (STATE / "dhcp").iterdir())
    for network in networks:
        stop(network)
        start(network)
    while True:
        for network in networks:
            if running(network) is None:
                start(network)
        time.sleep(1)


if __name__ == "__main__":
    main()
