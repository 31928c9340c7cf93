"""A few worker threads for many pieces of work, where the pieces of one lane keep their order.

Urgent work has its own lanes and workers, so it never waits behind other work.
"""

from __future__ import annotations

import os
import threading
from _queue import SimpleQueue  # not queue, which is this plus 0.4 ms of other imports
from collections import deque
from collections.abc import Callable

Work = Callable[[], None]
Lane = tuple[bool, str]  # whether it is urgent, and its name


URGENT = 2  # workers


class Lanes:
    """`done` is a descriptor that becomes readable whenever a piece of work is finished."""

    def __init__(self, workers: int) -> None:
        self.lock = threading.Lock()
        self.done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._workers = {False: workers, True: URGENT}
        self._threads = {False: 0, True: 0}
        self._lanes: dict[Lane, deque[tuple[Work, Work]]] = {}  # lanes with queued or running work
        self._ready: dict[bool, SimpleQueue[Lane]] = {False: SimpleQueue(), True: SimpleQueue()}

    @property
    def busy(self) -> bool:
        with self.lock:
            return bool(self._lanes)

    def add(self, name: str, work: Work, finished: Work, *, urgent: bool = False) -> None:
        """Run `work`, then `finished`, after the lane's earlier work. Neither may raise."""
        lane = (urgent, name)
        with self.lock:
            if lane in self._lanes:
                self._lanes[lane].append((work, finished))
                return
            self._lanes[lane] = deque([(work, finished)])
            if self._threads[urgent] < min(self._workers[urgent], len(self._lanes)):
                self._threads[urgent] += 1
                threading.Thread(target=self._serve, args=(self._ready[urgent],), daemon=True).start()
        self._ready[urgent].put(lane)

    def _serve(self, ready: SimpleQueue[Lane]) -> None:
        while True:
            lane = ready.get()
            with self.lock:
                work, finished = self._lanes[lane][0]
            try:
                work()
                finished()
            except BaseException as error:  # noqa: BLE001 - the lane would be busy forever, and this run would not end
                os.write(2, f"a worker failed: {error!r}\n".encode())
                os._exit(1)  # the next run continues, as after a kill
            with self.lock:
                self._lanes[lane].popleft()
                if self._lanes[lane]:
                    ready.put(lane)
                else:
                    del self._lanes[lane]
                os.eventfd_write(self.done, 1)
