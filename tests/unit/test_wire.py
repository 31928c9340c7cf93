"""The format between wrapper and host: what is a valid line, and why none can do harm before it is judged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidespawn.core.wire import (
    HORIZON_MS,
    LINE_BYTES,
    LONGEST_LINE,
    PID_MAX,
    SIGNALS,
    Reply,
    SignalRequest,
    StartRequest,
    Status,
    format_reply,
    parse_request,
)
from sidespawn.errors import Reason, RequestError

ID = "0123456789abcdef0123456789abcdef"
START: dict[str, Any] = {
    "v": 1,
    "id": ID,
    "op": "start",
    "deadline": 123_456,
    "argv": ["dnsmasq", "--no-hosts", ""],
    "netns": "qdhcp-1",
    "env": {"PROCESS_TAG": "dnsmasq-1"},
}
SIGNAL: dict[str, Any] = {"v": 1, "id": ID, "op": "signal", "deadline": 123_456, "signal": "HUP", "pid": 4711}


def line(fields: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(fields | changes).encode()


def refusal(untrusted_line: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_request(untrusted_line)
    return caught.value


# ---------------------------------------------------------------- what is read


def test_a_start() -> None:
    assert parse_request(line(START)) == StartRequest(
        id=ID,
        deadline=123_456,
        untrusted_argv=("dnsmasq", "--no-hosts", ""),
        untrusted_netns="qdhcp-1",
        untrusted_environment=(("PROCESS_TAG", "dnsmasq-1"),),
    )


def test_a_signal() -> None:
    assert parse_request(line(SIGNAL)) == SignalRequest(id=ID, deadline=123_456, signal="HUP", pid=4711)


@pytest.mark.parametrize(
    "changes",
    [
        {"netns": None},
        {"env": {}},
        {"argv": ["dnsmasq"]},
        {"argv": ["dnsmasq", "--domain=b\u00fccher.example"]},  # printable characters, which the policy refuses
        {"argv": ["x"] * 1024},
        {"env": {f"N{i}": "" for i in range(32)}},
        {"netns": "n" * 64},
        {"deadline": 0},
        {"deadline": 2**62},
    ],
    ids=lambda changes: f"{next(iter(changes))}-{str(next(iter(changes.values())))[:20]}",
)
def test_well_formed(changes: dict[str, Any]) -> None:
    assert isinstance(parse_request(line(START, **changes)), StartRequest)


@pytest.mark.parametrize("signal", SIGNALS)
def test_every_signal_of_the_format(signal: str) -> None:
    assert parse_request(line(SIGNAL, signal=signal)) == SignalRequest(id=ID, deadline=123_456, signal=signal, pid=4711)


def test_order_and_blanks_of_json_do_not_matter() -> None:
    assert parse_request(json.dumps(dict(reversed(START.items())), indent=2).encode()) == parse_request(line(START))


def test_environment_comes_out_sorted() -> None:
    request = parse_request(line(START, env={"B": "2", "A": "1"}))
    assert isinstance(request, StartRequest)
    assert request.untrusted_environment == (("A", "1"), ("B", "2"))


# ---------------------------------------------------------------- bytes that are not this format

RAW = line(START)
NOT_JSON = {
    "empty": b"",
    "blank": b" ",
    "a torn line": RAW[:-7],
    "invalid UTF-8": RAW.replace(b"no-hosts", b"no-\xff\xfe"),
    "overlong UTF-8 of a slash": RAW.replace(b"no-hosts", b"no\xc0\xafhosts"),
    "surrogate in UTF-8 (CESU-8)": RAW.replace(b"no-hosts", b"no\xed\xa0\x80hosts"),
    "UTF-16": RAW.decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + RAW,
    "raw NUL in a string": RAW.replace(b"no-hosts", b"no\0hosts"),
    "raw NUL behind": RAW + b"\0",
    "raw newline in a string": RAW.replace(b"no-hosts", b"no\nhosts"),
    "two objects": RAW + RAW,
    "trailing comma": RAW[:-1] + b",}",
    "comment": RAW + b"// x",
    "single quotes": RAW.replace(b'"', b"'"),
    "deep list": b"[" * 60_000,
    "deep list, closed": b"[" * 30_000 + b"]" * 30_000,
    "deep object": b'{"a":' * 10_000,
    "deep value in a good request": RAW.replace(b'"qdhcp-1"', b"[" * 20_000 + b"]" * 20_000),
    "duplicate key": RAW[:-1] + b', "op": "start"}',
    "duplicate key in env": RAW.replace(b'"PROCESS_TAG"', b'"PROCESS_TAG": "x", "PROCESS_TAG"'),
    "duplicate key, one escaped": RAW[:-1] + b', "o\\u0070": "start"}',
    "NaN": RAW.replace(b"123456", b"NaN"),
    "Infinity": RAW.replace(b"123456", b"Infinity"),
    "-Infinity": RAW.replace(b"123456", b"-Infinity"),
    "1e999": RAW.replace(b"123456", b"1e999"),
    "1e3": RAW.replace(b"123456", b"1e3"),
    "a float": RAW.replace(b"123456", b"123456.0"),
    "5,000 digits": RAW.replace(b"123456", b"1" * 5000),
    "20 digits": RAW.replace(b"123456", b"1" * 20),
    "leading zero": RAW.replace(b"123456", b"0123456"),
    "hexadecimal": RAW.replace(b"123456", b"0x1f"),
    "other digits": RAW.replace(b"123456", "\u0661\u0662".encode()),
    "a list": b"[]",
    "a string": b'"start"',
    "null": b"null",
    "a number": b"1",
}


@pytest.mark.parametrize("untrusted_line", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_not_this_format(untrusted_line: bytes) -> None:
    error = refusal(untrusted_line)
    assert error.reason is Reason.BAD_REQUEST
    assert error.request_id is None


def test_a_line_of_64_kib_is_the_longest() -> None:
    longest = RAW + b" " * (LINE_BYTES - len(RAW))
    assert isinstance(parse_request(longest), StartRequest)
    assert "longer than 65536 bytes" in refusal(longest + b" ").message


@pytest.mark.parametrize("most", [LINE_BYTES, 100_000, LONGEST_LINE])
def test_a_policy_says_how_long_a_line_may_be(most: int) -> None:
    longest = RAW + b" " * (most - len(RAW))
    assert isinstance(parse_request(longest, most), StartRequest)
    with pytest.raises(RequestError, match=f"longer than {most} bytes"):
        parse_request(longest + b" ", most)


def test_a_line_that_only_this_policy_refuses_for_its_length_has_an_answer() -> None:
    """Wrappers of an earlier policy may send one, and would wait for the answer until the deadline."""
    error = refusal(RAW + b" " * (LINE_BYTES + 1))
    assert error.request_id == ID
    assert "limits.line" in error.message
    assert refusal(RAW + b" " * (LONGEST_LINE + 1)).request_id is None


@pytest.mark.parametrize(("most", "arguments"), [(LINE_BYTES, 1024), (2 * LINE_BYTES, 2048), (LONGEST_LINE, 8192)])
def test_a_longer_line_may_have_more_arguments(most: int, arguments: int) -> None:
    def line(number: int) -> bytes:
        return json.dumps(json.loads(RAW) | {"argv": ["x"] * number}).encode()

    assert isinstance(parse_request(line(arguments), most), StartRequest)
    with pytest.raises(RequestError, match=f"argv is not a list of 1 to {arguments} strings"):
        parse_request(line(arguments + 1), most)


# ---------------------------------------------------------------- strings

STRANGE = {
    "NUL": "\0",
    "LF": "\n",
    "CR": "\r",
    "tab": "\t",
    "escape": "\x1b",
    "delete": "\x7f",
    "NEL": "\x85",
    "vertical tab": "\x0b",
    "form feed": "\x0c",
    "file separator": "\x1c",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "right-to-left override": "\u202e",
    "left-to-right isolate": "\u2066",
    "zero-width space": "\u200b",
    "byte order mark": "\ufeff",
    "no-break space": "\u00a0",
    "high surrogate": "\ud83d",
    "low surrogate": "\udc80",
    "private use": "\ue000",
    "not a character": "\uffff",
}
WHERE: dict[str, Any] = {
    "the program": lambda text: {"argv": [f"dns{text}masq"]},
    "an argument": lambda text: {"argv": ["dnsmasq", f"--no{text}hosts"]},
    "the end of an argument": lambda text: {"argv": ["dnsmasq", f"--no-hosts{text}"]},
    "netns": lambda text: {"netns": f"qdhcp{text}"},
    "a name in env": lambda text: {"env": {f"A{text}": "1"}},
    "a value in env": lambda text: {"env": {"A": f"1{text}"}},
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE.keys())
def test_only_printable_characters(where: Any, text: str) -> None:
    error = refusal(line(START, **where(text)))
    assert "unprintable" in error.message
    assert error.message.isascii()
    assert error.message.isprintable()
    assert error.request_id == ID


@pytest.mark.parametrize("text", ["\u2028", "\x85", "\x0b", "\x1c"], ids=ascii)
def test_what_only_pythons_splitlines_takes_for_a_line_end_is_refused_raw_too(text: str) -> None:
    assert refusal(json.dumps(START | {"netns": text}, ensure_ascii=False).encode()).reason is Reason.BAD_REQUEST


# ---------------------------------------------------------------- a closed schema with exact types


@pytest.mark.parametrize("key", START)
def test_no_key_of_a_start_may_be_missing(key: str) -> None:
    refusal(line({name: value for name, value in START.items() if name != key}))


@pytest.mark.parametrize("key", SIGNAL)
def test_no_key_of_a_signal_may_be_missing(key: str) -> None:
    refusal(line({name: value for name, value in SIGNAL.items() if name != key}))


@pytest.mark.parametrize("key", ["service", "", "V", "id ", "image", "__class__", "\ud800", "argv\u0000"])
@pytest.mark.parametrize("fields", [START, SIGNAL], ids=["start", "signal"])
def test_no_other_key(fields: dict[str, Any], key: str) -> None:
    error = refusal(line(fields, **{key: "x"}))
    assert "is unknown in a" in error.message
    assert error.message.isascii()
    assert error.request_id == ID


@pytest.mark.parametrize("key", ["signal", "pid"])
def test_a_start_has_no_key_of_a_signal(key: str) -> None:
    assert f"'{key}' is unknown in a start" in refusal(line(START, **{key: SIGNAL[key]})).message


WRONG: list[tuple[dict[str, Any], str, Any]] = [
    (START, "v", True),
    (START, "v", "1"),
    (START, "v", None),
    (START, "v", []),
    (START, "deadline", True),
    (START, "deadline", False),
    (START, "deadline", "1"),
    (START, "deadline", -1),
    (START, "deadline", 2**62 + 1),
    (START, "deadline", None),
    (START, "op", "Start"),
    (START, "op", "stop"),
    (START, "op", ""),
    (START, "op", ["start"]),
    (START, "op", {"start": 1}),
    (START, "op", None),
    (START, "argv", []),
    (START, "argv", "dnsmasq"),
    (START, "argv", None),
    (START, "argv", {"0": "dnsmasq"}),
    (START, "argv", [1]),
    (START, "argv", ["dnsmasq", None]),
    (START, "argv", ["dnsmasq", ["--no-hosts"]]),
    (START, "argv", ["dnsmasq", True]),
    (START, "argv", ["x"] * 1025),
    (START, "netns", 1),
    (START, "netns", False),
    (START, "netns", ["a"]),
    (START, "netns", "n" * 65),
    (START, "env", None),
    (START, "env", []),
    (START, "env", ["A=1"]),
    (START, "env", "A=1"),
    (START, "env", {"A": 1}),
    (START, "env", {"A": None}),
    (START, "env", {f"N{i}": "" for i in range(33)}),
    (SIGNAL, "signal", "hup"),
    (SIGNAL, "signal", "SIGHUP"),
    (SIGNAL, "signal", "STOP"),
    (SIGNAL, "signal", "00"),
    (SIGNAL, "signal", ""),
    (SIGNAL, "signal", 1),
    (SIGNAL, "signal", None),
    (SIGNAL, "signal", ["HUP"]),
    (SIGNAL, "pid", -1),
    (SIGNAL, "pid", 0),
    (SIGNAL, "pid", 1),
    (SIGNAL, "pid", PID_MAX + 1),
    (SIGNAL, "pid", 2**40),
    (SIGNAL, "pid", "self"),
    (SIGNAL, "pid", "4711"),
    (SIGNAL, "pid", True),
    (SIGNAL, "pid", None),
    (SIGNAL, "pid", [4711]),
]


@pytest.mark.parametrize(
    ("fields", "key", "value"), WRONG, ids=[f"{fields['op']}-{key}-{str(value)[:20]}" for fields, key, value in WRONG]
)
def test_wrong_value(fields: dict[str, Any], key: str, value: Any) -> None:
    error = refusal(line(fields, **{key: value}))
    assert error.request_id == ID
    assert key in error.message


@pytest.mark.parametrize("differently", [{"limits": {}}, {"op": "reload"}, {"argv": "dnsmasq"}])
def test_another_version_is_reported_whatever_else_it_says(differently: dict[str, object]) -> None:
    assert "version 2 is not supported" in refusal(line(START, v=2, **differently)).message
    assert "version" not in refusal(line(START, **differently)).message


@pytest.mark.parametrize("version", [0, 2, 1000])
def test_another_version_is_reported_with_what_to_renew(version: int) -> None:
    error = refusal(line(START, v=version))
    assert f"version {version} is not supported" in error.message
    assert error.request_id == ID


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize("request_id", [ID, "0" * 32, "f" * 32])
def test_id(request_id: str) -> None:
    assert parse_request(line(START, id=request_id)).id == request_id


@pytest.mark.parametrize(
    "request_id",
    [
        *("", ID[:-1], ID + "0", ID.upper(), ID + "\n", ID[:-1] + "\n", ID[:-1] + "g", " " + ID[1:], "\u0661" * 32),
        *("../" + ID[3:], "/" * 32, "." * 32, ID[:-1] + "\0", None, 1, True, [ID], {"id": ID}),
    ],
    ids=ascii,
)
def test_no_id(request_id: object) -> None:
    error = refusal(line(START, id=request_id))
    assert "id is not 32 hexadecimal digits" in error.message
    assert error.request_id is None  # so that no file is ever named after it


# ---------------------------------------------------------------- any input

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=2000))
@example(b"\x00" * 100)
def test_arbitrary_bytes_never_raise_anything_else(untrusted_line: bytes) -> None:
    try:
        parse_request(untrusted_line)
    except RequestError as error:
        assert error.message.isascii()
        assert error.message.isprintable()


@given(
    st.fixed_dictionaries({}, optional={key: json_values | st.just(value) for key, value in (START | SIGNAL).items()})
)
def test_arbitrary_values_in_the_right_places_never_raise_anything_else(fields: dict[str, Any]) -> None:
    try:
        request = parse_request(json.dumps(fields).encode())
    except RequestError as error:
        assert error.message.isprintable()
        assert error.request_id in (None, ID)
    else:
        assert request.id == ID


@given(
    argv=st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=5),
    netns=st.none() | st.text(max_size=70),
    env=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_what_is_accepted_is_what_was_written(argv: list[str], netns: str | None, env: dict[str, str]) -> None:
    try:
        request = parse_request(line(START, argv=argv, netns=netns, env=env))
    except RequestError:
        return
    assert isinstance(request, StartRequest)
    assert (list(request.untrusted_argv), request.untrusted_netns) == (argv, netns)
    assert dict(request.untrusted_environment) == env


# ---------------------------------------------------------------- replies


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("status", Status)
def test_a_reply_can_be_read_back(status: Status, reason: Reason) -> None:
    reply = Reply(id=ID, status=status, reason=reason, message='a "message" \u2028 \x1b', pid=4711, container="c")
    written = format_reply(reply)
    assert json.loads(written) == {
        "v": 1,
        "id": ID,
        "status": status.value,
        "reason": reason.value,
        "message": 'a "message" \u2028 \x1b',
        "pid": 4711,
        "container": "c",
    }
    assert written.isascii()
    assert written.count(b"\n") == 1
    assert written.endswith(b"\n")


def test_a_reply_says_nothing_about_a_container_that_is_not_there() -> None:
    reply = Reply(id=ID, status=Status.REJECTED, reason=Reason.OPTION_UNKNOWN)
    assert json.loads(format_reply(reply)).keys() == {"v", "id", "status", "reason", "message"}


def test_an_id_is_remembered_longer_than_the_longest_wait_of_a_wrapper() -> None:
    longest_timeout = 600  # seconds; the longest that a policy can set
    assert longest_timeout * 1000 < HORIZON_MS


def test_signal_0_asks_whether_it_is_there() -> None:
    parsed = parse_request(json.dumps(SIGNAL | {"signal": "0"}).encode())
    assert isinstance(parsed, SignalRequest)
    assert parsed.signal == "0"
