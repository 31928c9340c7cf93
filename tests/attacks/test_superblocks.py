"""A mount of one file reaches its whole file system, so nothing that the host trusts lies on one that an agent has."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.stage import Ours


def trusted(ours: Ours) -> dict[tuple[int, int], Path]:
    """What the host reads and believes, by device and inode."""
    places = ours.service.places
    paths = [places.policy, *(path for path in places.home.rglob("*") if os.stat(path).st_dev == home_device(ours))]
    return {(status.st_dev, status.st_ino): path for path in paths for status in [os.stat(path)]}


def home_device(ours: Ours) -> int:
    return os.stat(ours.service.places.home).st_dev


@attack(131)
def test_fanotify_hands_out_nothing_that_the_host_trusts(ours: Ours) -> None:
    """It gives read-write descriptors of whatever the host opens there, read-only mount or not."""
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
