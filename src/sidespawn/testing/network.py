"""A LAN with DHCP clients to test against, in network namespaces of their own; nothing appears in the host's own.

    lan = Lan("my-lan", macs=("fa:16:3e:00:00:01",), scripts=Path("/var/lib/my-test"))
    lan.make()                     # namespace my-lan with a bridge, namespace my-lan-1 with a client
    lan.connect("port0")           # an interface that somebody put into namespace my-lan
    lan.clients[0].ask()           # a lease, or None
    lan.remove()

Needs root, iproute2 and busybox's udhcpc.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidespawn.testing.commands import ENVIRONMENT, Unexpected, run

BRIDGE = "switch"
INTERFACE = "eth0"
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
    seconds: float | None  # until it was answered; None: it was lost
    lease: Lease | None


def udhcpc() -> tuple[str, ...] | None:
    """The command on this host, or None."""
    path = ENVIRONMENT["PATH"]
    if found := shutil.which("udhcpc", path=path):
        return (found,)
    found = shutil.which("busybox", path=path)
    return (found, "udhcpc") if found and run((found, "udhcpc", "--help")).code in (0, 1) else None


def parse_lease(line: str, events: tuple[str, ...]) -> Lease | None:
    """The lease in a line of SCRIPT's about one of the events."""
    words = line.split()
    if len(words) != 8 or words[0] != "lease" or words[1] not in events:
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
        """Discover and request, as a machine that boots does; None when nobody answers `tries` times, one a second."""
        done = run(self.command("-n", "-q", "-t", str(tries)), timeout=tries * 4 + 10)
        for line in done.stdout.splitlines():
            if lease := parse_lease(line, ("bound",)):
                return lease
        return None


class Renewals:
    """A client that holds its lease and renews it over and over: real unicast requests, by udhcpc's SIGUSR1.

    `close` must be called; a killed test leaves an udhcpc in the client's namespace, which `Lan.remove` ends.
    """

    def __init__(self, client: DhcpClient, pause: float = 0.2, patience: float = 2.0) -> None:
        self.done: list[Renewal] = []
        self.pause, self.patience = pause, patience
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.stopping = threading.Event()
        self.process = subprocess.Popen(
            client.command("-t", "5"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            text=True,
            start_new_session=True,
        )
        self.threads = [threading.Thread(target=each, daemon=True) for each in (self.read, self.renew)]
        self.threads[0].start()

    def begin(self) -> Lease:
        """Wait for the first lease, then renew it. Raises Unexpected."""
        lease = self.next_lease("bound", 10)
        if lease is None:
            raise Unexpected("the client gets a lease to renew", "none within 10 s")
        self.threads[1].start()
        return lease

    def wait_for(self, more: int, timeout: float = 30.0) -> None:
        """Until that many more renewals were asked for and answered or lost. Raises Unexpected."""
        enough, give_up = len(self.done) + more, time.monotonic() + timeout
        while len(self.done) < enough:
            if time.monotonic() > give_up:
                raise Unexpected(f"{more} renewals within {timeout:g} s", f"{len(self.done) - enough + more}")
            time.sleep(0.02)

    def close(self) -> None:
        self.stopping.set()
        if self.threads[1].is_alive():
            self.threads[1].join(self.patience + 5)
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.threads[0].join(5)

    def read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - it was asked for
        with self.process.stdout as lines:
            for line in lines:
                self.lines.put(line)

    def renew(self) -> None:
        while not self.stopping.wait(self.pause):
            while not self.lines.empty():
                self.lines.get()  # an answer that came too late; its renewal is counted as lost
            asked = time.monotonic()
            self.process.send_signal(signal.SIGUSR1)
            lease = self.next_lease("renew", self.patience)
            self.done.append(Renewal(asked=asked, seconds=time.monotonic() - asked if lease else None, lease=lease))

    def next_lease(self, event: str, patience: float) -> Lease | None:
        give_up = time.monotonic() + patience
        while (left := give_up - time.monotonic()) > 0:
            try:
                line = self.lines.get(timeout=left)
            except queue.Empty:
                break
            if lease := parse_lease(line, (event,)):
                return lease
        return None


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
        """Raises Unexpected."""
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
        """End all that runs in the LAN's namespaces, and remove them; no error when there is nothing."""
        for netns in reversed(self.namespaces):
            remove_namespace(netns)
        self.script.unlink(missing_ok=True)


def ip(*arguments: str) -> None:
    """ip(8). Raises Unexpected when it fails."""
    run(("ip", *arguments), code=0)


def has_namespace(netns: str) -> bool:
    return os.path.lexists(f"/run/netns/{netns}")


def remove_namespace(netns: str) -> None:
    """Remove a named network namespace, and end what runs in it; no error when there is none."""
    if not has_namespace(netns):
        return
    # Whoever shares /run/netns can have bound the host's own namespace there, with all of its processes.
    if os.stat(f"/run/netns/{netns}").st_ino != os.stat("/proc/self/ns/net").st_ino:
        for pid in run(("ip", "netns", "pids", netns)).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    ip("netns", "delete", netns)
