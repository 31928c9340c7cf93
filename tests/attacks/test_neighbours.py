"""Attacks by a second agent that shares /run/netns, silent file systems, and other users of the host."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.system import kernel
from sidespawn.system.processes import ENVIRONMENT, identify
from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.stage import NEUTRON, Attacker, Ours, Refused, Stage, agent_of
from tests.lab.networks import DNSMASQ_FILES, SIDESPAWN, command, unit_state

AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
VERBS = (("check",), ("check", "SERVICE"), ("ps", "SERVICE"), ("ps", "SERVICE", "--limits"), ("enable", "SERVICE"))


@pytest.fixture(scope="module")
def second(stage: Stage, ours: Ours) -> Attacker:
    """Return root in the agent of the other service."""
    service = ours.bystander.service
    return stage.attacker(stage.agent(agent_of("second", service.state, service)).name)


@attack(142)
def test_a_second_agent_cannot_signal_the_firsts_programs(ours: Ours, second: Attacker) -> None:
    """Requests to a service look pids up only in that service's records."""
    network = ours.new_network()
    assert network.start().returncode == 0
    before = identify(network.pid)
    service = ours.bystander.service
    for name in ("0", "HUP", "TERM", "KILL"):
        done = command(
            *("ip", "netns", "exec", ours.bystander.netns, str(service.kill_script), name, str(network.pid)),
            check=False,
        )
        assert done.returncode == 1, "no such process"
    assert identify(network.pid) == before
    seen = second(inside.listing, "/run/sidespawn")
    assert set(seen) == {"image", service.name}, "and it sees nothing of the first's service"
    ours.expect_held()


@contextmanager
def silent(attacker: Attacker, path: str) -> Iterator[None]:
    attacker(inside.mount_silent_autofs, path)
    try:
        yield
    finally:
        attacker(inside.answer_no_more)
        with suppress(Refused):
            attacker(inside.unmount, path)


def expect_answers(ours: Ours) -> None:
    for words in VERBS:
        argv = [ours.service.name if each == "SERVICE" else each for each in words]
        began = time.monotonic()
        done = subprocess.run((*SIDESPAWN, *argv), capture_output=True, text=True, timeout=90, check=False)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        assert time.monotonic() - began < 60


@attack(143)
def test_the_directory_of_names_hidden_by_what_never_answers(ours: Ours, second: Attacker) -> None:
    """Agents that share the directory share the mount. The operator's verbs answer, and explain it."""
    with silent(second, "/run/netns"):
        assert os.path.ismount("/run/netns")
        expect_answers(ours)
        assert "is mounted over /run/netns" in command(*SIDESPAWN, "check").stdout
    ours.expect_held()


@attack(270)
def test_a_name_that_an_engine_makes_replaced_by_a_link(ours: Ours, second: Attacker, tmp_path: Path) -> None:
    """podman and containerd make an empty file, and then mount the namespace on it: root's mount follows the link."""
    target, name = tmp_path / "target", Path("/run/netns/netns-1")
    target.touch()
    name.touch()
    try:
        assert "an engine keeps 1 of its containers' networks" in command(*SIDESPAWN, "check", check=False).stdout
        second(inside.remove, name)
        second(inside.link, target, name)
        kernel.mount("/proc/self/ns/net", str(name), None, kernel.MS_BIND)
        assert target.stat().st_ino == os.stat("/proc/self/ns/net").st_ino, "over a file that root owns"
        kernel.unmount(str(target))
    finally:
        name.unlink()
    ours.expect_held()


@attack(144)
def test_what_never_answers_where_a_verb_looks_into_the_agent(ours: Ours) -> None:
    """`check` and `enable` look for the image's own program in the agent's root."""
    with silent(ours.attacker, "/run/sidespawn/image"):
        expect_answers(ours)
    ours.expect_held()


@attack(146)
def test_another_user_reaches_nothing_of_a_service(ours: Ours) -> None:
    places = ours.service.places
    paths = [places.home, places.spool, places.replies, places.doorbell, places.operators_doorbell, places.agent]
    paths += [places.compiled, places.ledger, places.claims, places.lock, places.pins, places.snapshots]
    for path in paths:
        for operator in ("-r", "-w", "-x", "-e"):
            done = subprocess.run((*AS_NOBODY, "test", operator, str(path)), check=False, env=ENVIRONMENT)
            assert done.returncode == 1, (path, operator)
    ours.expect_held()


@attack(148)
@pytest.mark.parametrize("verb", ["stop", "restart", "kill", "mask", "reload"])
def test_another_user_has_no_power_over_the_units(ours: Ours, verb: str) -> None:
    for kind in ("socket", "service", "timer"):
        unit = f"sidespawn@{ours.service.name}.{kind}"
        argv = (*AS_NOBODY, "systemctl", "--no-ask-password", verb, unit)
        done = subprocess.run(argv, capture_output=True, check=False, timeout=60, env=ENVIRONMENT)
        assert done.returncode != 0
    assert unit_state(f"sidespawn@{ours.service.name}.socket") == "active"
    ours.expect_held()


