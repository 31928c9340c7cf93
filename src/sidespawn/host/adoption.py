"""Finds and verifies side containers that legacy wrappers started.

The engine only says where to look.  A container counts as a policy's if its name and image match the policy, and its
program runs in that container, with arguments for that instance, in the network namespace that its name stands for.
The first process may be a shell or `ip netns exec`, so the program is searched for among its descendants.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sidespawn.core.adoption import names_of, recognise
from sidespawn.core.policy import Adopt, Policy
from sidespawn.engines import Engine, Other
from sidespawn.errors import Denied, Reason, SidespawnError, quoted
from sidespawn.host.children import descendants
from sidespawn.host.journal import Event, Journal
from sidespawn.host.ledger import Ledger, Record
from sidespawn.system.files import closing
from sidespawn.system.namespaces import namespace_of, open_namespace
from sidespawn.system.places import NAMESPACES, Places
from sidespawn.system.processes import Process, identify, is_alive


def adopt(policy: Policy, places: Places, engine: Engine, ledger: Ledger, journal: Journal) -> None:
    """Record running containers of legacy wrappers, and report once why others with such a name are not adopted."""
    reported = places.adoption.read_text().split() if places.adoption.exists() else []
    refused = []
    for other, found in find_legacy(policy, engine):
        if isinstance(found, SidespawnError):
            refused.append(other.id)
            if other.id not in reported:
                message = f"container {quoted(other.name)} is not adopted: {found.message}"
                journal.write(Event.NOT_ADOPTED, message, reason=found.reason, container=other.id)
        elif (known := ledger.find(found.key)) is None or known.process != found.process:
            ledger.write(found)
            message = f"{found.name} is adopted as {found.instance}, pid {found.pid} in {found.netns}"
            where = {"instance": found.instance, "container": other.id, "netns": found.netns}
            journal.write(Event.ADOPTED, message, pid=found.pid, **where)
    places.adoption.write_text("\n".join(refused))


def find_legacy(policy: Policy, engine: Engine) -> Iterator[tuple[Other, Record | SidespawnError]]:
    """Yield each running container with a name of legacy wrappers: a record, or why it is not the policy's."""
    adopt = policy.adopt
    if adopt is None:
        return
    for other in engine.others():
        bindings = names_of(policy, adopt, other.name)
        if bindings is not None:
            try:
                yield other, verified(policy, adopt, other, bindings)
            except SidespawnError as refusal:
                yield other, refusal


def verified(policy: Policy, adopt: Adopt, other: Other, bindings: dict[str, str]) -> Record:
    processes = list(processes_of(other, policy.table.program))
    if not processes:
        raise Denied(Reason.PROGRAM_NOT_ALLOWED, f"no process of it is {policy.table.program}")
    program, *below = processes
    try:
        known = recognise(policy, adopt, bindings, other.image, read_argv(program.pid))
        inode = namespace_of(program.pid)
        with closing(open_namespace(known.netns, NAMESPACES)) as namespace:
            if os.fstat(namespace).st_ino != inode:
                raise Denied(Reason.NAMESPACE_MISMATCH, f"its {policy.table.program} is not in {known.netns}")
    except OSError as error:
        message = f"its network namespace cannot be used: {error.strerror or error}"
        raise Denied(Reason.NAMESPACE_UNUSABLE, message) from None
    if not is_alive(program):  # otherwise everything read may be from a process that reused its pid
        raise Denied(Reason.NO_SUCH_PROCESS, "it has just ended")
    return Record(
        instance=known.instance,
        container=other.id,
        name=other.name,
        pid=program.pid,
        started=program.started,
        since=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + program.started / os.sysconf("SC_CLK_TCK"),
        netns=known.netns,
        netns_inode=inode,
        digest="",
        request="",
        pid_file=known.pid_file,
        configuration=known.configuration,
        bindings=known.bindings,
        grace=policy.side_container.grace,
        children={path: [child.pid, child.started] for path, child in zip(known.child_pid_files, below, strict=False)},
        adopted=True,
    )


def processes_of(other: Other, program: str) -> Iterator[Process]:
    """Yield the container's processes that run the program, each before its descendants."""
    for process in map(identify, (other.pid, *descendants(other.pid))):
        with suppress(OSError):
            runs = process and read_argv(process.pid)[0].rpartition("/")[2] == program
            # Its control group's name contains the container's id, with podman and docker.
            group = Path(f"/proc/{process.pid}/cgroup").read_bytes() if process and runs else b""
            if process and other.id.encode() in group and is_alive(process):
                yield process


def read_argv(pid: int) -> tuple[str, ...]:
    """Return the arguments that the process shows. Raises OSError if it is gone."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").removesuffix("\0")
    return tuple(words.split("\0"))
