"""Tests that run inside of a machine with a kernel, controllers and security modules of its own."""

from __future__ import annotations

from tests.lab.conftest import nothing_left_behind

__all__ = ["nothing_left_behind"]
