"""Answers: written down where only root can write, then told to the one that asked.

Agents get copies, which are never read back: an agent with CAP_SYS_ADMIN can make its view of them writable. Operators
are told in the record itself, where no agent gets to. Who waits is woken at a bell, a FIFO with the request's id.
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
    """The replies of one service: `most` at a time, and those of requests that are `needed` (not answered yet)."""

    def __init__(
        self, places: Places, journal: Journal, tally: Tally, most: int, needed: Callable[[str], bool]
    ) -> None:
        self.places, self.journal, self.tally, self.most, self.needed = places, journal, tally, most, needed
        self.expiring = threading.Lock()  # one at a time: what it removes must not look as if no one had written it

    def find(self, request_id: str) -> bytes | None:
        """Return what was answered, by root's own record: a reply that an agent sees may be the agent's own."""
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
        """Again, perhaps: a run may have been killed between the record and this."""
        if not by_operator:
            self._write(self.places.replies, request_id, answer)
        self._ring(request_id, by_operator=by_operator)

    def put_bell(self, request_id: str, *, by_operator: bool) -> None:
        """A FIFO that its wrapper can wait at, instead of looking for the reply again and again."""
        name, flags = f"{request_id}.fifo", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(OSError), directory(self._seen(by_operator=by_operator)) as held:
            os.mkfifo(name, dir_fd=held)
            with closing(os.open(name, flags, dir_fd=held)) as bell:
                os.fchmod(bell, 0o444)

    def expire(self) -> None:
        """Remove old ones, and the oldest of too many, but none that a run would need that continues this one."""
        with self.expiring:
            forged = copies.expire(self.places, self.most, KEPT_SECONDS, self.needed)
        if forged:
            message = f"removed {len(forged)} replies that this service did not write, such as {quoted(forged[0])}"
            self.journal.write(Event.FORGED, message)

    def _seen(self, *, by_operator: bool) -> Path:
        """The directory that who asked looks into."""
        return self.places.answers if by_operator else self.places.replies

    def _ring(self, request_id: str, *, by_operator: bool) -> None:
        """Wake the wrapper that waits at its bell, by opening and closing the other end, and remove the bell."""
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
                if is_last:  # the wrapper will find no answer in time, and its caller asks again
                    message = f"a reply cannot be written: {error.strerror}"
                    self.journal.write(Event.INTERNAL, message, request=request_id)
                self.expire()  # an agent that can make its view writable has filled it up
