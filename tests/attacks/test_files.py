"""Files in the spool and in the agent's state belong to the attacker; they lead to none of root's files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.stage import STATE, Attacker, Ours, Refused, Stage, Succeeded, Target, agent_of
from tests.attacks.tripleo import TripleO
from tests.lab.networks import Network, command, wait_until

TIB = 1 << 40
MIB = 1 << 20


@pytest.fixture(scope="module")
def strong(stage: Stage) -> Ours:
    """Run an agent with too many privileges: all mounts shared, device nodes, file attributes, FUSE."""
    service = stage.service("strong", "neutron-dhcp-dnsmasq", stage.directory("strong"))
    other = stage.service("weak", "neutron-dhcp-dnsmasq", stage.directory("weak"))
    more = ("MKNOD", "LINUX_IMMUTABLE", "DAC_OVERRIDE", "FOWNER", "CHOWN", "FSETID")
    hostile = agent_of(
        "strong", service.state, service, shared=True, capabilities=("SYS_ADMIN", "NET_ADMIN", *more),
        more_options=(f"--device={stage.device('fuse', 10, 229)}:/dev/fuse",),
    )  # fmt: skip
    agent = stage.agent(hostile)
    return Ours(stage.files, service, stage.attacker(agent.name), stage.attacker(agent.name, 42435), other.network())


def home_of(network: Network) -> str:
    """Return the directory as the agent sees it."""
    return f"{STATE}/dhcp/{network.id}"


@contextmanager
def child(attacker: Attacker, pid: int) -> Iterator[None]:
    try:
        yield
    finally:
        attacker(inside.end, pid)


# ---------------------------------------------------------------- in place of the request file


@attack(1)
def test_a_link_in_place_of_the_request_file(target: Target) -> None:
    target.attacker(inside.link, target.files.victim, target.requests)
    target.wake()
    target.expect_held()


@attack(3)
def test_a_pipe_in_place_of_the_request_file(target: Target) -> None:
    target.attacker(inside.pipe, target.requests)
    target.wake()
    target.expect_held()


@attack(4)
def test_a_device_node_in_place_of_the_request_file(strong: Ours) -> None:
    """Try /dev/zero, which has no end. The demo's agent cannot even make a device node."""
    strong.attacker(inside.device, strong.requests, 1, 5)
    strong.expect_held()
    strong.attacker(inside.device, f"{strong.spool}/processes-timestamp", 1, 5)
    strong.expect_held()


@attack(4)
def test_the_demos_agent_cannot_make_a_device_node(ours: Ours) -> None:
    with pytest.raises(Refused, match="Operation not permitted"):
        ours.attacker(inside.device, ours.requests, 1, 5)


@attack(5)
def test_a_hard_link_in_place_of_the_request_file(ours: Ours) -> None:
    """Link a file in the spool, a separate file system: files elsewhere on the host cannot be linked."""
    ours.neutron(inside.write, f"{STATE}/theirs", b"x")
    with pytest.raises(Refused, match="cross-device"):
        ours.attacker(inside.hard_link, f"{STATE}/theirs", ours.requests)
    ours.attacker(inside.write, f"{ours.spool}/x", b"rubbish\n")
    ours.attacker(inside.hard_link, f"{ours.spool}/x", ours.requests)
    ours.expect_held()
    ours.expect_idle()
    assert os.listdir(ours.spool) == []


@attack(5, answer="state-unusable")
def test_a_hard_link_as_a_configuration_file(ours: Ours) -> None:
    for name in ("one.conf", "two.conf"):
        ours.neutron(inside.remove, f"{STATE}/{name}")
    ours.neutron(inside.write, f"{STATE}/one.conf", b"log-async=20\n")
    ours.neutron(inside.hard_link, f"{STATE}/one.conf", f"{STATE}/two.conf")
    assert ours.reason(argv=with_configuration(ours.network, f"{STATE}/two.conf")) == "state-unusable"


