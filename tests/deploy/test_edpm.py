"""EDPM's agent loses privileges and old wrappers by a drop-in, which podman's own generator reads, and works."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sidespawn.testing.network import remove_namespace
from tests.deploy import edpm
from tests.deploy.conftest import CHECKOUT, Ansible
from tests.deploy.edpm import CONTAINER, IMAGE, QUADLET, Node
from tests.deploy.neutron import PATIENCE, Daemon
from tests.deploy.texts import PACKAGE, module_utils
from tests.lab.networks import SIDESPAWN, Service, command, wait_until
from tests.neutron import networks
from tests.neutron.helpers import connect, lan

SERVICE = "neutron-dhcp-dnsmasq"
ENABLE = "Enable the agent's services"
SERVICE_OF_DATA_PLANE = CHECKOUT / "integrations/edpm/openstackdataplaneservice.yaml"
VOLUMES = [
    "/run/sidespawn/a/spool:/run/sidespawn/a/spool:rw,rprivate",
    "/run/sidespawn/a/agent/x:/usr/sbin/x:ro,rprivate",
]


# ---------------------------------------------------------------- on a node


@pytest.fixture
def node() -> Iterator[tuple[Node, Daemon]]:
    if not QUADLET.exists():
        pytest.skip("needs Quadlet in .cache, which ./dev test deploy unpacks")
    service = Service(SERVICE, Path("/nonexistent"))
    with edpm.running() as made:
        yield made
        service.disable()
        service.places.policy.unlink(missing_ok=True)


def role(ansible: Ansible, node: Node, **more: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    variables = {
        "edpm_sidespawn_services": {"dhcp": [SERVICE]},
        "edpm_sidespawn_state_directory": str(node.state),
        "edpm_sidespawn_generator": str(QUADLET),
        "edpm_sidespawn_command": SIDESPAWN[0],
    }
    return data_plane_tasks(ansible), variables | more


def data_plane_tasks(ansible: Ansible) -> list[dict[str, Any]]:
    """What the data plane runs, but for the package, which is here."""
    (play,) = data_plane_service(ansible)["spec"]["playbookContents"]
    tasks: list[dict[str, Any]] = play["tasks"]
    assert [each["ansible.builtin.import_role"]["name"] for each in tasks] == [
        "sidespawn.host.install",
        "sidespawn.host.edpm",
    ]
    return tasks[1:]


def data_plane_service(ansible: Ansible) -> dict[str, Any]:
    """With its playbook read as well. There is a reader of YAML beside Ansible."""
    script = (
        "import json, sys, yaml; made = yaml.safe_load(open(sys.argv[1])); "
        "made['spec']['playbookContents'] = yaml.safe_load(made['spec']['playbookContents']); print(json.dumps(made))"
    )
    made: dict[str, Any] = json.loads(ansible.call("python3", "-c", script, str(SERVICE_OF_DATA_PLANE)).stdout)
    return made


def test_the_agent_of_a_node_serves_its_network_without_privileges(ansible: Ansible, node: tuple[Node, Daemon]) -> None:
    place, daemon = node
    theirs = place.unit.read_text()
    tasks, variables = role(ansible, place)
    dry = ansible.play(tasks, "--check", "--diff", variables=variables)
    assert dry.changed["sidespawn.host.edpm : Write the drop-in of the agent's unit"]
    assert not Path(f"{place.unit}.d").exists()
    real = ansible.play(tasks, "--diff", variables=variables)
    assert dry.changed == real.changed
    enable, write = (f"sidespawn.host.edpm : {each}" for each in (ENABLE, "Write the drop-in of the agent's unit"))
    assert dry.differences(enable) == real.differences(enable)
    assert dry.results[write]["diff"] == real.results[write]["diff"]
    assert f'image = "{IMAGE}"\n' in Service(SERVICE, place.state).places.policy.read_text()
    assert place.unit.read_text() == theirs
    daemon.connect()
    held = place.inspect()
    assert held["HostConfig"]["Privileged"] is False
    assert not {"CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_MKNOD"} & set(held["EffectiveCaps"])
    targets = [each["Destination"] for each in held["Mounts"]]
    assert not [
        each["Source"] for each in held["Mounts"] if "wrapper" in each["Source"] or "kill_scripts" in each["Source"]
    ]
    for wrapper in ("/usr/sbin/dnsmasq", "/usr/local/bin/dnsmasq"):
        assert wrapper in targets
        assert command("podman", "exec", CONTAINER, "sh", "-c", f"echo >>{wrapper}", check=False).returncode != 0
    assert scanned() == set()
    try:
        assert f"Wants=sidespawn-spool@{SERVICE}.service\n" in Path(f"{place.unit}.d/50-sidespawn.conf").read_text()
        assert not any(ansible.play(tasks, variables=variables).changed.values())
        assert place.inspect()["Id"] == held["Id"]
        served(place, daemon)
        gone = variables | {"edpm_sidespawn_state": "absent", "edpm_sidespawn_restart": False}
        assert ansible.play(tasks, variables=gone).changed[
            "sidespawn.host.edpm : Remove the drop-in of the agent's unit"
        ]
        assert not Path(f"{place.unit}.d").exists()
        assert place.inspect()["Id"] == held["Id"]
        assert not any(ansible.play(tasks, variables=gone).changed.values())
        assert scanned() == {"is privileged and has the host's pids"}
        assert "--privileged" in command("systemctl", "cat", place.service).stdout.partition("ExecStart=")[2]
    except AssertionError as failed:
        failed.add_note(place.trouble())
        raise


RESTART = "sidespawn.host.edpm : Restart the agent"


def test_a_restart_that_an_earlier_run_missed_comes_with_the_next(ansible: Ansible, node: tuple[Node, Daemon]) -> None:
    place, daemon = node
    tasks, variables = role(ansible, place)
    for name in ("dhcp_agent_haproxy_wrapper", "dhcp_agent_dnsmasq_wrapper"):
        (place.state / name).write_text("#!/bin/sh\n")
    (place.state / "kill_scripts").mkdir()
    command("systemctl", "start", place.service)
    daemon.connect()
    ids = [place.inspect()["Id"]]

    def missed_first(**more: Any) -> dict[str, Any]:
        """Return the container after a run that ends before the restart, and one that does not."""
        daemon.close()
        missed = ansible.play(tasks, variables=variables | more | {"edpm_sidespawn_restart": False})
        assert RESTART not in missed.results  # which has no skipped task
        assert place.inspect()["Id"] == ids[-1]
        for options in (("--check",), ()):
            ran = ansible.play(tasks, *options, variables=variables | more)
            assert {name for name, changed in ran.changed.items() if changed} == {RESTART}
        assert not any(ansible.play(tasks, variables=variables | more).changed.values())
        daemon.connect()
        held = place.inspect()
        assert held["Id"] != ids[-1]
        ids.append(held["Id"])
        return held

    try:
        assert missed_first()["HostConfig"]["Privileged"] is False
        assert missed_first(edpm_sidespawn_state="absent")["HostConfig"]["Privileged"] is True
    except AssertionError as failed:
        failed.add_note(place.trouble())
        raise


def scanned() -> set[str]:
    """What `sidespawn scan` finds in the agent's unit and container."""
    found = json.loads(command(*SIDESPAWN, "scan", "--json", check=False).stdout)["findings"]
    return {each["found"] for each in found if CONTAINER in each["where"]}


