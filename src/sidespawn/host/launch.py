"""Launches one allowed plan, and returns a record of the side container once it runs and is ready.

    mark -> copies and mounts -> start -> verify -> wait until ready

If it fails, the keeper removes the remains after the failure is reported; see Keeper.clean.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from sidespawn.core.decide import Allowed
from sidespawn.core.plan import KnownFile, Plan
from sidespawn.engines import Engine, NameTaken, Pins, why_ended
from sidespawn.errors import LaunchError, Reason
from sidespawn.host.ledger import Ledger, Record, digest_of
from sidespawn.host.limits import Falls
from sidespawn.host.readiness import wait_until_ready
from sidespawn.host.snapshots import Snapshots
from sidespawn.host.state import AgentState, pin_mounts
from sidespawn.system.namespaces import PinnedNamespace, namespace_of
from sidespawn.system.processes import end, identify

TRIES = 8  # of a start whose name is taken: an engine may be killed again while it frees the name or uses it


class Launcher:
    """Launches side containers of one service."""

    def __init__(self, engine: Engine, ledger: Ledger, snapshots: Snapshots, falls: Falls, state: AgentState) -> None:
        self.engine, self.ledger, self.snapshots, self.falls, self.state = engine, ledger, snapshots, falls, state

    def launch(self, allowed: Allowed, netns: PinnedNamespace, pin: Path, request_id: str) -> Record:
        plan = allowed.plan
        with ExitStack() as stack:
            self.ledger.mark(request_id, plan.instance)
            copies = self.snapshots.write(plan)
            pid_file = pin.with_suffix(".pid")
            stack.callback(pid_file.unlink, missing_ok=True)
            pins = Pins(
                netns=netns.path,
                pid_file=pid_file,
                mounts=pin_mounts(plan, self.state, pin, stack),
                configuration=copies[: len(plan.configuration)],
                scripts=copies[len(plan.configuration) :],
            )
            container, pid = self.start(plan, pins, netns, request_id)
        process = identify(pid)
        try:
            if process is None:
                raise LaunchError(Reason.EXITED, f"{plan.name} ended at once", see_log(plan))
            if namespace_of(pid) not in (None, netns.inode):
                raise LaunchError(Reason.NAMESPACE_MISMATCH, f"{plan.name} came up in another network namespace")
            children = wait_until_ready(plan, process, see_log(plan))
        except LaunchError as error:
            if process is not None:
                end(process, "KILL", plan.grace)
            if error.reason in (Reason.EXITED, Reason.NOT_READY):
                self.falls.note(plan.instance)
            if error.reason is Reason.EXITED:
                error.reason = why_ended(self.engine.find(plan.name))  # maybe at its memory limit, before it was ready
            raise
        return Record(
            instance=plan.instance,
            container=container,
            name=plan.name,
            pid=process.pid,
            started=process.started,
            since=time.time(),
            netns=plan.netns,
            netns_inode=netns.inode,
            digest=plan.digest,
            request=request_id,
            pid_file=None if plan.pid_file is None else plan.pid_file.beneath,
            configuration=tuple(
                KnownFile(path=file.path, beneath=file.beneath, rules=file.rules, digest=digest_of(file.text or ""))
                for file in plan.configuration
            ),
            bindings=dict(allowed.bindings),
            grace=plan.grace,
            children=children,
        )

    def start(self, plan: Plan, pins: Pins, netns: PinnedNamespace, request_id: str) -> tuple[str, int]:
        """Start the container, or return the one that an earlier run started before it was killed."""
        for _ in range(TRIES):
            try:
                return self.engine.start(plan, pins, request_id)
            except NameTaken:
                found = self.engine.find(plan.name)
            if found is not None and not found.digest:
                break  # sidespawn did not start it
            if found is not None and found.pid is not None:
                # With a configuration file: which text it got is no longer known.
                same = found.digest == plan.digest and not plan.configuration
                if same and namespace_of(found.pid) == netns.inode:
                    return found.id, found.pid
                if process := identify(found.pid):
                    end(process, "TERM", plan.grace)
            self.engine.remove(plan.name)
        raise LaunchError(Reason.ENGINE_FAILED, f"another container has the name {plan.name}", "rename or remove it")


def see_log(plan: Plan) -> str:
    return f"for its output: sidespawn logs {plan.service} {plan.name}"
