"""The changes in an operator's own tree of Kolla-Ansible: on each release's real files, and taken back to the byte."""

from __future__ import annotations

import difflib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.deploy import kolla
from tests.deploy.conftest import COLLECTION, Ansible
from tests.deploy.kolla import RELEASES, Operator
from tests.lab.networks import SIDESPAWN

AGENTS = ("dhcp", "l3", "ovn_metadata")


@pytest.fixture(scope="module")
def texts() -> ModuleType:
    specification = importlib.util.spec_from_file_location("kolla_texts", COLLECTION / "plugins/module_utils/kolla.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(params=RELEASES)
def operator(request: pytest.FixtureRequest, tmp_path: Path) -> Operator:
    if not kolla.venv(request.param).exists():
        pytest.skip("needs Kolla-Ansible in .cache, which ./dev test deploy installs")
    made = Operator(request.param, tmp_path)
    made.prepare()
    return made


def task(operator: Operator, module: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "it", f"sidespawn.host.{module}": {"path": str(operator.tree)} | more}]


@pytest.mark.parametrize("agents", [AGENTS, ("dhcp",), ("l3",)])
def test_only_marked_lines_come_and_they_go_again(
    texts: ModuleType, operator: Operator, agents: tuple[str, ...]
) -> None:
    for name in (texts.DEFAULTS, texts.HANDLERS):
        before = (operator.tree / name).read_text()
        after = texts.edited(name, before, agents)
        lines = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
        removed = [line[2:] for line in lines if line[0] == "-"]
        # One line of theirs for each agent becomes a comment; handlers only get more.
        assert len(removed) == (len(agents) if name == texts.DEFAULTS else 0)
        assert all(line.startswith("    privileged: ") for line in removed)
        assert all("sidespawn.host" in line for line in lines if line[0] == "+")
        assert texts.edited(name, after, agents) == after
        assert texts.edited(name, after, ()) == before
        assert texts.edited(name, after, ("ovn_metadata",)) == texts.edited(name, before, ("ovn_metadata",))


def test_a_tree_that_is_not_known_stays_as_it_is(texts: ModuleType, ansible: Ansible, operator: Operator) -> None:
    handlers = operator.tree / texts.HANDLERS
    handlers.write_text(handlers.read_text().replace("neutron-l3-agent", "neutron-router-agent"))
    before = {name: (operator.tree / name).read_text() for name in (texts.DEFAULTS, texts.HANDLERS)}
    ran = ansible.play(task(operator, "kolla_tree"), check=False)
    assert ran.code != 0
    assert "no task that starts neutron-l3-agent" in ran.results["it"]["msg"]
    assert {name: (operator.tree / name).read_text() for name in before} == before


@pytest.mark.parametrize("operator", RELEASES[-1:], indirect=True)
def test_the_diff_is_shown_first_and_the_change_undone_by_the_same_module(
    texts: ModuleType, ansible: Ansible, operator: Operator
) -> None:
    before = {name: (operator.tree / name).read_text() for name in (texts.DEFAULTS, texts.HANDLERS)}
    dry = ansible.play(task(operator, "kolla_tree"), "--check", "--diff").results["it"]
    assert {name: (operator.tree / name).read_text() for name in before} == before
    real = ansible.play(task(operator, "kolla_tree"), "--diff").results["it"]
    assert dry["changed"] is real["changed"] is True
    assert dry["diff"] == real["diff"]
    assert {each["after_header"]: each["after"] for each in real["diff"]} == {
        name: (operator.tree / name).read_text() for name in before
    }
    assert ansible.play(task(operator, "kolla_tree")).changed == {"it": False}
    assert ansible.play(task(operator, "kolla_tree", state="absent")).changed == {"it": True}
    assert {name: (operator.tree / name).read_text() for name in before} == before
    nothing = ansible.play(task(operator, "kolla_tree", path="/nonexistent"), check=False)
    assert "no tree of Kolla-Ansible" in nothing.results["it"]["msg"]


@pytest.mark.parametrize("operator", RELEASES[-1:], indirect=True)
def test_variables_are_refused_that_another_file_sets_too(ansible: Ansible, operator: Operator) -> None:
    given = {"dest": str(operator.globals), "agents": {"dhcp": ["/a:/b:ro"]}}
    own = operator.globals.with_name("own.yml")
    own.write_text("neutron_dhcp_agent_default_volumes: []\n")
    ran = ansible.play(task(operator, "kolla_globals", **given), check=False)
    assert ran.code != 0
    assert str(own) in ran.results["it"]["msg"]
    assert not operator.globals.exists()
    # Other settings are no trouble, also with tags of Ansible's; what is no YAML is said so.
    own.write_text("mine: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  00\nother: !unsafe '{{ x }}'\n")
    assert ansible.play(task(operator, "kolla_globals", **given), "--check").changed == {"it": True}
    # What this module sets as well is refused only where it would win: in a file that is read later.
    for name, changes in (("own.yml", True), ("zz.yml", False)):
        other = operator.globals.with_name(name)
        other.write_text("neutron_agents_wrappers: 'no'\n")
        ran = ansible.play(task(operator, "kolla_globals", **given), "--check", check=False)
        assert (ran.code == 0) is changes
        assert changes or f"{other} sets neutron_agents_wrappers as well" in ran.results["it"]["msg"]
        other.unlink()
    own.write_text("mine: [\n")
    broken = ansible.play(task(operator, "kolla_globals", **given), check=False).results["it"]["msg"]
    assert broken.startswith(f"{own} cannot be read: ")
    own.unlink()
    unknown = task(operator, "kolla_globals", **given | {"agents": {"x": []}})
    assert "no agent of Kolla-Ansible's: x" in ansible.play(unknown, check=False).results["it"]["msg"]
    assert ansible.play(task(operator, "kolla_globals", **given)).changed == {"it": True}
    assert '"/a:/b:ro"' in operator.globals.read_text()
    assert ".sock" not in operator.globals.read_text()
    gone = task(operator, "kolla_globals", **given, state="absent")
    assert ansible.play(gone).changed == {"it": True}
    assert not operator.globals.exists()


