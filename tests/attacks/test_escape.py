"""An exploited program finds no way out of its side container."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.stage import AGENT_IMAGE, NEUTRON, Attacker, Ours, Stage, Succeeded, agent_of
from tests.attacks.test_namespaces import request_of
from tests.attacks.tripleo import TripleO
from tests.lab.networks import command

# The number of each attempt of `inside.tries`.
ATTEMPTS = {
    93: ("the host's processes", "enter the host", "the host's network"),
    94: ("names of namespaces", "shared mounts"),
    95: ("setuid",),
    96: ("a user namespace", "a mount namespace", "a network namespace"),
    97: (
        "mount", "remount the root", "a device node", "write its root", "write a sysctl", "write /sys",
        "write a control group", "core_pattern", "kernel memory", "load a module",
    ),
    99: ("a socket of the host",),
    100: ("fill /dev/shm", "fill its scratch"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def interface_of_the_host() -> Iterator[None]:
    """Return an interface that exists only in the host's network."""
    command("ip", "link", "add", "switch-of-host", "type", "bridge")
    yield
    command("ip", "link", "del", "switch-of-host")


@pytest.fixture(scope="module")
def exploited(stage: Stage, ours: Ours) -> Iterator[tuple[Ours, dict[str, Any]]]:
    """Run `inside.tries` as the program's user, in a side container with all tools, and return the results."""
    image = f'image = "{AGENT_IMAGE}"\n'
    service = stage.service("exploited", "neutron-dhcp-dnsmasq", stage.directory("exploited"), image)
    target = Ours.__new__(Ours)
    target.files, target.service, target.bystander = ours.files, service, ours.bystander
    network = target.network = target.new_network()
    assert network.start().returncode == 0
    attacker = stage.attacker(network.container, NEUTRON)
    yield target, {"found": attacker(inside.tries), "network": network}


@attack(93, 94, 95, 96, 97, 99, 100)
@pytest.mark.parametrize("number", ATTEMPTS)
def test_an_exploited_program_tries_to_get_out(exploited: tuple[Ours, dict[str, Any]], number: int) -> None:
    found = exploited[1]["found"]
    assert [each for each in ATTEMPTS[number] if found[each] == "worked"] == []


@attack(98)
def test_raw_sockets_work_where_the_policy_grants_them(exploited: tuple[Ours, dict[str, Any]]) -> None:
    """They work in the program's own namespace, as docs/security.md says."""
    assert exploited[1]["found"]["raw socket"] == "worked"
    mine = exploited[1]["network"]
    assert Path(f"/proc/{mine.pid}/ns/net").stat().st_ino == Path(f"/run/netns/{mine.netns}").stat().st_ino


@pytest.mark.parametrize("number", [pytest.param(each, marks=attack(each)) for each in ATTEMPTS])
def test_an_exploited_program_tries_to_get_out_theirs(theirs: TripleO, stage: Stage, number: int) -> None:
    netns = theirs.new_namespace()
    theirs.ask(netns)
    assert theirs.runs(netns)
    attacker = Attacker(f"{theirs.unit}-{netns}")
    try:
        found = attacker(inside.tries)
    finally:
        attacker.close()
    worked = [each for each in ATTEMPTS[number] if found[each] == "worked"]
    if worked:
        raise Succeeded(", ".join(worked))


@attack(100)
def test_tasks_and_memory_are_limited_where_the_host_can(ours: Ours) -> None:
    """Check the engine's settings: a machine without the controllers cannot enforce them, as `sidespawn check` says."""
    (container,) = json.loads(command("podman", "container", "inspect", ours.network.container).stdout)
    host = container["HostConfig"]
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    assert host["PidsLimit"] == (16 if "pids" in controllers else 0)
    assert host["Memory"] == (128 << 20 if "memory" in controllers else 0)
    assert (host["Privileged"], host["ReadonlyRootfs"]) == (False, True)


@attack(46, 47)
def test_dollars_and_percents_reach_the_program_as_they_are(ours: Ours) -> None:
    """Policies may allow any text."""
    network = ours.new_network()
    text = "--txt-record=a.example,$HOME ${PATH} %h %H $$ `id` \\x41 *"
    changes = request_of(network)
    changes["argv"] = [*changes["argv"], text]
    assert ours.reason(**changes) == "ok"
    assert text.encode() in Path(f"/proc/{network.pid}/cmdline").read_bytes().split(b"\0")
    ours.expect_held()


