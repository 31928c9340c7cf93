"""How a process with NET_ADMIN but without setns(2) gets from one network namespace into another.

A privileged program in the first user namespace has its capabilities over each network namespace that belongs to it.
From one of them, it refers to another by an id. The namespaces of both ends of a veth pair have ids for each other. For
others, an id can be made from a pid, an open descriptor or a socket. With the id, interfaces there can be listed,
removed and made (rtnetlink(7)); here one is only looked up.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress

SIOCGSKNS, PIDFD_GET_NET_NAMESPACE = 0x894C, 0xFF04
RTM_GETLINK, RTM_NEWNSID, RTM_GETNSID = 18, 88, 90
NEW = 100  # ids from here on are probably unused
IFLA_IFNAME, IFLA_LINK_NETNSID, IFLA_TARGET_NETNSID = 3, 37, 46
NETNSA_NSID, NETNSA_PID, NETNSA_FD = 1, 2, 3
REQUEST, ACKNOWLEDGE = 1, 4


def attribute(kind: int, value: bytes | int) -> bytes:
    content = struct.pack("=i", value) if isinstance(value, int) else value
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def asked(kind: int, body: bytes, flags: int = ACKNOWLEDGE, protocol: int = 0) -> bytes:
    """Return the answer of the kernel's routing part, or another part. Errors are raised as OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as netlink:
        netlink.settimeout(5)
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, REQUEST | flags, 1, 0) + body)
        answer = netlink.recv(65536)
    if struct.unpack_from("=H", answer, 4)[0] == 2:  # NLMSG_ERROR
        error = -struct.unpack_from("=i", answer, 16)[0]
        if error:
            raise OSError(error, os.strerror(error))
    return answer


def found(name: str, namespace: int) -> int:
    """Return the index of the interface with that name in the namespace with that id."""
    body = bytes(16) + attribute(IFLA_IFNAME, name.encode() + b"\0") + attribute(IFLA_TARGET_NETNSID, namespace)
    return int(struct.unpack_from("=i", asked(RTM_GETLINK, body, 0), 20)[0])


def own_link(name: str) -> int:
    """Return the id that the kernel assigns to the namespace of the veth's other end when it describes the veth."""
    answer = asked(RTM_GETLINK, bytes(16) + attribute(IFLA_IFNAME, name.encode() + b"\0"), 0)
    at = 32
    while at < len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if kind == IFLA_LINK_NETNSID:
            return int(struct.unpack_from("=i", answer, at + 4)[0])
        at += length + -length % 4
    raise OSError("it has no other end in another namespace")


def named(descriptor: int, kind: int = NETNSA_FD) -> int:
    """Return the id for the descriptor's namespace: an existing or a new one."""
    body = bytes(4) + attribute(kind, descriptor)
    (known,) = struct.unpack_from("=i", asked(RTM_GETNSID, body, 0), 24)
    if known >= 0:
        return int(known)
    for free in range(NEW, NEW + 100):
        with suppress(FileExistsError):
            asked(RTM_NEWNSID, body + attribute(NETNSA_NSID, free))
            return free
    raise OSError("no id is free")


def of_socket(descriptor: int) -> int:
    """Return a descriptor of the namespace in which the socket was made."""
    return fcntl.ioctl(descriptor, SIOCGSKNS)


def of_process(pid: int) -> int:
    return fcntl.ioctl(os.pidfd_open(pid), PIDFD_GET_NET_NAMESPACE, 0)
