"""An agent's lock costs the host a second, and other agents nothing."""

from __future__ import annotations

import json
import os

import pytest

from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.stage import Ours, Refused, Succeeded, Target
from tests.attacks.test_files import child
from tests.attacks.tripleo import TripleO
from tests.lab.networks import command

BURST = 10


@attack(22)
def test_a_lock_held_forever(target: Target) -> None:
    names = ["processes"] if isinstance(target, Ours) else ["sync.lock", "wrapper.lock", "processes"]
    pids = [target.attacker(inside.hold, f"{target.spool}/{name}", "flock") for name in names]
    try:
        target.wake()
        target.expect_held()
    finally:
        for pid in pids:
            target.attacker(inside.end, pid)


@attack(23)
def test_a_lock_on_what_is_mounted_read_only(ours: Ours) -> None:
    """Lock the replies, the wrapper, and the spool's directory itself."""
    for path in (str(ours.service.places.replies), "/usr/sbin/dnsmasq", ours.spool):
        with child(ours.attacker, ours.attacker(inside.hold, path, "read-only")):
            ours.expect_held()


@attack(24)
def test_the_locks_file_replaced(ours: Ours) -> None:
    """Writers with the old file's lock get no answer, and nothing in the new file is lost."""
    with child(ours.attacker, ours.attacker(inside.hold, ours.requests, "flock")):
        request = ours.request()
        ours.put(json.dumps(request).encode() + b"\n")
        assert ours.answer(request["id"])["reason"] == "ok"
        ours.expect_held()


@attack(25)
def test_flock_against_fcntl(ours: Ours) -> None:
    with child(ours.attacker, ours.attacker(inside.hold, ours.requests, "fcntl")):
        ours.expect_held()


@attack(27)
def test_a_lock_that_a_child_inherits(ours: Ours) -> None:
    ours.attacker(inside.hold, ours.requests, "inherited")
    ours.expect_held()


@attack(28)
def test_a_writer_stopped_while_it_has_the_lock(ours: Ours) -> None:
    """If it continues and writes, no one reads it."""
    pid = ours.attacker(inside.hold, ours.requests, "stopped")
    with child(ours.attacker, pid):
        ours.expect_held()
        unreadable = len(ours.service.journal(event="unreadable"))
        ours.attacker(inside.wake, pid)
        ours.expect_held()
        assert len(ours.service.journal(event="unreadable")) == unreadable


@attack(26, 104)
def test_requests_at_once(target: Target) -> None:
    """When each side locked another file, most requests were lost; here all are served."""
    if isinstance(target, TripleO):
        names = [target.new_namespace() for _ in range(BURST)]
        calls = [target.call(name) for name in names]
        assert target.attacker(inside.start_many, calls) == BURST, "the wrappers say that all is well"
        target.wait_until_idle(10)
        running = target.containers(running=True)
        runs = sum(any(each.endswith(name) for each in running) for name in names)
    else:
        assert isinstance(target, Ours)
        networks = [target.new_network() for _ in range(BURST)]
        tag = "PROCESS_TAG=dnsmasq-"
        calls = [
            ["ip", "netns", "exec", each.netns, "env", tag + each.id, "/usr/sbin/dnsmasq", *each.options()]
            for each in networks
        ]
        assert target.attacker(inside.start_many, calls) == BURST
        served = target.service.containers(every=False)
        runs = sum(each.container in served for each in networks)
    if runs < BURST:
        raise Succeeded("most of the requests are lost, and their wrappers had returned 0")
    target.expect_held()


@attack(103)
def test_more_requests_than_a_start_limit_allows(target: Target) -> None:
    """Start a separate run for each, one after the other."""
    for _ in range(8):
        if isinstance(target, Ours):
            command("systemctl", "stop", target.service.unit)
            assert target.network.start().returncode == 0
        else:
            assert isinstance(target, TripleO)
            target.wake()
            target.wait_until_idle()
    target.expect_held()


def test_the_attacker_has_what_the_demos_agent_has(ours: Ours) -> None:
    """Otherwise the other tests would prove little."""
    status = dict(line.split(":\t") for line in ours.attacker(inside.read, "/proc/self/status").splitlines())
    assert int(status["CapEff"], 16) == 1 << 12 | 1 << 21  # NET_ADMIN, SYS_ADMIN
    assert ours.attacker(inside.namespace, "/proc/self/ns/pid") == str(os.stat("/proc/self/ns/pid").st_ino)
    assert "shared:" in ours.attacker(inside.read, "/proc/self/mountinfo").partition(" /run/netns ")[2].split("\n")[0]
    with pytest.raises(Refused, match="No such file"):
        ours.attacker(inside.read, str(ours.files.victim))
