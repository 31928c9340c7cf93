"""Mounting one file gives access to its file system, so nothing that the host trusts is on one that an agent has."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

import sidespawn
from sidespawn.host import file_systems
from sidespawn.host.directories import given_to_containers
from sidespawn.host.journal import Event
from sidespawn.host.policies import load_policy
from sidespawn.system.places import NAMESPACES
from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.stage import STATE, Ours, Refused
from tests.lab.networks import command


def trusted(ours: Ours) -> dict[tuple[int, int], Path]:
    """Return device and inode of all that the host reads and trusts."""
    places = ours.service.places
    paths = [places.policy, *(path for path in places.home.rglob("*") if os.stat(path).st_dev == home_device(ours))]
    return {(status.st_dev, status.st_ino): path for path in paths for status in [os.stat(path)]}


def home_device(ours: Ours) -> int:
    return os.stat(ours.service.places.home).st_dev


@attack(131)
def test_fanotify_hands_out_nothing_that_the_host_trusts(ours: Ours) -> None:
    """It gives read-write descriptors of whatever the host opens there, even through a read-only mount."""
    places = ours.service.places
    mounted = ["/usr/sbin/dnsmasq", "/etc/neutron/kill_scripts/dnsmasq-kill", str(places.spool), str(places.replies)]
    ours.expect_idle()
    before = places.compiled.read_bytes()
    with ThreadPoolExecutor(1) as thread:
        watching = thread.submit(ours.attacker, inside.opened_by_others, mounted, 5.0)
        ours.expect_held()
        ours.service.enable()  # reads and writes the wrappers
        ours.expect_held()
        found = {tuple(each) for each in watching.result()}
    assert found, "the attacker sees what the host opens among the replies, so it would see more"
    known = trusted(ours)
    assert {path.name for path in known.values()} >= {"policy.json", "lock", "bucket", "ledger", "claims"}
    assert not [known[each] for each in found & known.keys()]
    assert places.compiled.read_bytes() == before
    ours.expect_held()


@attack(131)
def test_no_mount_that_enable_prints_is_of_a_file_system_with_anything_that_the_host_trusts(ours: Ours) -> None:
    """Compare device numbers, on the host and in the agent's own table of mounts."""
    places = ours.service.places
    printed = [each.partition("=")[2].split(":") for each in ours.service.podman_options if "--volume=" in each]
    assert {each[0] for each in printed} >= {str(places.spool), str(places.replies), str(ours.service.wrapper)}
    trusted_paths = [
        *(places.policy, places.home, places.answers, places.operator, places.operators_doorbell, places.claims),
        *(places.ledger, places.pins, places.compiled, places.syscalls, places.lock, places.bucket),
        *(path for path in places.home.iterdir() if path not in given_to_containers(places)),
        *sorted(Path(sidespawn.__file__).parent.rglob("*.py")),
    ]
    trusted_devices = {os.stat(path).st_dev: path for path in trusted_paths}
    ours_of = {source: os.stat(source).st_dev for source, *_ in printed if Path(source) != NAMESPACES}
    assert not [(source, trusted_devices[device]) for source, device in ours_of.items() if device in trusted_devices]
    assert len({ours_of[str(each)] for each in (places.spool, places.replies, ours.service.wrapper)}) == 3
    rows = [line.split() for line in ours.attacker(inside.read, "/proc/self/mountinfo").splitlines()]
    targets = {target: source for source, target, *_ in printed}
    seen = {row[4]: os.makedev(*map(int, row[2].split(":"))) for row in rows}
    assert {targets[path]: seen[path] for path in targets if targets[path] in ours_of} == ours_of


def is_as_made(ours: Ours) -> bool:
    """Return whether all that containers mount has the size and flags of the policy."""
    found = []
    for each in file_systems.given_to_containers(ours.service.places, load_policy(ours.service.places)):
        now, status = os.statvfs(each.path), os.stat(each.path)
        limits = (now.f_blocks * now.f_frsize, now.f_files, now.f_flag & file_systems.SEEN)
        is_root_right = (status.st_uid, status.st_mode & 0o7777) == (each.owner, each.mode)
        found.append(limits == (each.size, each.names, each.flags) and is_root_right)
    return all(found)


def fill(ours: Ours, path: str) -> None:
    """Write more than fits otherwise."""
    if path.startswith("/run/sidespawn"):
        ours.attacker(inside.fill, f"{path}/junk", 80 << 20)
        ours.attacker(inside.directory, f"{path}/deep")
        ours.attacker(inside.deep, f"{path}/deep", 300)
        ours.attacker(inside.names, path, 3000)
    else:
        ours.attacker(inside.fill, path, 40 << 20)


REMOUNTED = {
    "as large as memory": ("size=40g,nr_inodes=10000000", 0, False),
    "large, and filled": ("size=40g,nr_inodes=10000000", 0, True),
    "tiny": ("size=4k", 0, False),
    "read-only": ("", inside.MS_RDONLY, False),
    "filled, then read-only": ("size=40g", inside.MS_RDONLY, True),
}