def test_a_list_without_an_engine_is_not_taken_for_one_with(texts: ModuleType) -> None:
    for volumes, said in ((["/a:/a"], "nothing to replace"), (None, "has no list"), ([1], "has no list")):
        with pytest.raises(texts.TreeError, match=said):
            texts.without_engine("dhcp", volumes)
    theirs = [
        "/run/netns:/run/netns:shared",
        "{{ '/run/podman/podman.sock:/x' if a else '' }}",
        "{{ '/var/lib/containers:/c' }}",
    ]
    mine = "/var/lib/containers-of-mine:/c"
    assert texts.without_engine("dhcp", [*theirs, mine]) == [theirs[0], mine]


def given_to_role(operator: Operator, sidespawn: str) -> dict[str, Any]:
    return {
        "kolla_tree": str(operator.tree),
        "kolla_globals": str(operator.globals),
        "kolla_engine": "podman",
        "kolla_node_config": str(operator.home / "node"),
        "kolla_script_directory": str(operator.home / "sidespawn-scripts"),
        "kolla_controller_become": False,
        "kolla_command": sidespawn,
    }


def test_the_role_forgets_the_agents_of_an_earlier_run(ansible: Ansible, operator: Operator) -> None:
    tasks: list[dict[str, Any]] = [
        {
            "name": "role",
            "ansible.builtin.include_role": {"name": "sidespawn.host.kolla"},
            "vars": {"kolla_agents": [agent]},
        }
        for agent in ("dhcp", "l3")
    ]
    ran = ansible.play(tasks, "--check", "--diff", variables=given_to_role(operator, SIDESPAWN[0]))
    diff = ran.results["sidespawn.host.kolla : Write Kolla-Ansible's variables"]["diff"]
    assert "neutron_l3_agent_default_volumes:" in diff["after"]
    assert "neutron_dhcp_agent_default_volumes:" not in diff["after"]


@pytest.mark.parametrize("operator", RELEASES[-1:], indirect=True)
def test_the_variables_are_those_of_all_hosts_or_not_written(ansible: Ansible, operator: Operator) -> None:
    write = "sidespawn.host.kolla : Write Kolla-Ansible's variables"
    hosts: dict[str, dict[str, Any]] = {
        name: {"ansible_connection": "local", "kolla_agents": [agent]} for name, agent in (("a", "dhcp"), ("b", "l3"))
    }
    inventory = operator.home / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    fleet = replace(ansible, inventory=inventory)
    tasks = [{"name": "role", "ansible.builtin.include_role": {"name": "sidespawn.host.kolla"}}]
    variables = given_to_role(operator, SIDESPAWN[0])
    diff = fleet.play(tasks, "--check", "--diff", variables=variables).results[write]["diff"]
    for agent in ("dhcp", "l3"):
        assert f"neutron_{agent}_agent_default_volumes:" in diff["after"]
    in_batches = replace(fleet, batches=(("serial", 1),)).play(tasks, "--check", check=False, variables=variables)
    assert in_batches.code != 0
    assert "run this play without serial" in in_batches.output
    assert write not in in_batches.results
    tree = {path: path.read_bytes() for path in operator.home.rglob("*") if path.is_file() and path != inventory}
    for state in ("present", "absent"):
        limited = fleet.play(tasks, "--limit=a", check=False, variables=variables | {"kolla_state": state})
        assert limited.code != 0
        assert "run this play without --limit (a)" in " ".join(limited.output.split())
        done = {
            f"sidespawn.host.kolla : {each}"
            for each in ("Enable the agents' services", "Remove Kolla-Ansible's variables")
        }
        assert not done & limited.results.keys()
    groups: dict[str, Any] = {
        "neutron-dhcp-agent": {"hosts": {"a": {}, "c": {}}},
        "neutron-ovn-metadata-agent": {"hosts": {"d": {}}},
    }
    inventory.write_text(json.dumps({"all": {"children": {"these": {"hosts": hosts}, **groups}}}))
    partial = replace(fleet, batches=(("hosts", "these"),))
    left_out = partial.play(tasks, check=False, variables=variables)
    assert left_out.code != 0
    assert "all hosts with these agents; it leaves out c" in " ".join(left_out.output.split())
    assert {path: path.read_bytes() for path in tree} == tree
    hosts["b"]["kolla_mode"] = "none"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    failed = fleet.play(tasks, "--check", check=False, variables=variables)
    assert failed.code != 0
    assert "hosts have failed: b" in " ".join(failed.output.split())
    assert write not in failed.results


def test_check_mode_of_the_role_before_sidespawn_is_installed_tells_no_variables(
    ansible: Ansible, operator: Operator
) -> None:
    tasks = [{"name": "role", "ansible.builtin.include_role": {"name": "sidespawn.host.kolla"}}]
    ran = ansible.play(tasks, "--check", variables=given_to_role(operator, str(operator.home / "sidespawn")))
    assert "sidespawn is not installed yet" in " ".join(ran.output.split())
    assert "sidespawn.host.kolla : Write Kolla-Ansible's variables" not in ran.results