def served(node: Node, daemon: Daemon) -> None:
    """A network's client gets a lease, also from a dnsmasq that came after the agent's files were given to neutron."""
    network = networks.network(networks.subnet("10.20.0.0/24"))
    port = networks.add_port(network, networks.MACS[0], 10)
    name, running = f"{SERVICE}_qdhcp-{network['id']}", Service(SERVICE, node.state).containers
    with lan(daemon, network["id"]) as made:  # type: ignore[arg-type]  # of an agent only its state
        try:
            daemon.ask("create_network", network=network)
            wait_until(lambda: port["id"] in daemon.ask("ready"), PATIENCE)
            connect(made)
            lease = made.clients[0].ask(5)
            assert lease is not None
            assert lease.address == "10.20.0.10"
            assert list(running(every=False)) == [name]
            # What the agent's container does when it starts: dnsmasq finds files of others when it comes again.
            command("chown", "-R", f"{edpm.NEUTRON}:{edpm.NEUTRON}", str(node.state))
            (before,) = pids(name)
            command("podman", "kill", name)
            wait_until(lambda: bool(pids(name) - {before}), PATIENCE)
            again = made.clients[0].ask(5)
            assert again is not None
            daemon.ask("delete_network", network_id=network["id"])
            wait_until(lambda: running() == {}, PATIENCE)
        finally:
            remove_namespace(f"qdhcp-{network['id']}")


