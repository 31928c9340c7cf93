"""What leads from one network namespace into another for who has NET_ADMIN, but may not call setns(2).

A privileged program of the first user namespace has its capabilities over each network namespace that belongs to it.
Being in one of them, it needs a name for another: an id that its own namespace has for it.  The namespaces of both ends
of a veth pair have one for each other.  For others it can be made by whoever knows a pid or holds a descriptor, and a
socket serves as well.  With the id, interfaces there can be listed, removed and made (rtnetlink(7)); here one is
only looked up.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress

SIOCGSKNS, PIDFD_GET_NET_NAMESPACE = 0x894C, 0xFF04
RTM_GETLINK, RTM_NEWNSID, RTM_GETNSID = 18, 88, 90
NEW = 100  # from where on ids are likely to be free
IFLA_IFNAME, IFLA_LINK_NETNSID, IFLA_TARGET_NETNSID = 3, 37, 46
NETNSA_NSID, NETNSA_PID, NETNSA_FD = 1, 2, 3
REQUEST, ACKNOWLEDGE = 1, 4


def attribute(kind: int, value: bytes | int) -> bytes:
    content = struct.pack("=i", value) if isinstance(value, int) else value
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def asked(kind: int, body: bytes, flags: int = ACKNOWLEDGE, protocol: int = 0) -> bytes:
    """The answer of the kernel's routes, or of another part of it; an error of theirs is an OSError."""
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
    """The number of the interface with that name in the namespace with that id."""
    body = bytes(16) + attribute(IFLA_IFNAME, name.encode() + b"\0") + attribute(IFLA_TARGET_NETNSID, namespace)
    return int(struct.unpack_from("=i", asked(RTM_GETLINK, body, 0), 20)[0])


def own_link(name: str) -> int:
    """By its answer about a veth the kernel gives the namespace of the other end an id here; the id."""
    answer = asked(RTM_GETLINK, bytes(16) + attribute(IFLA_IFNAME, name.encode() + b"\0"), 0)
    at = 32
    while at < len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if kind == IFLA_LINK_NETNSID:
            return int(struct.unpack_from("=i", answer, at + 4)[0])
        at += length + -length % 4
    raise OSError("it has no other end in another namespace")


def named(descriptor: int, kind: int = NETNSA_FD) -> int:
    """An id for the namespace that the descriptor is of: the one that it has, or a new one."""
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
    """A descriptor of the namespace in which the socket was made."""
    return fcntl.ioctl(descriptor, SIOCGSKNS)


def of_process(pid: int) -> int:
    return fcntl.ioctl(os.pidfd_open(pid), PIDFD_GET_NET_NAMESPACE, 0)
