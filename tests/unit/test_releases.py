"""The calls of each Neutron release, judged by the presets."""

from __future__ import annotations

import pytest

from sidespawn.core.decide import beneath, decide
from sidespawn.errors import Denied
from tests.data.releases import RELEASE_CALLS, ReleaseCall
from tests.unit.shipped import policy_of
from tests.unit.small import start_request

KOLLA = '[parameters]\nstate = "/var/lib/neutron/kolla"\n'
# Decisions: the preset's own verdict, and the lines with which a service's own policy gets another one.
# docs/neutron.md has the reasons.
DECIDED = {
    "state-change: the Python program": ("allow", ""),
    "state-change debug=False conntrackd=True (2025.1)": ("allow", ""),
    "state-change debug=True conntrackd=False (2025.1)": ("allow", ""),
    "state-change debug=True conntrackd=True (2025.1)": ("allow", ""),
    "keepalived: health check": ("refuse", ""),
    "keepalived healthcheck no route (2023.1)": ("refuse", ""),
    "dnsmasq: in no namespace": ("refuse", ""),
    "dnsmasq: Kolla's state path": ("allow", KOLLA),
    "dnsmasq: logs in /var/log/neutron": ("allow", ""),
    "dnsmasq dns server hash (2023.1)": ("allow", ""),
    "haproxy ovn user with dot/AD (2023.1)": ("refuse", ""),
    "haproxy ovn user with dot/AD (2024.1)": ("refuse", ""),
    "haproxy ovn user with dot/AD (2025.2)": ("refuse", ""),
}


def verdict(call: ReleaseCall, settings: str = "") -> str:
    """Return `allow`, or the refusal in words."""
    policy = policy_of(f'extends = "{call.preset}"\n{settings}')
    files = {beneath(policy, path): text.encode() for path, text in call.files.items()}
    request = start_request(call.argv, call.netns, dict(sorted(call.env.items())))
    try:
        decide(policy, request, files.get)
    except Denied as denied:
        return f"refuse: {denied.message}"
    return "allow"


def test_each_file_that_a_call_names_is_there() -> None:
    """Otherwise a call would be allowed because its file cannot be read."""
    for call in RELEASE_CALLS:
        named = [each.partition("=")[2] for each in call.argv if each.startswith("--conf-file=/")]
        named += [call.argv[at + 1] for at, each in enumerate(call.argv) if each in ("-f", "-C")]
        assert {each for each in named if each != "/dev/null"} <= set(call.files), call


EXPECTED = [call for call in RELEASE_CALLS if call.expect != "feature"]
FEATURES = [call for call in RELEASE_CALLS if call.expect == "feature"]


@pytest.mark.parametrize("call", EXPECTED, ids=str)
def test_a_call_is_judged_as_its_author_expects(call: ReleaseCall) -> None:
    assert verdict(call).partition(":")[0] == call.expect, verdict(call)


@pytest.mark.parametrize("call", FEATURES, ids=str)
def test_a_call_is_judged_as_was_decided(call: ReleaseCall) -> None:
    expected, settings = DECIDED[str(call)]
    assert verdict(call, settings).partition(":")[0] == expected, verdict(call, settings)


def test_everything_is_decided_once() -> None:
    assert sorted(DECIDED) == sorted(map(str, FEATURES))
