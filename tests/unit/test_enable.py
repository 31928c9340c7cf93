"""The mounts that `sidespawn enable` prints for an agent with several services."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidespawn.cli.enable import given_text, policy_text
from sidespawn.cli.main import cli
from sidespawn.core.policy import Policy
from sidespawn.errors import PolicyError, SidespawnError
from sidespawn.host.policies import policy_of
from sidespawn.presets import names as preset_names
from sidespawn.setup import agent_options, changes
from sidespawn.setup.written_policies import is_ours
from sidespawn.system.files import POLICY_BYTES
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


# ---------------------------------------------------------------- a policy that is given

GIVEN = 'extends = "neutron-dhcp-dnsmasq"\n[parameters]\nstate_on_host = "/srv"\n'


def dry_run(*options: str, given: str = "") -> Result:
    return CliRunner().invoke(cli, ["enable", "test-given", "--dry-run", "--json", *options], input=given)


def test_a_dry_run_judges_the_policy_that_is_given(tmp_path: Path) -> None:
    file = tmp_path / "any-name"
    file.write_text(f'{GIVEN}[side_container]\nengine = "systemd"\n')
    for option, given in ((str(file), ""), ("-", file.read_text())):
        told = {each["what"]: each for each in json.loads(dry_run("--policy", option, given=given).stdout)["diff"]}
        assert told["/etc/sidespawn/test-given.toml"]["after"] == file.read_text()
        assert (
            "for the engine systemd" in told["/etc/systemd/system/sidespawn@test-given.service.d/engine.conf"]["after"]
        )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (f"{GIVEN}privileged = true\n", "standard input:4: parameters.privileged is not a parameter of preset"),
        ("version = 1\n[", "standard input: not valid TOML"),
        ("", "standard input: version is missing"),
    ],
)
def test_the_error_names_what_was_given(given: str, said: str) -> None:
    failed = dry_run("--policy=-", given=given).exception
    assert isinstance(failed, PolicyError)
    assert failed.message.startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file or directory"),
        (b"\xff", "it is not UTF-8"),
        (b"#" * (POLICY_BYTES + 1), f"it is larger than {POLICY_BYTES} bytes"),
    ],
)
def test_a_file_that_cannot_be_a_policy_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "policy.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PolicyError) as failed:
        given_text(str(file))
    assert failed.value.message == f"{file} cannot be read: {said}"


def test_lines_end_as_in_the_file_that_is_stored(tmp_path: Path) -> None:
    """Otherwise each run would find a difference."""
    (tmp_path / "policy.toml").write_bytes(GIVEN.replace("\n", "\r\n").encode())
    assert given_text(str(tmp_path / "policy.toml")) == GIVEN


@pytest.mark.parametrize("option", ["--preset=x", "--image=x", "--engine=podman", "--mode=enforce", "--set=a=b"])
def test_a_given_policy_says_all_of_it(option: str) -> None:
    done = dry_run("--policy=-", option, given=GIVEN)
    assert done.exit_code == 2
    assert "--policy excludes" in done.stderr


def test_a_policy_that_others_can_write_is_a_change_without_another_text(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(GIVEN)
    path.chmod(0o666)
    told = [each for each in changes.of_policy(path, GIVEN) if each.before != each.after]
    assert [(each.what, each.before[:4], each.after) for each in told] == [(f"mode of {path}", "0666", "0644 0:0")]
    path.unlink()
    assert [each.what for each in changes.of_policy(path, GIVEN)] == [str(path)]
