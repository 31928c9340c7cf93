"""The launcher of the oslo.privsep daemon. A stand-in for the daemon's module reports what it was asked."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

SYS_ADMIN, NET_ADMIN = 21, 12


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Yield the calls to oslo.privsep and prctl(2), in order."""
    found: list[Any] = []
    package, capabilities, daemon = (ModuleType(f"oslo_privsep{each}") for each in ("", ".capabilities", ".daemon"))
    capabilities.__dict__["drop_all_caps_except"] = lambda *sets: found.append(tuple(map(tuple, sets)))
    daemon.__dict__["helper_main"] = lambda: capabilities.__dict__["drop_all_caps_except"]([21], [21], [])
    package.__dict__.update(capabilities=capabilities, daemon=daemon)
    for module in (package, capabilities, daemon):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    launcher = importlib.import_module("sidespawn.agent.privsep")

    class Libc:
        @staticmethod
        def prctl(*arguments: int) -> int:
            found.append(arguments)
            return 0

    monkeypatch.setattr(launcher, "libc", Libc)
    yield found
    del sys.modules["sidespawn.agent.privsep"]


def test_what_the_daemon_keeps_its_children_have(asked: list[Any]) -> None:
    from sidespawn.agent import privsep

    privsep.keep([SYS_ADMIN, NET_ADMIN], [SYS_ADMIN, NET_ADMIN], [])
    both = (SYS_ADMIN, NET_ADMIN)
    assert asked == [
        (both, both, (NET_ADMIN, SYS_ADMIN)),
        (47, 4, 0, 0, 0),  # PR_CAP_AMBIENT_CLEAR_ALL first: no earlier capability stays
        (47, 2, SYS_ADMIN, 0, 0),
        (47, 2, NET_ADMIN, 0, 0),
    ]


def test_a_context_without_capabilities_gives_none(asked: list[Any]) -> None:
    from sidespawn.agent import privsep

    privsep.keep([], [], [])
    assert asked == [((), (), ()), (47, 4, 0, 0, 0)]


def test_a_failure_ends_the_daemon(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from sidespawn.agent import privsep

    monkeypatch.setattr(privsep.libc, "prctl", lambda *_: -1)
    with pytest.raises(OSError, match="cannot change the ambient capabilities"):
        privsep.keep([SYS_ADMIN], [SYS_ADMIN], [])


def test_the_helper_of_oslo_privsep_runs_with_it(asked: list[Any]) -> None:
    from sidespawn.agent import privsep

    privsep.main()
    assert asked[0] == ((21,), (21,), (21,))
