"""Errors, with stable reason codes.

Every error that may reach an agent, an operator or the journal is a `SidespawnError` with a reason from `Reason`, a
message that names the argument and the rule, and a hint if something can be done.  Any error before a verdict denies:
`Denied` is a refusal, and so are an unreadable policy and a malformed request.

An agent's strings enter a message only through `quoted`.
"""

from __future__ import annotations

from enum import StrEnum

QUOTED_CHARACTERS = 160


class Reason(StrEnum):
    """Stable codes: once published, a code keeps its meaning. docs/reasons.md explains each of them."""

    OK = "ok"
    # The request itself.
    BAD_REQUEST = "bad-request"
    EXPIRED = "expired"
    # Refused by the policy.
    POLICY_INVALID = "policy-invalid"
    PROGRAM_NOT_ALLOWED = "program-not-allowed"
    OPTION_UNKNOWN = "option-unknown"
    OPTION_NOT_ALLOWED = "option-not-allowed"
    OPTION_REPEATED = "option-repeated"
    OPTION_MISSING = "option-missing"
    OPTION_MALFORMED = "option-malformed"
    VALUE_NOT_ALLOWED = "value-not-allowed"
    VALUE_CONFLICT = "value-conflict"
    POSITIONAL_NOT_ALLOWED = "positional-not-allowed"
    ENVIRONMENT_NOT_ALLOWED = "environment-not-allowed"
    NAMESPACE_NOT_ALLOWED = "namespace-not-allowed"
    SIGNAL_NOT_ALLOWED = "signal-not-allowed"
    IMAGE_NOT_ALLOWED = "image-not-allowed"
    CONFIGURATION_NOT_ALLOWED = "configuration-not-allowed"
    INSTANCE_LIMIT = "instance-limit"
    # Found when acting on an allowed request.
    NAMESPACE_UNUSABLE = "namespace-unusable"
    STATE_UNUSABLE = "state-unusable"
    IMAGE_MISSING = "image-missing"
    ENGINE_FAILED = "engine-failed"
    ENGINE_TIMEOUT = "engine-timeout"
    EXITED = "exited"
    OUT_OF_MEMORY = "out-of-memory"
    BACKING_OFF = "backing-off"
    NOT_READY = "not-ready"
    NAMESPACE_MISMATCH = "namespace-mismatch"
    NO_SUCH_PROCESS = "no-such-process"
    STILL_RUNNING = "still-running"
    INTERNAL = "internal"
    # Reported to operators by the command line only.
    USAGE = "usage"
    NOT_ENABLED = "not-enabled"
    HOST_UNSUITABLE = "host-unsuitable"


class SidespawnError(Exception):
    """The root of every error of this package.

    `reason` is the stable code, `message` one line for people, `hint` what to do about it (may be empty).
    """

    def __init__(self, reason: Reason, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint


class Denied(SidespawnError):
    """The policy does not allow the request. Nothing was started."""

    def __init__(
        self, reason: Reason, message: str, hint: str = "", *, argument: int | None = None, rule: str = ""
    ) -> None:
        super().__init__(reason, message, hint)
        self.argument = argument  # index into the request's argv, if one argument is to blame
        self.rule = rule  # "FILE:LINE" of the rule that refused


class RequestError(Denied):
    """A line in the spool is not a valid request. `request_id` is set if the line contains a valid one."""

    def __init__(self, message: str, request_id: str | None = None) -> None:
        super().__init__(Reason.BAD_REQUEST, message)
        self.request_id = request_id


class PolicyError(Denied):
    """A policy cannot be used. The message begins with FILE:LINE."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(Reason.POLICY_INVALID, message, hint)


class LaunchError(SidespawnError):
    """An allowed request could not be carried out."""


def quoted(untrusted_text: str, most: int = QUOTED_CHARACTERS) -> str:
    """Return one printable ASCII line for a string from an agent: escaped, in quotes, at most `most` characters."""
    escaped = ascii(untrusted_text)
    return escaped if len(escaped) <= most else escaped[: most - 4] + "...'"
