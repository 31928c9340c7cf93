"""The format between wrapper and host, version 1.  docs/wire.md explains it for people.

A request is one line of JSON (RFC 8259) in strict UTF-8, at most 64 KiB unless the policy allows more, ended by LF:

    {"v":1,"id":"<32 hex>","op":"start","deadline":MS,"argv":["dnsmasq",…],"netns":"qdhcp-…","env":{"NAME":"value"}}
    {"v":1,"id":"<32 hex>","op":"signal","deadline":MS,"signal":"HUP","pid":4711}

`deadline` is in milliseconds of CLOCK_BOOTTIME, which agent and host share.  `netns` is null if the wrapper ran in no
named network namespace.  A reply is one JSON object in a file named after the request's id:

    {"v":1,"id":"…","status":"running|done|rejected|failed|expired","reason":"<code>","message":"…","pid":N,"container":"…"}

The reader trusts nothing: the schema is closed, types are exact, duplicate keys, floats, NaN, huge integers, lone
surrogates and control characters are refused.  One bad line never affects another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum

from sidespawn.core.values import LOWER_HEX, only
from sidespawn.errors import Reason, RequestError, quoted
from sidespawn.frozen import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every run milliseconds
    from typing import Any, NoReturn

VERSION = 1
LINE_BYTES = 64 * 1024  # without its LF; a policy may allow more, up to
LONGEST_LINE = 512 * 1024  # half of what the host takes at a time
ARGUMENT_BYTES = 64  # of a line per argument: 1024 arguments with the smallest limit
ENVIRONMENT_NAMES = 32
NETNS_CHARACTERS = 64
HORIZON_MS = 15 * 60 * 1000  # a later deadline is refused, so that an id is remembered longer than its request can live
PID_MAX = 2**22  # the kernel's PID_MAX_LIMIT on 64-bit machines
PROBE = "0"  # as in kill(2): nothing is sent; the answer says whether it exists
SIGNALS = ("HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "TERM", "KILL")


@dataclass(frozen=True, kw_only=True)
class StartRequest:
    """A request to run a program. The values are well-formed, but not yet checked by a policy."""

    id: str
    deadline: int  # milliseconds, CLOCK_BOOTTIME
    untrusted_argv: tuple[str, ...]
    untrusted_netns: str | None
    untrusted_environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class SignalRequest:
    """A request to signal the side container whose program has this pid, as the agent sees it."""

    id: str
    deadline: int
    signal: str  # PROBE or one of SIGNALS
    pid: int


Request = StartRequest | SignalRequest


class Status(StrEnum):
    RUNNING = "running"
    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True, kw_only=True)
class Reply:
    id: str
    status: Status
    reason: Reason
    message: str = ""
    pid: int | None = None
    container: str = ""


def is_request_id(text: str) -> bool:
    return len(text) == 32 and only(text, LOWER_HEX)


def parse_request(untrusted_line: bytes, most: int = LINE_BYTES) -> Request:
    """Parse the request in one line (without its LF) of at most this many bytes.

    Raises RequestError, which names the id if the line has a valid one.
    """
    if len(untrusted_line) > LONGEST_LINE:
        raise RequestError(f"the line is longer than {most} bytes")
    untrusted_object = parse_object(untrusted_line)
    request_id = untrusted_object.get("id")
    if not isinstance(request_id, str) or not is_request_id(request_id):
        raise RequestError("id is not 32 hexadecimal digits")
    try:
        if len(untrusted_line) > most:
            raise RequestError(f"the line is longer than {most} bytes; limits.line in the policy can raise this")
        return build_request(request_id, untrusted_object, most // ARGUMENT_BYTES)
    except RequestError as error:
        raise RequestError(error.message, request_id) from None


def parse_object(untrusted_line: bytes) -> dict[str, Any]:
    """Parse one JSON object, without the extensions of Python's parser to RFC 8259."""
    try:
        parsed = json.loads(
            untrusted_line.decode("utf-8", "strict"),
            object_pairs_hook=unique_keys,
            parse_int=short_integer,
            parse_float=refuse_number,
            parse_constant=refuse_number,
        )
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the line is not a JSON object of this format ({type(error).__name__})") from None
    if not isinstance(parsed, dict):
        raise RequestError("the line is not a JSON object")
    return parsed


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("duplicate key")
    return unique


