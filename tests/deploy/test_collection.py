"""The collection: its text, and what its modules do on a host with a real systemd and podman."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sidespawn.setup import syntaxes
from sidespawn.setup.agent_options import AgentOptions, Mount
from tests.deploy.conftest import CHECKOUT, COLLECTION, Ansible, Ran
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Service, command

MODULES = sorted(path.stem for path in (COLLECTION / "plugins/modules").glob("*.py"))
ROLES = sorted(path.name for path in (COLLECTION / "roles").iterdir())
UNKNOWN_OPTION = {"name": "x", "privileged": True}


# ---------------------------------------------------------------- as a collection


def test_ansible_lint_has_nothing_to_say(ansible: Ansible, tmp_path: Path) -> None:
    copy = tmp_path / "ansible_collections/sidespawn/host"
    shutil.copytree(COLLECTION, copy)
    command("git", "init", "--quiet", str(copy))
    options = ("--offline", "--profile=production", "--strict", "--project-dir", str(copy))
    # Its address is for whoever publishes it to set: packaging/README.md.
    argv = ("ansible-lint", *options, "--skip-list=galaxy[no-repository]", str(copy))
    done = ansible.call(*argv, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_archive_has_what_it_needs_and_no_more(ansible: Ansible) -> None:
    installed = ansible.home / "collections/ansible_collections/sidespawn/host"
    made = {"FILES.json", "MANIFEST.json"}
    there = {
        str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    tracked = command("git", "-C", str(CHECKOUT), "ls-files", "integrations/ansible").stdout.split()
    sources = {each.removeprefix("integrations/ansible/") for each in tracked} - {"galaxy.yml"}
    assert there - made == sources
    assert json.loads((installed / "MANIFEST.json").read_text())["collection_info"]["dependencies"] == {}


def test_ansible_test_is_told_of_each_module_that_its_licence_is_another() -> None:
    """validate-modules asks for the GPL."""
    told = (COLLECTION / "tests/sanity/ignore-2.19.txt").read_text().splitlines()
    modules = sorted(path.name for path in (COLLECTION / "plugins/modules").glob("*.py"))
    wanted = [f"plugins/modules/{name} validate-modules:missing-gplv3-license" for name in modules]
    assert [line.partition(" #")[0] for line in told] == wanted


@pytest.mark.parametrize("path", sorted((COLLECTION / "plugins").rglob("*.py")), ids=lambda path: str(path.stem))
def test_no_name_is_an_underscore(path: Path) -> None:
    """Ansible keeps it for translations, and ansible-test's pylint refuses it."""
    names = [each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Name) and each.id == "_"]
    assert [each.lineno for each in names] == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_documented(ansible: Ansible, name: str) -> None:
    told = json.loads(ansible.call("ansible-doc", "--json", f"sidespawn.host.{name}").stdout)[f"sidespawn.host.{name}"]
    assert told["doc"]["short_description"]
    assert told["examples"]
    assert told["return"]


def test_the_filter_is_documented(ansible: Ansible) -> None:
    assert "kolla" in ansible.call("ansible-doc", "--type=filter", "sidespawn.host.volumes").stdout


@pytest.mark.parametrize("name", ROLES)
def test_a_role_is_documented(ansible: Ansible, name: str) -> None:
    told = ansible.call("ansible-doc", "--type=role", "--json", f"sidespawn.host.{name}").stdout
    assert f"{name}_" in told


# ---------------------------------------------------------------- on a host


@pytest.fixture
def unused() -> Iterator[Service]:
    """A name for a service, that is not enabled yet."""
    made = new_service()
    yield made
    made.clean()


def enabling(service: Service, **more: Any) -> list[dict[str, Any]]:
    options = {
        "name": service.name,
        "preset": "neutron-dhcp-dnsmasq",
        "parameters": {"state_on_host": str(service.state)},
        "command": SIDESPAWN[0],
    }
    return [{"name": "enable", "sidespawn.host.service": options | more}]


