"""The shipped policies, and the recorded calls as requests to them."""

from __future__ import annotations

from sidespawn import presets
from sidespawn.core.policy import Policy
from sidespawn.core.wire import StartRequest
from sidespawn.loading.parse import parse_policy
from tests.data.corpus import Call
from tests.unit.small import start_request


def preset(name: str) -> Policy:
    return policy_of(presets.read_preset(name), name)


def policy_of(text: str, name: str = "service") -> Policy:
    """Load a policy from text, which may extend a preset."""
    return parse_policy(name, f"{name}.toml", text, presets.read_preset, presets.read_program)


def request_of(call: Call, *more: str) -> StartRequest:
    """Return the call as a request, with more arguments."""
    return start_request((*call.argv, *more), call.netns, dict(sorted(call.env.items())))
