"""Enabling and disabling a service as an operator."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sidespawn.host.directories import given_to_containers
from sidespawn.host.journal import Event, Journal
from sidespawn.system.processes import status_of
from tests.attacks.catalogue import attack
from tests.lab.conftest import assert_nothing_is_left, new_service, traces
from tests.lab.networks import SIDESPAWN, Service, command, unit_state, wait_until

INVALID, UNAVAILABLE = 78, 69


def sidespawn(*arguments: str) -> subprocess.CompletedProcess[str]:
    return command(*SIDESPAWN, *arguments, check=False)


def test_disable_leaves_nothing_behind() -> None:
    before = traces()
    service = new_service()
    service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
    network = service.network()
    network.start()
    pid = network.pid
    done = sidespawn("disable", "--json", service.name)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["side_containers"] == [network.container]
    assert not Path(f"/proc/{pid}").exists()
    service.clean()  # the network and its files belong to the agent
    assert_nothing_is_left(before)


def test_disabling_twice_is_no_error(service: Service) -> None:
    assert sidespawn("disable", service.name).returncode == 0
    assert sidespawn("disable", service.name).returncode == 0


def test_a_policy_changed_by_hand_is_kept_unless_purged(service: Service) -> None:
    policy = service.places.policy
    policy.write_text(policy.read_text() + "uid = 42435\n")
    done = sidespawn("disable", service.name)
    assert "changed by hand" in done.stdout
    assert policy.exists()
    assert sidespawn("disable", "--purge", service.name).returncode == 0
    assert not policy.exists()


def test_a_dry_run_changes_nothing() -> None:
    before = traces()
    done = sidespawn("enable", "test-dry", "--preset=neutron-dhcp-dnsmasq", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dry_run"] is True
    assert_nothing_is_left(before)


def test_enabling_again_applies_a_changed_policy(service: Service) -> None:
    network = service.network()
    network.start()
    pid, wrapper = network.pid, os.stat(service.wrapper).st_ino
    policy = service.places.policy
    policy.write_text(policy.read_text() + "\n[agent]\ntimeout = 77\n")
    assert sidespawn("enable", service.name).returncode == 0
    assert "'timeout': 77" in service.wrapper.read_text()
    assert os.stat(service.wrapper).st_ino == wrapper  # the same file that agents have mounted
    assert network.start().returncode == 0
    assert network.pid == pid  # running programs were left alone


def test_a_dry_run_tells_exactly_what_the_run_changes_and_a_second_run_changes_nothing() -> None:
    service = new_service()
    options = ("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}", "--json")
    try:
        dry, real, again = (
            json.loads(sidespawn("enable", service.name, *options, *more).stdout) for more in (("--dry-run",), (), ())
        )
        assert dry["changed"] is real["changed"] is True
        assert dry["diff"] == real["diff"]
        changed = {each["what"]: each for each in real["diff"]}
        assert changed[str(service.places.policy)]["after"] == service.places.policy.read_text()
        assert changed[f"unit sidespawn@{service.name}.socket"]["before"] == "disabled"
        assert str(service.wrapper) in changed
        assert (again["changed"], again["diff"]) == (False, [])
        as_it_stands = json.loads(sidespawn("enable", service.name, "--json").stdout)
        assert as_it_stands["changed"] is False
        assert as_it_stands["namespaces"] == ["qdhcp-<uuid>"]
        written = service.places.policy.read_text()
        dry, real, again = (
            json.loads(sidespawn("enable", service.name, "--mode=monitor", "--json", *more).stdout)
            for more in (("--dry-run",), (), ())
        )
        assert dry["diff"] == real["diff"]
        assert [each["what"] for each in real["diff"]] == [str(service.places.policy)]
        assert again["changed"] is False
        lines = service.places.policy.read_text().splitlines()[1:]  # without the mark
        assert [each for each in lines if each != 'mode = "monitor"'] == written.splitlines()[1:]
        service.wrapper.write_bytes(b"spoiled")
        assert [each["what"] for each in json.loads(sidespawn("enable", service.name, "--json").stdout)["diff"]] == [
            str(service.wrapper)
        ]
        off = [
            json.loads(sidespawn("disable", service.name, "--json", *more).stdout) for more in (("--dry-run",), (), ())
        ]
        assert [each["changed"] for each in off] == [True, True, False]
    finally:
        service.clean()


def test_a_given_policy_is_stored_as_it_is_and_replaces_the_one_that_is_there() -> None:
    service = new_service()
    policy, text = (
        service.places.policy,
        f'extends = "neutron-dhcp-dnsmasq"\n[parameters]\nstate_on_host = "{service.state}"',
    )
    given = service.state / "given"

    def enable(*more: str) -> dict[str, Any]:
        done = sidespawn("enable", service.name, "--policy", str(given), "--json", *more)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    try:
        given.write_text(text)
        given.chmod(0o666)
        dry, real, again = enable("--dry-run"), enable(), enable()
        assert dry["diff"] == real["diff"]
        assert (policy.read_text(), stat.S_IMODE(policy.stat().st_mode)) == (text, 0o644)
        assert (again["changed"], again["diff"]) == (False, [])
        stored = policy.stat().st_ino
        assert enable()["changed"] is False
        assert policy.stat().st_ino == stored
        policy.write_text("by hand")
        policy.chmod(0o666)
        dry, real = enable("--dry-run"), enable()
        assert dry["diff"] == real["diff"]
        assert [each["what"] for each in real["diff"]] == [str(policy), f"mode of {policy}"]
        assert service.network().start().returncode == 0
        given.write_text("version = 1\n[nothing]\n")
        done = sidespawn("enable", service.name, "--policy", str(given), "--json")
        assert done.returncode == INVALID
        error = json.loads(done.stdout)["error"]
        assert error["reason"] == "policy-invalid"
        assert error["message"].startswith(f"{given}:2: ")
        assert policy.read_text() == text
    finally:
        service.clean()


def test_an_invalid_policy_is_not_enabled(service: Service) -> None:
    policy = service.places.policy
    policy.write_text(policy.read_text() + "\n[side_container]\nprivileged = true\n")
    done = sidespawn("enable", service.name, "--json")
    assert done.returncode == INVALID
    error = json.loads(done.stdout)["error"]
    assert error["reason"] == "policy-invalid"
    assert f"{policy}:" in error["message"]
    assert "privileged" in error["message"]


def test_the_mounts_for_the_agent_are_printed(service: Service) -> None:
    done = sidespawn("enable", "--json", service.name)
    mounts = {each["target"]: each for each in json.loads(done.stdout)["agent_mounts"]}
    assert {path for path, each in mounts.items() if each["writable"]} == {str(service.places.spool)}
    assert {"/usr/sbin/dnsmasq", "/etc/neutron/kill_scripts/dnsmasq-kill"} <= set(mounts)
    assert all(os.path.exists(each["source"]) for each in mounts.values())


def test_units_are_enabled_for_the_next_boot_and_idle(service: Service) -> None:
    for unit in (f"sidespawn@{service.name}.socket", f"sidespawn@{service.name}.timer"):
        assert command("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
        assert unit_state(unit) == "active"
    service.wait_until_idle()
    assert unit_state(service.unit) == "inactive"  # no resident process


def test_the_units_can_all_be_started_at_boot(service: Service) -> None:
    """systemd would leave out units that come both before and after the same target, or the same engine."""
    spool, engines = f"sidespawn-spool@{service.name}.service", {"docker.service", "podman-restart.service"}
    before = command("systemctl", "show", "--property=Before", "--value", spool).stdout.split()
    assert {*engines, "kubelet.service"} <= set(before)  # what they start again at boot finds the directories
    units = ("multi-user.target", f"sidespawn@{service.name}.socket", f"sidespawn@{service.name}.timer", *engines)
    done = command("systemd-analyze", "verify", "--man=no", *units, check=False)
    assert "cycle" not in done.stderr
    assert not [line for line in done.stderr.splitlines() if "sidespawn" in line]


def test_the_agent_can_ring_and_not_change_the_doorbell(service: Service) -> None:
    status = service.places.doorbell.stat()
    assert stat.S_ISFIFO(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o622 and status.st_uid == 0


def test_a_socket_unit_can_be_restarted_while_the_service_runs(service: Service) -> None:
    """systemd would refuse to start it; so the service ends with it, and restarts for waiting requests."""
    network, other = service.network(), service.network()
    assert network.start().returncode == 0
    assert unit_state(service.unit) == "active"
    command("systemctl", "restart", f"sidespawn@{service.name}.socket")
    assert other.start().returncode == 0
    command("systemctl", "stop", f"sidespawn@{service.name}.socket")
    assert unit_state(service.unit) == "inactive"
    with ThreadPoolExecutor(1) as thread:
        again = thread.submit(service.network().start)
        time.sleep(1)
        assert not again.done()
        command("systemctl", "start", f"sidespawn@{service.name}.socket")
        assert again.result().returncode == 0  # the wrapper rang again


def test_what_a_terminated_run_left_is_continued(service: Service) -> None:
    """systemd takes that for a regular exit and would not restart the service; but the doorbell still has bytes."""
    with ThreadPoolExecutor(4) as threads:
        starts = [threads.submit(service.network().start) for _ in range(4)]
        wait_until(lambda: bool(list(service.places.claims.iterdir())))
        command("systemctl", "kill", "--signal=TERM", service.unit)
        assert [each.result().returncode for each in starts] == [0] * 4


def test_the_directories_are_private_small_file_systems(service: Service) -> None:
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mounts = {row[4]: row for row in rows if row[4].startswith(str(service.places.home))}
    assert set(mounts) == {str(service.places.home), *map(str, given_to_containers(service.places))}
    for path, row in mounts.items():
        assert row[6] == "-", f"{path} is shared: {row}"  # no shared:N, no master:N
        assert {"nosuid", "nodev"} <= set(row[5].split(","))
    assert os.statvfs(service.places.spool).f_blocks * 4096 <= 4 * 2**20
    assert os.stat(service.places.home).st_mode & 0o777 == 0o700


def test_no_file_system_that_a_container_gets_a_mount_of_holds_what_the_host_trusts(service: Service) -> None:
    """Mounting one file suffices to reach the whole file system: by fanotify(7), by remounting it, by filling it."""
    mounts = json.loads(sidespawn("enable", service.name, "--json").stdout)["agent_mounts"]
    given = {os.stat(each["source"]).st_dev for each in mounts} | {os.stat(service.places.snapshots).st_dev}
    places = service.places
    trusted = (places.home, places.operator, places.claims, places.ledger, places.pins, places.compiled)
    assert not {os.stat(path).st_dev for path in (*trusted, places.policy)} & given
    network = service.network()
    network.start()
    for path in (*places.home.iterdir(), *places.ledger.iterdir()):
        if path not in given_to_containers(places):
            assert os.stat(path).st_dev not in given, path


def test_a_wrapper_that_its_agent_has_spoiled_is_written_again(service: Service) -> None:
    content, inode = service.wrapper.read_bytes(), service.wrapper.stat().st_ino
    service.wrapper.write_bytes(b"\xff\xfe not UTF-8")
    assert sidespawn("enable", service.name).returncode == 0
    assert (service.wrapper.read_bytes(), service.wrapper.stat().st_ino) == (content, inode)


@attack(113)
def test_everything_is_there_again_after_a_reboot(service: Service) -> None:
    """After a reboot /run is empty; the enabled units create everything again."""
    command("systemctl", "stop", f"sidespawn@{service.name}.socket", f"sidespawn@{service.name}.timer")
    command("systemctl", "stop", f"sidespawn-spool@{service.name}.service")
    assert not service.places.home.exists()
    command("systemctl", "start", f"sidespawn@{service.name}.socket", f"sidespawn@{service.name}.timer")
    network = service.network()
    assert network.start().returncode == 0


def test_ps_shows_what_runs(service: Service) -> None:
    network = service.network()
    network.start()
    rows = json.loads(sidespawn("ps", "--json", service.name).stdout)
    assert [(row["name"], row["state"], row["pid"]) for row in rows] == [(network.container, "running", network.pid)]
    assert network.container in sidespawn("ps").stdout


def test_stop_and_signal_are_not_limited_to_what_agents_may_do(service: Service) -> None:
    policy = service.places.policy
    policy.write_text(policy.read_text() + '\n[request]\nsignals = ["HUP"]\n')
    service.enable()
    network = service.network()
    network.start()
    pid = network.pid
    assert network.kill("TERM").returncode == 77
    assert sidespawn("signal", service.name, network.netns, "USR1").returncode == 0
    assert sidespawn("stop", service.name, network.container).returncode == 0
    assert not Path(f"/proc/{pid}").exists()


def test_logs_show_verdicts_and_output(service: Service) -> None:
    network = service.network()
    network.start()
    network.start(*network.options(), "--dhcp-script=/tmp/evil")

    def everything() -> str:
        command("journalctl", "--sync", check=False)
        return sidespawn("logs", service.name).stdout

    wait_until(lambda: "dnsmasq[1]: started" in everything())
    assert "option-not-allowed" in everything()
    assert "started" not in sidespawn("logs", "--refused", service.name).stdout
    assert "dnsmasq[1]: started" in sidespawn("logs", service.name, network.container).stdout


def test_logs_show_the_newest_also_of_a_span_of_time(service: Service) -> None:
    """If it is given, some versions of journalctl count from the oldest record, others from the newest."""
    journal = Journal(service.name)
    for number in range(150):
        journal.write(Event.STARTED, f"record {number} is here")
    command("journalctl", "--sync")

    def shown(*options: str) -> list[str]:
        lines = sidespawn("logs", service.name, *options).stdout.splitlines()
        return [line.partition(": ")[2] for line in lines if " is here" in line]

    newest = [f"record {number} is here" for number in range(50, 150)]
    for span in ((), ("--since", "1 hour ago"), ("--since", "today")):
        assert shown(*span) == newest
        assert shown(*span, "--lines=3") == newest[-3:]
    assert shown("--since", "1 hour ago", "--lines=1000") == [f"record {number} is here" for number in range(150)]
    assert shown("--since", "now") == []


def test_a_span_that_journalctl_rejects_is_reported(service: Service) -> None:
    done = sidespawn("logs", service.name, "--since", "whenever")
    assert (done.returncode, done.stdout) == (64, "")
    assert "whenever" in done.stderr and "10 min ago" in done.stderr


@pytest.mark.parametrize("verb", ["stop", "sync"])
def test_a_service_that_is_not_enabled_is_reported(verb: str) -> None:
    done = sidespawn(verb, "no-such-service", *(["--all"] if verb == "stop" else []))
    assert done.returncode == UNAVAILABLE
    assert "not enabled" in done.stderr


def test_a_changed_policy_holds_from_the_next_request_on(service: Service) -> None:
    """This holds for a busy service as well: a run that sees the change ends, and the next one reads the policy."""
    network = service.network()
    network.start()
    assert unit_state(service.unit) == "active"  # it waits for more requests
    policy = service.places.policy
    policy.write_text(policy.read_text() + "\n[options]\nlog-dhcp = false\n")
    done = network.start(*network.options(), "--log-dhcp")
    assert done.returncode == 77
    assert "--log-dhcp" in done.stderr


def test_a_busy_podman_ends_if_its_policy_gives_more(service: Service) -> None:
    """It would leave the new capability out of every side container, and report nothing."""
    first, second = service.network(), service.network()
    first.start()
    podman = f"sidespawn-podman@{service.name}.service"
    assert unit_state(podman) == "active"
    policy, before = service.places.policy, command("systemctl", "show", "--property=MainPID", podman).stdout
    more = '["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SYS_NICE"]'
    policy.write_text(f"{policy.read_text()}\n[side_container]\ncapabilities = {more}\n")
    assert sidespawn("enable", service.name).returncode == 0
    assert command("systemctl", "show", "--property=MainPID", podman).stdout != before
    assert second.start().returncode == 0
    (bounds,) = status_of(second.pid, b"CapBnd:")
    assert int(bounds, 16) >> 23 & 1  # SYS_NICE


@attack(126, answer="policy-invalid")
def test_a_policy_that_others_can_write_is_not_used(service: Service) -> None:
    network = service.network()
    network.start()
    service.places.policy.chmod(0o666)
    done = network.start()
    assert done.returncode == 77
    assert "can be changed by others than root" in done.stderr
    checked = sidespawn("check", service.name)
    assert checked.returncode == INVALID
    assert "can be changed by others than root" in checked.stdout


def test_stop_reaches_what_the_ledger_has_lost(service: Service) -> None:
    network = service.network()
    network.start()
    (service.places.ledger / f"{network.netns}.json").unlink()
    done = sidespawn("stop", "--all", service.name)
    assert (done.returncode, done.stdout) == (0, f"{network.container} was stopped\n")
    assert sidespawn("stop", "--all", service.name).stdout == "nothing to stop\n"


def test_a_program_may_be_described_by_the_operator(service: Service) -> None:
    """Option tables of the host take precedence over shipped ones; the package need not change."""
    programs = service.places.policies / "programs"
    programs.mkdir()
    try:
        table = 'program = "dnsmasq"\nversion = "local"\n[nothing]\nno-hosts = "h"\n'
        (programs / "dnsmasq.toml").write_text(table)
        done = sidespawn("check", service.name)
        assert done.returncode == INVALID
        assert "is not an option of dnsmasq local" in done.stdout
    finally:
        (programs / "dnsmasq.toml").unlink()
        programs.rmdir()


def test_disabling_makes_systemd_forget_what_a_killed_podman_left_as_failed(service: Service) -> None:
    scope, slice_ = f"libpod-conmon-{service.name}.scope", f"sidespawn-{service.name.replace('-', '_')}.slice"
    ended = ("--property=RuntimeMaxSec=1", "sleep", "30")
    command("systemd-run", "--scope", f"--unit={scope}", f"--slice={slice_}", *ended, check=False)
    wait_until(lambda: unit_state(scope) == "failed")
    service.disable()
    assert unit_state(scope) == "inactive"
