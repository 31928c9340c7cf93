"""Starts, signals and stops the side containers of one service, after a verdict.

    pin the namespace -> reconcile -> make way -> launch (launch.py) -> record -> pid files

Every step can be repeated after a crash at any point, because the container's name is made from the instance, and its
labels tell which request started it with which plan.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from sidespawn.core.configuration import CONFIGURATION_BYTES, accept_configuration
from sidespawn.core.decide import Allowed
from sidespawn.core.plan import KnownFile, Plan, container_name
from sidespawn.core.policy import Policy
from sidespawn.core.reconcile import Action, Standing, Step, reconcile
from sidespawn.core.wire import PROBE, Reply, SignalRequest, Status
from sidespawn.engines import Engine, Found, get_engine, why_ended
from sidespawn.errors import Denied, LaunchError, Reason, quoted
from sidespawn.frozen import replace
from sidespawn.host.journal import Event, Journal
from sidespawn.host.launch import Launcher, see_log
from sidespawn.host.ledger import Ledger, Record, digest_of, is_same, recovered
from sidespawn.host.limits import Falls, Listing, Room
from sidespawn.host.readiness import wait_until_ready
from sidespawn.host.snapshots import Snapshots
from sidespawn.host.state import AgentState
from sidespawn.system import kernel
from sidespawn.system.namespaces import HOSTS_OWN, PinnedNamespace, pinned_namespace
from sidespawn.system.places import Places
from sidespawn.system.processes import end, identify, send

ENDS = ("TERM", "KILL")


class Keeper:
    """Safe for several threads: operations on one instance run one after the other."""

    def __init__(self, policy: Policy, places: Places, engine: Engine, journal: Journal) -> None:
        self.policy, self.places, self.engine, self.journal = policy, places, engine, journal
        self.ledger = Ledger(places.ledger)
        old = policy.adopt.engine if policy.adopt else policy.side_container.engine
        self.legacy_engine = engine if old == policy.side_container.engine else get_engine(old, policy.service)
        self.adopting = threading.Lock()
        self.falls = Falls(places.ledger, policy.limits.backoff)
        self.room = Room(policy.service, self.ledger, policy.limits.instances)
        self.lock = threading.Lock()
        self.interrupted = False  # an earlier run was killed, and its unfinished work is not cleaned up yet
        self.state = AgentState(policy.agent.state_on_host, policy.agent.spool_uid, policy.side_container.gid)
        self.locks: dict[str, threading.Lock] = {}
        self.listing = Listing(policy.service, engine, self.adopt)
        self.snapshots = Snapshots(places.snapshots)
        self.launcher = Launcher(engine, self.ledger, self.snapshots, self.falls, self.state)
        for unfinished in places.ledger.glob(".*"):  # by a run that was killed
            unfinished.unlink()

    def only(self, instance: str) -> threading.Lock:
        """Hold this while operating on the instance; lanes separate most operations, but not all.

        The locks are kept until the run ends, which takes minutes at most.
        """
        return self.locks.setdefault(instance, threading.Lock())

    def recover(self, *, after_kill: bool = False) -> None:
        """If an earlier run was killed, remove its unfinished work. Nothing is started until that has succeeded.

        The ledger says which start it tried, so that this start is continued or cleaned up; see `clean`.
        """
        with self.lock:
            self.interrupted |= after_kill
            if not self.interrupted:
                return
            self.engine.reap(self.policy.service)  # first, since an engine may still be about to open a pin
            for pin in self.places.pins.iterdir():
                with suppress(OSError):
                    kernel.unmount(str(pin))
                pin.rmdir() if pin.is_dir() else pin.unlink()
            self.interrupted = False

    def adopt(self) -> None:
        """Record running side containers of legacy wrappers."""
        if self.policy.adopt is not None:
            from sidespawn.host.adoption import adopt  # noqa: PLC0415 - few runs need it

            with self.adopting:
                adopt(self.policy, self.places, self.legacy_engine, self.ledger, self.journal)

    def start(self, allowed: Allowed, request_id: str) -> Reply:
        """Ensure that the plan runs. Raises LaunchError."""
        self.recover()
        with self.only(allowed.plan.instance):
            reply = self.start_alone(allowed, request_id)
            self.ledger.unmark(request_id)  # before the reply: a start that was reported to the agent is not cleaned up
            return reply

    def start_alone(self, allowed: Allowed, request_id: str) -> Reply:
        plan = allowed.plan
        pin = self.places.pins / request_id
        with pinned_namespace(None if plan.host_network else plan.netns, pin.with_suffix(".netns")) as netns:
            record = self.ledger.find(plan.instance)
            step = reconcile(None if record is None else self.standing(record, plan, netns, request_id))
            if step.action is Action.KEEP and record is not None:
                return self.keep(plan, record, request_id)
            if record is not None:
                self.make_way(step, record, request_id)
            if step.action is Action.START:
                self.falls.check(plan.instance, plan.name, see_log(plan))
            for old in self.ledger.adopted(plan.instance):
                self.stop(old, "TERM")
                message = f"{old.name} is replaced by {plan.name}"
                self.journal.write(Event.REPLACED, message, instance=plan.instance, request=request_id)
            with self.room.for_one_more(plan.instance):
                record = self.launcher.launch(allowed, netns, pin, request_id)
                self.ledger.write(record)
        try:
            self.write_pid_files(plan, record)
        except LaunchError:
            self.stop(record, "KILL")  # after an agent gets a failure, nothing may run
            raise
        return self.running(Event.STARTED, f"{plan.name} is running", record, request_id)

    def standing(self, record: Record, plan: Plan, netns: PinnedNamespace, request_id: str) -> Standing:
        return Standing(
            is_running=record.is_running,
            is_same=is_same(record, plan),
            is_there=record.netns_inode == netns.inode,
            was_asked_to_end=self.ledger.marked(request_id) is not None,
            age=time.time() - record.since,
        )

    def keep(self, plan: Plan, record: Record, request_id: str) -> Reply:
        if plan.child_pid_files:  # a child may have been replaced by one with a different pid
            children = wait_until_ready(plan, record.process, see_log(plan))
            record = replace(record, children=children)
            self.ledger.write(record)
        self.write_pid_files(plan, record)
        return self.running(Event.ANSWERED, f"{plan.name} is running already", record, request_id)

    def make_way(self, step: Step, record: Record, request_id: str) -> None:
        """Before a start, remove the container with that name and its remains."""
        if step.action is Action.REPLACE:
            self.ledger.mark(request_id, record.key)
            self.stop(record, "TERM")
            self.journal.write(Event.REPLACED, f"{record.name} is replaced: its plan changed", request=request_id)
        if step.tells and (found := self.engine.find(record.name)) is not None:
            self.note_end(found)
        if step.counts_as_fall:
            self.falls.note(record.instance)
        if step.clears:
            self.forget(record)

    def clean(self, request_id: str) -> None:
        """Remove the remains of a start that failed, now or in a killed run.

        Call this only after the reply: until then the remains prove that the start was tried. If the engine does not
        work, the ledger keeps them for the next sweep.
        """
        instance = self.ledger.marked(request_id)
        if instance is None:
            return
        with self.only(instance):
            if self.ledger.find(instance) is None:
                name = container_name(self.policy.service, instance)
                if (found := self.engine.find(name)) is None or found.digest:  # else sidespawn did not start it
                    self.engine.remove(name)
                self.snapshots.remove(instance)
        self.ledger.unmark(request_id)

    def read_configuration(self, beneath: str) -> bytes:
        return self.state.read(beneath, CONFIGURATION_BYTES)

    def renew_snapshots(self, record: Record) -> None:
        """Check the configuration files again before the program rereads them. If it raises Denied, nothing has
        changed.

        Adopted side containers have no copies, and read the agent's own files.
        """
        texts, known = list[str](), list[KnownFile]()
        for file in record.configuration:
            if file.rules not in self.policy.configuration:
                message = f"{record.name} could read {quoted(file.path)}, which no rule covers; a start replaces it"
                raise Denied(Reason.CONFIGURATION_NOT_ALLOWED, message)
            rules = self.policy.configuration[file.rules].rules
            untrusted_content = self.read_configuration(file.beneath)
            text, _ = accept_configuration(rules, file.path, untrusted_content, self.policy.names, record.bindings)
            texts.append(text)
            known.append(replace(file, digest=digest_of(text)))
        if record.adopted:
            return
        self.snapshots.renew(record.instance, texts)
        if known:
            self.ledger.write(replace(record, configuration=tuple(known)))

    def signal(self, request: SignalRequest) -> Reply:
        """Deliver the signal; for TERM and KILL, return when process, container, name and pid file are gone.

        A child that the agent knows is just a process: the program handles its end.
        """
        found = self.find_pid(request.pid)  # first, since mark and record could be torn
        key = None if found else self.ledger.marked(request.id)
        if found and found.pid == request.pid and request.signal in ENDS and self.only(found.instance).locked():
            # A side container that is being started does not need to become ready first.
            self.ledger.mark(request.id, key := found.key)
            send(found.process, request.signal)
        if key is not None:  # an earlier run was killed while it ended this one
            record = self.ledger.find(key)
            with self.only(record.instance if record else key):
                record = self.ledger.find(key)
                return self.finish(request, record if record and record.pid == request.pid else None)
        if found is None:
            raise self.no_such_process(request.pid)
        with self.only(found.instance):
            return self.signal_alone(request)

    def signal_alone(self, request: SignalRequest) -> Reply:
        record = self.ledger.find_pid(request.pid)
        process = None if record is None else record.process_of(request.pid)
        if record is None or process is None:
            raise self.no_such_process(request.pid)
        if request.signal == PROBE:
            return done(request, "it runs", record.name)
        is_end = request.signal in ENDS
        if is_end and request.pid == record.pid:
            self.ledger.mark(request.id, record.key)
            return self.finish(request, record)
        if is_end:
            end(process, request.signal, record.grace)
        else:
            self.renew_snapshots(record)
            if not send(process, request.signal):
                raise self.no_such_process(request.pid)
        whom = record.name if request.pid == record.pid else f"process {request.pid} of {record.name}"
        return self.signalled(Event.SIGNALLED, f"{whom} was sent {request.signal}", record.instance, request)

    def finish(self, request: SignalRequest, record: Record | None) -> Reply:
        """Finish what TERM and KILL ask for. `record` is None if everything is already gone."""
        if record is not None:
            self.stop(record, request.signal)
        name, instance = (record.name, record.instance) if record else (f"process {request.pid}", "")
        return self.signalled(Event.STOPPED, f"{name} was stopped", instance, request)

    def signalled(self, event: Event, what: str, instance: str, request: SignalRequest) -> Reply:
        self.journal.write(event, what, instance=instance, pid=request.pid, signal=request.signal, request=request.id)
        return done(request, what)

    def no_such_process(self, pid: int) -> LaunchError:
        message = f"no side container of {self.policy.service} has pid {pid}: No such process"
        return LaunchError(Reason.NO_SUCH_PROCESS, message)

    def find_pid(self, pid: int) -> Record | None:
        """Look in the ledger; if it does not know the pid, ask the engine."""
        record = self.ledger.find_pid(pid)
        if record is None and (process := identify(pid)) is not None:
            listed = self.listing.since(process)
            record = self.ledger.find_pid(pid)
            for each in () if record else listed:
                if each.pid == pid:
                    record = recovered(each, process, self.policy.side_container.grace)
                    if not self.only(each.instance).locked():  # otherwise its start writes more, or fails and cleans up
                        self.ledger.write(record)
        return record

    def stop(self, record: Record, name: str) -> None:
        end(record.process, name, record.grace)
        self.forget(record)

    def forget(self, record: Record) -> None:
        """Remove the remains of a side container whose program has ended: container, copies, pid files, record."""
        if record.adopted:
            self.legacy_engine.remove(record.container)
        else:
            self.engine.remove(record.name)
        if not record.adopted or self.ledger.find(record.instance) is None:  # otherwise they belong to its replacement
            self.snapshots.remove(record.instance)
            for beneath in filter(None, (record.pid_file, *record.children)):
                self.state.remove(beneath)
        self.ledger.remove(record.key)

    def note_end(self, found: Found) -> None:
        """Report an end that no one requested to the journal, before the container is removed."""
        message = f"{found.name} had ended by itself ({found.state})"
        self.journal.write(Event.EXITED, message, reason=why_ended(found), instance=found.instance)

    def write_pid_files(self, plan: Plan, record: Record) -> None:
        """Write pid files where the agent looks, owned by the program's user, with pids as host and agent see them."""
        pids = {beneath: pid for beneath, (pid, _) in record.children.items()}
        if plan.pid_file is not None:
            pids[plan.pid_file.beneath] = record.pid
        for beneath, pid in pids.items():
            self.write_pid_file(beneath, pid)

    def write_pid_file(self, beneath: str, pid: int) -> None:
        owner = (self.policy.side_container.uid, self.policy.side_container.gid)
        self.state.write(beneath, b"%d\n" % pid, owner)

    def running(self, event: Event, message: str, record: Record, request_id: str) -> Reply:
        where = {"instance": record.instance, "container": record.container, "netns": record.netns}
        told = f"{message}, pid {record.pid} in {record.netns or HOSTS_OWN}"
        self.journal.write(event, told, pid=record.pid, request=request_id, **where)
        pid, name, status = record.pid, record.name, Status.RUNNING
        return Reply(id=request_id, status=status, reason=Reason.OK, message=message, pid=pid, container=name)


def done(request: SignalRequest, message: str, name: str = "") -> Reply:
    pid, status = request.pid, Status.DONE
    return Reply(id=request.id, status=status, reason=Reason.OK, message=message, pid=pid, container=name)
