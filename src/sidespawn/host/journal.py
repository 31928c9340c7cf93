"""Writes every verdict, start and stop as a structured record to the journal.

The fields are those of systemd.journal-fields(7) and SIDESPAWN_*; `journalctl SIDESPAWN_SERVICE=…` finds them, and each
kind of event has a MESSAGE_ID.  The native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL) transmits lengths, so
an agent's string cannot forge a field.  Strings are escaped and truncated before they get here anyway.
"""

from __future__ import annotations

import _socket  # not socket: see core/values.py
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from enum import Enum

from sidespawn.core.policy import ServiceLimits
from sidespawn.host.tally import Tally

JOURNAL = "/run/systemd/journal/socket"
FIELD_BYTES = 2048
WINDOW = 60.0  # seconds
NOTICE, WARNING, ERROR, INFO = 5, 4, 3, 6


class Event(Enum):
    """MESSAGE_ID and priority of each kind of record."""

    STARTED = ("716e3f449d9040588e2032274254d701", INFO)
    ANSWERED = ("ee3b9bcd8b6042e3bed3cfaa75cce697", INFO)
    ADOPTED = ("f8a52bdf59c34c81816d4ad4eddb558a", NOTICE)
    NOT_ADOPTED = ("590c64cf811146e18c9ea7650c101708", WARNING)
    REPLACED = ("935fd4b993424a9bb4a0fa148d4c63f0", NOTICE)
    SIGNALLED = ("8c0608ec82e0426c990759bf346dbcf5", INFO)
    STOPPED = ("c85a3c90dddd437c88f492a87e5baaa2", INFO)
    EXITED = ("96c8ff2ceb174d6e9a3e50a27078dfd0", NOTICE)
    REJECTED = ("fe0b434f0f0241149994f7599fdf1677", WARNING)
    MONITORED = ("c7fa5504379a48dc82532e13015f4339", WARNING)
    FAILED = ("f95d187a4a98404183709687d1d058d0", ERROR)
    EXPIRED = ("edb25f6d99864b6099af9bf85c1079cc", WARNING)
    UNREADABLE = ("c342d0150c6846aa8a6b6bc480a616ce", WARNING)
    LIMITED = ("d9c6aace09cc4dce8d1fad16342e3875", WARNING)
    FORGED = ("8a401318cd7746ceb2dc08b958d7b02a", WARNING)
    RESTORED = ("de883469bfe442059d41f7ecc425d371", WARNING)
    INTERNAL = ("a74b406375e04c8b81c2c2eaa9e8d1cb", ERROR)

    def __init__(self, message_id: str, priority: int) -> None:
        self.message_id = message_id
        self.priority = priority


ALWAYS = (Event.STARTED, Event.ADOPTED, Event.NOT_ADOPTED, Event.REPLACED, Event.STOPPED, Event.EXITED, Event.LIMITED)
SUMMARISED = frozenset(Event).difference(ALWAYS)  # an agent can cause these as fast as it writes lines


class Journal:
    """Writes records about one service. Losing a record never stops the work, since the journal may be restarting.

    At most `records` of each kind in SUMMARISED are written per minute; one record reports the number of the others.
    """

    def __init__(self, service: str, path: str = JOURNAL) -> None:
        self.service = service
        self.path = path
        self.tally: Tally | None = None  # counts all records, including suppressed ones
        self.records = ServiceLimits.records
        self.lock = threading.Lock()
        self.counts: Counter[Event] = Counter()
        self.window_ends = 0.0

    def write(self, event: Event, message: str, **fields: str | int) -> None:
        """`fields` become SIDESPAWN_<NAME>."""
        if time.monotonic() >= self.window_ends:
            self.summarise()
        if self.tally:
            self.tally.add(f"events {event.name.lower()} {fields.get('reason', '')}".rstrip())
            if event is Event.STARTED:
                self.tally.started(str(fields["request"]))
        with self.lock:
            self.counts[event] += event in SUMMARISED
            too_many = self.counts[event] > self.records
        if not too_many:
            self.send(event, message, fields)

    def summarise(self) -> None:
        """Report how many records were suppressed since the last time, and reset the count."""
        with self.lock:
            left_out = {event.name.lower(): count - self.records for event, count in self.counts.items()}
            self.counts.clear()
            self.window_ends = time.monotonic() + WINDOW
        for kind, count in left_out.items():
            if count > 0:
                message = f"{count} more {kind} records were suppressed: too many in one minute"
                self.send(Event.LIMITED, message, {})

    def send(self, event: Event, message: str, fields: dict[str, str | int]) -> None:
        record: dict[str, str | int] = {
            "MESSAGE": message,
            "MESSAGE_ID": event.message_id,
            "PRIORITY": event.priority,
            "SYSLOG_IDENTIFIER": "sidespawn",
            "SIDESPAWN_SERVICE": self.service,
            "SIDESPAWN_EVENT": event.name.lower(),
        }
        record |= {f"SIDESPAWN_{name.upper()}": value for name, value in fields.items() if value != ""}
        datagram = b"".join(encode_field(name, str(value)) for name, value in record.items())
        with suppress(OSError), closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)) as sender:
            sender.settimeout(1)
            sender.sendto(datagram, self.path)


def encode_field(name: str, value: str) -> bytes:
    content = value.encode("utf-8", "backslashreplace")[:FIELD_BYTES]
    return name.encode("ascii") + b"\n" + len(content).to_bytes(8, "little") + content + b"\n"
