"""Handles Ctrl-C and SIGTERM during the demo: the story stops at once, the removal is never interrupted."""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Raised anywhere in the story when a signal arrives. Not an Exception, so that no step treats it as a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number

    def __str__(self) -> str:
        return signal.Signals(self.signal).name


class Stops:
    """While in the context, the first signal raises Stopped; later ones are ignored, and all after `hold`."""

    def __enter__(self) -> Stops:
        self.holding = False
        self.before = {number: signal.signal(number, self.stop) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        self.holding = True

    def stop(self, number: int, _frame: FrameType | None) -> None:
        if not self.holding:
            self.holding = True
            raise Stopped(number)
