"""Agents control the names in /run/netns: only a network namespace other than the host's is entered."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sidespawn.system.processes import identify
from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.stage import STATE, Ours, Refused, Succeeded
from tests.attacks.test_files import child
from tests.attacks.tripleo import TripleO
from tests.lab.networks import Network, command, kill_process, wait_until


def request_of(network: Network) -> dict[str, Any]:
    return {"netns": network.netns, "env": {}, "argv": ["dnsmasq", *network.options()]}


def inode(path: str) -> int:
    return os.stat(path).st_ino


@contextmanager
def without_namespace(ours: Ours) -> Iterator[tuple[Network, str]]:
    """Return a network without a namespace, and the free path where its namespace belongs."""
    network = ours.new_network()
    path = f"/run/netns/{network.netns}"
    command("ip", "netns", "del", network.netns)
    try:
        yield network, path
    finally:
        for _ in range(3):
            with suppress(Refused):
                ours.attacker(inside.unmount, path)
        if os.path.lexists(path):
            os.unlink(path)


def expect_not_started(ours: Ours, network: Network, reason: str = "namespace-unusable") -> None:
    got = ours.reason(**request_of(network))
    if network.container in ours.service.containers():
        raise Succeeded(f"a program was started, {got}")
    assert got == reason
    ours.expect_held()


@attack(77, answer="namespace-unusable")
@pytest.mark.parametrize("target", ["/proc/1/ns/net", "/proc/self/ns/net", "own"])
def test_a_link_at_the_name(ours: Ours, target: str) -> None:
    with without_namespace(ours) as (network, path):
        where = f"/run/netns/{ours.network.netns}" if target == "own" else target
        ours.attacker(inside.link, where, path)
        expect_not_started(ours, network)


@attack(78, answer="namespace-unusable")
def test_the_hosts_own_namespace_bound_at_the_name(ours: Ours) -> None:
    with without_namespace(ours) as (network, path):
        ours.attacker(inside.write, path, b"")
        ours.attacker(inside.bind, "/proc/self/ns/net", path)  # the agent is in the host's network
        assert inode(path) == inode("/proc/1/ns/net"), "the host sees it"
        expect_not_started(ours, network)


@attack(76, 77, 78)
@pytest.mark.parametrize("how", ["path", "link", "bind"])
def test_the_hosts_own_namespace_theirs(theirs: TripleO, ours: Ours, how: str) -> None:
    """Use their design: containers are in the host's network, and `ip netns exec` follows any name."""
    name = f"evil-{os.urandom(3).hex()}"
    path = f"/run/netns/{name}"
    try:
        if how == "link":
            ours.attacker(inside.link, "/proc/1/ns/net", path)
        elif how == "bind":
            ours.attacker(inside.write, path, b"")
            ours.attacker(inside.bind, "/proc/self/ns/net", path)
        asked = "../../proc/1/ns/net" if how == "path" else name
        # A wrapper must first find out the name; an attacker writes the line directly.
        theirs.put(f"{asked} --port=0 --conf-file=/dev/null --pid-file=/run/{name}\n".encode())
        theirs.wait_until_idle()
        if how == "path":
            theirs.expect_held()
        elif theirs.runs(name):
            raise Succeeded("a privileged program runs in the host's own network")
    finally:
        if how == "bind":
            ours.attacker(inside.unmount, path)
        if os.path.lexists(path):
            os.unlink(path)


@attack(79)
def test_another_tenants_namespace_bound_at_the_name(ours: Ours) -> None:
    """Programs enter it with the policy's privileges only. Agents can enter it without help anyway."""
    tenant = ours.bystander.service.network()
    other = f"/run/netns/{tenant.netns}"
    assert ours.attacker(inside.enter, other, ["true"]) == 0
    with without_namespace(ours) as (network, path):
        ours.attacker(inside.write, path, b"")
        ours.attacker(inside.bind, other, path)
        assert ours.reason(**request_of(network)) == "ok"
        assert inode(f"/proc/{network.pid}/ns/net") == inode(other)
        assert ours.ask(ours.signal("KILL", network.pid))[0]["reason"] == "ok"
    ours.expect_held()


@attack(80, answer="namespace-unusable")
@pytest.mark.parametrize("what", ["pipe", "file", "directory", "socket of nobody", "pid namespace"])
def test_something_else_at_the_name(ours: Ours, what: str) -> None:
    with without_namespace(ours) as (network, path):
        if what == "pipe":
            ours.attacker(inside.pipe, path)
        elif what == "directory":
            ours.attacker(inside.directory, path)
        else:
            ours.attacker(inside.write, path, b"")
        if what == "pid namespace":
            ours.attacker(inside.bind, "/proc/self/ns/uts", path)
        try:
            expect_not_started(ours, network)
        finally:
            if what == "directory":
                os.rmdir(path)