@attack(134)
@pytest.mark.parametrize(("data", "flags", "fills"), REMOUNTED.values(), ids=REMOUNTED)
def test_the_next_run_restores_what_an_agent_gets(ours: Ours, data: str, flags: int, fills: bool) -> None:
    """Remounting one mount changes all mounts of it. Wrapper and kill script are one file each."""
    places = ours.service.places
    given = [str(places.spool), str(places.replies), "/usr/sbin/dnsmasq", "/etc/neutron/kill_scripts/dnsmasq-kill"]
    read_only = given[1:]
    ours.expect_idle()
    assert is_as_made(ours)
    try:
        for path in given:
            if data:
                with suppress(Refused):  # a size too small for its contents
                    ours.attacker(inside.mount, "none", path, "", inside.MS_REMOUNT, data)
            if fills:
                fill(ours, path)
            if flags:
                ours.attacker(inside.mount, "none", path, "", inside.MS_REMOUNT | flags)
        assert not is_as_made(ours)
        ours.service.enable()
        assert is_as_made(ours)
        ours.expect_held()
        assert ours.service.wrapper.stat().st_mode & 0o7777 == 0o755
    finally:
        for path in read_only:
            ours.attacker(inside.mount, "none", path, "", inside.MS_REMOUNT | inside.MS_BIND | inside.MS_RDONLY)
        ours.attacker(inside.mount, "none", given[0], "", inside.MS_REMOUNT | inside.MS_BIND)


@attack(134)
def test_a_run_alone_restores_what_was_remounted_and_reports_it(ours: Ours) -> None:
    """Check that this needs no operator."""
    places = ours.service.places
    ours.expect_idle()
    before = len(ours.service.journal(event="restored"))
    ours.attacker(inside.mount, "none", str(places.spool), "", inside.MS_REMOUNT, "size=40g,nr_inodes=10000000")
    ours.attacker(inside.fill, f"{places.spool}/junk", 40 << 20)
    assert not is_as_made(ours)
    ours.expect_held()
    assert is_as_made(ours)
    ours.expect_idle()
    (record,) = ours.service.journal(event="restored")[before:]
    assert "the file system spool differed from the policy" in record["MESSAGE"]
    assert record["MESSAGE_ID"] == Event.RESTORED.message_id


@attack(135)
def test_wrappers_that_the_agent_changed_are_written_again_by_enable(ours: Ours) -> None:
    """Rewrite, empty or oversize them, write bytes that are not text, or change mode and owner."""
    wrapper, path = ours.service.wrapper, "/usr/sbin/dnsmasq"
    content, inode = wrapper.read_bytes(), wrapper.stat().st_ino
    ours.attacker(inside.writable, path)
    try:
        for change in (b"#!/bin/sh\nexit 0\n", b"\xff\xfe\0", b""):
            ours.attacker(inside.truncate, path, 0)
            ours.attacker(inside.append, path, change)
            ours.attacker(inside.mode, path, 0o4000)
            ours.service.enable()
            status = wrapper.stat()
            assert (wrapper.read_bytes(), status.st_ino) == (content, inode)
            assert (status.st_uid, status.st_mode & 0o7777) == (0, 0o755)
        ours.attacker(inside.mount, "none", path, "", inside.MS_REMOUNT, "size=2g")
        ours.attacker(inside.truncate, path, 1 << 40)
        ours.service.enable()
        assert (wrapper.read_bytes(), wrapper.stat().st_ino) == (content, inode)
    finally:
        ours.attacker(inside.mount, "none", path, "", inside.MS_REMOUNT | inside.MS_BIND | inside.MS_RDONLY)
    ours.expect_held()


@attack(136)
@pytest.mark.parametrize("when", ["before the answer", "after it"])
def test_a_forged_reply_is_noticed_and_reported(ours: Ours, when: str) -> None:
    request = ours.request(argv=["dnsmasq", *ours.network.options(), "--log-dhcp"])
    lie = {"v": 1, "id": request["id"], "status": "running", "reason": "ok", "message": "it runs", "pid": 1}
    ours.expect_idle()
    before = len(ours.service.journal(event="forged"))
    replies = str(ours.service.places.replies)
    ours.attacker(inside.writable, replies)
    try:
        if when == "after it":
            assert ours.ask(request)[0]["pid"] == ours.network.pid
        name = request["id"] if when == "after it" else "f" * 32
        ours.attacker(inside.write, f"{replies}/{name}.json", json.dumps(lie).encode())
        ours.expect_held()
        ours.expect_idle()
        (record,) = ours.service.journal(event="forged")[before:]
        assert f"{name}.json" in record["MESSAGE"]
        assert record["MESSAGE_ID"] == Event.FORGED.message_id
        assert not (ours.service.places.replies / f"{name}.json").exists()
    finally:
        ours.attacker(inside.mount, "none", replies, "", inside.MS_REMOUNT | inside.MS_BIND | inside.MS_RDONLY)
    ours.expect_held()


@attack(133)
def test_no_directory_that_the_host_opens_leads_to_its_root(ours: Ours) -> None:
    """Descriptors from fanotify use the opener's mount, whose `..` continues through the host's mounts."""
    places = ours.service.places
    mounted = ["/usr/sbin/dnsmasq", str(places.spool), str(places.replies), STATE, "/run/netns"]
    ours.expect_idle()
    with ThreadPoolExecutor(1) as thread:
        watching = thread.submit(ours.attacker, inside.up_from_directories, mounted, str(ours.files.victim), 8.0)
        ours.expect_held()
        ours.expect_idle()
        ours.service.enable()
        command("systemctl", "start", ours.service.unit)  # like the timer's run
        ours.expect_held()
        found = watching.result()
    own = (*map(str, (places.home, places.run / "image", NAMESPACES)), str(ours.service.state))
    leads = [each for each in found if each.startswith(own) or each == "/"]
    assert leads == [], "the host opened them by its own mounts"
    assert "events" in found, "the attacker sees directories that others open on the host's file systems"
    ours.expect_held()
