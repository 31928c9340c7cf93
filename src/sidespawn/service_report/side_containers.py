"""Lists a service's side containers, as the engine and the ledger see them."""

from __future__ import annotations

import os
import time

from sidespawn.core.policy import Policy
from sidespawn.engines import get_engine
from sidespawn.host.adoption import find_legacy
from sidespawn.host.ledger import Ledger, Record
from sidespawn.host.policies import load_policy
from sidespawn.system import kernel
from sidespawn.system.files import closing
from sidespawn.system.namespaces import namespace_of, opened_names
from sidespawn.system.places import NAMESPACES, Places

Row = dict[str, str | int | None]


def is_orphan(pid: int, netns: str) -> bool:
    """Return whether its network namespace has lost its name: nothing can reach it, and no agent requests it again."""
    inode = namespace_of(pid)
    if not netns or inode is None:
        return False
    try:
        flags, of_namespaces = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, os.stat("/proc/self/ns/net").st_dev
        with opened_names(NAMESPACES) as held, closing(os.open(netns, flags, dir_fd=held)) as name:
            return kernel.device_and_mode(name)[0] != of_namespaces or os.fstat(name).st_ino != inode
    except OSError:
        return True


def side_containers(places: Places) -> list[Row]:
    policy = load_policy(places)
    engine, mode = (
        get_engine(policy.side_container.engine, policy.service),
        "monitor" if policy.is_monitor else "enforce",
    )
    records = {each.container: each for each in Ledger(places.ledger).records()} if places.ledger.is_dir() else {}
    rows: list[Row] = []
    for found in sorted(engine.list(places.service), key=lambda each: each.name):
        record = records.get(found.id)
        rows.append(
            {
                "service": places.service,
                "instance": found.instance,
                "name": found.name,
                "state": found.state,
                "pid": found.pid,
                "since": moment(record.since) if record else None,
                "netns": found.netns,
                "request": found.request,
                "container": found.id,
                "adopted": False,
                "orphan": found.pid is not None and is_orphan(found.pid, found.netns),
                "mode": mode,
            }
        )
    rows += [
        {
            "service": places.service,
            "instance": record.instance,
            "name": record.name,
            "state": "running",
            "pid": record.pid,
            "since": moment(record.since),
            "netns": record.netns,
            "request": None,
            "container": record.container,
            "adopted": True,
            "orphan": is_orphan(record.pid, record.netns),
            "mode": mode,
        }
        for record in adopted(policy)
    ]
    return rows


def moment(since: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))


def adopted(policy: Policy) -> list[Record]:
    """Return running side containers of legacy wrappers, whether or not a run of the service has seen them yet."""
    if policy.adopt is None:
        return []
    found = find_legacy(policy, get_engine(policy.adopt.engine, policy.service))
    return sorted((each for _, each in found if isinstance(each, Record)), key=lambda each: each.name)
