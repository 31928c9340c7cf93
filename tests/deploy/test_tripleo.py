"""Templates of TripleO as Heat's own engine resolves them, and the changes in trees of puppet-tripleo.

The templates are those of the last release, which ./dev unpacks into .cache. The manifests are our own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.deploy.conftest import CHECKOUT, Ansible
from tests.deploy.texts import module_utils
from tests.lab.networks import SIDESPAWN, Service, command
from tests.neutron.releases import AGENT_IMAGE

TEMPLATES = CHECKOUT / ".cache/tripleo-heat-templates"
HEAT = CHECKOUT / ".cache/heat/bin/python"
RESOLVE = Path(__file__).parent / "inside/resolve.py"
SUFFIX = "-sidespawn.yaml"
DHCP = "deployment/neutron/neutron-dhcp-container-puppet.yaml"
AGENTS = {
    "dhcp": ("NeutronDhcpAgent", "neutron_dhcp"),
    "l3": ("NeutronL3Agent", "neutron_l3_agent"),
    "ovn_metadata": ("OVNMetadataAgent", "ovn_metadata_agent"),
}
VOLUMES = [
    "/run/sidespawn/a/spool:/run/sidespawn/a/spool:rw,rprivate",
    "/run/sidespawn/a/agent/haproxy:/usr/sbin/haproxy:ro,rprivate",
    "/run/sidespawn/a/agent/haproxy:/usr/local/bin/haproxy:ro,rprivate",
]

OWN = "/srv/own:/srv/own:ro"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An operator's copy."""
    if not (TEMPLATES.exists() and HEAT.exists()):
        pytest.skip("needs Heat and tripleo-heat-templates in .cache, which ./dev test deploy installs")
    for name in ("deployment", "environments", "container_config_scripts"):
        shutil.copytree(TEMPLATES / name, tmp_path / name)
    return tmp_path


def making(tree: Path, **more: Any) -> list[dict[str, Any]]:
    given = {"path": str(tree), "volumes": dict.fromkeys(AGENTS, VOLUMES)}
    return [{"name": "it", "sidespawn.host.tripleo_templates": given | more}]