@attack(81)
def test_the_namespace_swapped_all_the_time(ours: Ours) -> None:
    """Alternate the agent's own and the host's. No program ever runs in the host's."""
    network = ours.new_network()
    path = f"/run/netns/{network.netns}"
    keep = f"/run/netns/keep-{network.id[:8]}"
    ours.attacker(inside.write, keep, b"")
    ours.attacker(inside.bind, path, keep)
    seen = []
    try:
        swapper = ours.attacker(inside.alternate, path, keep, "/proc/self/ns/net")
        with child(ours.attacker, swapper):
            for number in range(12):
                changes = request_of(network)
                changes["argv"] = [*changes["argv"], *(["--log-dhcp"] if number % 2 else [])]
                seen.append(ours.reason(**changes))
                for container in ours.service.containers(every=False).values():
                    with suppress(FileNotFoundError):
                        if inode(f"/proc/{container.pid}/ns/net") == inode("/proc/1/ns/net"):
                            raise Succeeded("a program runs in the host's own network")
    finally:
        for each in (path, keep):
            for _ in range(50):
                try:
                    ours.attacker(inside.unmount, each)
                except Refused:
                    break
        for each in (path, keep):
            if os.path.lexists(each):
                os.unlink(each)
    assert set(seen) <= {"ok", "namespace-unusable"}
    command("ip", "netns", "add", network.netns)
    ours.expect_held()


@attack(82)
def test_nothing_is_restarted_where_a_changed_name_leads(ours: Ours) -> None:
    network = ours.new_network()
    path = f"/run/netns/{network.netns}"
    assert ours.reason(**request_of(network)) == "ok"
    pid = network.pid
    ours.attacker(inside.unmount, path)
    ours.attacker(inside.bind, "/proc/self/ns/net", path)
    kill_process(pid)  # like the agent, with the host's pids
    time.sleep(1.5)

    def is_over() -> bool:
        container = ours.service.containers().get(network.container)
        return container is None or container.state == "exited"

    wait_until(is_over)
    expect_gone = ours.reason(**request_of(network))
    assert expect_gone == "namespace-unusable"
    ours.attacker(inside.unmount, path)
    os.unlink(path)
    command("ip", "netns", "add", network.netns)
    ours.expect_held()


@attack(83)
def test_the_namespace_deleted_and_made_again_by_the_agent(ours: Ours) -> None:
    network = ours.new_network()
    assert ours.reason(**request_of(network)) == "ok"
    before = network.pid
    for verb in ("del", "add"):
        assert ours.attacker(inside.run, ["ip", "netns", verb, network.netns])[0] == 0
    assert ours.reason(**request_of(network)) == "ok"
    assert network.pid != before
    assert identify(before) is None
    assert inode(f"/proc/{network.pid}/ns/net") == inode(f"/run/netns/{network.netns}")
    ours.expect_held()


@attack(84)
def test_a_namespace_of_another_user_namespace(ours: Ours) -> None:
    """Programs run there with their policy's privileges, which belong to the host's user namespace."""
    with without_namespace(ours) as (network, path):
        try:
            ours.attacker(inside.foreign_namespace, path)
        except Refused as refused:
            pytest.fail(f"the attacker could not even try: {refused}")
        reason = ours.reason(**request_of(network))
        if reason == "ok":
            assert inode(f"/proc/{network.pid}/ns/user") == inode("/proc/1/ns/user")
            status = Path(f"/proc/{network.pid}/status").read_text()
            assert f"CapEff:\t{1 << 12 | 1 << 10 | 1 << 13:016x}" in status
            ours.ask(ours.signal("KILL", network.pid))
        else:
            assert reason == "namespace-unusable"
    ours.expect_held()


@attack(85, answer="namespace-unusable")
def test_a_mount_over_the_directory_of_names(ours: Ours) -> None:
    """Mount one with a namespace at the wanted name. Agents that share the directory share the mount; it is undone."""
    network = ours.new_network()
    path = f"/run/netns/{network.netns}"
    kept = f"{STATE}/{network.id}.netns"
    ours.neutron(inside.write, kept, b"")
    ours.attacker(inside.bind, path, kept)
    ours.attacker(inside.mount, "evil", "/run/netns", "tmpfs")
    try:
        ours.attacker(inside.write, path, b"")
        ours.attacker(inside.bind, kept, path)
        assert ours.reason(**request_of(network)) == "namespace-unusable"
    finally:
        ours.attacker(inside.unmount, path)
        ours.attacker(inside.unmount, "/run/netns")
        ours.attacker(inside.unmount, kept)
    wait_until(lambda: os.path.exists(path))
    ours.expect_held()


@attack(85, answer="namespace-unusable")
@pytest.mark.parametrize("what", ["a file system", "a file", "the host's own namespace"])
def test_a_mount_inside_the_directory_of_names(ours: Ours, what: str) -> None:
    """Mount on the namespace: only the last step to the name may cross mounts."""
    network = ours.new_network()
    path, kept = f"/run/netns/{network.netns}", f"{STATE}/{network.id}.netns"
    sources = {"a file": kept, "the host's own namespace": "/proc/self/ns/net"}
    ours.neutron(inside.write, kept, b"")
    assert ours.reason(**request_of(network)) == "ok"
    before = identify(network.pid)
    if what == "a file system":
        ours.attacker(inside.unmount, path)
        ours.attacker(inside.remove, path)
        ours.attacker(inside.directory, path)
        ours.attacker(inside.mount, "evil", path, "tmpfs")
    else:
        ours.attacker(inside.bind, sources[what], path)
    try:
        found = inode(path)
        assert ours.reason(**request_of(network)) == "namespace-unusable"
        assert [each for each in ours.service.places.pins.iterdir() if inode(str(each)) == found] == []
        assert before is not None
        assert identify(before.pid) == before, "what runs already is left alone"
    finally:
        ours.attacker(inside.unmount, path)
        if os.path.isdir(path):
            os.rmdir(path)
            command("ip", "netns", "add", network.netns)
    assert ours.reason(**request_of(network)) == "ok"
    assert inode(f"/proc/{network.pid}/ns/net") == inode(path)
    ours.expect_held()
