"""Calls systemd at PID 1's own socket, like root's systemctl: just enough of D-Bus for the engine.

On the system's message bus, any user of the host could send what looks like an answer, or more than fits into memory.
At this socket only PID 1 speaks.  Strings are sent with their lengths, so no value can be mistaken for anything else.
A call through busctl takes six milliseconds, and a call through this module a tenth of one.

Values correspond to their signatures (D-Bus specification, 0.38): an array is a list, a structure a tuple, a variant a
pair of signature and value.  Dictionaries, descriptors and signals are not supported.
"""

from __future__ import annotations

import _socket  # not socket: see core/values.py
import os
import struct
import time

from sidespawn.errors import LaunchError, Reason, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every run milliseconds
    from typing import Any

SOCKET = "/run/systemd/private"
NUMBERS = {"y": "B", "b": "I", "i": "i", "u": "I", "x": "q", "t": "Q", "n": "h", "q": "H", "d": "d"}
ALIGNMENT = {"(": 8, "g": 1, "v": 1, "s": 4, "o": 4, "a": 4} | {
    each: struct.calcsize(NUMBERS[each]) for each in NUMBERS
}
CALL, ANSWER, ERROR = 1, 2, 3
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_TO, SIGNATURE = 1, 2, 3, 4, 5, 8


class BusError(Exception):
    """An error from the service: its name, such as org.freedesktop.systemd1.UnitExists, and one line for people."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Bus:
    """A connection, for one thread. All answers must arrive within `timeout` seconds after it is made."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.give_up = timeout, time.monotonic() + timeout
        self.serial, self.received = 0, b""
        self.socket = _socket.socket(_socket.AF_UNIX)
        try:
            self.socket.settimeout(timeout)
            self.socket.connect(SOCKET)
            self.socket.sendall(b"\0AUTH EXTERNAL %s\r\nBEGIN\r\n" % str(os.geteuid()).encode().hex().encode())
            while b"\r\n" not in self.received:
                self.receive()
            self.received = self.received.partition(b"\r\n")[2]
        except OSError as error:
            self.socket.close()
            raise self.failed(error) from None

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(self, path: str, interface: str, member: str, signature: str = "", *values: Any) -> Any:
        """Return the first value of the answer. Raises BusError, and LaunchError if no answer arrives in time."""
        self.serial += 1
        fields = [(PATH, ("o", path)), (INTERFACE, ("s", interface)), (MEMBER, ("s", member))]
        body, message = bytearray(), bytearray()
        for each, value in zip(split(signature), values, strict=True):
            put(body, each, value)
        put(message, "(yyyyuu)", (ord("l"), CALL, 0, 1, len(body), self.serial))
        put(message, "a(yv)", [*fields, (SIGNATURE, ("g", signature))])
        pad(message, 8)
        try:
            self.socket.sendall(message + body)
            kind, answer = self.answer()
        except OSError as error:
            raise self.failed(error) from None
        value = get(answer[1], 0, split(answer[0])[0])[0] if answer[0] else None
        if kind == ERROR:
            raise BusError(answer[2], str(value))
        return value

    def answer(self) -> tuple[int, tuple[str, bytes, str]]:
        """Return type, signature, body and error name of the answer to the last call."""
        while True:
            start = self.take(16)
            _, kind, _, _, length, _, fields_length = struct.unpack("<BBBBIII", start)
            rest = self.take(fields_length + -fields_length % 8 + length)
            fields = dict(get(start + rest, 12, "a(yv)")[0])
            if kind in (ANSWER, ERROR) and fields.get(REPLY_TO) == self.serial:
                body = rest[len(rest) - length :]
                return kind, (fields.get(SIGNATURE, ""), body, fields.get(ERROR_NAME, ""))

    def take(self, length: int) -> bytes:
        while len(self.received) < length:
            self.receive()
        taken, self.received = self.received[:length], self.received[length:]
        return taken

    def receive(self) -> None:
        self.socket.settimeout(max(0.001, self.give_up - time.monotonic()))
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionResetError("the connection was closed")
        self.received += piece

    def failed(self, error: OSError) -> LaunchError:
        if isinstance(error, TimeoutError):
            return LaunchError(Reason.ENGINE_TIMEOUT, f"systemd did not answer within {self.timeout:.0f} s")
        what = quoted(error.strerror or str(error))
        return LaunchError(Reason.ENGINE_FAILED, f"systemd cannot be asked at {SOCKET}: {what}")


def split(signature: str) -> list[str]:
    """Split a signature into its complete types."""
    types = []
    while signature:
        end = len(signature) - len(signature.lstrip("a")) + 1
        if signature[end - 1] == "(":
            while signature[:end].count("(") != signature[:end].count(")"):
                end += 1
        types.append(signature[:end])
        signature = signature[end:]
    return types


def pad(message: bytearray, alignment: int) -> None:
    message.extend(b"\0" * (-len(message) % alignment))


def put(message: bytearray, kind: str, value: Any) -> None:
    pad(message, ALIGNMENT[kind[0]])
    match kind[0]:
        case "s" | "o":
            text = value.encode()
            message += struct.pack("<I", len(text)) + text + b"\0"
        case "g":
            message += struct.pack("B", len(value)) + value.encode() + b"\0"
        case "v":
            put(message, "g", value[0])
            put(message, value[0], value[1])
        case "a":
            at = len(message)
            message += bytes(4)
            pad(message, ALIGNMENT[kind[1]])
            start = len(message)
            for each in value:
                put(message, kind[1:], each)
            struct.pack_into("<I", message, at, len(message) - start)
        case "(":
            for each, part in zip(split(kind[1:-1]), value, strict=True):
                put(message, each, part)
        case number:
            message += struct.pack(f"<{NUMBERS[number]}", value)


def get(message: bytes, at: int, kind: str) -> tuple[Any, int]:
    """Return the value at that offset and the offset of the next one. Little-endian, as PID 1 answers here."""
    at += -at % ALIGNMENT[kind[0]]
    match kind[0]:
        case "s" | "o":
            end = at + 4 + int(struct.unpack_from("<I", message, at)[0])
            return message[at + 4 : end].decode(errors="replace"), end + 1
        case "g":
            end = at + 1 + message[at]
            return message[at + 1 : end].decode(), end + 1
        case "v":
            inner, at = get(message, at, "g")
            return get(message, at, inner)
        case "a":
            length = int(struct.unpack_from("<I", message, at)[0])
            at += 4 + -(at + 4) % ALIGNMENT[kind[1]]
            end, values = at + length, []
            while at < end:
                value, at = get(message, at, kind[1:])
                values.append(value)
            return values, end
        case "(":
            parts = []
            for each in split(kind[1:-1]):
                value, at = get(message, at, each)
                parts.append(value)
            return tuple(parts), at
        case number:
            return struct.unpack_from(f"<{NUMBERS[number]}", message, at)[0], at + ALIGNMENT[number]