def pids(container: str) -> set[int]:
    done = command("podman", "container", "inspect", "--format={{.State.Pid}}", container, check=False)
    return {int(each) for each in done.stdout.split()} - {0}


# ---------------------------------------------------------------- the module


def writing(directory: Path, **more: Any) -> list[dict[str, Any]]:
    given = {
        "name": "edpm_neutron_dhcp_agent",
        "directory": str(directory),
        "volumes": VOLUMES,
        "units": ["sidespawn-spool@a.service"],
        "generator": str(QUADLET),
    }
    return [{"name": "it", "sidespawn.host.quadlet_drop_in": given | more}]


@pytest.fixture
def units(tmp_path: Path) -> Path:
    if not QUADLET.exists():
        pytest.skip("needs Quadlet in .cache, which ./dev test deploy unpacks")
    (tmp_path / "edpm_neutron_dhcp_agent.container").write_text(edpm.unit(Path("/var/lib/neutron")))
    return tmp_path


def test_only_what_is_not_to_be_there_goes(ansible: Ansible, units: Path) -> None:
    assert "--privileged" in command("env", f"QUADLET_UNIT_DIRS={units}", str(QUADLET), "--dryrun").stdout
    starts = ansible.play(writing(units)).results["it"]["starts"]
    assert "--privileged" not in starts
    assert {"--log-driver=journald", "--pid=host", "--cgroupns=host"} <= set(starts)
    assert "KOLLA_CONFIG_STRATEGY=COPY_ALWAYS" in starts
    assert [starts[index + 1] for index, each in enumerate(starts) if each == "--cap-drop"] == ["all"]
    labels = {starts[index + 1] for index, each in enumerate(starts) if each == "--label"}
    assert "managed_by=edpm_ansible" in labels
    assert [each for each in labels if re.fullmatch(r"io\.sidespawn\.drop-in=[0-9a-f]{64}", each)]
    given = {starts[index + 1] for index, each in enumerate(starts) if each == "-v"}
    assert set(VOLUMES) <= given
    assert "/var/lib/neutron:/var/lib/neutron:shared,z" in given
    assert not [each for each in given if "_wrapper" in each or "kill_scripts" in each]
    assert f"--mount=type=image,src={IMAGE},dst=/run/sidespawn/image" in starts
    assert starts[-1].endswith("&& exec kolla_start")


def test_privileges_stay_if_they_are_to_stay(ansible: Ansible, units: Path) -> None:
    starts = ansible.play(writing(units, unprivileged=False)).results["it"]["starts"]
    assert "--privileged" in starts
    assert "--cap-drop" not in starts
    assert starts[-1] == IMAGE


def test_check_mode_tells_and_a_second_run_changes_nothing(ansible: Ansible, units: Path) -> None:
    dry = ansible.play(writing(units), "--check", "--diff").results["it"]
    path = Path(dry["path"])
    assert not path.exists()
    real = ansible.play(writing(units), "--diff").results["it"]
    assert dry["changed"] is real["changed"] is True
    assert dry["diff"] == real["diff"]
    assert path.read_text() == real["diff"]["after"]
    assert ansible.play(writing(units)).changed == {"it": False}
    assert ansible.play(writing(units, state="absent")).changed == {"it": True}
    assert sorted(each.name for each in units.iterdir()) == ["edpm_neutron_dhcp_agent.container"]


def test_an_own_drop_in_keeps_its_effect(ansible: Ansible, units: Path) -> None:
    own = units / "edpm_neutron_dhcp_agent.container.d"
    own.mkdir()
    (own / "10-own.conf").write_text("[Container]\nVolume=/srv/early:/early\nPodmanArgs=--tz=UTC\n")
    (own / "90-own.conf").write_text("[Container]\nVolume=/srv/late:/late\n")
    starts = ansible.play(writing(units)).results["it"]["starts"]
    assert {"/srv/early:/early", "/srv/late:/late", "--tz=UTC"} <= set(starts)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Volume=/run:/run", "engines' sockets"),
        ("PodmanArgs=--volume=/run:/run", "engines' sockets"),
        ("Exec=other_start", "a command already"),
    ],
)
def test_a_unit_that_cannot_be_changed_is_refused(ansible: Ansible, units: Path, line: str, said: str) -> None:
    unit = units / "edpm_neutron_dhcp_agent.container"
    unit.write_text(unit.read_text().replace("[Service]", f"{line}\n\n[Service]"))
    ran = ansible.play(writing(units), check=False)
    assert ran.code != 0
    assert said in ran.results["it"]["msg"]
    assert "nothing was written" in ran.results["it"]["msg"]
    assert not Path(f"{unit}.d").exists()