def test_check_mode_tells_what_the_run_does_and_a_second_run_changes_nothing(ansible: Ansible, unused: Service) -> None:
    tasks = enabling(unused)
    dry = ansible.play(tasks, "--check", "--diff").results["enable"]
    assert not unused.places.policy.exists()
    real = ansible.play(tasks, "--diff").results["enable"]
    assert dry["changed"] is real["changed"] is True
    assert dry["diff"] == real["diff"]
    assert any(each["after_header"] == str(unused.places.policy) for each in real["diff"])
    assert unused.places.policy.read_text().rstrip() in {each["after"].rstrip() for each in real["diff"]}
    again = ansible.play(tasks, "--diff")
    assert again.changed == {"enable": False}
    assert ansible.play(tasks, "--check").changed == {"enable": False}
    assert (
        real["podman_options"]
        == command(*SIDESPAWN, "options", unused.name).stdout.splitlines()[: len(real["podman_options"])]
    )


def policy_of(service: Service) -> str:
    return f'extends = "neutron-dhcp-dnsmasq"\n\n[parameters]\nstate_on_host = "{service.state}"\n'


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_a_given_policy_is_stored_as_it_is(ansible: Ansible, unused: Service, end: str) -> None:
    policy = f"{policy_of(unused)}# The end.{end}"
    tasks = [
        {"name": "enable", "sidespawn.host.service": {"name": unused.name, "policy": policy, "command": SIDESPAWN[0]}}
    ]
    dry = ansible.play(tasks, "--check", "--diff").differences("enable")
    assert not unused.places.policy.exists()
    assert ansible.play(tasks, "--diff").differences("enable") == dry
    assert unused.places.policy.read_text() == policy
    assert ansible.play(tasks, "--check").changed == {"enable": False}
    assert ansible.play(tasks).changed == {"enable": False}


def test_a_given_policy_that_is_invalid_fails_with_the_reason_and_is_not_stored(
    ansible: Ansible, unused: Service
) -> None:
    given = {"name": unused.name, "policy": f"{policy_of(unused)}privileged = true\n", "command": SIDESPAWN[0]}
    for options in ((), ("--check",)):
        ran = ansible.play([{"name": "enable", "sidespawn.host.service": given}], *options, check=False)
        assert ran.code != 0
        assert ran.results["enable"]["reason"] == "policy-invalid"
        assert "standard input:5: parameters.privileged is not a parameter" in ran.results["enable"]["msg"]
    assert not unused.places.policy.exists()
    for more in ({"image": "x"}, {"parameters": {"uid": 0}}):
        ran = ansible.play([{"name": "enable", "sidespawn.host.service": given | more}], check=False)
        assert ran.code != 0
        assert not unused.places.policy.exists()


@pytest.mark.parametrize(("state", "changed"), [("present", True), ("absent", False)])
def test_check_mode_before_sidespawn_is_installed_says_that_nothing_is_known(
    ansible: Ansible, tmp_path: Path, state: str, changed: bool
) -> None:
    tasks = [
        {"name": "enable", "sidespawn.host.service": {"name": "x", "state": state, "command": f"{tmp_path}/sidespawn"}}
    ]
    ran = ansible.play(tasks, "--check", "--diff")
    assert ran.changed == {"enable": changed}
    assert "sidespawn is not installed yet" in ran.results["enable"]["msg"]
    assert "[WARNING]: sidespawn is not installed yet" in " ".join(ran.output.split())
    ran = ansible.play(tasks, check=False)
    assert ran.code != 0
    assert "sidespawn is not installed on this host" in ran.results["enable"]["msg"]