def with_configuration(network: Network, path: str) -> list[str]:
    return ["dnsmasq", *network.options(path)]


@attack(6)
def test_a_sparse_file_of_1_tib(ours: Ours) -> None:
    ours.attacker(inside.sparse, ours.requests, TIB)
    ours.expect_held()


@attack(6, 102, 106)
def test_growth_without_end(ours: Ours) -> None:
    """Append without the lock to whatever file is there, while valid requests arrive."""
    with child(ours.attacker, ours.attacker(inside.grow, ours.requests, b"x" * 4095 + b"\n")):
        wait_until(lambda: bool(os.listdir(ours.spool)))
        free_before = os.statvfs("/run").f_bavail
        for _ in range(3):
            assert ours.bystander.start().returncode == 0
            time.sleep(0.3)
        assert os.statvfs("/run").f_bavail > free_before - 64 * MIB // 4096
    ours.expect_held()


@attack(33)
def test_a_line_of_100_mb(target: Target) -> None:
    """Write as much of it as the spool can hold."""
    got = target.attacker(inside.fill, target.requests, 100 * MIB)
    target.wake()
    if got == 100 * MIB:
        raise Succeeded("the host's own disk took all of it")
    target.expect_held()


@attack(41)
def test_a_last_line_that_is_torn(ours: Ours) -> None:
    """It is not a request, and the next line does not continue it."""
    torn = json.dumps(ours.request(netns="torn")).encode()
    ours.put(torn[:-20])
    ours.expect_held()
    request = ours.request()
    ours.put(torn[:-20] + b"\n" + json.dumps(request).encode() + b"\n" + torn)
    assert ours.answer(request["id"])["reason"] == "ok"
    ours.expect_held()


# ---------------------------------------------------------------- swapped and changed in the meantime


@attack(7)
def test_the_request_file_swapped_for_a_link_all_the_time(target: Target) -> None:
    """On a busy machine, theirs may lose this race only after many rounds."""
    swapper = target.attacker(inside.swap, target.requests, target.files.victim, b"rubbish\n")
    with child(target.attacker, swapper):
        for _ in range(10 if isinstance(target, Ours) else 150):
            target.wake()
            time.sleep(0.1)
            target.files.expect_untouched()
    target.expect_held()


@attack(8)
def test_a_configuration_file_edited_all_the_time(ours: Ours) -> None:
    """Check that the program gets one of the allowed texts, whatever the verdict was."""
    path = f"{STATE}/edited.conf"
    lines = (b"server=10.0.0.1\n", b"server=10.0.0.2\n")
    good, bad = lines[0] * 20, lines[1] * 19 + f"dhcp-script={ours.files.trace}\n".encode()
    ours.neutron(inside.write, path, good)
    network = ours.new_network()
    seen = []
    with child(ours.neutron, ours.neutron(inside.rewrite, path, good, bad)):
        for _ in range(12):
            changes = {"netns": network.netns, "env": {}, "argv": with_configuration(network, path)}
            reason = ours.reason(**changes)
            seen.append(reason)
            if reason == "ok":
                text = Path(f"/proc/{network.pid}/root{path}").read_text()
                assert set(text.splitlines()) <= {f"server=10.0.0.{last}" for last in ("", "1", "2")}
    assert set(seen) <= {"ok", "configuration-not-allowed"}
    ours.expect_held()


@attack(8)
def test_a_claim_edited_through_an_open_descriptor(ours: Ours) -> None:
    """Hosts judge what they have read; a descriptor that is still open does not affect that."""
    request = ours.request(netns="x")
    ours.put(json.dumps(request).encode() + b"\n")
    with child(ours.attacker, ours.attacker(inside.grow, ours.requests, json.dumps(ours.request()).encode() + b"\n")):
        assert ours.answer(request["id"])["reason"] == "namespace-not-allowed"
    ours.expect_held()


