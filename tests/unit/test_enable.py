"""The mounts that `sidespawn enable` prints for an agent with several services."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sidespawn.authoring.served_namespaces import served_namespaces
from sidespawn.cli import enable as enable_verb
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


# ---------------------------------------------------------------- a policy that is there


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Places]:
    """Return a service whose policy has this text."""
    monkeypatch.setattr(enable_verb, "read_trusted", Path.read_text)

    def make(text: str) -> Places:
        places = Places("neutron-dhcp-dnsmasq", policies=tmp_path)
        places.policy.write_text(text)
        return places

    return make


GIVEN_BEFORE: dict[str, Any] = {
    "preset": "neutron-dhcp-dnsmasq",
    "image": "registry.example.org/helpers:1",
    "engine": "docker",
    "mode": "monitor",
    "settings": ("state_on_host=/srv", "uid=7"),
}
OPTIONS: dict[str, Any] = dict.fromkeys(("preset", "image", "engine", "mode")) | {"settings": ()}


@pytest.mark.parametrize(
    ("given", "line", "instead"),
    [
        ({"mode": "enforce"}, 'mode = "monitor"', 'mode = "enforce"'),
        ({"image": "other:2"}, 'image = "registry.example.org/helpers:1"', 'image = "other:2"'),
        ({"engine": "systemd"}, 'engine = "docker"', 'engine = "systemd"'),
        ({"settings": ("uid=8",)}, "uid = 7", "uid = 8"),
        ({"settings": ("state_on_host=/srv/a",)}, 'state_on_host = "/srv"', 'state_on_host = "/srv/a"'),
        ({"settings": ("gid=9",)}, 'helpers:1"\n', 'helpers:1"\ngid = 9\n'),
        (GIVEN_BEFORE, "", ""),
    ],
)
def test_an_option_changes_only_what_it_names(
    there: Callable[[str], Places], given: dict[str, Any], line: str, instead: str
) -> None:
    before, _ = policy_text(Places("neutron-dhcp-dnsmasq"), **GIVEN_BEFORE)
    text, is_new = policy_text(there(before), **(OPTIONS | given))
    assert is_new and is_ours(text)
    assert body(text) == body(before).replace(line, instead, 1)
    assert line in body(before)


def body(text: str) -> str:
    return text.partition("\n")[2]


def test_another_preset_keeps_the_parameters_that_it_has(there: Callable[[str], Places]) -> None:
    before, _ = policy_text(
        Places("neutron-dhcp-dnsmasq"), **OPTIONS | {"mode": "monitor", "settings": ("config_dir=/c", "state=/s")}
    )
    text, _ = policy_text(there(before), **(OPTIONS | {"preset": "neutron-l3-radvd"}))
    assert body(text) == 'extends = "neutron-l3-radvd"\nmode = "monitor"\n\n[parameters]\nstate = "/s"\n'
    given = {"preset": "neutron-l3-radvd", "settings": ("config_dir=/d",)}  # one that is named is not left out silently
    assert "config_dir" in policy_text(there(before), **(OPTIONS | given))[0]


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (
            '# mine\nextends = "neutron-dhcp-dnsmasq"  # why\n',
            '# mine\nextends = "neutron-dhcp-dnsmasq"  # why\nmode = "monitor"\n',
        ),
        (
            'mode = "enforce"  # for now\nextends = "neutron-dhcp-dnsmasq"\n',
            'mode = "monitor"  # for now\nextends = "neutron-dhcp-dnsmasq"\n',
        ),
        (
            'extends = "neutron-dhcp-dnsmasq"\n"mode"=\'enforce\'\n[parameters]\nuid = 7',
            'extends = "neutron-dhcp-dnsmasq"\n"mode"="monitor"\n[parameters]\nuid = 7',
        ),
        (  # the first line that looks like it is text
            'description = """\nmode = "enforce"\n"""\nextends = "neutron-dhcp-dnsmasq"\nmode = "enforce"',
            'description = """\nmode = "enforce"\n"""\nextends = "neutron-dhcp-dnsmasq"\nmode = "monitor"',
        ),
        (
            'mode = "monitor"\nextends = "neutron-dhcp-dnsmasq"\n',
            'mode = "monitor"\nextends = "neutron-dhcp-dnsmasq"\n',
        ),
    ],
)
def test_the_mode_alone_is_changed_in_a_policy_that_someone_wrote(
    there: Callable[[str], Places], text: str, changed: str
) -> None:
    places = there(text)
    found, _ = policy_text(places, **(OPTIONS | {"mode": "monitor"}))
    assert found == changed
    assert policy_of(places, found).is_monitor
    assert not is_ours(found)


@pytest.mark.parametrize("more", [{"image": "x"}, {"engine": "docker"}, {"settings": ("uid=7",)}, {"preset": "x"}])
def test_nothing_else_is_changed_in_it(there: Callable[[str], Places], more: dict[str, Any]) -> None:
    with pytest.raises(SidespawnError, match="was changed by hand"):
        policy_text(there(GIVEN), **(OPTIONS | {"mode": "monitor"} | more))


@pytest.mark.parametrize("text", ["nonsense", 'extends = "neutron-dhcp-dnsmasq"\nmode = 1\n', "mode = []"])
def test_an_invalid_policy_stays_an_error(there: Callable[[str], Places], text: str) -> None:
    with pytest.raises(PolicyError, match=r"neutron-dhcp-dnsmasq\.toml"):
        policy_text(there(text), **(OPTIONS | {"mode": "monitor"}))


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("neutron-dhcp-dnsmasq", ["qdhcp-<uuid>"]),
        ("neutron-l3-keepalived", ["qrouter-<uuid>", "snat-<uuid>"]),
        ("neutron-ovn-metadata-haproxy", ["ovnmeta-<uuid>"]),
    ],
)
def test_the_namespaces_are_written_out(name: str, allowed: list[str]) -> None:
    assert served_namespaces(preset(name)) == allowed


def test_a_policy_for_the_hosts_network_serves_no_namespace() -> None:
    assert served_namespaces(replace(KEEPALIVED, netns=None)) == []


def test_the_dry_run_tells_the_namespaces() -> None:
    assert json.loads(dry_run("--policy=-", given=GIVEN).stdout)["namespaces"] == ["qdhcp-<uuid>"]


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
