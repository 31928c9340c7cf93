"""Tests that need a real host: control groups with their controllers, Quadlet, a security module.

They need systemd as PID 1 and a complete system: the machines of `./dev vm test`, from which tests/machine calls them,
or a host set aside for them. A plain `./dev test` leaves them out. Helpers and fixtures are those of tests/lab.
"""

from __future__ import annotations

from tests.lab.conftest import nothing_left_behind

__all__ = ["nothing_left_behind"]