# ---------------------------------------------------------------- mounts


@contextmanager
def mounted(attacker: Attacker, target: str) -> Iterator[None]:
    try:
        yield
    finally:
        attacker(inside.answer_no_more)
        with suppress(Refused):  # the host removed the directory, and with it the mount
            attacker(inside.unmount, target)


def on_the_host(path: str) -> bool:
    """Return whether the host sees the mount."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sum(row[4] == path for row in rows) > (1 if path.endswith("/spool") else 0)


@attack(9)
def test_a_file_system_mounted_over_the_spool(target: Target) -> None:
    """Put a link to one of root's files in it, and rubbish to run."""
    target.attacker(inside.mount, "evil", target.spool, "tmpfs")
    with mounted(target.attacker, target.spool):
        target.attacker(inside.link, target.files.victim, f"{target.spool}/processes")
        target.wake()
        if on_the_host(target.spool):
            raise Succeeded("the host sees what the agent mounted")
    target.expect_held()


@attack(9)
def test_the_same_through_shared_mounts(strong: Ours) -> None:
    strong.attacker(inside.mount, "evil", strong.spool, "tmpfs")
    with mounted(strong.attacker, strong.spool):
        strong.attacker(inside.link, strong.files.victim, strong.requests)
        assert not on_the_host(strong.spool)
        strong.expect_held()
    strong.expect_held()


@attack(9, answer="state-unusable")
def test_a_file_system_mounted_over_the_state(strong: Ours) -> None:
    """This mount reaches the host, since deployers choose the state's propagation. The host does not enter it."""
    network = strong.new_network()
    strong.attacker(inside.mount, "evil", home_of(network), "tmpfs")
    with mounted(strong.attacker, home_of(network)):
        argv = ["dnsmasq", *network.options()]
        assert strong.reason(netns=network.netns, env={}, argv=argv) == "state-unusable"
    strong.expect_held()


SILENT = {"autofs": inside.silent_autofs, "fuse": inside.silent_fuse}


@attack(10, 11)
@pytest.mark.parametrize("kind", SILENT)
def test_a_file_system_that_never_answers_in_the_spool_and_over_it(strong: Ours, kind: str) -> None:
    strong.attacker(SILENT[kind], strong.requests)
    with mounted(strong.attacker, strong.requests):
        strong.expect_held()
    strong.attacker(SILENT[kind], strong.spool)
    with mounted(strong.attacker, strong.spool):
        strong.expect_held()
    strong.expect_held()


@attack(10, answer="namespace-unusable")
@pytest.mark.parametrize("kind", SILENT)
def test_a_file_system_that_never_answers_at_the_name_of_a_namespace(strong: Ours, kind: str) -> None:
    """Agents share /run/netns with the host and each other: their wrappers must not look at that name."""
    network = strong.new_network()
    path = f"/run/netns/{network.netns}"
    command("ip", "netns", "del", network.netns)
    strong.attacker(SILENT[kind], path)
    try:
        with mounted(strong.attacker, path):
            argv = ["dnsmasq", *network.options()]
            assert strong.reason(netns=network.netns, env={}, argv=argv) == "namespace-unusable"
            strong.expect_held()
    finally:
        Path(path).rmdir()


@attack(12)
def test_a_link_to_itself_as_the_timestamp(target: Target) -> None:
    """TripleO's .path unit watches that file."""
    target.attacker(inside.link, "processes-timestamp", f"{target.spool}/processes-timestamp")
    with suppress(Refused):
        target.wake()
    time.sleep(0.5)
    target.expect_held()


@attack(13)
def test_the_timestamp_is_a_link_or_a_directory(ours: Ours) -> None:
    timestamp = f"{ours.spool}/processes-timestamp"
    ours.attacker(inside.link, ours.files.victim, timestamp)
    ours.expect_held()
    ours.attacker(inside.remove, timestamp)
    ours.attacker(inside.directory, timestamp)
    ours.expect_held()


