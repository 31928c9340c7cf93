"""The runtime for agents: whom it shares /run/netns with, how it confines agents, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines import agent_runtime
from sidespawn.engines.agent_runtime import NO_RESTORE, UNSAFE_LIST
from tests.attacks.catalogue import attack
from tests.unit.test_kubernetes_runtime import RECORDED, VERSIONS, message

Description = dict[str, Any]
SHELL = Path(agent_runtime.__file__).with_name("agent-runtime")
CAPABILITIES = ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]
LISTED = "# who may\nopenstack/dhcp # the agent\n\nopenstack/init\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(agent_runtime, "LIST", str(tmp_path / "list"))
    (tmp_path / "list").write_text(LISTED)
    (tmp_path / "list").chmod(0o644)
    return tmp_path


def agent(version: str = "2.1", container: str = "dhcp", namespace: str = "openstack") -> Description:
    """Return an agent as containerd describes a pod of the contained recipe."""
    (found,) = (
        each["description"] for each in RECORDED if (each["kind"], each["containerd"]) == ("container", version)
    )
    description: Description = json.loads(json.dumps(found))
    description["annotations"] |= {
        "io.kubernetes.cri.sandbox-namespace": namespace,
        "io.kubernetes.cri.container-name": container,
    }
    process = description["process"]
    process["user"] = {"uid": 42435, "gid": 42435}
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    for each in description["linux"]["namespaces"]:  # those of the pod's process, which does not run here
        if each["type"] != "network":
            each.pop("path", None)
    description["mounts"].append(netns())
    return description


def netns(*options: str) -> Description:
    given = ["rbind", *(options or ("rprivate", "rw"))]
    return {"destination": "/run/netns", "type": "bind", "source": "/run/netns", "options": given}


def call(host: Path, description: Description, *verb: str) -> tuple[int, Description]:
    (host / "config.json").write_text(json.dumps(description))
    argv = ["--root", "/r", "--log", str(host / "log"), *(verb or ("create",)), "--bundle", str(host), "abc"]
    return agent_runtime.main([str(SHELL), *argv]), json.loads((host / "config.json").read_text())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("options", [("rprivate", "rw"), ("rslave", "rw"), ("rw",)], ids=str)
def test_a_listed_agent_shares_the_names_of_namespaces_and_is_contained(
    host: Path, version: str, options: tuple[str, ...]
) -> None:
    before = agent(version)
    before["mounts"][-1] = netns(*options)
    code, found = call(host, before)
    assert code == 0
    assert found["mounts"][:-1] == before["mounts"][:-1]
    assert found["mounts"][-1] == netns("rw", "rshared")
    assert found["linux"]["rootfsPropagation"] == "rshared"
    assert found["process"]["capabilities"] == dict.fromkeys(
        ("bounding", "permitted", "effective", "inheritable", "ambient"), CAPABILITIES
    )
    assert found["linux"]["seccomp"] == json.loads(Path(agent_runtime.SYSTEM_CALLS).read_text())
    assert "/proc/sys" not in found["linux"]["readonlyPaths"]
    assert "/proc/sysrq-trigger" in found["linux"]["readonlyPaths"]
    assert found["linux"]["maskedPaths"] == before["linux"]["maskedPaths"]


@pytest.mark.parametrize(("given", "added"), [((), ("rprivate",)), (("rslave",), ()), (("private",), ())], ids=str)
def test_a_mount_that_does_not_say_how_it_propagates_is_private(
    host: Path, given: tuple[str, ...], added: tuple[str, ...]
) -> None:
    """Otherwise runc would share it with the host, as it does with the root by then."""
    before = agent()
    device = {"destination": "/x", "type": "", "source": "/srv", "options": ["rbind", *given]}
    before["mounts"].append(device)
    code, found = call(host, before)
    assert code == 0
    assert found["mounts"][-1] == device | {"options": ["rbind", *given, *added]}


def test_a_list_of_system_calls_is_put_in_where_the_pod_has_none(host: Path) -> None:
    description = agent()
    del description["linux"]["seccomp"]
    assert call(host, description)[1]["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"


def test_a_listed_container_without_the_mount_is_left_as_it_is(host: Path) -> None:
    description = agent(container="init")
    description["mounts"].pop()
    description["process"]["user"]["uid"] = 0
    assert call(host, description) == (0, description)


@pytest.mark.parametrize(
    ("namespace", "container"),
    [
        ("openstack", "other"), ("tenant", "dhcp"), ("", ""), ("openstack/dhcp", ""), ("openstac", "k/dhcp"),
        ("# who may", ""), ("openstack", "dhcp # the agent"), ("openstack", "dhcp\n"), ("openstack", "init "),
    ],
)  # fmt: skip
def test_what_the_list_does_not_name_is_refused(host: Path, namespace: str, container: str) -> None:
    before = agent(container=container, namespace=namespace)
    assert call(host, before) == (1, before)
    assert "names no container" in message(host)


@pytest.mark.parametrize(("namespace", "code"), [("openstack", 0), ("tenant", 1), ("", 1)])
def test_a_pod_is_refused_before_its_containers(host: Path, namespace: str, code: int) -> None:
    (found,) = (each["description"] for each in RECORDED if (each["kind"], each["containerd"]) == ("sandbox", "1.7"))
    found["annotations"]["io.kubernetes.cri.sandbox-namespace"] = namespace
    assert call(host, found) == (code, found)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_list_that_others_can_write_names_no_one(host: Path, mode: int) -> None:
    (host / "list").chmod(mode)
    assert call(host, agent())[0] == 1
    assert message(host) == UNSAFE_LIST


def test_an_agent_needs_a_list_that_root_owns(host: Path) -> None:
    os.chown(host / "list", 1000, 1000)
    assert call(host, agent())[0] == 1
    (host / "list").unlink()
    assert call(host, agent())[0] == 1


def root(description: Description) -> None:
    description["process"]["user"]["uid"] = 0


def escalation(description: Description) -> None:
    del description["process"]["noNewPrivileges"]


def capability(description: Description) -> None:
    description["process"]["capabilities"]["bounding"] = [*CAPABILITIES, "CAP_SYS_PTRACE"]


def no_pids(description: Description) -> None:
    description["linux"]["namespaces"] = [e for e in description["linux"]["namespaces"] if e["type"] != "pid"]


def hosts_pids(description: Description) -> None:
    for each in description["linux"]["namespaces"]:
        if each["type"] == "pid":
            each["path"] = "/proc/self/ns/pid"


def hosts_ipc(description: Description) -> None:
    for each in description["linux"]["namespaces"]:
        if each["type"] == "ipc":
            each["path"] = "/proc/self/ns/ipc"


def users(description: Description) -> None:
    description["linux"]["namespaces"].append({"type": "user"})


def unmasked(description: Description) -> None:
    del description["linux"]["maskedPaths"]


def shared(description: Description) -> None:
    description["mounts"].append({"destination": "/x", "type": "bind", "source": "/srv", "options": ["rshared"]})


def shared_by_its_options(description: Description) -> None:
    """Only the options make a mount a bind mount; its type may be anything."""
    description["mounts"].append({"destination": "/x", "source": "/srv", "options": ["rbind", "rshared"]})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (root, "other than root"),
        (escalation, "allowPrivilegeEscalation"),
        (capability, "no capability but"),
        (no_pids, "host's pids"),
        (hosts_pids, "host's pids"),
        (hosts_ipc, "host's ipc"),
        (users, "host's users"),
        (unmasked, "hide parts of /proc"),
        (shared, "no other mount"),
        (shared_by_its_options, "no other mount"),
    ],
)
def test_a_listed_agent_that_is_not_contained_is_refused(
    host: Path, change: Callable[[Description], None], what: str
) -> None:
    before = agent()
    change(before)
    assert call(host, before) == (1, before)
    assert what in message(host)


@pytest.mark.parametrize("key", ["mounts", "process", "linux", "annotations"])
@pytest.mark.parametrize("value", [None, "x", [None]])
def test_a_description_of_another_form_is_refused(host: Path, key: str, value: object) -> None:
    before = agent() | {key: value}
    assert call(host, before) == (1, before)
    assert message(host)


def test_what_cannot_be_adapted_is_refused(host: Path) -> None:
    before = agent()
    before["linux"]["readonlyPaths"] = None
    assert call(host, before) == (1, before)
    assert "cannot be judged" in message(host)


def test_the_mount_is_known_by_what_it_is_and_not_by_its_name(host: Path, tmp_path: Path) -> None:
    """Other paths to it are refused as well: nothing that mounts it runs unconfined."""
    (tmp_path / "way").symlink_to("/run/netns")
    for source in ("/run/./netns", "/var/run/netns", str(tmp_path / "way")):
        description = agent()
        description["mounts"][-1]["source"] = source
        description["process"]["user"]["uid"] = 0
        assert call(host, description)[0] == 1, source


@attack(265)
def test_runc_mounts_what_was_looked_at(host: Path, tmp_path: Path) -> None:
    """Leave no link for runc to follow later, when a pod may have changed it."""
    (tmp_path / "way").symlink_to("/run/netns")
    description = agent()
    description["mounts"][-1]["source"] = str(tmp_path / "way")
    code, adapted = call(host, description)
    assert (code, adapted["mounts"][-1]["source"]) == (0, "/run/netns")


@attack(271)
@pytest.mark.parametrize("uid", [0, 42435])
@pytest.mark.parametrize("looks", range(1, 6))
def test_a_link_that_is_changed_while_the_runtime_looks(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int, uid: int
) -> None:
    """Share the names with a container that is contained, or not at all, no matter which look finds them."""
    way, real, seen = str(tmp_path / "way"), os.path.realpath, []

    def changing(path: str) -> str:
        if path != way:
            return real(path)
        seen.append(path)
        return "/run/netns" if len(seen) >= looks else "/elsewhere"

    monkeypatch.setattr(os.path, "realpath", changing)
    description = agent()
    description["mounts"][-1]["source"] = way
    description["process"]["user"]["uid"] = uid
    code, adapted = call(host, description)
    shares = adapted["linux"].get("rootfsPropagation") == "rshared"
    assert (code, shares) == ((0, True) if (looks, uid) == (1, 42435) else (1, False) if looks == 1 else (0, False))


def test_what_cannot_be_judged_is_refused(host: Path) -> None:
    description = agent()
    description["linux"]["namespaces"] = [{"type": "pid", "path": "/nowhere"}]
    assert call(host, description)[0] == 1
    assert "/nowhere" in message(host)


@pytest.mark.parametrize("verb", ["run", "restore"])
def test_only_create_starts_anything(host: Path, verb: str) -> None:
    assert call(host, agent(), verb)[0] == 1
    assert message(host) == NO_RESTORE
    assert agent_runtime.main([str(SHELL), verb, "abc"]) == 1


def test_the_shell_part_calls_runc_only_if_it_is_not_refused(host: Path) -> None:
    """This host has no list of refused calls."""
    (host / "runc").write_text(f'#!/bin/sh\necho "$*" >>{host}/calls\n')
    (host / "runc").chmod(0o755)
    environment = {"PATH": f"{host}:{os.environ['PATH']}"}
    (host / "config.json").write_text(json.dumps(agent()))
    for verb, code in (("state", 0), ("exec", 0), ("delete", 0), ("create", 1), ("run", 1), ("restore", 1)):
        argv = [str(SHELL), "--log", f"{host}/log", verb, "--bundle", str(host), "abc"]
        assert subprocess.run(argv, env=environment, check=False).returncode == code, verb
    assert [line.split()[2] for line in (host / "calls").read_text().splitlines()] == ["state", "exec", "delete"]
