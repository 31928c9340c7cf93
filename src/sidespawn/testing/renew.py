"""A DHCP client that renews one lease repeatedly, and reports how long each renewal took.

    python3 -I -S renew.py ADDRESS MAC SERVER PAUSE PATIENCE

Run it in the client's network namespace, with ADDRESS on its interface. It sends what a client in the state RENEWING
sends (RFC 2131, 4.3.2): a unicast DHCPREQUEST with its address in ciaddr. After each it prints a line of JSON with the
time of the request (CLOCK_MONOTONIC), the seconds until the DHCPACK, or null without one within PATIENCE seconds, and
the address. It sends nothing twice, so a lost renewal is one that the server did not answer; udhcpc would repeat it. A
signal ends it. One file, standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time

SERVER_PORT, CLIENT_PORT = 67, 68
COOKIE = b"\x63\x82\x53\x63"
FIXED = struct.Struct("!4B I 2H 4s 4s 4s 4s 16s 64s 128s 4s")  # up to the options
END, PAD, MESSAGE_TYPE, CLIENT_ID, PARAMETERS = 255, 0, 53, 61, 55
REQUEST, ACK = 3, 5


def request(xid: int, address: str, mac: bytes) -> bytes:
    none = bytes(4)
    fixed = FIXED.pack(1, 1, 6, 0, xid, 0, 0, socket.inet_aton(address), none, none, none, mac, b"", b"", COOKIE)
    options = bytes((MESSAGE_TYPE, 1, REQUEST, CLIENT_ID, 7, 1)) + mac + bytes((PARAMETERS, 2, 1, 3, END))
    return fixed + options


def acknowledged(packet: bytes, xid: int) -> str | None:
    """Return the address if the packet is the DHCPACK to this request."""
    if len(packet) <= FIXED.size:
        return None
    fields = FIXED.unpack_from(packet)
    if fields[0] != 2 or fields[4] != xid or fields[-1] != COOKIE:
        return None
    options, at = packet[FIXED.size :], 0
    while at + 2 < len(options) and options[at] != END:
        if options[at] == PAD:
            at += 1
        elif options[at] == MESSAGE_TYPE:
            return socket.inet_ntoa(fields[8]) if options[at + 2] == ACK else None
        else:
            at += 2 + options[at + 1]
    return None


def renew(link: socket.socket, server: str, address: str, mac: bytes, patience: float) -> str | None:
    """Ask once; return the acknowledged address."""
    xid = int.from_bytes(os.urandom(4), "big")
    give_up = time.monotonic() + patience
    try:
        link.sendto(request(xid, address, mac), (server, SERVER_PORT))
        while (left := give_up - time.monotonic()) > 0:
            link.settimeout(left)
            if got := acknowledged(link.recv(4096), xid):
                return got
    except OSError:  # no one listens there, or the time is up
        pass
    return None


def main(arguments: list[str]) -> None:
    address, mac, server = arguments[0], bytes.fromhex(arguments[1].replace(":", "")), arguments[2]
    pause, patience = float(arguments[3]), float(arguments[4])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind(("", CLIENT_PORT))
        while True:
            asked = time.monotonic()
            got = renew(link, server, address, mac, patience)
            seconds = time.monotonic() - asked if got else None
            sys.stdout.write(json.dumps({"asked": asked, "seconds": seconds, "address": got}) + "\n")
            sys.stdout.flush()
            time.sleep(pause)


if __name__ == "__main__":
    main(sys.argv[1:])
