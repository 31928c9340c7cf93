"""The terminal that a lab boots on.

It lasts as long as the command that boots the lab, which may show what was printed.
"""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

_CHUNK = 4096


class Console:
    """A new terminal of the machine: the lab prints on `device`, this process reads."""

    def __init__(self) -> None:
        self._reader, self._writer = os.openpty()
        self.device = Path(os.ttyname(self._writer))
        self._printed = b""

    def read_for(self, seconds: float) -> None:
        """Waits so long, and takes in what is printed in the meantime; unread, it would block the lab."""
        end = time.monotonic() + seconds
        while select.select([self._reader], [], [], max(0.0, end - time.monotonic()))[0]:
            self._printed += os.read(self._reader, _CHUNK)

    def printed(self) -> str:
        """Return everything printed so far."""
        self.read_for(0)
        return self._printed.decode(errors="replace").replace("\r\n", "\n")

    def close(self) -> None:
        """Hangs up. systemd does not mind a console that is gone."""
        os.close(self._writer)
        os.close(self._reader)