@pytest.mark.parametrize(
    ("role", "given", "unknown"),
    [
        ("service", {"service_list": [{"name": "x"}]}, ""),
        ("edpm", {"edpm_sidespawn_image": "x"}, "Write the drop-in of the agent's unit"),
        ("tripleo", {"tripleo_sidespawn_tree": "/nonexistent"}, "Write or remove the templates"),
    ],
)
def test_check_mode_of_a_role_before_sidespawn_is_installed_ends(
    ansible: Ansible, tmp_path: Path, role: str, given: dict[str, Any], unknown: str
) -> None:
    variables = {f"{role if role == 'service' else f'{role}_sidespawn'}_command": f"{tmp_path}/sidespawn"} | given
    tasks = [{"name": "role", "ansible.builtin.include_role": {"name": f"sidespawn.host.{role}"}}]
    ran = ansible.play(tasks, "--check", "--diff", variables=variables)
    assert "sidespawn is not installed yet" in " ".join(ran.output.split())
    assert f"sidespawn.host.{role} : {unknown}" not in ran.results


def test_check_mode_tells_of_two_services_what_the_run_does(ansible: Ansible) -> None:
    """Check that only what both share is told twice."""
    both = (new_service(), new_service())
    given = [{"name": each.name, "policy": policy_of(each)} for each in both]
    variables = {"service_list": given, "service_command": SIDESPAWN[0]}
    tasks = [{"name": "role", "ansible.builtin.include_role": {"name": "sidespawn.host.service"}}]
    task = "sidespawn.host.service : Enable or disable each service"
    try:
        dry, real = (ansible.play(tasks, *more, "--diff", variables=variables) for more in (("--check",), ()))
        assert dry.changed == real.changed
        assert dry.differences(task) == real.differences(task)
        for what, _, after in real.differences(task):
            if what.startswith("/") and not after.startswith("sha256:"):
                assert Path(what).read_text().rstrip() == after.rstrip()
        told = [
            [{each["after_header"] for each in item["diff"]} for item in ran.results[task]["results"]]
            for ran in (dry, real)
        ]
        shared = "/etc/systemd/system/sidespawn@.service"
        assert [[shared in each for each in items] for items in told] == [[True, True], [True, False]]
        assert not any(ansible.play(tasks, variables=variables).changed.values())
    finally:
        for each in both:
            each.clean()


def test_a_service_is_disabled_once(ansible: Ansible, service: Service) -> None:
    network = service.network()
    assert network.start().returncode == 0
    running = {"name": "look", "sidespawn.host.side_container_info": {"service": service.name, "command": SIDESPAWN[0]}}
    (row,) = ansible.play([running]).results["look"]["side_containers"]
    assert (row["name"], row["state"]) == (network.container, "running")
    tasks = enabling(service, state="absent")
    assert ansible.play(tasks, "--check").changed == {"enable": True}
    assert service.places.policy.exists()
    done = ansible.play(tasks).results["enable"]
    assert (done["changed"], done["side_containers"]) == (True, [network.container])
    assert ansible.play(tasks).changed == {"enable": False}


def test_what_sidespawn_refuses_fails_the_task_in_its_words(ansible: Ansible, unused: Service) -> None:
    ran = ansible.play(enabling(unused, preset="no-such-preset"), check=False)
    assert ran.code != 0
    assert "no-such-preset" in ran.results["enable"]["msg"]
    assert "Traceback" not in ran.output


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_host_whose_version_is_too_old_is_refused(ansible: Ansible, tmp_path: Path, state: str) -> None:
    (tmp_path / "old").write_text('#!/bin/sh\necho \'{"service": "x"}\'\n')
    (tmp_path / "old").chmod(0o755)
    options = {"name": "x", "state": state, "command": str(tmp_path / "old")}
    ran = ansible.play([{"name": "enable", "sidespawn.host.service": options}], check=False)
    assert ran.code != 0
    assert "too old for this collection" in ran.results["enable"]["msg"]