# ---------------------------------------------------------------- another user


@contextmanager
def of_another_user(code: str, *arguments: str) -> Iterator[None]:
    """Start a process of another user of the host, and wait until it has written a line."""
    argv = (*AS_NOBODY, "/usr/bin/python3", "-I", "-c", code, *arguments)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield
        process.kill()


LOCKS = """
import fcntl, os, sys
kept = []
for top in sys.argv[1:]:
    for directory, _, names in os.walk(top):
        for path in (directory, *(os.path.join(directory, each) for each in names)):
            try:
                kept.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                fcntl.flock(kept[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
assert kept
print("done", flush=True)
sys.stdin.read()
"""


@attack(227)
def test_another_user_holds_locks_on_all_that_it_can_open(ours: Ours) -> None:
    tops = ("/run/sidespawn", "/etc/sidespawn", "/etc/systemd/system", "/run/netns", str(ours.service.state))
    with of_another_user(LOCKS, *tops):
        expect_answers(ours)
        ours.expect_held()


@attack(256)
def test_another_user_holds_the_lock_that_iproute2_takes(ours: Ours) -> None:
    """`ip netns add` then waits. sidespawn takes no such lock."""
    with of_another_user(LOCKS, "/run/netns"):
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["ip", "netns", "add", "waits"], timeout=2, check=False)
        ours.expect_held()
    assert "waits" not in os.listdir("/run/netns")


NAMES = """
import os, socket, sys
kept, made = [], []
for top in ("/tmp", "/var/tmp", "/dev/shm"):
    for each in ("sidespawn", "sidespawn.lock", *sys.argv[1:]):
        try:
            os.symlink("/etc/shadow", f"{top}/{each}")
            made.append(f"{top}/{each}")
        except OSError:
            continue
for each in ("sidespawn", "io.sidespawn", "/run/sidespawn", *sys.argv[1:]):
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].bind("\\0" + each)
    kept[-1].listen()
print("done", flush=True)
sys.stdin.read()
for each in made:
    os.unlink(each)
"""


@attack(228)
def test_another_user_has_taken_the_names(ours: Ours) -> None:
    """Take the names in the directories that all users can write, and abstract names."""
    with of_another_user(NAMES, ours.service.name, ours.network.container, f"sidespawn@{ours.service.name}"):
        expect_answers(ours)
        ours.expect_held()
    for top in ("/tmp", "/var/tmp", "/dev/shm"):
        for each in ("sidespawn", "sidespawn.lock", ours.service.name, ours.network.container):
            if os.path.islink(f"{top}/{each}"):
                os.unlink(f"{top}/{each}")


@attack(229)
def test_another_users_process_that_looks_like_a_side_container(ours: Ours) -> None:
    """Same command line and environment: it is not taken for a side container, and not ended."""
    network = ours.new_network()
    assert network.start().returncode == 0
    argv = Path(f"/proc/{network.pid}/cmdline").read_text().split("\0")[:-1]
    alike = "import os, sys; os.execve('/bin/sleep', ['sleep', '600'], {'PROCESS_TAG': sys.argv[1]})"
    with subprocess.Popen((*AS_NOBODY, "/usr/bin/python3", "-I", "-c", alike, *argv), env=ENVIRONMENT) as process:
        shown = json.loads(command(*SIDESPAWN, "ps", ours.service.name, "--json").stdout)
        assert process.pid not in {each["pid"] for each in shown}
        answers = ours.ask(*(ours.signal(name, process.pid) for name in ("HUP", "TERM", "KILL")))
        assert {each["reason"] for each in answers} == {"no-such-process"}
        command("systemctl", "start", ours.service.unit)  # like the timer's run
        ours.service.wait_until_idle()
        assert process.poll() is None
        process.kill()
    ours.expect_held()


# ---------------------------------------------------------------- a second agent


@attack(230)
def test_a_second_agents_start_in_the_firsts_namespace(ours: Ours) -> None:
    """Allowed by its policy, and it could enter the namespace anyway. The first agent's programs keep running."""
    network = ours.new_network()
    assert network.start().returncode == 0
    before = identify(network.pid)
    neighbour = ours.bystander.service
    copy = replace(ours.bystander, id=network.id, home=neighbour.state / "dhcp" / network.id)
    copy.home.mkdir(parents=True)
    for name in DNSMASQ_FILES:
        (copy.home / name).touch()
    command("chown", "-R", f"{NEUTRON}:{NEUTRON}", str(copy.home))
    copy.start()
    for name in ("HUP", "TERM", "KILL"):
        copy.kill(name, network.pid)
    assert identify(network.pid) == before
    assert network.container in ours.service.containers(every=False)
    command(*SIDESPAWN, "stop", neighbour.name, copy.netns, check=False)
    ours.expect_held()


