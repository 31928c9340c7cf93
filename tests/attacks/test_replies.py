"""Replies, logs, the policy and leftovers cannot be turned against the host."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.stage import STATE, Ours, Refused, boottime_ms, expect_pid_1_answers
from tests.attacks.test_namespaces import request_of
from tests.lab.networks import SIDESPAWN, command, command_lines, kill_process, starts, unit_state, wait_until


@contextmanager
def writable_replies(ours: Ours) -> Iterator[str]:
    """Make them writable, for which SYS_ADMIN suffices. No other agent reads them."""
    replies = str(ours.service.places.replies)
    with pytest.raises(Refused, match="Read-only"):
        ours.attacker(inside.write, f"{replies}/x", b"x")
    ours.attacker(inside.writable, replies)
    try:
        yield replies
    finally:
        ours.attacker(inside.mount, "none", replies, "", inside.MS_REMOUNT | inside.MS_BIND | inside.MS_RDONLY)


@attack(118)
def test_links_among_the_replies(ours: Ours) -> None:
    """Put one at a reply's name, at the name that it is first written under, and at its bell's name."""
    with writable_replies(ours) as replies:
        for name in ("{}.json", ".{}.json.new", "{}.fifo"):
            request = ours.request(netns="x")
            ours.attacker(inside.link, ours.files.victim, f"{replies}/{name.format(request['id'])}")
            ours.put(json.dumps(request).encode() + b"\n")
            ours.expect_held()
        ours.attacker(inside.link, "/run", f"{replies}/directory")
        ours.expect_idle()
        ours.expect_held()


@attack(117)
@pytest.mark.parametrize("operation", ["start", "signal"])
def test_paths_as_ids(ours: Ours, operation: str) -> None:
    """Put them in otherwise valid requests: no file is made, replaced or removed there, and nothing is done."""
    network = ours.new_network()
    if operation == "signal":
        assert ours.reason(**request_of(network)) == "ok"
    places, secrets = ours.service.places, ours.files.victim.parent
    up = "../" * len(places.replies.parts)
    ids = (
        *(f"{up}{secrets}/made", f"{up}{ours.files.victim}", str(ours.files.victim), f"../ledger/{network.netns}"),
        *("../x", "../ledger/x", "../../x", "x/../y", ".", "..", f"../pins/{'a' * 32}", "%2e%2e%2fx"),
        *("a" * 31 + "/", "a" * 31 + "\0", "a" * 32 + ".json", "a" * 32 + "/../x"),
    )

    counters = {places.bucket.name, places.tally.name}

    def files() -> dict[str, int]:
        found = (path for top in (places.run, secrets) for path in top.rglob("*") if path.name not in counters)
        return {str(path): path.lstat().st_ino for path in found}

    ours.expect_idle()
    before, unreadable = files(), len(ours.service.journal(event="unreadable"))
    proper = ours.request(**request_of(network)) if operation == "start" else ours.signal("TERM", network.pid)
    ours.put(b"".join(json.dumps(proper | {"id": each}).encode() + b"\n" for each in ids))
    wait_until(lambda: len(ours.service.journal(event="unreadable")) == unreadable + len(ids))
    ours.expect_idle()
    assert files() == before
    assert (network.container in ours.service.containers()) == (operation == "signal")
    ours.expect_held()


@attack(119)
def test_ids_that_others_use(ours: Ours) -> None:
    """Agents see only their own service's replies, and an id used by another agent has no special meaning."""
    seen = ours.attacker(inside.listing, "/run/sidespawn")
    assert set(seen) == {"image", ours.service.name}
    assert sorted(ours.attacker(inside.listing, f"/run/sidespawn/{ours.service.name}")) == ["replies", "spool"]
    assert ours.bystander.start().returncode == 0
    other = next(ours.bystander.service.places.replies.glob("*.json"))
    text = other.read_bytes()
    (answer,) = ours.ask(ours.request(id=other.stem))
    assert answer["reason"] == "ok"
    assert other.read_bytes() == text
    ours.expect_held()


