"""A host's agent moves from podman's socket to sidespawn and back, while a client renews its lease."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidespawn.testing.network import Renewals
from tests.deploy.conftest import Ansible, Ran
from tests.deploy.hosts import IMAGE, PATIENCE, STAND_IN, Host
from tests.lab.conftest import new_service
from tests.lab.networks import command, wait_until

GATE = "Wait until each namespace has its helpers and the agent keeps running"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    command("systemctl", "start", "podman.socket")
    command("podman", "tag", "localhost/sidespawn-neutron-agent", IMAGE)
    made = Host(new_service(), tmp_path / "record", tmp_path)
    try:
        for _ in range(3):
            made.add_network()
        made.plug(made.networks[0])
        made.start()
        yield made
    finally:
        made.remove()
        command("podman", "untag", "localhost/sidespawn-neutron-agent", IMAGE)
        command("systemctl", "stop", "podman.socket", "podman.service")


def test_a_host_migrates_and_comes_back_with_the_very_same_agent(ansible: Ansible, host: Host) -> None:
    before, wanted = host.settings(), {each.netns for each in host.networks}
    lease = host.lans[0].clients[0].ask()
    assert lease is not None
    command("ip", "-n", host.lans[0].clients[0].netns, "address", "replace", "10.20.0.10/24", "dev", "eth0")
    renewals = Renewals(host.lans[0].clients[0], lease)
    try:
        tasks, variables = host.role("migrate")
        not_installed = changed(ansible, tasks, variables | {"migrate_command": f"{host.record}/sidespawn"}, "--check")
        dry = changed(ansible, tasks, variables, "--check")
        assert dry - not_installed == {"Replace the agent"}
        assert host.settings() == before
        assert not host.record.exists()
        assert changed(ansible, tasks, variables) == dry >= {"Enable the services", "Replace the agent"}
        wait_until(lambda: host.own_helpers() == wanted, PATIENCE)
        assert host.old_helpers() == set()
        assert not [each for each in host.inspect()["Mounts"] if "podman.sock" in each["Source"]]
        answered = command("podman", "exec", host.agent, "/usr/sbin/dnsmasq", "--version").stdout
        assert answered.startswith("Dnsmasq version")  # the program's own answer, from the mounted image
        assert 'mode = "monitor"' in host.service.places.policy.read_text()
        # A network whose helper has gone since, and whose namespace has not, fails nothing once the agent has passed.
        recorded = json.loads((host.record / f"before-{host.agent}").read_text())
        gone = f"qdhcp-{uuid.uuid4()}"
        command("ip", "netns", "add", gone)
        recorded["helpers"].append({"program": "dnsmasq", "netns": gone, "pid": 1})
        (host.record / f"before-{host.agent}").write_text(json.dumps(recorded))
        assert changed(ansible, tasks, variables) == set()
        command("ip", "netns", "del", gone)
        renewals.wait_for(5)
        # A busy host can be late with the last one.
        wait_until(lambda: renewals.done[-1].address == "10.20.0.10")

        enforce = variables | {"migrate_enforce": True}
        assert "Set the policies to enforce" in changed(ansible, tasks, enforce)
        assert 'mode = "enforce"' in host.service.places.policy.read_text()
        assert changed(ansible, tasks, enforce) == set()
        assert changed(ansible, tasks, variables) == set()

        tasks, variables = host.role("rollback")
        dry = changed(ansible, tasks, variables, "--check")
        assert host.own_helpers() == wanted
        ran = ansible.play(tasks, variables=variables)
        assert {name.rpartition(" : ")[2] for name, is_changed in ran.changed.items() if is_changed} == dry
        # The former agent had started its own helpers before the services' were ended.
        assert result(ran, "Give the agent time to start helpers of its own")["missing"] == []
        assert host.settings() == before
        wait_until(lambda: host.old_helpers() == wanted, PATIENCE)
        assert not host.service.places.home.exists()
        assert not host.record.exists()
        assert changed(ansible, tasks, variables) == set()
        renewals.wait_for(5)
        # A busy host can be late with the last one.
        wait_until(lambda: renewals.done[-1].address == "10.20.0.10")
    finally:
        renewals.close()


def test_what_is_killed_at_any_step_ends_the_same_when_it_runs_again(ansible: Ansible, host: Host) -> None:
    wanted, former, before = {each.netns for each in host.networks}, host.inspect()["Id"], host.settings()
    tasks, variables = host.role("migrate")
    ansible.interrupt(tasks, variables, (host.record / f"before-{host.agent}").exists)
    # So far, a rollback has nothing to disable, and no sidespawn to ask.
    back, options = host.role("rollback")
    ansible.play(back, variables=options | {"rollback_command": f"{host.record}/sidespawn"})
    assert not host.record.exists()
    ansible.interrupt(tasks, variables, host.service.places.policy.exists)
    for step in ("stop", "rename", "create", "start"):
        ansible.interrupt_after(step, tasks, variables)
    ansible.play(tasks, variables=variables)
    wait_until(lambda: host.own_helpers() == wanted, PATIENCE)
    assert host.inspect(f"{host.agent}-before-sidespawn")["Id"] == former
    assert not [each for each in host.inspect()["Mounts"] if "podman.sock" in each["Source"]]
    # What ran before is what ran before the first run.
    recorded = json.loads((host.record / f"before-{host.agent}").read_text())
    assert {each["netns"] for each in recorded["helpers"]} >= wanted
    assert changed(ansible, tasks, variables) == set()

    tasks, variables = host.role("rollback")
    for step in ("stop", "rm", "rename", "start"):
        ansible.interrupt_after(step, tasks, variables)
    ansible.interrupt(tasks, variables, lambda: not host.service.places.policy.exists())
    ansible.play(tasks, variables=variables)
    assert host.settings() == before
    wait_until(lambda: host.old_helpers() == wanted, PATIENCE)
    assert not host.service.places.home.exists()
    assert not host.record.exists()


def test_it_stops_at_a_refusal_and_the_former_agent_comes_back(ansible: Ansible, host: Host) -> None:
    before, wanted = host.settings(), {each.netns for each in host.networks}
    refused = host.networks[1]
    (refused.home / "options").write_text(json.dumps([*refused.options(), "--no-ping"]))
    tasks, variables = host.role("migrate", mode="enforce")
    ran = ansible.play(tasks, check=False, variables=variables)
    assert ran.code != 0
    assert "no-ping" in result(ran, GATE)["msg"]
    # With the cause gone, the next run has the agent ask again.
    (refused.home / "options").write_text(json.dumps(refused.options()))
    first = host.inspect()
    ran = ansible.play(tasks, variables=variables)
    assert result(ran, "Replace the agent")["steps"] == [f"stop {host.agent}", f"start {host.agent}"]
    assert result(ran, GATE)["unasked"] == []
    assert host.inspect()["Id"] == first["Id"]
    assert host.own_helpers() == wanted
    # Another agent of the host stays as it is.
    (host.record / "before-another-agent").touch()
    tasks, variables = host.role("rollback")
    ansible.play(tasks, variables=variables)
    assert [each.name for each in host.record.iterdir()] == ["before-another-agent"]
    assert host.settings() == before
    wait_until(lambda: host.old_helpers() == wanted, PATIENCE)


def test_it_stops_if_the_new_agent_ends_although_its_helpers_run(ansible: Ansible, host: Host) -> None:
    before, wanted = host.settings(), {each.netns for each in host.networks}
    script = host.service.state / "agent.py"
    script.write_text(STAND_IN.read_text().replace("    while True:\n", "    raise SystemExit(3)\n    while True:\n"))
    tasks, variables = host.role("migrate", steady=30, timeout=40)
    ran = ansible.play(tasks, check=False, variables=variables)
    assert ran.code != 0
    failed = result(ran, GATE)
    assert failed["msg"] == f"the agent {host.agent} is exited, with exit code 3: look at `podman logs {host.agent}`"
    assert failed["missing"] == failed["refused"] == []
    assert host.own_helpers() == wanted
    # One that runs and asks for nothing passes after a while, since its helpers run.
    script.write_text("import time\n\ntime.sleep(1000)\n")
    tasks, variables = host.role("migrate", idle=8)
    began = time.monotonic()
    passed = result(ansible.play(tasks, variables=variables), GATE)
    assert {each["netns"] for each in passed["unasked"]} == wanted
    assert time.monotonic() - began >= 8
    shutil.copy(STAND_IN, script)
    tasks, variables = host.role("rollback")
    ansible.play(tasks, variables=variables)
    assert host.settings() == before
    wait_until(lambda: host.old_helpers() == wanted, PATIENCE)


def test_policies_are_not_enforced_that_would_refuse_what_was_let_pass(ansible: Ansible, host: Host) -> None:
    monitored = host.networks[1]
    (monitored.home / "options").write_text(json.dumps([*monitored.options(), "--no-ping"]))
    tasks, variables = host.role("migrate")
    ansible.play(tasks, variables=variables)
    ran = ansible.play(tasks, check=False, variables=variables | {"migrate_enforce": True})
    assert ran.code != 0
    assert "no-ping" in result(ran, "Make sure that nothing would have been refused")["msg"]
    assert 'mode = "monitor"' in host.service.places.policy.read_text()
    # The operator looks, and writes a policy that holds as it stands.
    policy = host.service.places.policy
    policy.write_text(policy.read_text().replace('"monitor"', '"enforce"') + "\n[options]\nno-ping = true\n")
    reviewed = policy.read_text()
    agents = [{"container": host.agent, "services": [{"name": host.service.name}]}]
    tasks, variables = host.role("migrate", agents=agents, enforce=True, reviewed=True)
    ansible.play(tasks, variables=variables)
    assert policy.read_text() == reviewed
    assert changed(ansible, tasks, variables) == set()


def test_a_gate_trusts_no_journal_that_may_have_lost_records(ansible: Ansible) -> None:
    command("logger", "a record")
    command("journalctl", "--sync")
    now, boot = int(time.time()) + 1, Path("/proc/sys/kernel/random/boot_id").read_text()
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "kept": ({"since": now, "boot": boot}, ""),
        "rotated": ({"since": 1000, "boot": boot}, "does not reach back"),
        "another boot": ({"since": now, "boot": "0" * 32}, "does not reach back"),
        "later": ({"since": now + 3600, "boot": boot}, "is in the future"),
    }
    common = {"helpers": [], "services": [f"test-{uuid.uuid4().hex[:8]}"], "monitored": True, "timeout": 0}
    tasks = [
        {"name": name, "sidespawn.host.gate": common | given, "ignore_errors": True}
        for name, (given, _said) in cases.items()
    ]
    ran = ansible.play(tasks)
    for name, (_given, said) in cases.items():
        message = ran.results[name].get("msg", "")  # of a failure only
        assert bool(message) is bool(said), name
        assert said in message, name
        assert not message or "migrate_reviewed" in message, name
    assert "has answered no request since" in ran.results["kept"]["warnings"][0]


def test_what_is_settled_is_not_rolled_back(ansible: Ansible, host: Host) -> None:
    """Otherwise the rollback would take the helpers from an agent that cannot start any."""
    wanted, former = {each.netns for each in host.networks}, f"{host.agent}-before-sidespawn"
    tasks, variables = host.role("migrate")
    ansible.play(tasks, variables=variables)
    lost = host.role("rollback", record=f"{host.record}-elsewhere")
    for options in (("--check",), ()):
        ran = ansible.play(lost[0], *options, check=False, variables=lost[1])
        assert ran.code != 0
        assert f"no record in {host.record}-elsewhere" in result(ran, "Fail if there are some")["msg"]
    settling = [{"name": "settle", "sidespawn.host.agent": {"name": host.agent, "state": "settled"}}]
    command("podman", "stop", "--time=0", host.agent)
    assert former in ansible.play(settling, check=False).results["settle"]["msg"]
    command("podman", "start", host.agent)
    for changes, options in ((True, ("--check",)), (True, ()), (False, ())):
        assert ansible.play(settling, *options).changed == {"settle": changes}
    assert command("podman", "container", "exists", former, check=False).returncode == 1
    tasks, variables = host.role("migrate")
    assert changed(ansible, tasks, variables) == set()
    tasks, variables = host.role("rollback")
    ran = ansible.play(tasks, check=False, variables=variables)
    assert ran.code != 0
    assert f"and there is no {former} to bring back" in ran.output
    wait_until(lambda: host.own_helpers() == wanted, PATIENCE)


def changed(ansible: Ansible, tasks: list[dict[str, Any]], variables: dict[str, Any], *options: str) -> set[str]:
    """The tasks that changed something, without their role."""
    ran = ansible.play(tasks, *options, variables=variables)
    return {name.rpartition(" : ")[2] for name, is_changed in ran.changed.items() if is_changed}


def result(ran: Ran, task: str) -> dict[str, Any]:
    (found,) = (each for name, each in ran.results.items() if name.endswith(f" : {task}"))
    return found