def resolved(environment: Path) -> dict[str, Any]:
    """Each service's role data."""
    done = subprocess.run((HEAT, RESOLVE, environment, "{}"), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return {name.removeprefix("OS::TripleO::Services::"): each for name, each in found.items()}


def container(roles: dict[str, Any], agent: str) -> dict[str, Any]:
    service, name = AGENTS[agent]
    found: dict[str, Any] = roles[service]["docker_config"]["step_4"][name]
    return found


def test_parameters_leave_privileges_and_kill_scripts(tree: Path) -> None:
    """Why there have to be templates: the same settings with TripleO's own ones."""
    environment = tree / "environments/parameters.yaml"
    environment.write_text(
        json.dumps(
            {
                "resource_registry": {"OS::TripleO::Services::NeutronDhcpAgent": f"../{DHCP}"},
                "parameter_defaults": {
                    "NeutronEnableDnsmasqDockerWrapper": False,
                    "NeutronEnableHaproxyDockerWrapper": False,
                },
            }
        )
    )
    made = container(resolved(environment), "dhcp")
    assert made["privileged"] is True
    assert [each for each in made["volumes"] if "kill_scripts" in each]
    assert not [each for each in made["volumes"] if "_wrapper" in each]


def test_heat_resolves_the_agents_without_privileges_wrappers_and_kill_scripts(ansible: Ansible, tree: Path) -> None:
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    ansible.play(making(tree))
    assert {path: path.read_bytes() for path in before} == before
    roles = resolved(tree / "environments/sidespawn.yaml")
    assert sorted(roles) == sorted(service for service, _ in AGENTS.values())
    for agent in AGENTS:
        made = container(roles, agent)
        assert made["privileged"] is False
        assert {"NET_ADMIN", "SYS_ADMIN"} <= set(made["cap_add"])
        assert not {"SYS_PTRACE", "SYS_MODULE", "ALL"} & set(made["cap_add"])
        assert made["volumes"][-len(VOLUMES) :] == VOLUMES
        assert "/var/lib/neutron:/var/lib/neutron:shared,z" in made["volumes"]
        assert "/etc/hosts:/etc/hosts:ro" in made["volumes"]  # of the other template
        targets = [each.split(":")[1] for each in made["volumes"]]
        assert len(set(targets)) == len(targets)
        text = json.dumps(roles[AGENTS[agent][0]])
        for word in ("kill_scripts", "kill-script", ".sock", "_wrappers", "_wrapper:"):
            assert word not in text


def test_the_container_starts_with_its_programs_beside_the_wrappers(ansible: Ansible, tree: Path) -> None:
    """The command of the template, in a container that has what the template gives it."""
    ansible.play(making(tree, volumes={"dhcp": VOLUMES}))
    made = container(resolved(tree / "environments/sidespawn.yaml"), "dhcp")
    start, wrapper = tree / "kolla_start", tree / "wrapper"
    start.write_text(
        "#!/bin/sh\nset -e\n/usr/sbin/haproxy\n/usr/sbin/haproxy.real -v\necho 0 >/proc/sys/net/ipv4/ip_forward\n"
    )
    wrapper.write_text("#!/bin/sh\necho wrapper\n")
    for each in (start, wrapper):
        each.chmod(0o755)
    done = command(
        *("podman", "run", "--rm", "--network=none"),
        *(f"--cap-add={each}" for each in made["cap_add"]),
        f"--volume={start}:/usr/bin/kolla_start:ro",
        f"--volume={wrapper}:/usr/sbin/haproxy:ro",
        *(f"--user={made['user']}", AGENT_IMAGE, *made["command"]),
    )
    first, second, *_ = done.stdout.splitlines()
    assert first == "wrapper"
    assert "HAProxy version" in second


def test_a_tree_that_was_changed_keeps_its_changes(ansible: Ansible, tree: Path) -> None:
    """What older releases have of docker as well."""
    template = tree / DHCP
    text = template.read_text()
    condition = "                - if: [{{get_param: Debug}}, [{}], null]\n"
    kept, docker = condition.format(OWN), condition.format("/var/lib/openstack:/var/lib/openstack")
    sockets = "                - [/var/run/docker.sock:/var/run/docker.sock, /var/lib/containers:/c]\n"
    wrapper = (
        "        step_2:\n          create_dnsmasq_wrapper:\n            image: x\n"
        "            command: [apply, 'include ::tripleo::profile::base::neutron::dhcp_agent_wrappers']\n"
    )
    common = "                - {get_attr: [NeutronLogging, volumes]}\n"
    assert text.count(common) == 1
    assert text.count("        step_4:\n          neutron_dhcp:") == 1
    text = text.replace(common, common + kept + docker + sockets)
    template.write_text(
        text.replace("        step_4:\n          neutron_dhcp:", f"{wrapper}        step_4:\n          neutron_dhcp:")
    )
    ansible.play(making(tree, volumes={"dhcp": VOLUMES}))
    environment = tree / "environments/sidespawn.yaml"
    environment.write_text(f"{environment.read_text()}  Debug: true\n")
    roles = resolved(environment)
    assert sorted(roles) == ["NeutronDhcpAgent"]
    volumes = container(roles, "dhcp")["volumes"]
    assert OWN in volumes
    assert not [
        each for each in volumes if "docker.sock" in each or "/var/lib/openstack" in each or "containers" in each
    ]
    assert not roles["NeutronDhcpAgent"]["docker_config"]["step_2"]


def test_templates_are_shown_first_and_removed_by_the_same_module(ansible: Ansible, tree: Path) -> None:
    before = sorted(tree.rglob("*"))
    dry = ansible.play(making(tree), "--check", "--diff").results["it"]
    assert sorted(tree.rglob("*")) == before
    real = ansible.play(making(tree), "--diff").results["it"]
    assert dry["changed"] is real["changed"] is True
    assert dry["diff"] == real["diff"]
    (shown,) = [each for each in real["diff"] if each["after_header"] == DHCP.removesuffix(".yaml") + SUFFIX]
    # Against what it is made of, and in the same form: nearly all lines are in both.
    lines = set(shown["before"].splitlines())
    assert len([each for each in shown["after"].splitlines() if each not in lines]) < 30
    assert "privileged: true" in shown["before"]
    assert ansible.play(making(tree)).changed == {"it": False}
    fewer = ansible.play(making(tree, volumes={"dhcp": VOLUMES}), "--diff").results["it"]
    assert len(fewer["files"]) == 3  # two templates are gone, and the environment has changed
    assert ansible.play(making(tree, state="absent")).changed == {"it": True}
    assert sorted(tree.rglob("*")) == before
    assert ansible.play(making(tree, state="absent")).changed == {"it": False}


def test_what_is_not_as_expected_is_refused(ansible: Ansible, tree: Path) -> None:
    def refused(**more: Any) -> str:
        ran = ansible.play(making(tree, **more), check=False)
        assert ran.code != 0
        assert "Traceback" not in ran.output
        assert not list(tree.rglob(f"*{SUFFIX}"))
        message: str = ran.results["it"]["msg"]
        assert "nothing was changed" in message
        return message

    assert "no agent of TripleO's: x" in refused(volumes={"x": VOLUMES})
    environment = tree / "environments/sidespawn.yaml"
    environment.write_text("resource_registry: {}\n")
    assert "is not this module's" in refused()
    environment.unlink()
    (tree / DHCP).write_text("outputs: [}")
    assert "while parsing" in refused()


def test_the_role_prepares_a_host_and_the_tree(ansible: Ansible, tree: Path) -> None:
    service = Service("neutron-dhcp-dnsmasq", tree)
    tasks = [{"name": "role", "ansible.builtin.include_role": {"name": "sidespawn.host.tripleo"}}]
    variables = {
        "tripleo_sidespawn_tree": str(tree),
        "tripleo_sidespawn_services": {"dhcp": [service.name]},
        "tripleo_sidespawn_images": {"dhcp": "localhost/sidespawn-helpers:latest"},
        "tripleo_sidespawn_mode": "monitor",
        "tripleo_sidespawn_command": SIDESPAWN[0],
    }
    unit = Path("/etc/systemd/system/tripleo_neutron_dhcp.service.d/50-sidespawn.conf")
    try:
        # systemd is told at once: if something fails later, a second run would find nothing to tell.
        fails = {"name": "fails", "ansible.builtin.fail": {"msg": "later"}}
        dry = ansible.play([*tasks, fails], "--check", "--diff", check=False, variables=variables)
        assert not service.places.policy.exists()
        real = ansible.play([*tasks, fails], "--diff", check=False, variables=variables)
        assert real.results["fails"]["msg"] == "later", real.output
        assert "sidespawn.host.tripleo : Reload systemd" in real.results
        assert dry.changed == real.changed
        enable = "sidespawn.host.tripleo : Enable the agent's services"
        assert dry.differences(enable) == real.differences(enable)
        command(*SIDESPAWN, "check", service.name)
        assert 'mode = "monitor"' in service.places.policy.read_text()
        assert f"Wants=sidespawn-spool@{service.name}.service\n" in unit.read_text()
        made = (tree / DHCP.replace(".yaml", SUFFIX)).read_text()
        for target in (str(service.places.spool), "/usr/sbin/dnsmasq", "/usr/local/bin/dnsmasq"):
            assert f":{target}:" in made
        assert not any(ansible.play(tasks, variables=variables).changed.values())
        ansible.play(tasks, variables=variables | {"tripleo_sidespawn_state": "absent"})
        assert not list(tree.rglob(f"*{SUFFIX}"))
        assert not unit.exists()
    finally:
        service.disable()
        service.places.policy.unlink(missing_ok=True)
        shutil.rmtree(unit.parent, ignore_errors=True)
        command("systemctl", "daemon-reload")


def test_the_role_forgets_the_agents_of_an_earlier_run(ansible: Ansible, tree: Path) -> None:
    tasks: list[dict[str, Any]] = [
        {
            "name": "role",
            "ansible.builtin.include_role": {"name": "sidespawn.host.tripleo"},
            "vars": {"tripleo_sidespawn_agents": [agent]},
        }
        for agent in ("dhcp", "ovn_metadata")
    ]
    variables = {"tripleo_sidespawn_tree": str(tree), "tripleo_sidespawn_command": SIDESPAWN[0]}
    ran = ansible.play(tasks, "--check", "--diff", variables=variables)
    told = json.dumps(ran.results["sidespawn.host.tripleo : Write or remove the templates"]["diff"])
    assert AGENTS["ovn_metadata"][0] in told
    assert AGENTS["dhcp"][0] not in told


def test_the_templates_are_for_the_agents_of_all_hosts_or_not_written(ansible: Ansible, tree: Path) -> None:
    write = "sidespawn.host.tripleo : Write or remove the templates"
    hosts: dict[str, dict[str, Any]] = {
        name: {"ansible_connection": "local", "tripleo_sidespawn_agents": [agent]}
        for name, agent in (("a", "dhcp"), ("b", "ovn_metadata"))
    }
    inventory = tree / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    fleet = replace(ansible, inventory=inventory)
    tasks = [{"name": "role", "ansible.builtin.include_role": {"name": "sidespawn.host.tripleo"}}]
    variables = {"tripleo_sidespawn_tree": str(tree), "tripleo_sidespawn_command": SIDESPAWN[0]}
    told = json.dumps(fleet.play(tasks, "--check", "--diff", variables=variables).results[write]["diff"])
    assert AGENTS["dhcp"][0] in told
    assert AGENTS["ovn_metadata"][0] in told
    for state in ("present", "absent"):
        given = variables | {"tripleo_sidespawn_state": state}
        limited = fleet.play(tasks, "--limit=a", check=False, variables=given)
        assert limited.code != 0
        assert "run this play without --limit (a)" in " ".join(limited.output.split())
        assert write not in limited.results
    groups: dict[str, Any] = {"neutron_dhcp": {"hosts": {"a": {}, "c": {}}}}
    inventory.write_text(json.dumps({"all": {"children": {"these": {"hosts": hosts}, **groups}}}))
    left_out = replace(fleet, batches=(("hosts", "these"),)).play(tasks, check=False, variables=variables)
    assert left_out.code != 0
    assert "all hosts with these agents; it leaves out c" in " ".join(left_out.output.split())
    assert write not in left_out.results
    hosts["b"]["tripleo_sidespawn_mode"] = "none"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    failed = fleet.play(tasks, "--check", check=False, variables=variables)
    assert failed.code != 0
    assert "hosts have failed: b" in " ".join(failed.output.split())
    assert write not in failed.results


# ---------------------------------------------------------------- its data, without Ansible


@pytest.fixture(scope="module")
def data() -> Iterator[ModuleType]:
    with module_utils("agents", "quadlet", "tripleo") as made:
        yield made


def template(**more: Any) -> dict[str, Any]:
    """The smallest that has an agent."""
    agent = {"image": "x", "restart": "always", "privileged": True, "volumes": ["/srv:/srv"]} | more
    return {"outputs": {"role_data": {"value": {"docker_config": {"step_4": {"agent": agent}}}}}}


def volumes_of(made: dict[str, Any]) -> Any:
    return made["outputs"]["role_data"]["value"]["docker_config"]["step_4"]["agent"]["volumes"]


WRAPPER = "/var/lib/neutron/l3_haproxy_wrapper:/usr/local/bin/haproxy:ro"


@pytest.mark.parametrize(
    ("theirs", "kept"),
    [
        ([OWN, WRAPPER], [[OWN]]),
        ([WRAPPER], []),
        ({"list_concat": [[OWN], {"get_attr": ["A", "volumes"]}]}, [[OWN], {"get_attr": ["A", "volumes"]}]),
        ({"list_concat": [{"if": ["a", [WRAPPER]]}, [OWN]]}, [[OWN]]),
        ({"list_concat": [{"if": ["a", [WRAPPER], None]}, [OWN]]}, [[OWN]]),
        ({"list_concat": [{"if": ["a", [WRAPPER], [OWN]]}]}, [{"if": ["a", [], [OWN]]}]),
        ({"list_concat": [{"if": ["a", [OWN, WRAPPER], None]}]}, [{"if": ["a", [OWN], None]}]),
        ({"list_concat": [{"list_concat": [[WRAPPER], [OWN]]}]}, [{"list_concat": [[OWN]]}]),
        (["/var/lib/neutron/kill_scripts:/etc/neutron/kill_scripts:shared,z", OWN], [[OWN]]),
        (["/var/lib/openstack:/var/lib/openstack", "/run/podman/podman.sock:/x", OWN], [[OWN]]),
        (["/var/lib/openstack-own:/a", "/srv/x_wrapper:/b", "/srv:/etc/neutron/kill_scripts.d"], None),
        ({"get_param": "Volumes"}, [{"get_param": "Volumes"}]),
        ([], [[]]),
    ],
)
def test_volumes_lose_what_is_not_to_be_there(data: ModuleType, theirs: Any, kept: Any) -> None:
    made = volumes_of(data.derived(template(volumes=theirs), VOLUMES, ("SYS_ADMIN",)))
    assert made == {"list_concat": [*([theirs] if kept is None else kept), VOLUMES]}


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({}, "no role_data"),
        ([], "no role_data"),
        ({"outputs": {"role_data": {"value": {"docker_config": None}}}}, "no role_data"),
        (template(privileged=False), "0 privileged containers"),
        (template(privileged={"get_param": "P"}), "0 privileged containers"),
        (template(environment={"DOCKER": "/run/docker.sock:"}), "still has .sock:"),
        (template(volumes={"yaql": {"expression": "/run:/run"}}), "still has /run:/run"),
    ],
)
def test_what_is_no_template_of_an_agent_is_refused(data: ModuleType, theirs: Any, said: str) -> None:
    with pytest.raises(data.TreeError, match=said):
        data.derived(theirs, VOLUMES, ("SYS_ADMIN",))