@attack(231)
@pytest.mark.parametrize("what", ["deleted", "replaced", "hidden"])
def test_the_firsts_namespace_gone_while_its_program_runs(ours: Ours, second: Attacker, what: str) -> None:
    """Running programs are still found, signalled and stopped, by pid instead of by name."""
    network = ours.new_network()
    assert network.start().returncode == 0
    before = identify(network.pid)
    path = f"/run/netns/{network.netns}"
    if what == "hidden":
        second(inside.bind, "/etc/passwd", path)
    else:
        assert second(inside.run, ["ip", "netns", "del", network.netns])[0] == 0
    if what == "replaced":
        assert second(inside.run, ["ip", "netns", "add", network.netns])[0] == 0
    (answer,) = ours.ask(ours.signal("HUP", network.pid))
    assert answer["reason"] == "ok"
    assert identify(network.pid) == before
    (answer,) = ours.ask(ours.signal("TERM", network.pid))
    assert answer["reason"] == "ok"
    assert before is not None
    assert identify(before.pid) is None
    if what == "hidden":
        second(inside.unmount, path)
    if what == "deleted":
        command("ip", "netns", "add", network.netns)
    ours.expect_held()


@attack(232)
def test_the_hosts_run_filled_through_the_directory_of_names(ours: Ours, second: Attacker) -> None:
    """This attack remains possible: podman starts nothing while /run is full. Stopping works throughout."""
    network, waiting = ours.new_network(), ours.new_network()
    assert network.start().returncode == 0
    before = os.statvfs("/run")
    used = (before.f_blocks - before.f_bfree) * before.f_frsize
    command("mount", "-o", f"remount,size={used + (4 << 20)}", "/run")  # so that it does not take gigabytes here
    try:
        second(inside.fill, "/run/netns/full", 64 << 20)
        assert os.statvfs("/run").f_bavail == 0
        refused = waiting.start()
        assert (refused.returncode, "no space left" in refused.stderr) == (70, True), refused.stderr
        done = command(*SIDESPAWN, "stop", ours.service.name, network.netns)
        assert "was stopped" in done.stdout
        second(inside.remove, "/run/netns/full")
        assert waiting.start().returncode == 0
    finally:
        command("mount", "-o", f"remount,size={before.f_blocks * before.f_frsize}", "/run")
        if os.path.exists("/run/netns/full"):
            os.unlink("/run/netns/full")
    ours.expect_held()


@attack(247)
def test_the_name_of_a_mount_that_reads_like_a_row_of_another(ours: Ours, second: Attacker) -> None:
    """Agents bind mounts to names that they share with the host; verbs read the host's table of mounts."""
    top = "/run/netns/x\u20289\u20031\u20037:7\u2003"  # what some readers take for a line end and for blanks
    path = f"{top}/\u2003{ours.service.places.spool}"
    second(inside.run, ["mkdir", "-p", os.path.dirname(path)])
    second(inside.write, path, b"")
    second(inside.bind, "/etc/passwd", path)
    try:
        assert "7:7" in Path("/proc/1/mountinfo").read_text()
        expect_answers(ours)
        assert "Traceback" not in command(*SIDESPAWN, "scan", check=False).stderr
        assert "stale directories" not in command(*SIDESPAWN, "check", ours.service.name).stdout
    finally:
        second(inside.unmount, path)
        second(inside.run, ["rm", "-r", top])
    ours.expect_held()


@attack(248)
def test_the_name_of_a_socket_that_reads_like_a_row(ours: Ours) -> None:
    """Users can create one freely; /proc/net/unix shows its name unescaped."""
    path = "/tmp/a\n\n\x85\u2028 b"
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); print(flush=True); input()"
    argv = (*AS_NOBODY, "/usr/bin/python3", "-I", "-c", code, path)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        try:
            done = command(*SIDESPAWN, "scan", check=False)
            assert done.returncode in (0, 1), done.stderr
            assert "Traceback" not in done.stderr
        finally:
            process.stdin.close()
    os.unlink(path)
    ours.expect_held()


@attack(254)
def test_hundreds_of_mounts_among_the_names_of_namespaces(ours: Ours, second: Attacker) -> None:
    """Hosts share them. Services keep working until the host reaches its limit of mounts (fs.mount-max)."""
    second(inside.bind_many, "/etc/passwd", "/run/netns", "flood", 400)
    try:
        assert Path("/proc/1/mountinfo").read_text().count("/run/netns/flood") >= 400
        ours.expect_held()
        expect_answers(ours)
    finally:
        second(inside.unbind_many, "/run/netns", "flood", 400)
    ours.expect_held()