# ---------------------------------------------------------------- full, deep, fixed


def free() -> int:
    status = os.statvfs("/var/lib")
    return status.f_bavail * status.f_bsize


@attack(14)
def test_the_disk_filled(target: Target) -> None:
    before = free()
    target.attacker(inside.fill, f"{target.spool}/junk", 64 * MIB)
    if before - free() > 32 * MIB:
        raise Succeeded("the agent fills the host's own disk")
    target.expect_held()


@attack(15)
def test_the_inodes_used_up(target: Target) -> None:
    if target.attacker(inside.names, target.spool, 2000) == 2000:
        raise Succeeded("the agent uses up the host's own inodes")
    target.expect_held()


@attack(16)
def test_a_deep_tree_and_many_names(ours: Ours) -> None:
    """Only a limited number is removed at a time."""
    assert ours.attacker(inside.deep, ours.spool, 500) < 130
    ours.expect_held()
    ours.attacker(inside.names, ours.spool, 50)
    ours.expect_held()


@attack(17)
def test_an_immutable_file_and_a_mount_in_the_spool(strong: Ours) -> None:
    strong.attacker(inside.directory, f"{strong.spool}/mount")
    strong.attacker(inside.mount, "evil", f"{strong.spool}/mount", "tmpfs")
    strong.expect_held()
    strong.attacker(inside.write, f"{strong.spool}/fixed", b"x")
    strong.attacker(inside.immutable, f"{strong.spool}/fixed")
    strong.expect_held()
    strong.attacker(inside.changeable, f"{strong.spool}/fixed")
    strong.attacker(inside.remove, f"{strong.spool}/fixed")


@attack(17)
def test_an_immutable_request_file(strong: Ours) -> None:
    """Wrappers cannot write then; only the agent is affected, and only while the flag is set."""
    strong.expect_idle()
    strong.wake()
    wait_until(lambda: not os.listdir(strong.spool), patience=30)
    strong.attacker(inside.write, f"{strong.spool}/fixed", b"rubbish\n")
    strong.attacker(inside.immutable, f"{strong.spool}/fixed")
    assert strong.bystander.start().returncode == 0
    strong.attacker(inside.changeable, f"{strong.spool}/fixed")
    strong.attacker(inside.remove, f"{strong.spool}/fixed")
    strong.expect_held()


# ---------------------------------------------------------------- the state directory


@attack(2, 125, answer="state-unusable")
def test_a_directory_on_the_way_becomes_a_link(ours: Ours) -> None:
    """Let it lead to root's directory, and to another network's."""
    for target in (str(ours.files.victim.parent), f"{STATE}/dhcp/{ours.network.id}", "/"):
        network = ours.new_network()
        ours.neutron(inside.run, ["rm", "-rf", home_of(network)])
        ours.neutron(inside.link, target, home_of(network))
        argv = ["dnsmasq", *network.options()]
        assert ours.reason(netns=network.netns, env={}, argv=argv) == "state-unusable"
        ours.neutron(inside.remove, home_of(network))
    ours.expect_held()


@attack(74, 125, answer="state-unusable")
def test_a_configuration_file_that_is_a_link_to_secrets(ours: Ours) -> None:
    path = f"{STATE}/secrets.conf"
    ours.neutron(inside.link, ours.files.victim, path)
    (answer,) = ours.ask(ours.request(argv=with_configuration(ours.network, path)))
    assert answer["reason"] == "state-unusable"
    assert "root:" not in json.dumps(answer)
    ours.expect_held()


