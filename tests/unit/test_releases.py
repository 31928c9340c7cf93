"""What each Neutron release calls, judged by the presets."""

from __future__ import annotations

import pytest

from sidespawn.core.decide import decide
from sidespawn.errors import Denied
from tests.data.releases import RELEASE_CALLS, ReleaseCall
from tests.unit.shipped import preset
from tests.unit.small import start_request

# Refused, and should be allowed.
WRONG = frozenset(
    {
        "dnsmasq: dnsmasq_config_file in /etc/neutron, as Kolla writes it",
        "keepalived: DVR with HA, in snat-UUID",
        "haproxy l3: socket in /run",
        "dnsmasq: dhcp_confs two levels below the state",
        "dnsmasq segment 0 (2023.1)",
        "dnsmasq logdir /var/log/neutron (2023.1)",
        "dnsmasq logdir /var/log/kolla/neutron/dnsmasq (2023.1)",
        "dnsmasq logdir deeper (2023.1)",
        "dnsmasq conf etc path (2023.1)",
        "haproxy l3 socket in run (2024.1)",
    }
)


def verdict(call: ReleaseCall) -> str:
    """`allow`, or the refusal in words."""
    policy = preset(call.preset)
    files = {path: text.encode() for path, text in call.files.items()}
    request = start_request(call.argv, call.netns, dict(sorted(call.env.items())))
    try:
        decide(policy, request, lambda beneath: files.get(f"{policy.agent.state}/{beneath}"))
    except Denied as denied:
        return f"refuse: {denied.message}"
    return "allow"


def test_each_file_that_a_call_names_is_there() -> None:
    """Otherwise a call would be allowed because its file cannot be read."""
    for call in RELEASE_CALLS:
        named = [each.partition("=")[2] for each in call.argv if each.startswith("--conf-file=/")]
        named += [call.argv[at + 1] for at, each in enumerate(call.argv) if each in ("-f", "-C")]
        assert {each for each in named if each != "/dev/null"} <= set(call.files), call


CALLS = [
    pytest.param(call, id=str(call), marks=[pytest.mark.xfail()] if str(call) in WRONG else [])
    for call in RELEASE_CALLS
    if call.expect != "feature"
]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_judged_as_its_author_expects(call: ReleaseCall) -> None:
    assert verdict(call).partition(":")[0] == call.expect, verdict(call)
