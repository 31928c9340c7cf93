"""The host's files and processes that root in a container reaches when the host's root is mounted at /host.

This runs inside containers: see containers.py. Nothing on the host is changed: writable files are opened and closed,
and what could be created is removed again.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from tests.attacks import inside
from tests.host import tries

HOST = "/host"
given: dict[str, Any] = {}  # from the test: what is in `main`


def made_in(directory: str) -> Callable[[], None]:
    """Create a file there. The directory's name is the host's, and `{home}` in it the service's."""

    def work() -> None:
        path = f"{HOST}{directory.format(**given)}/reach-{os.getpid()}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.unlink(path)

    return work


def opened(path: str, flags: int = os.O_WRONLY) -> Callable[[], None]:
    return lambda: tries.opens(HOST + path.format(**given), flags)


def listed(directory: str) -> Callable[[], None]:
    def work() -> None:
        os.listdir(HOST + directory.format(**given))

    return work


def connected(path: str) -> Callable[[], None]:
    def work() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
            there.connect(HOST + path.format(**given))

    return work


def rung() -> None:
    tries.expect(inside.ring(f"{given['replies']}/doorbell") == 1, "not a byte went in")


def spool_written() -> None:
    path = f"{given['spool']}/reach"
    with open(path, "xb") as file:
        file.write(b"x")
    os.unlink(path)


def replies_read() -> None:
    os.listdir(given["replies"])


def wrapper_read() -> None:
    tries.opens(f"{given['wrapper']}", os.O_RDONLY)


# The service's purpose, with the mounts that `sidespawn enable` prints, as root, the spool's owner.
ALLOWED: dict[str, Callable[[], None]] = {
    "write its spool": spool_written,
    "ring": rung,
    "look for replies": replies_read,
    "read its wrapper": wrapper_read,
}
# By the host's root directory, which agents do not get, so that no read-only mount denies it. Order and words are
# those of docs/selinux.md.
DENIED: dict[str, Callable[[], None]] = {
    "make a reply": made_in("{home}/replies"),
    "write a wrapper": opened("{wrapper_on_host}"),
    "make another wrapper": made_in("{home}/agent"),
    "make a checked copy": made_in("{home}/snapshots"),
    "list the service's directory": listed("{home}"),
    "list the claims": listed("{home}/claims"),
    "make a claim": made_in("{home}/claims"),
    "list the ledger": listed("{home}/ledger"),
    "make a record in the ledger": made_in("{home}/ledger"),
    "make an answer": made_in("{home}/answers"),
    "make a pin": made_in("{home}/pins"),
    "read the compiled policy": opened("{compiled}", os.O_RDONLY),
    "write the list of system calls": opened("{syscalls}"),
    "write the policy": opened("{policy}"),
    "make a policy": made_in("/etc/sidespawn"),
    "make a unit": made_in("/etc/systemd/system"),
    "write a program of the host's": opened("/usr/bin/true"),
    "write /etc/passwd": opened("/etc/passwd"),
    "read /etc/shadow": opened("/etc/shadow", os.O_RDONLY),
    "read a file in root's home": opened("{at_home}", os.O_RDONLY),
    "make a file in podman's store": made_in("/var/lib/containers/storage"),
    "make a file among what podman keeps in /run": made_in("/run/containers"),
    "talk to systemd": connected("/run/systemd/private"),
    "talk to D-Bus": connected("/run/dbus/system_bus_socket"),
    "talk to the service's podman": connected("{podman}"),
    "read a file by a process's root": tries.root_of_a_process,
    "read its environment": tries.environment,
    "signal it": tries.signalled,
    "trace it": tries.traced,
    "read its memory": tries.memory,
}


def main() -> None:
    """Print the result of each attempt as JSON. SECTION and the test's JSON are the arguments."""
    given.update(json.loads(sys.argv[2]))
    tries.given.update(given)
    print(json.dumps({name: tries.attempt(work) for name, work in globals()[sys.argv[1]].items()}))
