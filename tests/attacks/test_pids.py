"""Pids only look up the service's own records: no signal reaches any other process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from sidespawn.system.processes import identify
from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.stage import NEUTRON, STATE, Ours, Stage, Succeeded, agent_of
from tests.attacks.test_namespaces import request_of
from tests.lab.networks import command, kill_process, wait_until

NO_SUCH_PROCESS = "no-such-process"


@pytest.fixture
def passer_by() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process of the host that is unrelated to all services."""
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        yield process
        process.kill()


@attack(86, answer="no-such-process")
def test_a_pid_that_is_used_again(ours: Ours) -> None:
    """End the program and take its pid with ns_last_pid; the attacker's process then gets no signal."""
    network = ours.new_network()
    assert ours.reason(**request_of(network)) == "ok"
    pid = network.pid
    kill_process(pid)  # like the agent's root, which sees the host's pids
    helper = ours.attacker(inside.sleeper_with_pid, pid)
    try:
        another = identify(pid)
        assert another is not None
        answers = ours.ask(*(ours.signal(name, pid) for name in ("HUP", "TERM", "KILL")))
        assert [each["reason"] for each in answers] == [NO_SUCH_PROCESS] * 3
        assert identify(pid) == another
    finally:
        os.kill(pid, signal.SIGKILL)
        ours.attacker(inside.end, helper)
    ours.expect_held()


@attack(87, answer="no-such-process")
def test_pids_of_the_host_and_of_another_service(ours: Ours, passer_by: subprocess.Popen[bytes]) -> None:
    strangers = (passer_by.pid, ours.bystander.pid, 2)
    answers = ours.ask(*(ours.signal(name, pid) for pid in strangers for name in ("HUP", "TERM", "KILL")))
    assert {each["reason"] for each in answers} == {NO_SUCH_PROCESS}
    assert passer_by.poll() is None
    ours.expect_held()


@attack(89)
def test_a_forged_pid_file(ours: Ours, passer_by: subprocess.Popen[bytes]) -> None:
    """Hosts never read it: a start answers with the true pid and restores it there, a stop ends the right process."""
    network = ours.new_network()
    assert ours.reason(**request_of(network)) == "ok"
    pid, path = network.pid, f"{STATE}/dhcp/{network.id}/pid"
    ours.neutron(inside.write, path, b"%d\n" % passer_by.pid)
    (answer,) = ours.ask(ours.request(**request_of(network)))
    assert (answer["reason"], answer["pid"], network.pid) == ("ok", pid, pid)
    ours.neutron(inside.link, ours.files.victim, path)
    assert ours.reason(**request_of(network)) == "ok"
    assert not network.pid_file.is_symlink()
    ours.neutron(inside.write, path, b"%d\n" % passer_by.pid)
    assert ours.ask(ours.signal("TERM", pid))[0]["reason"] == "ok"
    assert identify(pid) is None
    assert passer_by.poll() is None
    ours.expect_held()


@attack(91)
def test_a_kill_script_needs_no_more_than_the_wrapper(ours: Ours) -> None:
    """Run it as root without any capability."""
    network = ours.new_network()
    assert ours.reason(**request_of(network)) == "ok"
    script = "/etc/neutron/kill_scripts/dnsmasq-kill"
    text = ours.attacker(inside.read, script)
    assert not [word for word in ("nsenter", "setns", "unshare", "subprocess", "os.system") if word in text]
    assert ours.attacker(inside.without_capabilities, [script, "15", str(network.pid)]) == 0
    assert network.container not in ours.service.containers()
    ours.expect_held()


@attack(92)
def test_a_program_that_forks_away(ours: Ours, stage: Stage) -> None:
    """Leave a process that is not the program's child; it ends with the container."""
    network = ours.new_network()
    assert ours.reason(**request_of(network)) == "ok"
    pid = network.pid
    again = ("/usr/sbin/dnsmasq", "--port=0", "--conf-file=/dev/null", "--pid-file=/run/dnsmasq/another")
    command("podman", "exec", f"--user={NEUTRON}:{NEUTRON}", network.container, *again)  # it moves to the background
    members = ("podman", "top", network.container, "hpid")
    wait_until(lambda: len(command(*members).stdout.split()) == 3)
    pids = [int(each) for each in command(*members).stdout.split()[1:]]
    assert pid in pids
    assert ours.ask(ours.signal("TERM", pid))[0]["reason"] == "ok"
    assert [each for each in pids if identify(each)] == []
    assert network.container not in ours.service.containers()
    ours.expect_held()


@attack(54)
def test_an_instance_whose_name_another_begins_with(ours: Ours) -> None:
    """Check that ending one of qdhcp-UUID and qdhcp-UUID-7 leaves the other, whatever the engine's filters match."""
    network = ours.new_network()
    ours.make_home(f"{STATE}/dhcp/7/{network.id}")
    answers = []
    for interface, where in (("one", "/dhcp/"), ("two", "/dhcp/7/")):
        command("ip", "-n", network.netns, "link", "add", interface, "type", "bridge")
        options = [each.replace("/dhcp/", where) for each in network.options()]
        only = (f"--interface={interface}", "--except-interface=lo")
        changes = {"netns": network.netns, "env": {}, "argv": ["dnsmasq", *options, *only]}
        answers += ours.ask(ours.request(**changes))
    shorter, longer = answers
    assert [each.get("container") for each in answers] == [network.container, f"{network.container}-7"], answers
    assert ours.ask(ours.signal("KILL", shorter["pid"]))[0]["reason"] == "ok"
    assert identify(longer["pid"]) is not None
    (answer,) = ours.ask(ours.signal("KILL", longer["pid"]))
    assert answer["reason"] == "ok"
    ours.expect_held()


@attack(128)
def test_service_and_instance_that_read_like_anothers(stage: Stage) -> None:
    """Agents of UUID of SERVICE-7 and of 7-UUID of SERVICE cannot end, replace or hinder each other's."""
    preset = "neutron-dhcp-dnsmasq"
    other = stage.service("x", preset, stage.directory("x"), '[request]\ninstance = "7-{network}"\n')
    own = stage.service("x-7", preset, stage.directory("x-7"), '[request]\ninstance = "{network}"\n')
    agent = stage.agent(agent_of("agent-x-7", own.state, own))
    victim = other.network()
    ours = Ours(stage.files, own, stage.attacker(agent.name), stage.attacker(agent.name, NEUTRON), victim)
    before = identify(victim.pid)
    for what in ("a start that fails", "a start"):
        if what == "a start":
            ours.make_home(f"{STATE}/dhcp/{victim.id}")
        reason = ours.reason(**request_of(victim))
        assert (reason == "state-unusable") == (what == "a start that fails"), reason
        ours.expect_idle()  # leftovers of a failed start are removed after it
        if before is None or identify(before.pid) != before:
            raise Succeeded(f"{what} ended what is another service's")
    assert [each.pid for each in other.containers().values()] == [victim.pid]
    ours.expect_held()
