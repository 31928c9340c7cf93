"""Tests that need a real host: control groups with their controllers, Quadlet, a security module.

They run where systemd is PID 1 and nothing is missing: in the machines of `./dev vm test`, from which tests/machine
calls them, or on a host that is given to them. A plain `./dev test` leaves them out. Helpers and fixtures are those of
tests/lab.
"""

from __future__ import annotations

from tests.lab.conftest import nothing_left_behind

__all__ = ["nothing_left_behind"]
