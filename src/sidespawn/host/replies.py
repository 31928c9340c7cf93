"""Records answers where only root can write, then tells the requester.

Agents get copies, which are never taken for answers: an agent with CAP_SYS_ADMIN can make its view of them writable.
Operators read the record itself, which no agent can reach. A waiting wrapper is woken through a bell, a FIFO named
after the request's id.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sidespawn.core.wire import HORIZON_MS, Reply, format_reply
from sidespawn.errors import quoted
from sidespawn.host import copies
from sidespawn.host.journal import Event, Journal
from sidespawn.host.tally import Tally
from sidespawn.system.files import closing, directory, write_whole
from sidespawn.system.places import Places

KEPT_SECONDS = HORIZON_MS / 1000 + 60  # an id is remembered longer than a request can live


class Replies:
    """The replies of one service: at most `most` at a time, plus those of `needed` requests (not answered yet)."""

    def __init__(
        self, places: Places, journal: Journal, tally: Tally, most: int, needed: Callable[[str], bool]
    ) -> None:
        self.places, self.journal, self.tally, self.most, self.needed = places, journal, tally, most, needed
        self.expiring = threading.Lock()  # one at a time: a copy whose record is just being removed would look forged

    def find(self, request_id: str) -> bytes | None:
        """Return the answer from root's own record: a reply that an agent sees may be the agent's own."""
        try:
            return (self.places.answers / f"{request_id}.json").read_bytes()
        except FileNotFoundError:
            return None

    def give(self, reply: Reply, *, by_operator: bool) -> None:
        answer = format_reply(reply)
        self._write(self.places.answers, reply.id, answer)
        self.tally.answered(reply.id, reply.status, reply.reason)
        self.tell(reply.id, answer, by_operator=by_operator)

    def tell(self, request_id: str, answer: bytes, *, by_operator: bool) -> None:
        """Tell the answer, perhaps again: a run may have been killed between the record and this."""
        if not by_operator:
            self._write(self.places.replies, request_id, answer)
        self._ring(request_id, by_operator=by_operator)

    def put_bell(self, request_id: str, *, by_operator: bool) -> None:
        """Make a FIFO for its wrapper to wait at, instead of polling for the reply."""
        name, flags = f"{request_id}.fifo", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(OSError), directory(self._seen(by_operator=by_operator)) as held:
            os.mkfifo(name, dir_fd=held)
            with closing(os.open(name, flags, dir_fd=held)) as bell:
                os.fchmod(bell, 0o444)

    def expire(self) -> None:
        """Remove old replies, or the oldest of too many, but none that the next run needs to continue this one."""
        with self.expiring:
            forged = copies.expire(self.places, self.most, KEPT_SECONDS, self.needed)
        if forged:
            message = f"removed {len(forged)} replies that this service did not write, such as {quoted(forged[0])}"
            self.journal.write(Event.FORGED, message)

    def _seen(self, *, by_operator: bool) -> Path:
        """Return the directory where the requester looks."""
        return self.places.answers if by_operator else self.places.replies

    def _ring(self, request_id: str, *, by_operator: bool) -> None:
        """Wake the wrapper that waits at its bell by opening and closing the other end, and remove the bell."""
        name, flags = f"{request_id}.fifo", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(OSError), directory(self._seen(by_operator=by_operator)) as held:
            with suppress(OSError):  # no one waits
                os.close(os.open(name, flags, dir_fd=held))
            os.unlink(name, dir_fd=held)

    def _write(self, place: Path, request_id: str, answer: bytes) -> None:
        for is_last in (False, True):
            try:
                with directory(place) as held:
                    write_whole(held, f"{request_id}.json", answer, mode=0o444)
                return
            except OSError as error:
                if is_last:  # the wrapper will time out, and its caller asks again
                    message = f"a reply cannot be written: {error.strerror}"
                    self.journal.write(Event.INTERNAL, message, request=request_id)
                self.expire()  # an agent that can make its view writable has filled it
