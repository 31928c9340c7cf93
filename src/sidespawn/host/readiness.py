"""Waits until a program is ready, as its policy says: a file exists, a port is bound, or it has lived long enough."""

from __future__ import annotations

import os
import time

from sidespawn.core.plan import Plan, Readiness, ReadyWhen
from sidespawn.errors import LaunchError, Reason
from sidespawn.host.children import find_children, open_inside
from sidespawn.system.processes import Process, exited, held

POLL, LONGEST_POLL = 0.004, 0.1  # seconds between two checks: a twentieth of the time waited


def wait_until_ready(plan: Plan, process: Process, hint: str) -> dict[str, list[int]]:
    """Return the ledger's entries for children whose pids the agent needs.

    Raises LaunchError if the program ends first, or takes longer than the policy allows.
    """
    readiness = plan.readiness
    began = time.monotonic()
    alive_until = began + (int(readiness.what) / 1000 if readiness.when is ReadyWhen.ALIVE else 0)
    with held(process) as pidfd:
        while pidfd is not None:
            waited = time.monotonic() - began
            ready = is_ready(process.pid, readiness, alive_until)
            children = find_children(process, plan.child_pid_files) if ready else None
            if exited(pidfd, min(LONGEST_POLL, max(POLL, waited / 20)) if children is None else 0):
                break
            if children is not None:
                return children
            if waited >= readiness.within:
                unready = f"{readiness.when} {readiness.what}"
                what = ", ".join(each.inside for each in plan.child_pid_files) if ready else unready
                message = f"{plan.name} was not ready ({what}) within {readiness.within:g} s"
                raise LaunchError(Reason.NOT_READY, message, hint)
    raise LaunchError(Reason.EXITED, f"{plan.name} ended before it was ready", hint)


def is_ready(pid: int, readiness: Readiness, alive_until: float) -> bool:
    if readiness.when is ReadyWhen.ALIVE:
        return time.monotonic() >= alive_until
    try:
        if readiness.when is ReadyWhen.LISTENS:
            return is_listening(pid, readiness.what)
        os.close(open_inside(pid, readiness.what))
        return True
    except OSError:
        return False


def is_listening(pid: int, what: str) -> bool:
    """Return whether a socket in the program's network namespace is bound to `what`, such as udp:67 (proc_net(5))."""
    protocol, _, port = what.partition(":")
    suffix = f":{int(port):04X}"
    listening = "0A" if protocol == "tcp" else "07"  # TCP_LISTEN; a bound UDP socket says TCP_CLOSE
    for table in (protocol, f"{protocol}6"):
        # Line by line: others in the namespace can make the table as long as they like.
        with open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
            if any(row[1].endswith(suffix) and row[3] == listening for row in map(str.split, file)):
                return True
    return False