@attack(49)
def test_a_blank_in_a_path_to_mount(ours: Ours) -> None:
    network = ours.new_network()
    home = f"/var/lib/neutron/d h/{network.id}"
    ours.make_home(home)
    options = [each.replace(f"/neutron/dhcp/{network.id}", f"/neutron/d h/{network.id}") for each in network.options()]
    (answer,) = ours.ask(ours.request(netns=network.netns, env={}, argv=["dnsmasq", *options]))
    assert answer["reason"] == "ok"
    mounts = Path(f"/proc/{answer['pid']}/mounts").read_text()
    assert f" /var/lib/neutron/d\\040h/{network.id} " in mounts
    ours.expect_held()


@attack(57)
def test_the_working_directory_is_the_root_of_the_image(ours: Ours) -> None:
    assert Path(f"/proc/{ours.network.pid}/cwd").readlink() == Path("/")


@attack(48, 56, 64)
def test_a_script_as_the_attackers_shell_theirs(theirs: TripleO, ours: Ours) -> None:
    """Use --conf-script, which runs at once. The container is privileged and sees the host's pids."""
    script = f"#!/bin/sh\nnsenter -t 1 -m -- sh -c 'id -un >{theirs.files.trace}'\n"
    ours.neutron(inside.write, "/var/lib/neutron/script", script.encode())
    ours.neutron(inside.mode, "/var/lib/neutron/script", 0o755)
    netns = theirs.new_namespace()
    theirs.ask(netns, "--port=0", "--conf-script=/var/lib/neutron/script")
    theirs.runs(netns)
    theirs.expect_held()


@attack(45, 31)
def test_a_line_end_is_a_second_request_theirs(theirs: TripleO) -> None:
    first, second = theirs.new_namespace(), theirs.new_namespace()
    theirs.ask(first, "--port=0", f"--domain=x\n{second} --port=0 --conf-file=/dev/null")
    if theirs.runs(second):
        raise Succeeded("one argument started a second program, in another namespace")
    theirs.expect_held()


@attack(54)
def test_a_name_that_another_begins_with_theirs(theirs: TripleO) -> None:
    """In `podman ps --filter name=`, the name is a regular expression without an end."""
    long = theirs.new_namespace()
    short = long[:-1]
    command("ip", "netns", "add", short)
    theirs.namespaces.append(short)
    theirs.ask(long)
    assert theirs.runs(long)
    theirs.ask(short)
    if not theirs.runs(short):
        raise Succeeded("a request is dropped, because another container's name begins with its own")


@pytest.fixture
def silent_registry() -> Iterator[socket.socket]:
    """Serve a registry that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@attack(107, answer="image-missing")
def test_a_pull_that_would_hang(stage: Stage, ours: Ours, silent_registry: socket.socket) -> None:
    """Missing images are not pulled: the request is answered at once."""
    image = f"127.0.0.1:{silent_registry.getsockname()[1]}/helpers:1"
    service = stage.service("pull", "neutron-dhcp-dnsmasq", stage.directory("pull"), f'image = "{image}"')
    network = service.network()
    agent = stage.agent(agent_of("agent-pull", service.state, service))
    began = time.monotonic()
    call = ["ip", "netns", "exec", network.netns, "dnsmasq", *network.options()]
    code, said = stage.attacker(agent.name)(inside.run, call)
    assert (code, "(image-missing)" in said) == (70, True), said
    assert time.monotonic() - began < 10
    with pytest.raises(BlockingIOError):
        silent_registry.accept()
    ours.expect_held()


@attack(107)
def test_an_engine_that_fails_theirs(theirs: TripleO, ours: Ours) -> None:
    """Check that the request is lost although its wrapper reported success."""
    netns = f"theirs+{os.urandom(3).hex()}"  # a valid name for ip(8), but not for podman
    command("ip", "netns", "add", netns)
    theirs.namespaces.append(netns)
    code, _ = ours.attacker(inside.run, theirs.call(netns))
    assert code == 0
    if not theirs.runs(netns):
        raise Succeeded("the request was lost, and its wrapper had returned 0")
