"""The service behind a spool: what systemd starts when a wrapper rings the doorbell.

    claim -> parse -> answer (service.py) -> record -> reply

One run takes the queued requests, serves them, checks again, waits a few seconds for more, and ends.  Requests for
different instances run in parallel, those for one instance in order.  A request is answered exactly once: its claim is
kept until it is answered, root's own record shows that it was answered, and a container's labels show that it was
started.  So if a run is killed at any point, the next one continues.  Agents get copies of the answers, which are never
taken for answers: copies.py only compares them.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from sidespawn.core.wire import HORIZON_MS, LINE_BYTES, Reply, Request, StartRequest, Status, parse_request
from sidespawn.engines import get_engine
from sidespawn.errors import Denied, PolicyError, Reason, RequestError, SidespawnError, quoted
from sidespawn.host import spool
from sidespawn.host.current_policy import Stamps, are_current, current_policy
from sidespawn.host.journal import Event, Journal
from sidespawn.host.keeper import Keeper
from sidespawn.host.lanes import Lanes
from sidespawn.host.limits import Bucket
from sidespawn.host.replies import Replies
from sidespawn.host.service import Refusing, Service, Serving
from sidespawn.host.tally import Tally
from sidespawn.system import kernel
from sidespawn.system.files import closing
from sidespawn.system.places import Places

LONGEST_RUN = 300.0  # seconds; then it ends as soon as its work is done
SWEEP_SECONDS = 300.0  # as in sidespawn@.timer, which the end of each run restarts
DOORBELL_BYTES = 65536  # the capacity of a FIFO (pipe(7))
CLAIMS = 16  # at most 1 MiB each, that may wait for answers; others wait in the spool
HELD_BYTES = 6 * spool.CLAIM_BYTES  # of waiting lines; each byte may cost 13, in a line of 1,024 arguments
TIDY_SECONDS = 30.0
EVENTS = {Reason.NO_SUCH_PROCESS: Event.ANSWERED, Reason.INTERNAL: Event.INTERNAL}
SHORTEST_RUN = 1.0  # seconds; ringing repeatedly without a request starts no more runs than this


def main(service: str) -> int:
    places = Places(service)
    journal = Journal(places.service)
    with only_one(places.lock):
        places.answers.mkdir(mode=0o700, exist_ok=True)  # the directories may have been made by an earlier version
        stamps: Stamps = {}
        Sync(places, journal, make_service(places, journal, stamps), stamps, handed_doorbells()).run()
    return 0


def handed_doorbells() -> tuple[int, ...]:
    """Return the FIFOs that systemd listens at, none if its socket unit is stopped; see sd_listen_fds(3)."""
    is_ours = os.environ.get("LISTEN_PID") == str(os.getpid())
    return tuple(range(3, 3 + int(os.environ["LISTEN_FDS"]))) if is_ours else ()


def make_service(places: Places, journal: Journal, stamps: Stamps) -> Service:
    """Return the service; with an invalid policy, one that refuses all requests instead of leaving them unanswered."""
    try:
        policy = current_policy(places, stamps)
    except PolicyError as error:
        journal.write(Event.INTERNAL, error.message, reason=error.reason)
        return Refusing(error, places)
    return Serving(Keeper(policy, places, get_engine(policy.side_container.engine, places.service), journal))


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock while this process runs; no agent can reach it."""
    with closing(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


class Sync:
    """One run. `stamps` are of the policy's files."""

    def __init__(
        self, places: Places, journal: Journal, service: Service, stamps: Stamps, doorbells: tuple[int, ...]
    ) -> None:
        self.places, self.journal, self.service, self.stamps = places, journal, service, stamps
        self.doorbells = doorbells
        self.tally = journal.tally = Tally(places.tally)
        self.limits = service.limits
        journal.records = self.limits.records
        self.lanes = Lanes(service.pace.parallel)
        self.bucket = Bucket(places.bucket, self.limits.burst, self.limits.rate)
        self.limited = False
        self.accepted: dict[str, str] = {}  # id to claim, for unfinished claims
        self.unanswered: dict[str, int] = {}  # claim to the number of its unanswered lines
        self.sizes: dict[str, int] = {}  # the same claims, in bytes
        self.replies = Replies(places, journal, self.tally, self.limits.replies, lambda each: each in self.accepted)

    def run(self) -> None:
        served = rested = False
        self.tally.add("runs")
        spool.remove_unfinished(self.places.claims)
        self.service.put_file_systems_right()
        spool.clear(self.places.spool)  # files there might leave no room for requests
        with closing(kernel.watch_directories(str(self.places.spool), str(self.places.operator))) as watch:
            unfinished = spool.stored(self.places.claims)
            self.tally.add("runs continued", bool(unfinished))  # of a killed run
            if unfinished:
                self.attempt(self.service.recover)
            self.attempt(self.service.adopt)
            for claim in unfinished:
                self.serve(claim)
                served = True
            began = tidied = time.monotonic()
            rest_at = began + (SHORTEST_RUN if self.doorbells else 0.0)
            while are_current(self.stamps):  # otherwise the next run serves by the changed policy
                if time.monotonic() - tidied >= TIDY_SECONDS:
                    self.service.put_file_systems_right()
                    self.replies.expire()
                    spool.clear(self.places.spool)
                    tidied = time.monotonic()
                claims = self.claim()
                for claim in claims:
                    self.serve(claim)
                if claims or self.lanes.busy:
                    served = True
                    rest_at = max(rest_at, time.monotonic() + self.service.pace.linger)
                if self.limited:
                    rest_at = max(rest_at, time.monotonic() + self.bucket.closed_for())
                rested = time.monotonic() >= rest_at
                if rested or time.monotonic() - began >= LONGEST_RUN:
                    break
                wait(watch, self.lanes.done, min(1.0, rest_at - time.monotonic()))
            self.settle(watch)
            if not served or self.sweep_is_due():
                self.lanes.add("", partial(self.attempt, self.service.sweep), self.places.lock.touch)
                self.settle(watch)
        self.replies.expire()
        self.journal.summarise()
        self.tally.store()
        if rested:
            self.empty_doorbells()

    def sweep_is_due(self) -> bool:
        """Return whether the last sweep was too long ago: the timer waits for a pause between requests."""
        return abs(time.time() - self.places.lock.stat().st_mtime) >= SWEEP_SECONDS

    def settle(self, watch: int) -> None:
        """Serve until no work is left. Take nothing more from the agent; operators do not wait for earlier work."""
        while self.lanes.busy:
            if (claim := self.operators_claim()) is not None:
                self.serve(claim)
            wait(watch, self.lanes.done, 1.0)

    def empty_doorbells(self) -> None:
        """Empty the doorbells: from here on, ringing starts the next run. Until here they were full, so that a killed
        run has a successor.

        Ring the doorbell again for a request that arrived since this run last checked.
        """
        for doorbell in self.doorbells:
            with suppress(BlockingIOError):
                os.read(doorbell, DOORBELL_BYTES)
        if self.doorbells and any(map(spool.has_requests, (self.places.spool, self.places.operator))):
            with suppress(BlockingIOError):  # the agent has filled it, and so rung it
                os.write(self.doorbells[0], b"\n")

    def claim(self) -> list[spool.Claim]:
        """Take the operator's requests, and the agent's as far as its limits allow."""
        claims = [self.operators_claim()]
        if self.may_take():
            claims.append(spool.claim(self.places.spool, self.places.claims, self.service.spool_uid))
            if claims[-1] is not None:
                self.bucket.take(sum(1 + len(line) // LINE_BYTES for line in claims[-1].untrusted_lines))
        return [claim for claim in claims if claim is not None]

    def operators_claim(self) -> spool.Claim | None:
        return spool.claim(self.places.operator, self.places.claims, 0, by_operator=True)

    def may_take(self) -> bool:
        """Return whether to take an agent's requests now. Others wait in the spool, and their wrappers with them."""
        closed_for = self.bucket.closed_for()
        if closed_for and not self.limited and spool.has_requests(self.places.spool):
            message = f"rate limit reached ({self.limits.rate} requests/s); remaining requests stay queued"
            self.journal.write(Event.LIMITED, message)
            self.limited = True
        self.limited = self.limited and self.bucket.left < self.limits.burst / 2  # reported once for each flood
        with self.lanes.lock:
            waiting, size = list(self.unanswered.values()), sum(self.sizes.values())
        return not closed_for and len(waiting) < CLAIMS and sum(waiting) < spool.LINES and size < HELD_BYTES

    def serve(self, claim: spool.Claim) -> None:
        if not claim.untrusted_lines:
            claim.path.unlink(missing_ok=True)
            return
        with self.lanes.lock:
            self.unanswered[claim.path.name] = len(claim.untrusted_lines)
            self.sizes[claim.path.name] = sum(map(len, claim.untrusted_lines))
        for untrusted_line in claim.untrusted_lines:
            self.accept(untrusted_line, claim)

    def finished(self, claim: spool.Claim) -> None:
        """Count one more answered line of the claim, and remove the claim after the last one."""
        with self.lanes.lock:
            self.unanswered[claim.path.name] -= 1
            if self.unanswered[claim.path.name]:
                return
        claim.path.unlink(missing_ok=True)
        with self.lanes.lock:
            del self.unanswered[claim.path.name], self.sizes[claim.path.name]
            self.accepted = {each: name for each, name in self.accepted.items() if name != claim.path.name}

    def accept(self, untrusted_line: bytes, claim: spool.Claim) -> None:
        """Parse immediately; queue valid requests on their lane."""
        try:
            request = parse_request(untrusted_line, self.limits.line)
        except RequestError as error:
            self.journal.write(Event.UNREADABLE, error.message, reason=error.reason)
            # Not here: ten thousand of them take seconds, for which an operator would wait. As an error without frames,
            # which would hold everything that was read.
            told = RequestError(error.message, error.request_id)
            work = partial(self.refuse_line, told, by_operator=claim.by_operator)
            self.lanes.add("", work, partial(self.finished, claim), urgent=claim.by_operator)
            return
        if request.id in self.accepted:
            self.finished(claim)  # written twice, because the spool was taken during the write
            return
        with self.lanes.lock:
            self.accepted[request.id] = claim.path.name
        self.tally.accepted[request.id] = time.monotonic()
        if len(self.accepted) <= self.limits.replies:  # more might leave no room for replies
            self.replies.put_bell(request.id, by_operator=claim.by_operator)
        lane, then = self.lane_of(request), partial(self.finished, claim)
        work = partial(self.carry_out, request, lane, by_operator=claim.by_operator)
        self.lanes.add(lane, work, then, urgent=claim.by_operator)

    def lane_of(self, request: Request) -> str:
        """Return the lane, in which requests are served in order. Signals use the lane of their target, like starts."""
        if isinstance(request, StartRequest):
            return request.untrusted_netns or " ".join(request.untrusted_argv)
        return self.service.netns_of(request.pid) or str(request.pid)

    def carry_out(self, request: Request, lane: str, *, by_operator: bool) -> None:
        """Answer one request, whatever happens before the answer."""
        if (answer := self.replies.find(request.id)) is not None:
            self.replies.tell(request.id, answer, by_operator=by_operator)  # maybe a run was killed before that
            self.attempt(partial(self.service.clean, request.id))
            return
        try:
            check_deadline(request)
            self.replies.give(self.service.answer(request, by_operator=by_operator), by_operator=by_operator)
            self.service.was_told(request.id)
        except Exception as error:  # noqa: BLE001 - a request must be answered, and must not take others with it
            self.refuse(request.id, as_ours(error), lane, by_operator=by_operator)
            self.attempt(partial(self.service.clean, request.id))

    def refuse_line(self, error: RequestError, *, by_operator: bool) -> None:
        named = error.request_id
        if named is not None and named not in self.accepted and self.replies.find(named) is None:
            self.refuse(named, error, by_operator=by_operator)

    def refuse(self, request_id: str, error: SidespawnError, lane: str = "", *, by_operator: bool) -> None:
        status, event, hint = Status.FAILED, EVENTS.get(error.reason, Event.FAILED), error.hint
        if error.reason is Reason.EXPIRED:
            status, event = Status.EXPIRED, Event.EXPIRED
        elif isinstance(error, Denied):
            status, event = Status.REJECTED, Event.REJECTED
            hint = hint or f"on the host: sidespawn logs {self.places.service} --refused"
        what = {"lane": lane, "instance": self.service.instance_of(request_id) or ""}
        fields = {"reason": error.reason, "request": request_id, "hint": error.hint, **what}
        self.journal.write(event, f"{status} ({error.reason}): {error.message}", **fields)
        message = f"{error.message}; {hint}" if hint else error.message
        reply = Reply(id=request_id, status=status, reason=error.reason, message=message)
        self.replies.give(reply, by_operator=by_operator)

    def attempt(self, tidying: Callable[[], None]) -> None:
        """Run a cleanup. If an engine fails or prints garbage, leave that to the next request."""
        try:
            tidying()
        except Exception as error:  # noqa: BLE001 - an exception would end a worker, and its lane would wait forever
            failure = as_ours(error)
            self.journal.write(Event.FAILED, f"cleanup deferred: {failure.message}", reason=failure.reason)


def check_deadline(request: Request) -> None:
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    if now >= request.deadline:
        raise Denied(Reason.EXPIRED, "the wrapper's timeout passed before this request was served")
    if request.deadline > now + HORIZON_MS:
        raise RequestError(f"the deadline is more than {HORIZON_MS // 60_000} minutes ahead")


def as_ours(error: Exception) -> SidespawnError:
    if isinstance(error, SidespawnError):
        return error
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    line = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else "nowhere"
    return SidespawnError(Reason.INTERNAL, f"{type(error).__name__} at {line}: {quoted(str(error))}")


def wait(watch: int, done: int, seconds: float) -> None:
    """Wait until a name appears in the spool, a launch is done, or the time is up."""
    for descriptor in select.select([watch, done], [], [], max(0.0, seconds))[0]:
        with suppress(BlockingIOError):
            os.read(descriptor, 65536)