def test_a_drop_in_that_would_have_no_effect_is_not_written(ansible: Ansible, units: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"  # reads units, and no drop-ins
    old.write_text(f'#!/bin/sh\nrm -r "$QUADLET_UNIT_DIRS"/*.d\nexec {QUADLET} "$@"\n')
    old.chmod(0o755)
    for given, said in (
        ({"generator": str(old)}, "does not read drop-ins"),
        ({"generator": "/usr/bin/false"}, "refuses the unit"),
        ({"name": "none"}, "run this after what writes it"),
        ({"volumes": []}, "needs the volumes"),
    ):
        ran = ansible.play(writing(units, **given), check=False)
        assert ran.code != 0
        assert said in ran.results["it"]["msg"]
    assert sorted(each.name for each in units.iterdir()) == ["edpm_neutron_dhcp_agent.container", "old"]


# ---------------------------------------------------------------- its text, without Ansible


@pytest.fixture(scope="module")
def texts() -> Iterator[ModuleType]:
    with module_utils("agents", "quadlet") as made:
        yield made


def test_values_are_read_as_quadlet_reads_them(texts: ModuleType) -> None:
    text = "[Container]\nVolume=/a:/a\nVolume=\nVolume = /b:/b \n#Volume=/c:/c\n[Service]\nVolume=/d:/d\n"
    assert texts.values([text, "[Container]\nVolume=/e\\\n:/e\n"], "Volume") == ["/b:/b", "/e :/e"]
    assert texts.values([text, "[Container]\nVolume=\n"], "Volume") == []


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("--privileged", []),
        ("--privileged=false --tz=UTC", ["--privileged=false --tz=UTC"]),
        ('--health-cmd="/a b" --privileged', ['"--health-cmd=/a b"']),
        ("--privileged -v /run/podman/podman.sock:/x --tz=UTC", ["--tz=UTC"]),
        ("-v /srv:/usr/sbin/x", []),
        ("--mount=type=bind,src=/var/lib/containers,dst=/c --tz=UTC", ["--tz=UTC"]),
        ("--label=x=--privileged", ["--label=x=--privileged"]),
    ],
)
def test_arguments_lose_what_is_not_to_be_there(texts: ModuleType, line: str, kept: list[str]) -> None:
    assert texts.kept_arguments([line], {"/usr/sbin/x"}, unprivileged=True) == kept


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), []),
        (("--privileged",), ["it is still privileged"]),
        (("-v", "/run/podman/podman.sock:/x"), ["it mounts /run/podman/podman.sock"]),
        (("--mount=type=bind,src=/var/lib/containers,dst=/c",), ["it mounts /var/lib/containers"]),
        (("--volume", "/srv/x:/usr/sbin/x"), ["it mounts /usr/sbin/x twice"]),
    ],
)
def test_what_would_be_started_is_judged(texts: ModuleType, more: tuple[str, ...], said: list[str]) -> None:
    words = [word for volume in VOLUMES for word in ("-v", volume)]
    assert texts.faults([*words, *more], volumes=VOLUMES, unprivileged=True) == said
    assert texts.faults([*more], volumes=VOLUMES, unprivileged=True) != []
    assert texts.faults([], volumes=VOLUMES, unprivileged=True) == ["Quadlet made no unit of it"]


def test_the_label_tells_which_drop_in_a_container_has(texts: ModuleType) -> None:
    given = {
        "units": ["u.service"],
        "options": [],
        "capabilities": ["SYS_ADMIN"],
        "unprivileged": True,
        "command": None,
    }
    unit = edpm.unit(Path("/var/lib/neutron"))
    text, other = (texts.drop_in([unit], volumes=VOLUMES[:number], **given) for number in (2, 1))
    assert texts.drop_in([unit], volumes=VOLUMES, **given) == text
    assert re.fullmatch("[0-9a-f]{64}", texts.label_of(text))
    assert texts.label_of(text) != texts.label_of(other)
    assert texts.label_in(f"ExecStart=podman run --label a=b --label {texts.LABEL}={texts.label_of(text)} x\n") == (
        texts.label_of(text)
    )
    assert texts.label_of("") == texts.label_of(unit) == texts.label_in(unit) == ""


