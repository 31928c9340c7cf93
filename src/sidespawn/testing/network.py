"""A LAN with DHCP clients to test against, in their own network namespaces; nothing appears in the host's own.

    lan = Lan("my-lan", macs=("fa:16:3e:00:00:01",), scripts=Path("/var/lib/my-test"))
    lan.make()                     # namespace my-lan with a bridge, namespace my-lan-1 with a client
    lan.connect("port0")           # an existing interface in namespace my-lan
    lan.clients[0].ask()           # a lease, or None
    lan.remove()

Needs root, iproute2 and busybox's udhcpc.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidespawn.testing.commands import ENVIRONMENT, Unexpected, run, wait_until

BRIDGE = "switch"
INTERFACE = "eth0"
RENEW = Path(__file__).parent / "renew.py"
SCRIPT = r"""#!/bin/sh
# What udhcpc calls at each event: sets the address as a client would, and tells network.py of it.
case $1 in
    bound | renew) ip address replace "$ip/$mask" dev "$interface" ;;
esac
echo "lease $1 ${ip:--} ${mask:--} ${router:--} ${serverid:--} ${mtu:--} ${lease:--}"
"""


@dataclass(frozen=True, kw_only=True)
class Lease:
    address: str
    prefix: int
    router: str
    server: str
    mtu: str
    seconds: int


@dataclass(frozen=True, kw_only=True)
class Renewal:
    asked: float  # time.monotonic()
    seconds: float | None  # until the answer; None: it was lost
    address: str | None


def udhcpc() -> tuple[str, ...] | None:
    """Return the command on this host, or None."""
    path = ENVIRONMENT["PATH"]
    if found := shutil.which("udhcpc", path=path):
        return (found,)
    found = shutil.which("busybox", path=path)
    return (found, "udhcpc") if found and run((found, "udhcpc", "--help")).code in (0, 1) else None


def parse_lease(line: str) -> Lease | None:
    """Return the lease in a line of SCRIPT's output, if there is one."""
    words = line.split()
    if len(words) != 8 or words[0] != "lease" or words[1] not in ("bound", "renew"):
        return None
    _, _, address, prefix, router, server, mtu, seconds = words
    return Lease(address=address, prefix=int(prefix), router=router, server=server, mtu=mtu, seconds=int(seconds))


@dataclass(frozen=True, kw_only=True)
class DhcpClient:
    """A machine on the LAN that asks for its address."""

    netns: str
    mac: str
    script: Path

    def command(self, *options: str) -> tuple[str, ...]:
        program = udhcpc()
        if program is None:
            raise Unexpected("udhcpc is installed", "there is neither udhcpc nor busybox with it", "apt install udhcpc")
        fixed = ("-f", "-i", INTERFACE, "-s", str(self.script), "-T", "1")
        return ("ip", "netns", "exec", self.netns, *program, *fixed, *options)

    def ask(self, tries: int = 5) -> Lease | None:
        """Discover and request, like a booting machine; None without an answer to `tries` attempts, one a second."""
        done = run(self.command("-n", "-q", "-t", str(tries)), timeout=tries * 4 + 10)
        for line in done.stdout.splitlines():
            if lease := parse_lease(line):
                return lease
        return None


class Renewals:
    """A client that holds a lease and renews it repeatedly, in its own process; see renew.py.

    Call `close`. The client of a killed test keeps running in the client's namespace, where `Lan.remove` ends it.
    """

    def __init__(self, client: DhcpClient, lease: Lease, pause: float = 0.1, patience: float = 2.0) -> None:
        self.done: list[Renewal] = []
        numbers = (str(pause), str(patience))
        program = (sys.executable, "-I", "-S", str(RENEW), lease.address, client.mac, lease.server, *numbers)
        self.process = subprocess.Popen(
            ("ip", "netns", "exec", client.netns, *program),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            text=True,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def wait_for(self, more: int, timeout: float = 30.0) -> None:
        """Wait until that many more renewals were answered or lost. Raises Unexpected."""
        enough = len(self.done) + more
        wait_until(lambda: len(self.done) >= enough, f"{more} more renewals are tried", timeout)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join(5)

    def read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - it was asked for
        with self.process.stdout as lines:
            for line in lines:
                self.done.append(Renewal(**json.loads(line)))


class Lan:
    """A bridge in the namespace `name`, and one client in the namespace `name`-N for each MAC address, from 1."""

    def __init__(self, name: str, macs: tuple[str, ...], scripts: Path) -> None:
        self.name = name
        self.script = scripts / "udhcpc-script"
        self.clients = tuple(
            DhcpClient(netns=f"{name}-{number}", mac=mac, script=self.script) for number, mac in enumerate(macs, 1)
        )
        self.namespaces = (name, *(client.netns for client in self.clients))

    def make(self) -> None:
        """Make the LAN. Raises Unexpected."""
        self.script.write_text(SCRIPT)
        self.script.chmod(0o755)
        for netns in self.namespaces:
            ip("netns", "add", netns)
        ip("-n", self.name, "link", "add", BRIDGE, "type", "bridge")
        ip("-n", self.name, "link", "set", BRIDGE, "up")
        for client in self.clients:
            port = client.netns.rpartition("-")[2]
            peer = ("peer", "name", INTERFACE, "address", client.mac, "netns", client.netns)
            ip("-n", self.name, "link", "add", f"client{port}", "type", "veth", *peer)
            ip("-n", client.netns, "link", "set", INTERFACE, "up")
            self.connect(f"client{port}")

    def connect(self, port: str) -> None:
        """Plug an interface that is in the LAN's namespace into its bridge."""
        ip("-n", self.name, "link", "set", port, "master", BRIDGE, "up")

    def remove(self) -> None:
        """End all processes in the LAN's namespaces, and remove these; no error if they do not exist."""
        for netns in reversed(self.namespaces):
            remove_namespace(netns)
        self.script.unlink(missing_ok=True)


def ip(*arguments: str) -> None:
    """Run ip(8). Raises Unexpected if it fails."""
    run(("ip", *arguments), code=0)


def has_namespace(netns: str) -> bool:
    return os.path.lexists(f"/run/netns/{netns}")


def remove_namespace(netns: str) -> None:
    """Remove a named network namespace, and end its processes; no error if it is missing."""
    if not has_namespace(netns):
        return
    # Anyone who shares /run/netns may have bound the host's own namespace there, with all its processes.
    if os.stat(f"/run/netns/{netns}").st_ino != os.stat("/proc/self/ns/net").st_ino:
        for pid in run(("ip", "netns", "pids", netns)).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    ip("netns", "delete", netns)
