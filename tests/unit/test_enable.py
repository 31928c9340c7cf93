"""What `sidespawn enable` prints to be mounted into an agent that has several services."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidespawn.cli import enable
from sidespawn.core.policy import Policy
from sidespawn.host.places import Places
from tests.unit.shipped import preset

SCRIPT = "/etc/neutron/kill_scripts/default-service-kill"


CONNTRACKD, KEEPALIVED = preset("neutron-l3-conntrackd"), preset("neutron-l3-keepalived")


def targets(policy: Policy, monkeypatch: pytest.MonkeyPatch, *enabled: Policy) -> list[str]:
    known = {each.service: each for each in enabled}
    monkeypatch.setattr(enable, "services", lambda one: [Places(name) for name in known])
    monkeypatch.setattr(enable, "load_policy", lambda places: known[places.service])
    return [str(each["target"]) for each in enable.agent_mounts(Places(policy.service), policy)]


@pytest.mark.parametrize("policy", [CONNTRACKD, KEEPALIVED], ids=lambda policy: policy.service)
def test_a_service_alone_brings_the_kill_script_that_others_share(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SCRIPT in targets(policy, monkeypatch)
    assert SCRIPT in targets(policy, monkeypatch, policy)


def test_of_two_that_share_a_kill_script_one_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (CONNTRACKD, KEEPALIVED)
    assert [SCRIPT in targets(each, monkeypatch, *both) for each in both] == [True, False]


def test_what_another_agents_service_brings_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(CONNTRACKD, agent=replace(CONNTRACKD.agent, state_on_host="/srv/other"))
    assert SCRIPT in targets(KEEPALIVED, monkeypatch, other, KEEPALIVED)