@pytest.mark.parametrize("command", ["a'b", "a; b\n", "$HOME", 'a "b"', "%h", ""])
def test_a_command_has_no_quotes(texts: ModuleType, command: str) -> None:
    if command:
        with pytest.raises(texts.UnitError, match="without quotes"):
            texts.command_of([], command)
    else:
        assert texts.command_of([], command) == "kolla_start"
        assert texts.command_of(["[Container]\nExec=mine\n"], "mine") == "mine"


# ---------------------------------------------------------------- 18-stable


DEFINITION = """\
# In our words.
image: "{{ image }}"
privileged: true
{% if health %}
healthcheck: {test: /x}
{% endif %}
restart: always
volumes: {{ volumes }}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for role, name in (("dhcp", "neutron_dhcp_agent"), ("metadata", "ovn_metadata_agent"), ("ovn", "ovn_agent")):
        path = tmp_path / f"roles/edpm_neutron_{role}/templates/container_defs/{name}.yaml.j2"
        path.parent.mkdir(parents=True)
        path.write_text(DEFINITION)
    return tmp_path


def editing(path: Path, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "it", "sidespawn.host.edpm_tree": {"path": str(path)} | more}]


def test_definitions_lose_privileges_and_are_restored(ansible: Ansible, tree: Path) -> None:
    before = {path: path.read_bytes() for path in tree.rglob("*.j2")}
    dry = ansible.play(editing(tree), "--check", "--diff").results["it"]
    assert {path: path.read_bytes() for path in before} == before
    real = ansible.play(editing(tree), "--diff").results["it"]
    assert dry["changed"] is real["changed"] is True
    assert dry["diff"] == real["diff"]
    assert len(real["files"]) == 3
    rendered = {"name": "render", "ansible.builtin.debug": {"msg": "{{ lookup('template', path) | from_yaml }}"}}
    path = next(tree.rglob("neutron_dhcp_agent.yaml.j2"))
    variables = {"path": str(path), "image": "x", "volumes": ["/a:/a"], "health": True}
    made = ansible.play([*editing(tree), rendered], variables=variables)
    assert made.changed["it"] is False
    definition = made.results["render"]["msg"]
    assert definition["privileged"] is False
    assert {"NET_ADMIN", "SYS_ADMIN"} <= set(definition["cap_add"])
    assert definition["command"][:2] == ["sh", "-c"]
    assert "for each in /usr/sbin/dnsmasq /usr/sbin/haproxy;" in definition["command"][2]
    assert definition["volumes"] == ["/a:/a"]
    fewer = ansible.play(editing(tree, agents=["dhcp"])).results["it"]
    assert sorted(each.split("/")[1] for each in fewer["files"]) == ["edpm_neutron_metadata", "edpm_neutron_ovn"]
    ansible.play(editing(tree, state="absent"))
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEFINITION.replace("privileged: true", "privileged: false"), "0 lines"),
        (DEFINITION.replace("privileged: true", "privileged: true\nprivileged: true"), "2 lines"),
        (f"{DEFINITION}command: x\n", "of its own"),
        (f"{DEFINITION}cap_add: [X]\n", "of its own"),
    ],
)
def test_a_definition_that_is_not_as_expected_is_refused(text: str, said: str) -> None:
    with module_utils("agents", "quadlet", "kolla", "tripleo", "edpm") as made:
        error = sys.modules[f"{PACKAGE}.kolla"].TreeError
        with pytest.raises(error, match=said):
            made.edited(text, ("haproxy",), wanted=True)


def test_a_tree_without_these_definitions_is_refused(ansible: Ansible, tree: Path) -> None:
    shutil.rmtree(tree / "roles/edpm_neutron_ovn")
    before = {path: path.read_bytes() for path in tree.rglob("*.j2")}
    ran = ansible.play(editing(tree), check=False)
    assert ran.code != 0
    assert "no tree of edpm-ansible 18-stable" in ran.results["it"]["msg"]
    assert {path: path.read_bytes() for path in before} == before
    assert ansible.play(editing(tree, agents=["dhcp"])).changed == {"it": True}


def test_the_service_of_the_data_plane_is_one(ansible: Ansible) -> None:
    service = data_plane_service(ansible)
    assert (service["apiVersion"], service["kind"]) == (
        "dataplane.openstack.org/v1beta1",
        "OpenStackDataPlaneService",
    )
    # Those of EDPM's own services are taken, and their operator writes them again.
    assert service["metadata"]["name"] == "sidespawn"
    (play,) = service["spec"]["playbookContents"]
    assert (play["become"], play["hosts"]) == (True, "all")