@attack(20)
def test_the_path_of_a_log_is_a_link(ours: Ours) -> None:
    """Hosts do not enter the log's directory; the program follows a link there in its own container."""
    network = ours.new_network()
    logs = f"{STATE}/logs/{network.id}"
    argv = ["dnsmasq", *network.options(), f"--log-facility={logs}/dhcp_dns_log"]
    request = {"netns": network.netns, "env": {}, "argv": argv}
    ours.neutron(inside.run, ["mkdir", "-p", f"{STATE}/logs"])
    ours.neutron(inside.link, ours.files.victim.parent, logs)
    assert ours.reason(**request) == "state-unusable"
    ours.neutron(inside.remove, logs)
    ours.neutron(inside.directory, logs)
    for where in (ours.files.victim, f"/proc/1/root{ours.files.victim}"):
        ours.neutron(inside.link, where, f"{logs}/dhcp_dns_log")
        # It may have written its pid file, which makes it ready, before it ends for lack of a log.
        assert ours.reason(**request) in ("exited", "ok")
    ours.expect_held()


@attack(20, 64)
def test_the_path_of_a_log_is_a_link_theirs(theirs: TripleO, ours: Ours) -> None:
    """In their containers, the host's PID 1 is visible, and with it all files of the host."""
    path = f"{STATE}/log-of-theirs"
    ours.neutron(inside.link, f"/proc/1/root{theirs.files.victim}", path)
    netns = theirs.new_namespace()
    theirs.ask(netns, "--port=0", f"--log-facility={path}")
    theirs.runs(netns)
    theirs.expect_held()


@attack(18)
def test_a_setuid_file_in_the_state_directory(ours: Ours) -> None:
    """Leave it there as the agent's root. It has no effect in a side container; docs/security.md requires nosuid."""
    shell = f"{home_of(ours.network)}/shell"
    ours.neutron(inside.run, ["cp", "/bin/busybox", shell])
    ours.neutron(inside.mode, shell, 0o6755)
    mounts = [line.split() for line in Path(f"/proc/{ours.network.pid}/mounts").read_text().splitlines()]
    (home,) = (each for each in mounts if each[1] == home_of(ours.network))
    assert {"nosuid", "nodev", "noexec"} <= set(home[3].split(","))
    ours.neutron(inside.remove, shell)
    ours.expect_held()


@attack(19)
def test_what_the_host_runs_is_rewritten(target: Target) -> None:
    """Try all host files that the agent finds in its container, remounted writable if needed."""
    evil = f"#!/bin/sh\nid -un >{target.files.trace}\n".encode()
    if isinstance(target, Ours):
        scripts = [target.service.wrapper, target.service.kill_script]
        mounted_at = ["/usr/sbin/dnsmasq", "/etc/neutron/kill_scripts/dnsmasq-kill"]
        texts = [script.read_bytes() for script in scripts]
        with pytest.raises(Refused):
            target.attacker(inside.append, mounted_at[0], evil)
        try:
            for path in mounted_at:
                target.attacker(inside.writable, path)
                target.attacker(inside.run, ["cp", "/dev/null", path])
                target.attacker(inside.append, path, evil)
            assert scripts[0].read_bytes() == evil, "an agent with SYS_ADMIN can change its own wrapper: its own loss"
            command("systemctl", "start", target.service.unit)
            assert target.bystander.start().returncode == 0
        finally:
            for script, text in zip(scripts, texts, strict=True):
                script.write_bytes(text)
    else:
        target.attacker(inside.run, ["cp", "/dev/null", f"{target.spool}/process-sync"])
        target.attacker(inside.append, f"{target.spool}/process-sync", evil)
        target.wake()
    target.expect_held()


@attack(21)
def test_labels_and_access_lists(strong: Ours) -> None:
    """New files in the state belong to everyone; the host makes none there, and of a pid file it uses only a number."""
    network = strong.new_network()
    strong.attacker(inside.access_list, home_of(network))
    strong.attacker(inside.access_list, strong.spool)
    strong.attacker(inside.label, home_of(network), "trusted.overlay.opaque", "y")
    argv = ["dnsmasq", *network.options()]
    assert strong.reason(netns=network.netns, env={}, argv=argv) == "ok"
    assert network.pid > 1
    strong.expect_held()