def test_a_version_without_an_option_is_refused(ansible: Ansible, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("#!/bin/sh\necho 'Error: No such option: --policy' >&2\ncat >/dev/null\nexit 2\n")
    (tmp_path / "old").chmod(0o755)
    options = {"name": "x", "policy": "version = 1\n", "command": str(tmp_path / "old")}
    ran = ansible.play([{"name": "enable", "sidespawn.host.service": options}], check=False)
    assert ran.code != 0
    assert "too old for this collection" in ran.results["enable"]["msg"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('echo "No such option: --dry-run" >&2; exit 2', "has no --dry-run"),
        ("echo \"Error: No such command 'enable'.\" >&2; exit 2", "it has no `sidespawn"),
        ('echo \'{"service": "x"}\'', "does not say changed"),
    ],
)
def test_check_mode_with_a_version_that_is_too_old_says_that_nothing_is_known(
    ansible: Ansible, tmp_path: Path, script: str, said: str
) -> None:
    """The run may upgrade it before."""
    (tmp_path / "old").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "old").chmod(0o755)
    tasks = [
        {"name": state, "sidespawn.host.service": {"name": "x", "state": state, "command": str(tmp_path / "old")}}
        for state in ("present", "absent")
    ]
    ran = ansible.play(tasks, "--check", "--diff")
    assert ran.changed == {"present": True, "absent": False}
    for state in ("present", "absent"):
        message = ran.results[state]["msg"]
        assert said in message
        assert "a run fails here unless it installs sidespawn first" in message


def test_a_mode_alone_changes_only_the_mode(ansible: Ansible, unused: Service) -> None:
    enabled = ansible.play(enabling(unused, mode="monitor", image="localhost/none:1")).results["enable"]
    assert enabled["namespaces"] == ["qdhcp-<uuid>"]
    before = unused.places.policy.read_text()
    alone = [
        {"name": "mode", "sidespawn.host.service": {"name": unused.name, "mode": "enforce", "command": SIDESPAWN[0]}}
    ]
    dry, real = (ansible.play(alone, "--diff", *more) for more in (("--check",), ()))
    assert dry.changed == real.changed == {"mode": True}
    assert dry.results["mode"]["diff"] == real.results["mode"]["diff"]
    assert [each["after_header"] for each in real.results["mode"]["diff"]] == [str(unused.places.policy)]
    after = unused.places.policy.read_text()
    assert after.splitlines()[1:] == before.replace('"monitor"', '"enforce"').splitlines()[1:]
    assert ansible.play(alone).changed == {"mode": False}


def test_the_role_enables_all_services_of_a_host(ansible: Ansible, unused: Service) -> None:
    given = {"name": unused.name, "preset": "neutron-dhcp-dnsmasq", "parameters": {"state_on_host": str(unused.state)}}
    variables = {"service_list": [given], "service_command": SIDESPAWN[0]}
    tasks: list[dict[str, Any]] = [
        {"name": "role", "ansible.builtin.include_role": {"name": "sidespawn.host.service"}},
        {
            "name": "kolla",
            "ansible.builtin.debug": {"msg": "{{ service_results | sidespawn.host.volumes('kolla') | to_json }}"},
        },
    ]
    ran = ansible.play(tasks, variables=variables)
    printed = command(*SIDESPAWN, "options", unused.name, "--print=kolla").stdout.splitlines()
    assert json.loads(ran.results["kolla"]["msg"]) == [json.loads(each.removeprefix("- ")) for each in printed]
    again = ansible.play(tasks, variables=variables)
    assert not any(again.changed.values())


@pytest.mark.parametrize(
    ("role", "given"),
    [
        ("service", {"service_list": [UNKNOWN_OPTION]}),
        ("migrate", {"migrate_agents": [{"container": "x", "services": [UNKNOWN_OPTION]}]}),
    ],
)
def test_a_role_refuses_what_is_no_option(ansible: Ansible, role: str, given: dict[str, Any]) -> None:
    tasks = [{"name": "role", "ansible.builtin.include_role": {"name": f"sidespawn.host.{role}"}}]
    ran = ansible.play(tasks, check=False, variables=given)
    assert ran.code != 0
    assert "privileged" in ran.output


