"""Why a program ended: what the engine knows reaches the agent and the journal."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.core.plan import Plan
from sidespawn.engines import Found, NameTaken, Pins, state_of, why_ended
from sidespawn.errors import LaunchError, Reason
from sidespawn.host import launch as module
from sidespawn.host.journal import Event, Journal
from sidespawn.host.keeper import Keeper
from sidespawn.host.launch import see_log
from sidespawn.system.namespaces import PinnedNamespace
from sidespawn.system.places import Places
from tests.attacks.catalogue import attack
from tests.unit import small

INODE = 4711


def ended(state: str) -> Found:
    return Found(
        id="c", name="small_1", pid=None, state=state, instance="1", digest="d", request="0" * 32, netns="ns-1"
    )


class Engine:
    """Starts a program, and reports how it ended."""

    def __init__(self, state: str | None, pid: int | None = None) -> None:
        self.state = state
        self.pid = os.getpid() if pid is None else pid

    def start(self, plan: Plan, pins: Pins, request: str) -> tuple[str, int]:
        return "c", self.pid

    def find(self, name: str) -> Found | None:
        return None if self.state is None else ended(self.state)

    def list(self, service: str) -> tuple[Found, ...]:
        return ()

    def others(self) -> tuple[()]:
        return ()

    def remove(self, name: str) -> None: ...

    def reap(self, service: str) -> None: ...


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places("small", run=tmp_path / "run", policies=tmp_path / "etc")
    for path in (made.ledger, made.snapshots, made.pins):
        path.mkdir(parents=True)
    return made


HOW_ENDED = pytest.mark.parametrize(
    ("state", "reason"),
    [
        (state_of("exited", True), Reason.OUT_OF_MEMORY),
        (state_of("exited", False), Reason.EXITED),
        (None, Reason.EXITED),
    ],
)


@HOW_ENDED
def test_a_start_that_fails_says_so(
    places: Places, monkeypatch: pytest.MonkeyPatch, state: str | None, reason: Reason
) -> None:
    def unready(*_: object) -> dict[str, list[int]]:
        raise LaunchError(Reason.EXITED, "it ended before it was ready")

    monkeypatch.setattr(module, "wait_until_ready", unready)
    monkeypatch.setattr(module, "pin_mounts", lambda *_: ())
    monkeypatch.setattr(module, "namespace_of", lambda pid: INODE)
    monkeypatch.setattr(module, "end", lambda *_: None)
    keeper = Keeper(small.parse(small.POLICY), places, Engine(state), Journal("small", "/nowhere"))
    allowed = small.decide(keeper.policy, small.request())
    with pytest.raises(LaunchError) as caught:
        keeper.launcher.launch(allowed, PinnedNamespace(Path("/nowhere"), INODE), places.pins / "x", "0" * 32)
    assert caught.value.reason is reason


@HOW_ENDED
def test_a_program_that_the_engine_saw_end_is_a_failed_start(
    places: Places, monkeypatch: pytest.MonkeyPatch, state: str | None, reason: Reason
) -> None:
    """However quickly it ended, the agent learns where to look, and the following starts are delayed."""
    monkeypatch.setattr(module, "pin_mounts", lambda *_: ())
    keeper = Keeper(small.parse(small.POLICY), places, Engine(state, pid=0), Journal("small", "/nowhere"))
    allowed = small.decide(keeper.policy, small.request())
    with pytest.raises(LaunchError) as caught:
        keeper.launcher.launch(allowed, PinnedNamespace(Path("/nowhere"), INODE), places.pins / "x", "0" * 32)
    assert caught.value.reason is reason
    assert caught.value.hint == see_log(allowed.plan)
    assert [each.name for each in places.ledger.glob("*.falls")] != []


def test_the_journal_has_the_reason(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Event, str, object]] = []
    journal = Journal("small", "/nowhere")
    monkeypatch.setattr(
        journal, "write", lambda event, message, **fields: told.append((event, message, fields["reason"]))
    )
    keeper = Keeper(small.parse(small.POLICY), places, Engine(None), journal)
    keeper.note_end(ended(state_of("failed", True)))
    keeper.note_end(ended("exited"))
    assert told == [
        (Event.EXITED, "small_1 had ended by itself (failed, out of memory)", Reason.OUT_OF_MEMORY),
        (Event.EXITED, "small_1 had ended by itself (exited)", Reason.EXITED),
    ]


def test_nothing_else_in_a_state_counts_as_the_reason() -> None:
    assert why_ended(ended("exited")) is Reason.EXITED
    assert why_ended(ended("out of memory, removing")) is Reason.EXITED
    assert why_ended(None) is Reason.EXITED


def test_the_agent_learns_where_the_output_really_is() -> None:
    """Kubernetes keeps the output outside the journal; `sidespawn logs` says where it is."""
    plan = small.decide(small.load(), small.request()).plan
    assert see_log(plan) == f"for its output: sidespawn logs small {plan.name}"


@attack(261)
def test_a_program_that_is_being_started_gets_no_record_from_a_look_at_its_pid(places: Places) -> None:
    """Leave that to the start, which writes more than the engine knows, or cleans up after a failure."""

    class Running(Engine):
        def list(self, service: str) -> tuple[Found, ...]:
            return (replace(ended("running"), pid=self.pid),)

    keeper = Keeper(small.load(), places, Running("running"), Journal("small", str(places.home / "none")))
    with keeper.only("1"):
        found = keeper.find_pid(os.getpid())
        assert found is not None
        assert keeper.ledger.find("1") is None
    found = keeper.find_pid(os.getpid())
    assert keeper.ledger.find("1") == found


class NamesStayTaken(Engine):
    """Has the name of each container in use for its first `times` starts, though it was removed each time."""

    def __init__(self, times: int) -> None:
        super().__init__(None)
        self.times, self.removed = times, 0

    def start(self, plan: Plan, pins: Pins, request: str) -> tuple[str, int]:
        if self.removed < self.times:
            raise NameTaken(plan.name)
        return super().start(plan, pins, request)

    def remove(self, name: str) -> None:
        self.removed += 1


@pytest.mark.parametrize("times", [1, module.TRIES - 1, module.TRIES])
def test_a_name_that_stays_taken_is_freed_again(places: Places, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Try again if the engine was killed more than once, and say so if it cannot free the name at all."""
    monkeypatch.setattr(module, "wait_until_ready", lambda *_: {})
    monkeypatch.setattr(module, "pin_mounts", lambda *_: ())
    monkeypatch.setattr(module, "namespace_of", lambda pid: INODE)
    engine = NamesStayTaken(times)
    keeper = Keeper(small.parse(small.POLICY), places, engine, Journal("small", "/nowhere"))
    allowed = small.decide(keeper.policy, small.request())
    start = (allowed, PinnedNamespace(Path("/nowhere"), INODE), places.pins / "x", "0" * 32)
    if times < module.TRIES:
        assert keeper.launcher.launch(*start).container == "c"
    else:
        with pytest.raises(LaunchError, match="another container has the name") as caught:
            keeper.launcher.launch(*start)
        assert caught.value.reason is Reason.ENGINE_FAILED
        assert caught.value.hint
    assert engine.removed == times


class NameOfOthers(NamesStayTaken):
    """Has another program's container under the name."""

    def find(self, name: str) -> Found | None:
        return replace(ended("running"), pid=os.getpid(), digest="", request="", instance="")


@attack(264, answer="engine-failed")
def test_a_container_of_others_is_neither_ended_nor_removed(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse the start, also when its remains are cleaned up, whatever name a policy's instance makes possible."""
    monkeypatch.setattr(module, "pin_mounts", lambda *_: ())
    monkeypatch.setattr(module, "end", lambda *_: pytest.fail("it was ended"))
    engine = NameOfOthers(1)
    keeper = Keeper(small.parse(small.POLICY), places, engine, Journal("small", "/nowhere"))
    allowed = small.decide(keeper.policy, small.request())
    with pytest.raises(LaunchError, match="another container has the name") as caught:
        keeper.launcher.launch(allowed, PinnedNamespace(Path("/nowhere"), INODE), places.pins / "x", "0" * 32)
    assert caught.value.reason is Reason.ENGINE_FAILED
    keeper.clean("0" * 32)
    assert engine.removed == 0
