"""Starting, signalling and stopping the side containers of one service: what a verdict leads to.

    pin -> start -> verify -> wait until ready -> record -> pid file

Every step can be repeated after a crash at any point, because the container's name is made from the instance and its
labels tell which request started it with which plan.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from sidespawn.core.configuration import CONFIGURATION_BYTES, accept_configuration
from sidespawn.core.decide import Allowed, child_pid_files
from sidespawn.core.plan import Plan, container_name
from sidespawn.core.policy import Policy
from sidespawn.core.wire import PROBE, Reply, SignalRequest, Status
from sidespawn.engines import Engine, Found, NameTaken, Pins, get_engine, why_ended
from sidespawn.errors import Denied, LaunchError, Reason, quoted
from sidespawn.frozen import replace
from sidespawn.host.children import find_children
from sidespawn.host.journal import Event, Journal
from sidespawn.host.ledger import Ledger, Record, digest_of, is_same, recovered
from sidespawn.host.limits import STEADY_SECONDS, Falls, Listing, Room
from sidespawn.host.readiness import wait_until_ready
from sidespawn.host.state import AgentState, pin_mounts
from sidespawn.system import kernel
from sidespawn.system.files import directory, write_whole
from sidespawn.system.namespaces import HOSTS_OWN, PinnedNamespace, namespace_of, pinned_namespace
from sidespawn.system.places import Places
from sidespawn.system.processes import end, identify, send

ENDS = ("TERM", "KILL")


class Keeper:
    """Safe for several threads: what is done to one instance is done by one of them after the other."""

    def __init__(self, policy: Policy, places: Places, engine: Engine, journal: Journal) -> None:
        self.policy, self.places, self.engine, self.journal = policy, places, engine, journal
        self.ledger = Ledger(places.ledger)
        old = policy.adopt.engine if policy.adopt else policy.side_container.engine
        self.old_engine = engine if old == policy.side_container.engine else get_engine(old)
        self.adopting = threading.Lock()
        self.falls = Falls(places.ledger, policy.limits.backoff)
        self.room = Room(policy.service, self.ledger, policy.limits.instances)
        self.lock = threading.Lock()
        self.interrupted = False  # an earlier run was killed, and what it was in the middle of is not put in order yet
        self.state = AgentState(policy.agent.state_on_host)
        self.locks: dict[str, threading.Lock] = {}
        self.listing = Listing(policy.service, engine, self.adopt)
        for unfinished in (*places.ledger.glob(".*"), *places.snapshots.glob(".*")):  # by a run that was killed
            unfinished.unlink()

    def only(self, instance: str) -> threading.Lock:
        """To be held while something is done to that instance; lanes keep most of it apart, not all.

        Nothing forgets them but the end of the run, which takes minutes at most.
        """
        return self.locks.setdefault(instance, threading.Lock())

    def recover(self) -> None:
        """When an earlier run was killed: remove what it was in the middle of. Nothing is started before that worked.

        Which start it tried stands in the ledger, so that this start is continued or cleaned up after; see `clean`.
        """
        with self.lock:
            if not self.interrupted:
                return
            self.engine.reap(self.policy.service)  # first, since an engine may still be about to open a pin
            for pin in self.places.pins.iterdir():
                with suppress(OSError):
                    kernel.unmount(str(pin))
                pin.rmdir() if pin.is_dir() else pin.unlink()
            self.interrupted = False

    def adopt(self) -> None:
        """Write down what the wrappers of before started and still runs."""
        if self.policy.adopt is not None:
            from sidespawn.host.adoption import adopt  # noqa: PLC0415 - few runs need it

            with self.adopting:
                adopt(self.policy, self.places, self.old_engine, self.ledger, self.journal)

    def start(self, allowed: Allowed, request_id: str) -> Reply:
        """See that the plan runs. Raises LaunchError."""
        self.recover()
        with self.only(allowed.plan.instance):
            reply = self.start_alone(allowed, request_id)
            self.ledger.unmark(request_id)  # before the reply: what an agent was told of is not cleaned up after
            return reply

    def start_alone(self, allowed: Allowed, request_id: str) -> Reply:
        plan = allowed.plan
        pin = self.places.pins / request_id
        with pinned_namespace(None if plan.host_network else plan.netns, pin.with_suffix(".netns")) as netns:
            record = self.ledger.find(plan.instance)
            if record is not None and record.is_running:
                if is_same(record, plan) and record.netns_inode == netns.inode:
                    if plan.child_pid_files:  # a child may have been replaced by one with another pid
                        children = wait_until_ready(plan, record.process, self.see_log(plan.name))
                        record = replace(record, children=children)
                        self.ledger.write(record)
                    self.write_pid_files(plan, record)
                    return self.running(Event.ANSWERED, f"{plan.name} is running already", record, request_id)
                self.ledger.mark(request_id, record.key)
                self.stop(record, "TERM")
                self.journal.write(Event.REPLACED, f"{plan.name} is replaced: its plan changed", request=request_id)
            else:
                if record is not None:
                    ended_by_us = self.ledger.marked(request_id) is not None  # in a run that was killed
                    if not ended_by_us and (found := self.engine.find(record.name)) is not None:
                        self.note_end(found)
                    if time.time() - record.since < STEADY_SECONDS and not ended_by_us:
                        self.falls.note(plan.instance)
                    self.forget(record)
                self.falls.check(plan.instance, plan.name, self.see_log(plan.name))
            for old in self.ledger.adopted(plan.instance):
                self.stop(old, "TERM")
                message = f"{old.name} is replaced by {plan.name}"
                self.journal.write(Event.REPLACED, message, instance=plan.instance, request=request_id)
            with self.room.for_one_more(plan.instance):
                record = self.launch(allowed, netns, pin, request_id)
                self.ledger.write(record)
        try:
            self.write_pid_files(plan, record)
        except LaunchError:
            self.stop(record, "KILL")  # an agent that was told of a failure must find nothing running
            raise
        return self.running(Event.STARTED, f"{plan.name} is running", record, request_id)

    def launch(self, allowed: Allowed, netns: PinnedNamespace, pin: Path, request_id: str) -> Record:
        plan = allowed.plan
        with ExitStack() as stack:
            self.ledger.mark(request_id, plan.instance)
            copies = self.snapshot(plan)
            pid_file = pin.with_suffix(".pid")
            stack.callback(pid_file.unlink, missing_ok=True)
            pins = Pins(
                netns=netns.path,
                pid_file=pid_file,
                mounts=pin_mounts(plan, self.state, pin, stack),
                configuration=copies[: len(plan.configuration)],
                scripts=copies[len(plan.configuration) :],
            )
            try:
                container, pid = self.engine.start(plan, pins, request_id)
            except NameTaken:
                container, pid = self.take_over(plan, pins, netns, request_id)
        process = identify(pid)
        if process is None:
            self.falls.note(plan.instance)
            raise LaunchError(Reason.EXITED, f"{plan.name} ended at once", self.see_log(plan.name))
        try:
            inode = namespace_of(pid)
            if inode is not None and inode != netns.inode:
                raise LaunchError(Reason.NAMESPACE_MISMATCH, f"{plan.name} came up in another network namespace")
            children = wait_until_ready(plan, process, self.see_log(plan.name))
        except LaunchError as error:
            end(process, "KILL", plan.grace)
            if error.reason in (Reason.EXITED, Reason.NOT_READY):
                self.falls.note(plan.instance)
            if error.reason is Reason.EXITED:
                error.reason = why_ended(self.engine.find(plan.name))  # maybe for its memory, before it was ready
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
            configuration=[
                {"path": file.path, "beneath": file.beneath, "rules": file.rules, "digest": digest_of(file.text or "")}
                for file in plan.configuration
            ],
            bindings=dict(allowed.bindings),
            grace=plan.grace,
            children=children,
        )

    def take_over(self, plan: Plan, pins: Pins, netns: PinnedNamespace, request_id: str) -> tuple[str, int]:
        """The name is taken, but not in the ledger: an earlier run was killed between its start and its record."""
        found = self.engine.find(plan.name)
        if found is not None and found.pid is not None:
            # With a configuration file nobody knows any more which text it was given.
            same = found.digest == plan.digest and not plan.configuration
            if same and namespace_of(found.pid) == netns.inode:
                return found.id, found.pid
            process = identify(found.pid)
            if process is not None:
                end(process, "TERM", plan.grace)
        self.engine.remove(plan.name)
        return self.engine.start(plan, pins, request_id)

    def clean(self, request_id: str) -> None:
        """Remove what a start left that failed, now or in a run that was killed.

        Only after the reply: until then it proves that the start was tried. When the engine does not work, the ledger
        still says so to the next sweep.
        """
        instance = self.ledger.marked(request_id)
        if instance is None:
            return
        with self.only(instance):
            if self.ledger.find(instance) is None:
                self.engine.remove(container_name(self.policy.service, instance))
                self.remove_snapshots(instance)
        self.ledger.unmark(request_id)

    def read_configuration(self, beneath: str) -> bytes:
        return self.state.read(beneath, CONFIGURATION_BYTES)

    def snapshot(self, plan: Plan) -> tuple[Path, ...]:
        """The accepted texts as files, as this program will see them whatever the agent does next; then the scripts."""
        texts = [(file.text or "", 0o444) for file in plan.configuration]
        texts += [(script.text, 0o555) for script in plan.scripts]
        with directory(self.places.snapshots) as held:
            for number, (text, mode) in enumerate(texts):
                write_whole(held, f"{plan.instance}.{number}", text.encode(), mode=mode)
        return tuple(self.places.snapshots / f"{plan.instance}.{number}" for number in range(len(texts)))

    def remove_snapshots(self, instance: str) -> None:
        for path in self.places.snapshots.glob(f"{instance}.[0-9]*"):
            path.unlink(missing_ok=True)

    def renew_snapshots(self, record: Record) -> None:
        """Check the configuration files again before the program reads them again. Raises Denied; nothing changed then.

        The copies are written in place: they are mounted by inode. What is adopted has none, and reads the agent's own.
        """
        texts = []
        for file in record.configuration:
            if file["rules"] not in self.policy.configuration:
                message = f"{record.name} could read what no rule is for, {quoted(file['path'])}; a start replaces it"
                raise Denied(Reason.CONFIGURATION_NOT_ALLOWED, message)
            rules = self.policy.configuration[file["rules"]].rules
            untrusted_content = self.read_configuration(file["beneath"])
            text, _ = accept_configuration(rules, file["path"], untrusted_content, self.policy.names, record.bindings)
            texts.append(text)
        if record.adopted:
            return
        for number, text in enumerate(texts):
            (self.places.snapshots / f"{record.instance}.{number}").write_text(text)
            record.configuration[number]["digest"] = digest_of(text)
        if texts:
            self.ledger.write(record)

    def signal(self, request: SignalRequest) -> Reply:
        """Deliver it; for TERM and KILL, return when process, container, name and pid file are gone.

        A child that the agent knows is just a process: its end is for the program to deal with.
        """
        found = self.find_pid(request.pid)  # first, since mark and record could be torn
        key = None if found else self.ledger.marked(request.id)
        if found and found.pid == request.pid and request.signal in ENDS and self.only(found.instance).locked():
            # What is being started does not have to become ready first.
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
        """What TERM and KILL ask for; None when all of it is gone already."""
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
        """From the ledger; when it does not know, from the engine."""
        record = self.ledger.find_pid(pid)
        if record is None and (process := identify(pid)) is not None:
            listed = self.listing.since(process)
            record = self.ledger.find_pid(pid)
            for each in () if record else listed:
                if each.pid == pid:
                    record = recovered(each, process, self.policy.side_container.grace)
                    self.ledger.write(record)
        return record

    def stop(self, record: Record, name: str) -> None:
        end(record.process, name, record.grace)
        self.forget(record)

    def forget(self, record: Record) -> None:
        """Remove all that a side container whose program has ended leaves: container, copies, pid files, record."""
        if record.adopted:
            self.old_engine.remove(record.container)
        else:
            self.engine.remove(record.name)
        if not record.adopted or self.ledger.find(record.instance) is None:  # else they are those of what replaced it
            self.remove_snapshots(record.instance)
            for beneath in filter(None, (record.pid_file, *record.children)):
                self.state.remove(beneath)
        self.ledger.remove(record.key)

    def sweep(self) -> None:
        """Remove side containers whose program has ended by itself, and records of containers that are gone."""
        self.interrupted = True
        self.recover()
        self.falls.expire()
        for request_id in self.ledger.marks():
            self.clean(request_id)
        listed = self.engine.list(self.policy.service)
        instances = {each.instance for each in listed}
        for record in self.ledger.records():
            if not record.is_running and (record.adopted or record.instance not in instances):
                self.forget(record)
                if record.adopted:
                    self.journal.write(Event.EXITED, f"{record.name} had ended by itself", instance=record.instance)
            elif record.children:
                self.renew_children(record.key)
        self.adopt()
        for each in listed:
            if each.pid is None:
                known = self.ledger.find(each.instance)
                if known is None or known.name != each.name:  # earlier versions gave other names
                    self.engine.remove(each.name)
                elif not known.is_running:
                    self.forget(known)
                self.note_end(each)
        alive = {each.instance for each in listed if each.pid is not None}
        for key in self.ledger.keys() - alive:
            if self.ledger.find(key) is None:  # torn, and of nothing that runs
                self.ledger.remove(key)
                self.remove_snapshots(key)

    def renew_children(self, key: str) -> None:
        """Tell the agent the pids of children that the program has replaced by itself."""
        with self.only(key):
            record = self.ledger.find(key)
            if record is None or record.adopted or record.pids == tuple(filter(record.process_of, record.pids)):
                return
            children = find_children(record.process, child_pid_files(self.policy, record.bindings))
            if children:
                self.ledger.write(replace(record, children=children))
                for beneath, (pid, _) in children.items():
                    self.write_pid_file(beneath, pid)

    def note_end(self, found: Found) -> None:
        """Tell the journal of an end that nobody had asked for, before the container is removed."""
        message = f"{found.name} had ended by itself ({found.state})"
        self.journal.write(Event.EXITED, message, reason=why_ended(found), instance=found.instance)

    def write_pid_files(self, plan: Plan, record: Record) -> None:
        """Where the agent looks for them, owned by the program's user, with pids as the host and the agent see them."""
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

    def see_log(self, name: str) -> str:
        return f"its output is in the host's journal: sidespawn logs {self.policy.service} {name}"


def done(request: SignalRequest, message: str, container: str = "") -> Reply:
    return Reply(
        id=request.id, status=Status.DONE, reason=Reason.OK, message=message, pid=request.pid, container=container
    )