def short_integer(digits: str) -> int:
    if len(digits) > 19:
        raise ValueError("integer out of range")
    return int(digits)


def refuse_number(_text: str) -> NoReturn:
    raise ValueError("not an integer")


def build_request(request_id: str, untrusted_object: Mapping[str, Any], arguments: int) -> Request:
    # First, because everything else may differ in another version.
    if "v" in untrusted_object and (version := integer(untrusted_object, "v", 0, 1000)) != VERSION:
        raise RequestError(f"version {version} is not supported, only {VERSION}: recreate the agent")
    operations = {"start": {"argv", "netns", "env"}, "signal": {"signal", "pid"}}
    operation = untrusted_object.get("op")
    if not isinstance(operation, str) or operation not in operations:
        raise RequestError("op is neither start nor signal")
    expected = {"v", "id", "op", "deadline"} | operations[operation]
    if untrusted_object.keys() != expected:
        odd = min(expected ^ untrusted_object.keys())
        raise RequestError(f"key {quoted(odd)} is {'missing' if odd in expected else 'unknown'} in a {operation}")
    deadline = integer(untrusted_object, "deadline", 0, 2**62)
    if operation == "signal":
        signal = untrusted_object["signal"]
        if not isinstance(signal, str) or signal not in (PROBE, *SIGNALS):
            raise RequestError(f"signal is not one of {PROBE} {' '.join(SIGNALS)}")
        pid = integer(untrusted_object, "pid", 2, PID_MAX)
        return SignalRequest(id=request_id, deadline=deadline, signal=signal, pid=pid)
    untrusted_argv = untrusted_object["argv"]
    if not isinstance(untrusted_argv, list) or not 1 <= len(untrusted_argv) <= arguments:
        raise RequestError(f"argv is not a list of 1 to {arguments} strings")
    untrusted_netns = untrusted_object["netns"]
    if untrusted_netns is not None:
        untrusted_netns = plain_text(untrusted_netns, "netns")
        if len(untrusted_netns) > NETNS_CHARACTERS:
            raise RequestError(f"netns is longer than {NETNS_CHARACTERS} characters")
    untrusted_env = untrusted_object["env"]
    if not isinstance(untrusted_env, dict) or len(untrusted_env) > ENVIRONMENT_NAMES:
        raise RequestError(f"env is not an object of at most {ENVIRONMENT_NAMES} strings")
    return StartRequest(
        id=request_id,
        deadline=deadline,
        untrusted_argv=tuple(plain_text(each, f"argv[{i}]") for i, each in enumerate(untrusted_argv)),
        untrusted_netns=untrusted_netns,
        untrusted_environment=tuple(
            (plain_text(name, "a name in env"), plain_text(value, "a value in env"))
            for name, value in sorted(untrusted_env.items())
        ),
    )


def integer(untrusted_object: Mapping[str, Any], key: str, low: int, high: int) -> int:
    untrusted_value = untrusted_object[key]
    if type(untrusted_value) is not int or not low <= untrusted_value <= high:  # bool is an int to isinstance
        raise RequestError(f"{key} is not an integer from {low} to {high}")
    return untrusted_value


def plain_text(untrusted_value: object, where: str) -> str:
    """Return the value if it is a string of printable characters; line ends, escapes and surrogates are not."""
    if not isinstance(untrusted_value, str):
        raise RequestError(f"{where} is not a string")
    if untrusted_value and not untrusted_value.isprintable():
        raise RequestError(f"{where}, {quoted(untrusted_value)}, contains an unprintable character")
    return untrusted_value


def format_reply(reply: Reply) -> bytes:
    fields: dict[str, object] = {"v": VERSION, "id": reply.id, "status": reply.status, "reason": reply.reason}
    fields["message"] = reply.message
    if reply.pid is not None:
        fields["pid"] = reply.pid
    if reply.container:
        fields["container"] = reply.container
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"
