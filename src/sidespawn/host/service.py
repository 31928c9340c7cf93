"""Serves a service's requests, or refuses them all if it has no valid policy.

decide -> start
check -> signal
"""

from __future__ import annotations

import json

from sidespawn.core.decide import Allowed, check_signal, decide
from sidespawn.core.policy import Pace, ServiceLimits
from sidespawn.core.wire import Reply, Request, SignalRequest
from sidespawn.errors import PolicyError
from sidespawn.host import file_systems
from sidespawn.host.journal import Event, Journal
from sidespawn.host.keeper import Keeper
from sidespawn.system.places import Places


class Serving:
    """Serves requests by the keeper's policy."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper, self.policy, self.journal = keeper, keeper.policy, keeper.journal
        self.pace, self.limits, self.spool_uid = self.policy.pace, self.policy.limits, self.policy.agent.spool_uid
        self.clean, self.instance_of = keeper.clean, keeper.ledger.marked  # of a start that was tried
        self.was_told = keeper.ledger.unmark  # the answer is recorded, so nothing needs cleaning up

    def recover(self) -> None:
        """Recover after a run that was killed while serving."""
        self.keeper.recover(after_kill=True)

    def adopt(self) -> None:
        """Adopt side containers in the first run since enabling."""
        if not self.keeper.places.adoption.exists():
            self.keeper.adopt()

    def answer(self, request: Request, *, by_operator: bool) -> Reply:
        """Check the request and carry it out. Raises SidespawnError."""
        if isinstance(request, SignalRequest):
            if not by_operator:
                check_signal(self.policy, request)
            return self.keeper.signal(request)
        allowed = decide(self.policy, request, self.keeper.read_configuration)
        note_excused(self.journal, allowed, request.id)
        return self.keeper.start(allowed, request.id)

    def netns_of(self, pid: int) -> str:
        """Return the network namespace of the side container with this pid; empty if unknown."""
        record = self.keeper.ledger.find_pid(pid)
        return record.netns if record else ""

    def put_file_systems_right(self) -> None:
        """Restore file systems that an agent with CAP_SYS_ADMIN has changed since they were made or last checked."""
        for each in file_systems.given_to_containers(self.keeper.places, self.policy):
            try:
                if was := file_systems.put_right(each):
                    message = f"the file system {each.path.name} differed from the policy ({was}) and was restored"
                    self.journal.write(Event.RESTORED, message)
            except OSError as error:
                message = f"the file system {each.path.name} cannot be restored: {error.strerror}"
                self.journal.write(Event.RESTORED, message)

    def sweep(self) -> None:
        from sidespawn.host.sweep import sweep  # noqa: PLC0415 - not needed by runs that serve requests

        sweep(self.keeper)


class Refusing:
    """Refuses each request with the error of the invalid policy; leaves running side containers alone."""

    def __init__(self, error: PolicyError, places: Places) -> None:
        self.error = error
        self.pace, self.limits = Pace(linger=0, parallel=1), ServiceLimits()
        self.spool_uid = places.spool.stat().st_uid  # the owner that the last valid policy gave it

    def answer(self, *_: object, **__: object) -> Reply:
        raise self.error

    def netns_of(self, *_: object) -> str:
        return ""

    instance_of = netns_of

    def nothing(self, *_: object) -> None:
        pass

    recover = adopt = was_told = clean = put_file_systems_right = sweep = nothing


Service = Serving | Refusing


def note_excused(journal: Journal, allowed: Allowed, request_id: str) -> None:
    """Record arguments that monitor mode let pass, for `sidespawn learn`: values as JSON, and so escaped."""
    names = json.dumps(dict(allowed.bindings))
    where = {"names": names, "instance": allowed.plan.instance, "request": request_id}
    for each in allowed.excused:
        value = "" if each.untrusted_value is None else json.dumps(each.untrusted_value)
        message = f"let pass in monitor mode ({each.reason}): {each.message}"
        what = {"reason": each.reason, "rule": each.rule, "option": each.option, "value": value}
        journal.write(Event.MONITORED, message, count=each.count, **what, **where)
