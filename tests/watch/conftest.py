"""Prometheus, promtool and node_exporter from Debian. `./dev test watch` unpacks the packages only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.conftest import engine, nothing_left_behind, service, shared_service  # noqa: F401 - fixtures

CHECKOUT = Path(__file__).parents[2]
PROGRAMS = CHECKOUT / ".cache/prometheus/usr/bin"


@pytest.fixture(scope="session")
def programs() -> Path:
    if not PROGRAMS.exists():
        pytest.skip("needs Prometheus in .cache/prometheus, which ./dev test watch unpacks")
    return PROGRAMS