# ---------------------------------------------------------------- puppet-tripleo


WRAPPERS = """\
# In our words.
class tripleo::profile::base::neutron::dhcp_agent_wrappers (
  $enable_dnsmasq_wrapper = false,
  $enable_haproxy_wrapper = false,
) {
  if $enable_dnsmasq_wrapper {
    notify { 'dnsmasq': }
  }
  if $enable_haproxy_wrapper {\t
    notify { 'haproxy': }
  }
  if $other {
    notify { 'other': }
  }
}"""
DOCKER = """\
class tripleo::profile::base::docker ($additional_sockets = undef) {
  if $additional_sockets {
    notify { 'sockets': }
  } else {
    notify { 'no sockets': }
  }
}
"""


@pytest.fixture
def puppet(tmp_path: Path) -> Path:
    neutron = tmp_path / "manifests/profile/base/neutron"
    neutron.mkdir(parents=True)
    (neutron / "dhcp_agent_wrappers.pp").write_text(WRAPPERS)
    (neutron / "dhcp.pp").write_text("if $enable_dnsmasq_wrapper {\n}\n")
    (neutron.parent / "docker.pp").write_text(DOCKER)
    return tmp_path


def puppet_tree(path: Path, **more: str) -> list[dict[str, Any]]:
    return [{"name": "it", "sidespawn.host.puppet_tree": {"path": str(path)} | more}]


