"""A few worker threads for many pieces of work, where pieces of one lane must keep their order."""

from __future__ import annotations

import os
import threading
from _queue import SimpleQueue  # not queue, which is this and 0.4 ms of others
from collections import deque
from collections.abc import Callable

Work = Callable[[], None]


class Lanes:
    """`done` is a descriptor that becomes readable whenever a piece of work is finished."""

    def __init__(self, workers: int) -> None:
        self.lock = threading.Lock()
        self.done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._workers, self._threads = workers, 0
        self._idle = threading.Condition(self.lock)
        self._lanes: dict[str, deque[tuple[Work, Work]]] = {}  # a lane that is here has work waiting or under way
        self._ready: SimpleQueue[str] = SimpleQueue()

    @property
    def busy(self) -> bool:
        with self.lock:
            return bool(self._lanes)

    def add(self, lane: str, work: Work, finished: Work) -> None:
        """Run `work`, then `finished`, when the lane's earlier work is done. Neither may raise."""
        with self.lock:
            if lane in self._lanes:
                self._lanes[lane].append((work, finished))
                return
            self._lanes[lane] = deque([(work, finished)])
            if self._threads < min(self._workers, len(self._lanes)):
                self._threads += 1
                threading.Thread(target=self._serve, daemon=True).start()
        self._ready.put(lane)

    def finish(self) -> None:
        """Wait until all work is done."""
        with self._idle:
            self._idle.wait_for(lambda: not self._lanes)

    def _serve(self) -> None:
        while True:
            lane = self._ready.get()
            with self.lock:
                work, finished = self._lanes[lane][0]
            work()
            finished()
            with self._idle:
                self._lanes[lane].popleft()
                if self._lanes[lane]:
                    self._ready.put(lane)
                else:
                    del self._lanes[lane]
                os.eventfd_write(self.done, 1)
                self._idle.notify_all()
