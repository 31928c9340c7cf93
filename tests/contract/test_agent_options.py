"""`sidespawn agent-options`: its output for each engine, its exit codes, and what it never prints."""

from __future__ import annotations

import json
import shlex

import pytest

from sidespawn.recipes import containers, system_calls
from sidespawn.recipes.containers import ENGINES, Agent, Mount
from tests.contract.command import printed_json, sidespawn_command

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


def test_a_pod_does_not_ask_for_what_kubernetes_refuses() -> None:
    """Bidirectional propagation needs a privileged container: the API server and the kubelet reject the pod."""
    made = containers.recipe(AGENT, "kubernetes")
    assert "Bidirectional" not in json.dumps(made["manifest"])
    assert any("Bidirectional" in each for each in made["notes"])
    (container,) = made["manifest"]["spec"]["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    names = {each["name"] for each in made["manifest"]["spec"]["volumes"]}
    assert names == {each["name"] for each in container["volumeMounts"]}


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
