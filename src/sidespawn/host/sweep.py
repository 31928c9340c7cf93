"""Does the timer's work: cleans up after programs that ended by themselves, and after cleanups that failed."""

from __future__ import annotations

from sidespawn.core.decide import child_pid_files
from sidespawn.frozen import replace
from sidespawn.host.children import find_children
from sidespawn.host.journal import Event
from sidespawn.host.keeper import Keeper


def sweep(keeper: Keeper) -> None:
    """Remove side containers whose program has ended by itself, and records of containers that are gone."""
    keeper.recover(after_kill=True)
    keeper.falls.expire()
    for request_id in keeper.ledger.marks():
        keeper.clean(request_id)
    listed = keeper.engine.list(keeper.policy.service)
    instances = {each.instance for each in listed}
    for record in keeper.ledger.records():
        if not record.is_running and (record.adopted or record.instance not in instances):
            keeper.forget(record)
            if record.adopted:
                keeper.journal.write(Event.EXITED, f"{record.name} had ended by itself", instance=record.instance)
        elif record.children:
            renew_children(keeper, record.key)
    keeper.adopt()
    for each in listed:
        if each.pid is None:
            known = keeper.ledger.find(each.instance)
            if known is None or known.name != each.name:  # earlier versions used other names
                keeper.engine.remove(each.name)
            elif not known.is_running:
                keeper.forget(known)
            keeper.note_end(each)
    alive = {each.instance for each in listed if each.pid is not None}
    for key in keeper.ledger.keys() - alive:
        if keeper.ledger.find(key) is None:  # torn, and its side container does not run
            keeper.ledger.remove(key)
            keeper.snapshots.remove(key)


def renew_children(keeper: Keeper, key: str) -> None:
    """Update the agent's pid files for children that the program has replaced."""
    with keeper.only(key):
        record = keeper.ledger.find(key)
        if record is None or record.adopted or record.pids == tuple(filter(record.process_of, record.pids)):
            return
        children = find_children(record.process, child_pid_files(keeper.policy, record.bindings))
        if children:
            keeper.ledger.write(replace(record, children=children))
            for beneath, (pid, _) in children.items():
                keeper.write_pid_file(beneath, pid)