@attack(120)
def test_the_replies_fill_the_disk(ours: Ours) -> None:
    """Replies are on a small separate file system; when it is full, only its agent gets no answers."""
    with writable_replies(ours) as replies:
        free = os.statvfs("/run").f_bavail
        assert ours.attacker(inside.fill, f"{replies}/junk", 200 << 20) < 64 << 20
        assert free - os.statvfs("/run").f_bavail < (64 << 20) // 4096
        ours.put(b"".join(json.dumps(ours.request(netns="x")).encode() + b"\n" for _ in range(20)))
        assert ours.bystander.start().returncode == 0
        ours.attacker(inside.remove, f"{replies}/junk")
    ours.expect_held()


@attack(118)
def test_a_forged_reply_affects_no_other_agent(ours: Ours) -> None:
    """Root's own record says what was answered, so the request is served, and the forged reply replaced."""
    request = ours.request(argv=["dnsmasq", *ours.network.options(), "--log-dhcp"])
    with writable_replies(ours) as replies:
        ours.attacker(inside.write, f"{replies}/{request['id']}.json", b'{"reason": "ok"}')
        ours.put(json.dumps(request).encode() + b"\n")
        path = ours.service.places.replies / f"{request['id']}.json"

        def is_replaced() -> bool:
            with suppress(FileNotFoundError):  # the forged one was removed just now
                return b"pid" in path.read_bytes()
            return False

        wait_until(is_replaced, patience=60)
        ours.expect_held()


@attack(132)
def test_an_operator_is_not_answered_by_the_agent(ours: Ours) -> None:
    """`sidespawn stop` believes only what root wrote, so a program that it calls stopped is gone."""
    network, bait = ours.new_network(), ours.new_network()
    network.start()
    with writable_replies(ours) as replies, ThreadPoolExecutor(1) as thread:
        lying = thread.submit(ours.attacker, inside.answer_everything, replies, 4.0)
        assert bait.start().returncode == 0
        done = command(*SIDESPAWN, "stop", ours.service.name, network.container)
        assert network.container in done.stdout
        assert network.container not in ours.service.containers(every=False)
        assert network.record is None
        answered = lying.result()
    assert answered, "the agent's own request had a bell, so the attack was real"
    assert not [each for each in answered if not ours.service.journal(request=each)], "each was served all the same"
    ours.expect_held()


@attack(129)
def test_a_doorbell_rung_without_end_costs_few_short_runs(ours: Ours) -> None:
    ours.expect_idle()
    before, began = starts(ours.service), time.monotonic()
    while time.monotonic() - began < 6:
        ours.wake()
    runs, took = starts(ours.service) - before, time.monotonic() - began
    assert runs <= took + 1, "a run lasts a second at least"
    doorbell = str(ours.service.places.doorbell)
    with pytest.raises(Refused, match="Resource temporarily unavailable"):
        for _ in range(100):
            ours.attacker(inside.ring, doorbell, 1 << 16)
    ours.expect_held()
    ours.expect_idle()


@attack(129)
def test_a_doorbell_emptied_by_the_agent_delays_its_own_requests(ours: Ours) -> None:
    """Any reader, with DAC_OVERRIDE, can be quicker than systemd. A wrapper rings again."""
    ours.expect_idle()
    with ThreadPoolExecutor(1) as thread:
        swallowing = thread.submit(ours.attacker, inside.swallow, str(ours.service.places.doorbell), 5.0)
        ours.expect_held()
        swallowing.result()
    ours.expect_held()


@attack(130)
def test_the_doorbell_cannot_be_replaced(ours: Ours) -> None:
    doorbell = ours.service.places.doorbell
    before = (doorbell.stat().st_ino, doorbell.stat().st_mode)
    for change in (inside.remove, inside.pipe, inside.directory):
        with suppress(Refused):
            ours.attacker(change, str(doorbell))
    with pytest.raises(Refused, match="Read-only"):
        ours.attacker(inside.mode, str(doorbell), 0o600)
    assert (doorbell.stat().st_ino, doorbell.stat().st_mode) == before
    ours.expect_held()


