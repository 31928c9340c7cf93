"""The life of a side container: started once, answered, replaced, reloaded, stopped, and independent of all else."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from tests.attacks.catalogue import attack
from tests.lab.networks import SIDESPAWN, Service, command, kill_process, unit_state, wait_until, wait_until_gone

FAILED, REJECTED = 70, 77


@pytest.fixture(scope="module", params=["podman", "systemd"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_wrapper_returns_when_the_program_runs_and_its_pid_file_is_right(shared_service: Service) -> None:
    network = shared_service.network()
    done = network.start()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    words = Path(f"/proc/{network.pid}/cmdline").read_bytes().split(b"\0")
    assert words[0] == b"/usr/sbin/dnsmasq"
    assert network.id.encode() in b" ".join(words)  # how Neutron recognises it
    status = os.stat(network.pid_file)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (42435, 42435, 0o644)


def test_the_program_is_in_the_namespace_of_the_request(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    there = os.stat(f"/run/netns/{network.netns}").st_ino
    assert os.stat(f"/proc/{network.pid}/ns/net").st_ino == there
    for kind in ("ipc", "mnt") if shared_service.engine == "systemd" else ("pid", "ipc", "uts", "mnt", "cgroup"):
        own, host = (os.stat(f"/proc/{pid}/ns/{kind}").st_ino for pid in (network.pid, 1))
        assert own != host, f"the side container shares the host's {kind} namespace"


@attack(93)
def test_the_program_has_no_more_than_its_policy_states(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    status = dict(line.split(":\t") for line in Path(f"/proc/{network.pid}/status").read_text().splitlines())
    assert status["Uid"].split() == ["42435"] * 4
    assert status["Groups"].strip() in ("", "42435")
    net_admin_bind_raw = f"{1 << 12 | 1 << 10 | 1 << 13:016x}"
    assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {net_admin_bind_raw}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    environment = Path(f"/proc/{network.pid}/environ").read_bytes().split(b"\0")
    names = {each.partition(b"=")[0] for each in environment if each}
    assert names <= {b"PROCESS_TAG", b"HOSTNAME", b"HOME", b"container"}  # the engine adds its usual arguments


@attack(94)
def test_only_the_instances_own_directory_is_writable(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    mounts = [line.split() for line in Path(f"/proc/{network.pid}/mounts").read_text().splitlines()]
    on_disk = [each for each in mounts if each[2] not in ("proc", "sysfs", "cgroup2", "mqueue", "devpts")]
    writable = {each[1]: set(each[3].split(",")) for each in on_disk if "rw" in each[3].split(",")}
    home = f"/var/lib/neutron/dhcp/{network.id}"
    kernels = {path for path in writable if path.startswith(("/dev", "/proc", "/sys"))}
    assert set(writable) - kernels == {home, "/run/dnsmasq"}
    for path in (home, "/run/dnsmasq"):
        assert {"nosuid", "nodev", "noexec"} <= writable[path]
    root = next(each for each in mounts if each[1] == "/")
    assert "ro" in root[3].split(",")


def test_pins_are_gone_once_it_runs(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    assert list(shared_service.places.pins.iterdir()) == []
    assert "pins" not in Path("/proc/self/mounts").read_text()


def test_the_same_request_again_is_answered_without_a_restart(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    pid = network.pid
    network.pid_file.unlink()  # Neutron removes it before each start
    assert network.start().returncode == 0
    assert network.pid == pid


def test_another_plan_replaces_the_running_one(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    pid = network.pid
    assert network.start(*network.options(), "--log-dhcp").returncode == 0
    assert network.pid != pid
    assert identify(pid) is None
    assert b"--log-dhcp" in Path(f"/proc/{network.pid}/cmdline").read_bytes()


@attack(83)
def test_a_namespace_made_again_under_its_old_name_gets_a_new_program(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    pid = network.pid
    network.remake_netns()
    assert network.start().returncode == 0
    assert network.pid != pid
    assert os.stat(f"/proc/{network.pid}/ns/net").st_ino == os.stat(f"/run/netns/{network.netns}").st_ino


def test_a_program_that_died_is_started_again(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    kill_process(network.pid)
    assert network.start().returncode == 0
    assert identify(network.pid) is not None


def test_hup_reaches_the_same_process(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    pid = network.pid
    (network.home / "host").write_text("fa:16:3e:00:00:01,host-a.openstacklocal,10.20.0.9\n")
    done = network.kill("HUP")
    assert (done.returncode, done.stderr) == (0, "")
    assert network.pid == pid
    assert identify(pid) is not None
    wait_until(lambda: shared_service.output(network).count(f"read /var/lib/neutron/dhcp/{network.id}/host") == 2)


def test_term_returns_when_process_container_name_and_pid_file_are_gone(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    pid = network.pid
    done = network.kill("15")
    assert (done.returncode, done.stderr) == (0, "")
    assert identify(pid) is None
    assert network.container not in shared_service.containers()
    assert not network.pid_file.exists()
    assert network.record is None


def test_kill_9_does_the_same(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    pid = network.pid
    assert network.kill("9").returncode == 0
    assert identify(pid) is None
    assert network.container not in shared_service.containers()


def test_a_start_right_behind_a_stop_works_every_time(shared_service: Service) -> None:
    network = shared_service.network()
    for _ in range(10):
        assert network.start().returncode == 0
        assert network.kill("TERM").returncode == 0


@attack(87, answer="no-such-process")
def test_a_pid_that_is_gone_or_foreign_is_no_such_process(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    pid = network.pid
    network.kill("KILL")
    other = os.getpid()  # alive, and not managed by this service
    for stranger in (pid, other, 1, 2**22):
        done = network.kill("TERM", stranger)
        assert (done.returncode, done.stderr) == (1, f"kill: ({stranger}) - No such process\n")


def test_a_signal_the_policy_does_not_name_is_refused(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    done = network.kill("USR1")
    assert done.returncode == REJECTED
    assert "signal-not-allowed" in done.stderr


def test_a_refusal_says_which_argument_which_rule_and_where_to_look(shared_service: Service) -> None:
    network = shared_service.network()
    done = network.start(*network.options(), "--dhcp-script=/tmp/evil")
    assert done.returncode == REJECTED
    for part in ("option-not-allowed", "--dhcp-script", "runs a program", "dnsmasq.toml:", "sidespawn logs"):
        assert part in done.stderr
    assert network.container not in shared_service.containers()


@attack(75)
def test_local_invocations_are_answered_without_the_host(shared_service: Service) -> None:
    before = len(list(shared_service.places.replies.iterdir()))
    done = command(str(shared_service.wrapper), "--test", "--dhcp-host=tag:foo", check=False)
    assert (done.returncode, "syntax check OK" in done.stderr) == (0, True)
    assert len(list(shared_service.places.replies.iterdir())) == before


def test_a_program_that_cannot_start_is_a_failure_that_leaves_nothing(shared_service: Service) -> None:
    network = shared_service.network()
    (network.home / "leases").unlink()
    (network.home / "leases").mkdir()  # dnsmasq cannot open it
    done = network.start()
    assert done.returncode == FAILED
    assert "(exited)" in done.stderr
    assert "sidespawn logs" in done.stderr
    shared_service.wait_until_idle()
    assert network.container not in shared_service.containers()
    assert not network.pid_file.exists()


def test_a_state_directory_that_is_a_link_is_not_followed(shared_service: Service) -> None:
    network, victim = shared_service.network(), shared_service.network()
    for name in network.home.iterdir():
        name.unlink()
    network.home.rmdir()
    network.home.symlink_to(victim.home)
    done = network.start()
    assert done.returncode == FAILED
    assert "(state-unusable)" in done.stderr
    assert not victim.pid_file.exists()


def test_a_name_without_a_namespace_is_refused(shared_service: Service) -> None:
    network = shared_service.network()
    done = command(str(shared_service.wrapper), *network.options(), check=False)  # in the host's own namespace
    assert done.returncode == REJECTED
    assert "(namespace-not-allowed)" in done.stderr


def test_it_outlives_the_service_that_started_it(service: Service) -> None:
    network = service.network()
    network.start()
    command("systemctl", "stop", service.unit)
    time.sleep(0.3)
    assert identify(network.pid) is not None
    cgroup = Path(f"/proc/{network.pid}/cgroup").read_text()
    assert f"sidespawn-{service.name.replace('-', '_')}.slice/" in cgroup


@attack(115)
def test_the_pid_is_found_by_the_engine_when_the_ledger_is_lost(service: Service) -> None:
    network = service.network()
    network.start()
    pid = network.pid
    (service.places.ledger / f"{network.netns}.json").write_bytes(b'{"v":1,"inst')
    assert network.kill("HUP").returncode == 0
    (service.places.ledger / f"{network.netns}.json").unlink()
    assert network.start().returncode == 0
    assert network.pid == pid  # taken over, not started twice
    assert len(service.containers()) == 1


@pytest.mark.parametrize("engine", ["podman"])  # which may choose another name
def test_what_an_earlier_version_named_is_kept_until_it_ends(service: Service) -> None:
    """Records have the name; a stopped container without one, as after a reboot, is found by its label."""
    network = service.network()
    old = f"{service.name}-{network.netns}"

    def start_as_before() -> int:
        assert network.start().returncode == 0
        command("podman", "rename", network.container, old)
        path = service.places.ledger / f"{network.netns}.json"
        path.write_text(path.read_text().replace(f'"name": "{network.container}"', f'"name": "{old}"'))
        return network.pid

    pid = start_as_before()
    assert network.start().returncode == 0
    assert network.pid == pid
    command(*SIDESPAWN, "signal", service.name, old, "HUP")
    assert network.kill("TERM").returncode == 0
    assert service.containers() == {}

    kill_process(start_as_before())
    (service.places.ledger / f"{network.netns}.json").unlink()
    assert network.start().returncode == 0
    assert set(service.containers()) == {old, network.container}
    service.wait_until_idle()
    command(*SIDESPAWN, "sync", service.name)
    assert set(service.containers(every=False)) == set(service.containers()) == {network.container}


@attack(65, answer="configuration-not-allowed")
def test_configuration_files_are_checked_and_given_as_copies(service: Service) -> None:
    network = service.network()
    extra = service.state / "dnsmasq-neutron.conf"
    extra.write_text("dhcp-option-force=26,1400\nlog-async=20\n")
    options = network.options("/var/lib/neutron/dnsmasq-neutron.conf")
    assert network.start(*options).returncode == 0
    extra.write_text("dhcp-script=/tmp/evil\n")
    seen = Path(f"/proc/{network.pid}/root/var/lib/neutron/dnsmasq-neutron.conf").read_text()
    assert seen == "dhcp-option-force=26,1400\nlog-async=20\n"
    network.kill("TERM")
    done = network.start(*options)
    assert done.returncode == REJECTED
    assert "(configuration-not-allowed)" in done.stderr
    assert "dhcp-script" in done.stderr
    assert list(service.places.snapshots.iterdir()) == []


@attack(73, answer="configuration-not-allowed")
def test_hup_gives_the_program_only_what_was_checked_again(service: Service) -> None:
    network = service.network()
    extra = service.state / "dnsmasq-neutron.conf"
    extra.write_text("log-async=20\n")
    network.start(*network.options("/var/lib/neutron/dnsmasq-neutron.conf"))
    pid, seen = network.pid, Path(f"/proc/{network.pid}/root/var/lib/neutron/dnsmasq-neutron.conf")

    extra.write_text("log-async=30  \n# a comment\n\ndhcp-option=3,10.20.0.1\n")
    assert seen.read_text() == "log-async=20\n", "the agent's file is not the program's"
    assert network.kill("HUP").returncode == 0
    assert seen.read_text() == "log-async=30\ndhcp-option=3,10.20.0.1\n"

    extra.write_text("log-async=40\ndhcp-script=/tmp/evil\n")
    done = network.kill("HUP")
    assert done.returncode == REJECTED
    assert "(configuration-not-allowed)" in done.stderr
    assert seen.read_text() == "log-async=30\ndhcp-option=3,10.20.0.1\n"
    assert network.pid == pid
    assert identify(pid) is not None


@attack(127, answer="policy-invalid")
def test_a_broken_policy_answers_every_request_with_its_fault(service: Service) -> None:
    network = service.network()
    service.wait_until_idle()
    policy = service.places.policy
    policy.write_text(policy.read_text() + "\nsurprise = 1\n")
    done = network.start()
    assert done.returncode == REJECTED
    assert "(policy-invalid)" in done.stderr
    assert "surprise" in done.stderr


def test_a_program_that_ended_by_itself_is_swept_by_the_backstop(service: Service) -> None:
    network = service.network()
    network.start()
    kill_process(network.pid)
    service.wait_until_idle()
    assert network.container in service.containers()
    command("systemctl", "start", service.unit)  # like the timer's run
    service.wait_until_idle()
    assert network.container not in service.containers()
    assert [each["SIDESPAWN_INSTANCE"] for each in service.journal(event="exited")] == [network.netns]


@attack(111, 112)
def test_a_run_that_is_killed_is_continued(service: Service) -> None:
    networks = [service.network() for _ in range(6)]
    wrappers = [subprocess.Popen(network.call(), stderr=subprocess.PIPE) for network in networks]
    for _ in range(3):
        time.sleep(0.35)
        command("systemctl", "kill", "--signal=KILL", service.unit, check=False)
    for wrapper in wrappers:
        _, complaint = wrapper.communicate(timeout=60)
        assert (wrapper.returncode, complaint) == (0, b"")
    running = service.containers(every=False)
    assert set(running) == {network.container for network in networks}
    assert [running[network.container].pid for network in networks] == [network.pid for network in networks]
    assert unit_state(f"sidespawn@{service.name}.socket") == "active"
    assert list(service.places.claims.iterdir()) == []


@attack(121)
def test_verdicts_starts_and_stops_are_in_the_journal(service: Service) -> None:
    network = service.network()
    network.start()
    network.start()
    network.start("--version=\n<0>forged\x1b[31m")
    pid = network.pid
    network.kill("HUP")
    network.kill("TERM")
    wait_until_gone(pid)
    events = [each["SIDESPAWN_EVENT"] for each in service.journal()]
    assert events == ["started", "answered", "unreadable", "rejected", "signalled", "stopped"]
    started = service.journal(event="started")[0]
    assert (started["SIDESPAWN_PID"], started["SIDESPAWN_NETNS"]) == (str(pid), network.netns)
    assert len(started["SIDESPAWN_REQUEST"]) == 32
    assert all(each["MESSAGE"].isprintable() for each in service.journal())


@pytest.mark.parametrize("engine", ["podman"])  # this engine has a store
def test_a_container_whose_store_is_torn_is_replaced(service: Service) -> None:
    """After a power failure that lost its files, podman lists the container but cannot inspect it."""
    network = service.network()
    network.start()
    upper = command("podman", "inspect", "--format={{.GraphDriver.Data.UpperDir}}", network.container).stdout.strip()
    service.wait_until_idle()
    kill_process(network.pid)
    wait_until(lambda: not service.containers(every=False))
    (Path(upper).parent / "lower").write_text("")
    assert command("podman", "container", "inspect", network.container, check=False).returncode == 125
    done = network.start()
    assert (done.returncode, done.stderr) == (0, "")
    assert set(service.containers(every=False)) == {network.container}


def test_ps_marks_what_runs_in_a_namespace_that_was_deleted(service: Service) -> None:
    def row() -> dict[str, object]:
        (found,) = json.loads(command(*SIDESPAWN, "ps", service.name, "--json").stdout)
        return dict(found)

    network = service.network()
    assert network.start().returncode == 0
    assert row()["orphan"] is False
    command("ip", "netns", "del", network.netns)
    assert row()["orphan"] is True
    assert "running, orphan" in command(*SIDESPAWN, "ps", service.name).stdout
    command("ip", "netns", "add", network.netns)  # another one with the same name
    assert row()["orphan"] is True
    command(*SIDESPAWN, "stop", service.name, network.netns)
