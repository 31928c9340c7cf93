"""Journal records: every field says what it should, whatever text is in it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.host.journal import FIELD_BYTES, SUMMARISED, Event, Journal, encode_field
from tests.attacks.catalogue import attack


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "socket"))
        made.settimeout(10)
        yield made


def read(datagram: bytes) -> list[tuple[str, str]]:
    """Return fields as journald reads them: name, length and that many bytes, or after = up to the line's end."""
    found = []
    while datagram:
        name, _, datagram = datagram.partition(b"\n")
        assert b"=" not in name, "the form that a newline could end is not used"
        size = int.from_bytes(datagram[:8], "little")
        found.append((name.decode(), datagram[8 : 8 + size].decode(errors="replace")))
        assert datagram[8 + size : 9 + size] == b"\n"
        datagram = datagram[9 + size :]
    return found


def sent(receiver: socket.socket, event: Event, message: str, **fields: str | int) -> list[tuple[str, str]]:
    Journal("small", receiver.getsockname()).write(event, message, **fields)
    return read(receiver.recv(1 << 20))


def test_a_record(receiver: socket.socket) -> None:
    record = dict(sent(receiver, Event.STARTED, "it runs", instance="ns-1", pid=4711, hint=""))
    assert record == {
        "MESSAGE": "it runs",
        "MESSAGE_ID": Event.STARTED.message_id,
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "sidespawn",
        "SIDESPAWN_SERVICE": "small",
        "SIDESPAWN_EVENT": "started",
        "SIDESPAWN_INSTANCE": "ns-1",
        "SIDESPAWN_PID": "4711",
    }


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a\nPRIORITY=0",
            "a\nMESSAGE\n\x05\0\0\0\0\0\0\0hello\n",
            "\n",
            "\0",
            "<0>panic",
            "\x1b[31m",
            "a=b",
            "\u2028",
        ),
        *("\ud800", "\udc80", "\U0001f600" * 1000, "x" * 100_000),
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_no_value_can_make_another_field(receiver: socket.socket, text: str) -> None:
    record = sent(receiver, Event.REJECTED, text, request=text)
    ours = ("MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "SIDESPAWN_SERVICE", "SIDESPAWN_EVENT")
    assert sorted(name for name, _ in record) == sorted((*ours, "SIDESPAWN_REQUEST"))
    assert dict(record)["PRIORITY"] == "4"


def test_a_value_is_cut(receiver: socket.socket) -> None:
    record = dict(sent(receiver, Event.REJECTED, "x" * 100_000))
    assert len(record["MESSAGE"]) == FIELD_BYTES


def test_a_field_is_encoded_with_its_length() -> None:
    assert encode_field("A", "b\nc") == b"A\n\x03\0\0\0\0\0\0\0b\nc\n"


def test_a_journal_that_is_not_there_stops_nothing(tmp_path: Path) -> None:
    Journal("small", str(tmp_path / "nothing")).write(Event.STARTED, "it runs")


def test_every_event_has_an_id_of_its_own() -> None:
    ids = [event.message_id for event in Event]
    assert len(set(ids)) == len(ids) == len(Event.__members__)
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in ids)


def test_priorities_are_syslogs() -> None:
    assert {event.priority for event in Event} <= set(range(8))
    assert Event.REJECTED.priority < Event.STARTED.priority


def test_what_an_agent_can_cause_is_counted_beyond_the_limit(receiver: socket.socket) -> None:
    journal = Journal("small", receiver.getsockname())
    journal.records = 3
    for _ in range(3 + 7):
        journal.write(Event.REJECTED, "no")
    for _ in range(5):
        journal.write(Event.STARTED, "it runs")
    journal.summarise()
    messages = [dict(read(receiver.recv(1 << 20)))["MESSAGE"] for _ in range(3 + 5 + 1)]
    left_out = "7 more rejected records were suppressed: too many in one minute"
    assert messages == ["no"] * 3 + ["it runs"] * 5 + [left_out]
    journal.write(Event.REJECTED, "again")
    assert dict(read(receiver.recv(1 << 20)))["MESSAGE"] == "again", "counting begins anew"


@attack(260)
def test_every_kind_of_record_that_requests_cause_has_a_limit() -> None:
    """Only starts, ends and adoptions of side containers, and the report about the others, are written each time."""
    assert {each.name for each in set(Event) - SUMMARISED} == {
        *("STARTED", "ADOPTED", "NOT_ADOPTED", "REPLACED", "STOPPED", "EXITED", "LIMITED")
    }