def test_classes_write_no_wrappers_and_make_no_sockets_and_are_restored(ansible: Ansible, puppet: Path) -> None:
    before = {path: path.read_bytes() for path in puppet.rglob("*.pp")}
    dry = ansible.play(puppet_tree(puppet), "--check", "--diff").results["it"]
    assert {path: path.read_bytes() for path in before} == before
    real = ansible.play(puppet_tree(puppet), "--diff").results["it"]
    assert dry["changed"] is real["changed"] is True
    assert dry["diff"] == real["diff"]
    wrappers = (puppet / "manifests/profile/base/neutron/dhcp_agent_wrappers.pp").read_text()
    assert wrappers.count("if false {") == 2
    assert "\n  if $other {" in wrappers
    docker = (puppet / "manifests/profile/base/docker.pp").read_text()
    assert "\n  if false {  # sidespawn.host, instead of: if $additional_sockets {\n" in docker
    assert (puppet / "manifests/profile/base/neutron/dhcp.pp").read_text() == "if $enable_dnsmasq_wrapper {\n}\n"
    assert ansible.play(puppet_tree(puppet)).changed == {"it": False}
    assert ansible.play(puppet_tree(puppet, state="absent")).changed == {"it": True}
    assert {path: path.read_bytes() for path in before} == before


def test_a_tree_without_these_classes_is_refused(ansible: Ansible, puppet: Path) -> None:
    docker = puppet / "manifests/profile/base/docker.pp"
    docker.write_text("class x {}\n")
    for path, said in ((puppet, "has no condition"), (Path("/nonexistent"), "has none of")):
        ran = ansible.play(puppet_tree(path), check=False)
        assert ran.code != 0
        assert said in ran.results["it"]["msg"]
        assert "nothing was changed" in ran.results["it"]["msg"]
    assert (puppet / "manifests/profile/base/neutron/dhcp_agent_wrappers.pp").read_text() == WRAPPERS