def test_the_gate_believes_only_records_of_root(ansible: Ansible) -> None:
    """Check that no other user of the host can stop a migration by writing a refusal to the journal."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    gate = [{"name": "gate", "sidespawn.host.gate": {"helpers": [], "services": [name], "timeout": 0}}]
    record = f"MESSAGE=refused\nSIDESPAWN_SERVICE={name}\nSIDESPAWN_EVENT=rejected\n"
    for user, code in (("nobody", 0), ("root", 2)):
        argv = ("runuser", f"--user={user}", "--", "logger", "--journald")
        subprocess.run(argv, input=record, check=True, text=True, timeout=30)
        command("journalctl", "--sync")
        assert ansible.play(gate, check=False).code == code


def test_scan_fails_on_request_only(ansible: Ansible) -> None:
    def tasks(**more: bool) -> list[dict[str, Any]]:
        return [{"name": "scan", "sidespawn.host.scan": {"command": SIDESPAWN[0]} | more}]

    assert ansible.play(tasks(fail_on_findings=True)).changed == {"scan": False}
    name = "scan-holder"
    created = ("podman", "create", f"--name={name}", "-v/var/lib/containers:/c")
    command(*created, "localhost/sidespawn-agent:latest", "true")
    try:
        found = ansible.play(tasks()).results["scan"]["findings"]
        assert [(each["where"], each["kind"]) for each in found] == [(f"podman:{name}", "engine-storage")]
        failed = ansible.play(tasks(fail_on_findings=True), check=False)
        assert failed.code != 0
        assert name in failed.results["scan"]["msg"]
    finally:
        command("podman", "rm", "--force", name, check=False)


# ---------------------------------------------------------------- the filter, without Ansible


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    source = (COLLECTION / "plugins/filter/volumes.py").read_text()
    path = tmp_path_factory.mktemp("filter") / "volumes.py"
    path.write_text(source.replace("from ansible.errors import AnsibleFilterError", "AnsibleFilterError = ValueError"))
    specification = importlib.util.spec_from_file_location("volumes", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module


MOUNTS = (
    Mount(source="/run/sidespawn/a/spool", target="/run/sidespawn/a/spool", writable=True),
    Mount(source="/run/sidespawn/a/agent/dnsmasq", target="/usr/sbin/dnsmasq", program="dnsmasq"),
    Mount(source="/run/sidespawn/a/agent/kill", target="/etc/neutron/kill_scripts/kill"),
)
RESULT = {"agent_mounts": [each.as_json() for each in MOUNTS]}


@pytest.mark.parametrize("syntax", ["podman", "quadlet", "kolla"])
def test_the_filter_says_what_the_command_prints(volumes: ModuleType, syntax: str) -> None:
    printed = syntaxes.written(AgentOptions(services=("a",), mounts=MOUNTS), syntax).splitlines()
    expected = {
        "podman": [each.removeprefix("--volume=") for each in printed],
        "quadlet": [each for each in printed if each.startswith("Volume=")],
        "kolla": [json.loads(each.removeprefix("- ")) for each in printed if each.startswith("- ")],
    }
    assert volumes.volumes(RESULT, syntax) == expected[syntax]


def test_edpm_finds_wrappers_in_two_places(volumes: ModuleType) -> None:
    added = [each for each in volumes.volumes(RESULT, "edpm") if each not in volumes.volumes(RESULT, "podman")]
    assert added == ["/run/sidespawn/a/agent/dnsmasq:/usr/local/bin/dnsmasq:ro,rprivate"]


def test_compose_gets_the_long_syntax(volumes: ModuleType) -> None:
    written, *_ = volumes.volumes([RESULT], "compose")[1:]
    assert written["read_only"] is True
    assert written["bind"] == {"propagation": "rprivate", "create_host_path": False}
    assert "read_only" not in volumes.volumes(RESULT, "compose")[0]


def test_a_shared_kill_script_is_mounted_once_and_a_wrapper_never_replaced(volumes: ModuleType) -> None:
    def result(service: str, target: str, program: str = "") -> dict[str, Any]:
        mount = Mount(source=f"/run/sidespawn/{service}/agent/x", target=target, program=program)
        return {"agent_mounts": [mount.as_json()]}

    assert volumes.volumes([result("a", "/k"), result("b", "/k")]) == ["/run/sidespawn/a/agent/x:/k:ro,rprivate"]
    with pytest.raises(ValueError, match="cannot be of one agent"):
        volumes.volumes([result("a", "/p", "p"), result("b", "/p", "p")])


@pytest.mark.parametrize("first", ["a", "a-b"])
def test_a_first_run_has_the_volumes_of_a_second(volumes: ModuleType, first: str) -> None:
    """The first of two services is enabled without the other, so it has the kill script that they share."""

    def mount(service: str, target: str) -> dict[str, Any]:
        return Mount(source=f"/run/sidespawn/{service}/agent/x", target=target).as_json()

    second = {"a": "a-b", "a-b": "a"}[first]
    own = {each: {"agent_mounts": [mount(each, f"/{each}")]} for each in (first, second)}
    shared = {each: {"agent_mounts": [mount(each, f"/{each}"), mount(each, "/k")]} for each in (first, second)}
    later = [(shared if each == "a" else own)[each] for each in (first, second)]
    at_first = [shared[first], (own if first == "a" else shared)[second]]
    in_check_mode = [shared[first], shared[second]]
    assert volumes.volumes(at_first) == volumes.volumes(later) == volumes.volumes(in_check_mode)


@pytest.mark.parametrize("given", [[{}], ["x"], [None]])
def test_what_is_no_result_is_refused(volumes: ModuleType, given: list[Any]) -> None:
    with pytest.raises(ValueError, match="results of the module"):
        volumes.volumes(given)


def test_an_unknown_syntax_is_refused(volumes: ModuleType) -> None:
    with pytest.raises(ValueError, match="'x' is not one of podman, quadlet, compose, kolla"):
        volumes.volumes(RESULT, "x")


# ---------------------------------------------------------------- installation


def installing(**more: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    tasks = [{"name": "role", "ansible.builtin.include_role": {"name": "sidespawn.host.install"}}]
    return tasks, {"install_check": False} | more


def changes(ran: Ran) -> set[str]:
    return {name.rpartition(" : ")[2] for name, is_changed in ran.changed.items() if is_changed}


def make_wheel(directory: Path) -> Path:
    """One with the command alone."""
    files = {
        "sidespawn.py": "def main():\n    print('it')\n",
        "sidespawn-0.dist-info/METADATA": "Metadata-Version: 2.1\nName: sidespawn\nVersion: 0\n",
        "sidespawn-0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "sidespawn-0.dist-info/entry_points.txt": "[console_scripts]\nsidespawn = sidespawn:main\n",
    }
    path = directory / "sidespawn-0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr("sidespawn-0.dist-info/RECORD", "".join(f"{name},,\n" for name in files))
    return path


def test_a_wheel_is_installed_once_into_a_virtual_environment(ansible: Ansible, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    tasks, variables = installing(
        install_method="venv",
        install_file=str(wheel),
        install_directory=str(tmp_path / "packages"),
        install_venv=str(tmp_path / "venv"),
        install_link=str(tmp_path / "sidespawn"),
        install_pip_arguments="--no-index --no-deps",
    )
    dry = ansible.play(tasks, "--check", variables=variables)
    assert "Copy the package to the host" in changes(dry)
    told = dry.results["sidespawn.host.install : Say what a run would do besides"]["msg"]
    assert f"A run installs {wheel.name}." in told
    assert "sidespawn is not installed now" in told
    assert not (tmp_path / "venv").exists()
    assert {"Install into the virtual environment", "Link the command"} <= changes(
        ansible.play(tasks, variables=variables)
    )
    assert command(str(tmp_path / "sidespawn")).stdout == "it\n"
    assert changes(ansible.play(tasks, variables=variables)) == set()
    assert changes(ansible.play(tasks, "--check", variables=variables)) == set()


def test_a_debian_package_is_installed_once(ansible: Ansible, tmp_path: Path) -> None:
    """A package of no content, since this host's own sidespawn is the checkout's."""
    name = "sidespawn-of-the-test"
    (tmp_path / "root/DEBIAN").mkdir(parents=True)
    fields = (
        f"Package: {name}",
        "Version: 1",
        "Architecture: all",
        "Maintainer: test <t@example.org>",
        "Description: x",
    )
    (tmp_path / "root/DEBIAN/control").write_text("\n".join(fields) + "\n")
    command("dpkg-deb", "--build", "--root-owner-group", str(tmp_path / "root"), str(tmp_path / "test.deb"))
    given = {"install_file": str(tmp_path / "test.deb"), "install_directory": str(tmp_path / "packages")}
    tasks, variables = installing(**given)
    try:
        assert "Install the package file" in changes(ansible.play(tasks, variables=variables))
        assert command("dpkg-query", "-W", "-f${Status}", name).stdout == "install ok installed"
        assert changes(ansible.play(tasks, variables=variables)) == set()
        assert changes(ansible.play(tasks, "--check", variables=variables)) == set()
    finally:
        command("dpkg", "--purge", name, check=False)


SPECIFICATION = """\
Name: {name}
Version: 1
Release: 1
Summary: x
License: x
BuildArch: noarch
%description
%files
"""


def test_an_rpm_is_installed_once_and_only_unsigned_if_told(ansible: Ansible, tmp_path: Path) -> None:
    """By dnf, which Debian has as well. A package of no content."""
    rpm = ("rpm", f"--dbpath={ansible.home}/.rpmdb")  # Debian's rpm keeps a database in each user's home
    name = "sidespawn-of-the-test"
    (tmp_path / "test.spec").write_text(SPECIFICATION.format(name=name))
    command("rpmbuild", "-bb", "--quiet", f"--define=_topdir {tmp_path}", str(tmp_path / "test.spec"))
    (package,) = (tmp_path / "RPMS").rglob("*.rpm")
    tasks, variables = installing(
        install_method="rpm", install_file=str(package), install_directory=str(tmp_path / "packages")
    )
    # Ansible looks for dnf's version only where dnf is what the distribution installs with.
    tasks = [{"module_defaults": {"ansible.builtin.dnf": {"use_backend": "dnf4"}}, "block": tasks}]
    try:
        ran = ansible.play(tasks, check=False, variables=variables)
        assert ran.code != 0
        assert "GPG" in ran.output
        assert command(*rpm, "--query", name, check=False).returncode != 0
        variables["install_rpm_check_signature"] = False
        assert "Install the package" in changes(ansible.play(tasks, "--check", variables=variables))
        assert command(*rpm, "--query", name, check=False).returncode != 0
        assert changes(ansible.play(tasks, variables=variables)) == {"Install the package"}
        assert command(*rpm, "--query", name).stdout == f"{name}-1-1.noarch\n"
        assert changes(ansible.play(tasks, variables=variables)) == set()
        assert changes(ansible.play(tasks, "--check", variables=variables)) == set()
    finally:
        command(*rpm, "--erase", name, check=False)


def test_a_host_that_is_not_fit_fails_the_installation(ansible: Ansible, tmp_path: Path) -> None:
    finding = {"state": "problem", "message": "requests cannot be served"}
    (tmp_path / "sidespawn").write_text(f"#!/bin/sh\necho '{json.dumps({'host': {'findings': [finding]}})}'\nexit 69\n")
    (tmp_path / "sidespawn").chmod(0o755)
    tasks, variables = installing(install_method="none", install_check=True)
    ran = ansible.play(tasks, check=False, variables=variables, PATH=f"{tmp_path}:{ansible.environment['PATH']}")
    assert ran.code != 0
    assert "requests cannot be served" in ran.output