@attack(130)
@pytest.mark.parametrize("what", [inside.pipe, inside.directory, inside.remove], ids=lambda each: each.__name__)
def test_replacing_the_doorbell_silences_only_its_agent(ours: Ours, what: Callable[..., None]) -> None:
    """systemd holds the FIFO open. When it looks up the name again, it refuses an object that it did not make."""
    doorbell, socket = str(ours.service.places.doorbell), f"sidespawn@{ours.service.name}.socket"
    with writable_replies(ours):
        ours.attacker(inside.remove, doorbell)
        ours.attacker(what, doorbell)
    ours.expect_idle()
    assert unit_state(socket) == "active"
    assert ours.bystander.start().returncode == 0
    try:
        again = command("systemctl", "restart", socket, check=False)
        assert (again.returncode == 0) == (what is inside.remove)
        expect_pid_1_answers()
        assert ours.bystander.start().returncode == 0
    finally:  # like enabling does: recreate the directories
        command("systemctl", "stop", socket)
        place = ours.service.places.doorbell
        place.rmdir() if place.is_dir() else place.unlink()
        command("systemctl", "start", socket)
    ours.expect_held()


@attack(114)
def test_an_old_request_sent_again(ours: Ours) -> None:
    """Stop a running program with the same request twice: the second one is ignored."""
    network = ours.new_network()
    start = ours.request(netns=network.netns, env={}, argv=["dnsmasq", *network.options()])
    assert ours.ask(start)[0]["reason"] == "ok"
    stop = ours.signal("TERM", network.pid)
    assert ours.ask(stop)[0]["reason"] == "ok"
    ours.ask(start, stop)
    ours.expect_idle()
    assert network.container not in ours.service.containers(), "the start was not repeated"
    assert len(ours.service.journal(request=stop["id"])) == 1
    ours.expect_held()


@attack(113, answer="expired")
def test_a_request_from_before(ours: Ours) -> None:
    """Once its deadline, on the clock since boot, has passed, nothing is done for it."""
    old = ours.request(deadline=boottime_ms() - 1)
    older = ours.request(deadline=0)
    assert [each["reason"] for each in ours.ask(old, older)] == ["expired", "expired"]
    future = ours.request(deadline=boottime_ms() + 3_600_000)
    assert ours.ask(future)[0]["reason"] == "bad-request"
    ours.expect_held()


@attack(115)
@pytest.mark.parametrize("left", [0.0, 0.5, 0.95])
def test_all_files_that_a_run_keeps_torn(ours: Ours, left: float) -> None:
    """Damage records, the mark and claim of a killed run, copies, limits and the compiled policy at the same time."""
    places = ours.service.places
    running, ended, _ = networks = [ours.new_network() for _ in range(3)]
    requests = [request_of(each) for each in networks]
    ours.neutron(inside.write, f"{STATE}/torn.conf", b"log-async=20\n")
    requests[0]["argv"] = ["dnsmasq", *running.options(f"{STATE}/torn.conf")]
    started = ours.ask(*(ours.request(**each) for each in requests[:2]))
    assert [each["reason"] for each in started] == ["ok", "ok"]
    ours.expect_idle()
    kill_process(ended.pid)
    unanswered = [ours.request(**each) for each in requests[1:]]
    (places.claims / f"{1:020}").write_text("".join(f"{json.dumps(each)}\n" for each in unanswered))
    (places.ledger / f"{unanswered[0]['id']}.tried").write_text(ended.netns)
    directories = (places.ledger, places.claims, places.snapshots)
    torn = [places.bucket, places.compiled, *(path for each in directories for path in each.iterdir())]
    assert {path.suffix for path in torn} >= {".json", ".tried", ".0"}
    for path in torn:
        os.truncate(path, int(path.stat().st_size * left))
    answers = ours.ask(*(ours.request(**each) for each in requests))
    assert [(each["reason"], each["pid"]) for each in answers] == [("ok", each.pid) for each in networks]
    assert ours.ask(ours.signal("HUP", running.pid))[0]["reason"] == "ok"
    ours.expect_idle()
    command("systemctl", "start", ours.service.unit)  # like the timer's run
    ours.expect_idle()
    lines = [line for line in command_lines().values() if line.startswith("/usr/sbin/dnsmasq")]
    assert [sum(network.id in line for line in lines) for network in networks] == [1, 1, 1]
    assert list(places.claims.iterdir()) == list(places.pins.iterdir()) == list(places.ledger.glob("*.tried")) == []
    ours.expect_held()
