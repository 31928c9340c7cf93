"""`sidespawn agent-options`: its output for each engine, its exit codes, and what it never prints."""

from __future__ import annotations

import json
import shlex
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from textwrap import indent

import pytest

from sidespawn.engines import agent_runtime
from sidespawn.host_report.kubernetes import AGENT_RUNTIME, handler_of
from sidespawn.recipes import containers, system_calls, yaml_text
from sidespawn.recipes.containers import ENGINES, Agent, Mount
from tests.contract.command import printed_json, sidespawn_command

CHECKOUT = Path(__file__).parents[2]
NEW_PLUGIN = "io.containerd.cri.v1.runtime"  # of containerd 2

MOUNT = Mount(source="/run/sidespawn/a/spool", target="/run/sidespawn/a/spool", writable=True)
AGENT = Agent(uid=1000, gid=1001, capabilities=("NET_ADMIN", "SYS_ADMIN"), mounts=(MOUNT,), program=("agent", "--x"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", containers.CAPABILITIES)
def test_it_needs_no_privilege_and_no_service(engine: str, kind: str) -> None:
    done = sidespawn_command("agent-options", "--for", engine, "--agent", kind, "--json", as_nobody=True)
    assert done.returncode == 0, done.stderr
    made = printed_json(done)
    assert made["engine"] == engine
    assert {"preparation", "notes"} <= made.keys()
    assert ("NET_RAW" in done.stdout) == (kind == "l3")


@pytest.mark.parametrize("engine", ENGINES)
def test_no_engine_is_given_what_the_recipe_is_for_leaving_out(engine: str) -> None:
    text = json.dumps(containers.recipe(AGENT, engine))
    for each in ("--privileged", '"privileged": true', "pid=host", '"hostPID": true', "unconfined,", "SYS_PTRACE"):
        assert each not in text
    assert "contained-agent.json" in text
    assert "/run/sidespawn/a/spool" in text


def test_podman_makes_the_capabilities_ambient_by_itself() -> None:
    options = containers.podman(AGENT)
    assert options[0] == "--user=1000:1001"
    added = {each.removeprefix("--cap-add=") for each in options if each.startswith("--cap-add=")}
    assert added == {"NET_ADMIN", "SYS_ADMIN"}
    assert f"--security-opt=seccomp={system_calls.FILE}" in options


def test_docker_begins_as_root_and_gives_it_up() -> None:
    made = containers.recipe(AGENT, "docker")
    assert "--user=0:0" in made["options"]
    command = made["command"]
    assert command[:3] == ["setpriv", "--reuid=1000", "--regid=1001"]
    assert command[-2:] == ["agent", "--x"]
    (bounding,) = (each for each in command if each.startswith("--bounding-set="))
    assert bounding == "--bounding-set=-all,+net_admin,+sys_admin"


def test_a_unit_says_the_same_as_podmans_options() -> None:
    lines = containers.quadlet(AGENT).splitlines()
    for each in (
        "User=1000", "Group=1001", "DropCapability=all", "AddCapability=NET_ADMIN SYS_ADMIN", "NoNewPrivileges=true",
        f"SeccompProfile={system_calls.FILE}", "Network=host", "Volume=/run/netns:/run/netns:rshared",
        f"Volume={MOUNT.volume}", "Exec=agent --x",
    ):  # fmt: skip
        assert each in lines


def test_a_pod_does_not_request_what_kubernetes_refuses() -> None:
    """Bidirectional propagation needs a privileged container: the API server and the kubelet reject the pod."""
    made = containers.recipe(AGENT, "kubernetes")
    assert "Bidirectional" not in json.dumps(made)
    spec = made["pod_spec"]
    (container,) = spec["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert (container["name"], container["command"]) == (AGENT.name, ["agent", "--x"])
    sources = {each["name"]: each["hostPath"]["path"] for each in spec["volumes"]}
    mounted = {each["mountPath"]: each.get("readOnly", False) for each in container["volumeMounts"]}
    assert sources.keys() == {each["name"] for each in container["volumeMounts"]}
    assert mounted == {"/run/netns": False, MOUNT.target: False}


def test_only_what_the_agent_writes_is_writable_in_a_pod() -> None:
    made = containers.kubernetes(replace(AGENT, mounts=(replace(MOUNT, writable=False),)))
    (_, mount) = made["containers"][0]["volumeMounts"]
    assert mount == {"name": "sidespawn-0", "mountPath": MOUNT.target, "readOnly": True}


def test_the_node_lists_the_container_that_the_pod_has(tmp_path: Path) -> None:
    """Carry out the command, as root would, for another file."""
    made = containers.recipe(AGENT, "kubernetes")
    (command,) = (each for each in made["preparation"] if each.endswith(f">>{agent_runtime.LIST}"))
    path = tmp_path / "list"
    subprocess.run(("sh", "-c", command.replace(agent_runtime.LIST, str(path))), check=True)
    assert path.read_text() == f"openstack/{made['pod_spec']['containers'][0]['name']}\n"


def test_the_cluster_is_prepared_for_what_the_base_says() -> None:
    """Compare names with the classes and the admission policies; tests/kubernetes judges the pod by them."""
    apply, label = containers.CLUSTER
    base = CHECKOUT / apply.rpartition(" ")[2]
    assert (base / "kustomization.yaml").exists()
    classes = (base / "runtime-classes.yaml").read_text(encoding="utf-8")
    spec = containers.kubernetes(AGENT)
    assert f"  name: {spec['runtimeClassName']}\n" in classes
    assert f".runtimes.{spec['runtimeClassName']}]" in containers.HANDLER
    assert f"\nhandler: {spec['runtimeClassName']}\n" in classes
    key, _, value = label.split()[-1].partition("=")
    assert f"namespaceObject.metadata.labels['{key}'] == '{value}'" in (base / "admission.yaml").read_text(
        encoding="utf-8"
    )


def test_the_handler_is_what_the_host_report_looks_for() -> None:
    for text in (containers.HANDLER, containers.HANDLER.replace("io.containerd.grpc.v1.cri", NEW_PLUGIN)):
        found = handler_of(tomllib.loads(text), containers.CLASS)
        assert found == {"BinaryName": str(AGENT_RUNTIME), "SystemdCgroup": True}
    assert AGENT_RUNTIME.exists()


def test_the_docs_show_the_same_handler_and_pod() -> None:
    installed = containers.HANDLER.replace(str(AGENT_RUNTIME), "/usr/share/sidespawn/sidespawn/engines/agent-runtime")
    agent = Agent(uid=42435, gid=42435, capabilities=containers.CAPABILITIES["dhcp"], name=containers.NAMES["dhcp"])
    for text in (installed, "\n".join(yaml_text.lines(containers.kubernetes(agent)))):
        assert indent(text, "    ") in (CHECKOUT / "docs/kubernetes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("ALL", "ALL"), ("/run/netns", "/run/netns"), ("a-b.c_d", "a-b.c_d"), (True, "true"), (42435, "42435"),
        ("no", '"no"'), ("On", '"On"'), ("~", '"~"'), ("1e3", '"1e3"'), ("-x", '"-x"'), ("a: b", '"a: b"'), ("", '""'),
        ("a #b", '"a #b"'), ("null", '"null"'), ("nullable", "nullable"), ("x\n", '"x\\n"'), ("*a", '"*a"'),
        ("localhost/a:latest", '"localhost/a:latest"'), ('say "x"', '"say \\"x\\""'),
    ],
)  # fmt: skip
def test_text_that_yaml_would_read_as_something_else_is_quoted(value: str | int, text: str) -> None:
    assert yaml_text.scalar(value) == text


def test_the_group_of_the_namespaces_is_the_agents() -> None:
    assert "2775 root 1001" in containers.preparation(AGENT, "podman")[0]


def test_what_people_see_can_be_run() -> None:
    shown = containers.shown(containers.recipe(AGENT, "podman"))
    command = shown.partition("podman run")[2].partition("\n\n")[0].replace("\\\n", " ")
    assert shlex.split(command) == [*containers.podman(AGENT), "AGENT-IMAGE", "agent", "--x"]


@pytest.mark.parametrize("user", ["1000", "1000:1001", "42435:42435"])
def test_a_user(user: str) -> None:
    done = sidespawn_command("agent-options", "--user", user, "--json")
    uid, _, gid = user.partition(":")
    assert f"--user={uid}:{gid or uid}" in printed_json(done)["options"]


@pytest.mark.parametrize(
    "user", ["0", "0:0", "1000:0", "00", "neutron", "", "1000:", ":1000", "-1", "1:2:3", "1\n", "1 ", "²", "1" * 10]
)
def test_not_a_user(user: str) -> None:
    done = sidespawn_command("agent-options", f"--user={user}")
    assert done.returncode == 64
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--for", "lxc"), 64), (("--agent", "nova"), 64), (("--what",), 64), (("Not_A_Service",), 64),
        (("../etc",), 64), (("no-such-service",), 69),
    ],
)  # fmt: skip
def test_exit_codes(arguments: tuple[str, ...], code: int) -> None:
    done = sidespawn_command("agent-options", *arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_service_that_is_not_enabled_as_json() -> None:
    done = sidespawn_command("agent-options", "no-such-service", "--json")
    assert printed_json(done)["error"]["reason"] == "not-enabled"
