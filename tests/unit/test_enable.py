"""The mounts that `sidespawn enable` prints for an agent with several services."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidespawn.cli.enable import is_ours, policy_text
from sidespawn.core.policy import Policy
from sidespawn.errors import SidespawnError
from sidespawn.host.policies import policy_of
from sidespawn.presets import names as preset_names
from sidespawn.setup import agent_options
from sidespawn.system.places import Places
from tests.unit.shipped import preset

SCRIPT = "/etc/neutron/kill_scripts/default-service-kill"


CONNTRACKD, KEEPALIVED = preset("neutron-l3-conntrackd"), preset("neutron-l3-keepalived")


def targets(policy: Policy, monkeypatch: pytest.MonkeyPatch, *enabled: Policy) -> list[str]:
    known = {each.service: each for each in enabled}
    monkeypatch.setattr(agent_options, "services", lambda one: [Places(name) for name in known])
    monkeypatch.setattr(agent_options, "load_policy", lambda places: known[places.service])
    options = agent_options.options_beside_others(Places(policy.service), policy)
    return [each.target for each in options.mounts]


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


def joint(*policies: Policy) -> list[str]:
    return agent_options.podman_options(agent_options.options_of(policies, image="the-image"))


def test_joint_options_have_each_mount_once() -> None:
    found = joint(*(preset(name) for name in preset_names() if name.startswith("neutron-l3-")))
    destinations = [each.split(":")[1] if each.startswith("--volume") else each for each in found]
    assert len(destinations) == len(set(destinations))
    assert SCRIPT in destinations
    assert "/usr/sbin/keepalived" in destinations
    assert found.count("--mount=type=image,src=the-image,dst=/run/sidespawn/image") == 1


def test_services_that_want_different_files_at_one_place_are_not_joined() -> None:
    with pytest.raises(SidespawnError, match="both mount /usr/sbin/haproxy"):
        joint(preset("neutron-dhcp-haproxy"), preset("neutron-l3-haproxy"))


def test_a_script_must_be_shared_by_both() -> None:
    own = replace(CONNTRACKD, agent=replace(CONNTRACKD.agent, kill_scripts=(SCRIPT,), shared_kill_scripts=()))
    with pytest.raises(SidespawnError, match=f"both mount {SCRIPT}"):
        joint(own, KEEPALIVED)


@pytest.mark.parametrize(("image", "mounted"), [("", 0), ("the-image", 1)])
def test_the_agents_image_is_among_the_options_if_it_is_known(
    monkeypatch: pytest.MonkeyPatch, image: str, mounted: int
) -> None:
    monkeypatch.setattr(agent_options, "services", lambda one: [])
    options = agent_options.options_beside_others(Places(KEEPALIVED.service), KEEPALIVED, image=image)
    found = agent_options.podman_options(options)
    assert found.count("--mount=type=image,src=the-image,dst=/run/sidespawn/image") == mounted


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_a_mode_is_written_into_the_policy_and_holds(mode: str) -> None:
    places = Places("neutron-dhcp-dnsmasq")
    text, is_new = policy_text(places, None, None, None, mode, ("state_on_host=/srv",))
    assert is_new
    assert is_ours(text)
    assert policy_of(places, text).is_monitor is (mode == "monitor")


def test_without_a_mode_the_preset_s_holds() -> None:
    text, _ = policy_text(Places("neutron-dhcp-dnsmasq"), None, None, None, None, ("state_on_host=/srv",))
    assert "mode" not in text
