"""Targets on the host for programs in containers, made for the tests and removed afterwards."""

from __future__ import annotations

import ctypes
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.attacks.inside import checked, libc
from tests.lab.networks import Service, command

UEVENTS = 15  # netlink's protocol
OF_THE_USER = -4  # root's own keyring
ADD_KEY, KEYCTL, UNLINK = 248, 250, 9  # of x86-64


@contextmanager
def victims(service: Service) -> Iterator[dict[str, Any]]:
    """Make the targets of `tries`: a process of root, a file that only root can read, a key in root's keyring."""
    unique = uuid.uuid4().hex[:8]
    unit, secret = f"victim-{unique}.service", service.state / "secret"
    secret.write_text(unique)
    secret.chmod(0o600)
    key = libc.syscall(ADD_KEY, b"user", unique.encode(), unique.encode(), len(unique), ctypes.c_long(OF_THE_USER))
    checked(key)
    # Without capabilities, so that an agent may enter its root directory without SYS_PTRACE.
    command("systemd-run", f"--unit={unit}", "--property=CapabilityBoundingSet=", "sleep", "infinity")
    try:
        yield {
            "victim": int(command("systemctl", "show", "--property=MainPID", "--value", unit).stdout),
            "secret": str(secret), "content": unique, "key": unique, "uevent": unique,
            "replies": str(service.places.replies), "netns": service.network().netns,
        }  # fmt: skip
    finally:
        command("systemctl", "stop", unit)
        libc.syscall(KEYCTL, UNLINK, key, ctypes.c_long(OF_THE_USER))


@contextmanager
def heard(wanted: str) -> Iterator[list[bytes]]:
    """Collect the uevents with this name that reach the host."""
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, UEVENTS) as netlink:
        netlink.bind((0, 1))
        netlink.settimeout(0.5)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    message = netlink.recv(8192)
                except TimeoutError:
                    continue
                if wanted.encode() in message:
                    found.append(message)

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield found
            time.sleep(1)
        finally:
            over.set()
            listener.join()
