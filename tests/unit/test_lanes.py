"""Lanes run in parallel; work within one lane keeps its order."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from sidespawn.host.lanes import Lanes

PATIENCE = 10.0


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    made = Lanes(4)
    yield made
    finish(made)
    os.close(made.done)


def finish(lanes: Lanes) -> None:
    """Wait until all work is done."""
    while lanes.busy:
        assert select.select([lanes.done], [], [], PATIENCE)[0]
        with suppress(BlockingIOError):
            os.eventfd_read(lanes.done)


def nothing() -> None:
    pass


def waiting_for(event: threading.Event) -> Callable[[], None]:
    def work() -> None:
        assert event.wait(PATIENCE)

    return work


def test_a_lane_keeps_its_order(lanes: Lanes) -> None:
    order: list[int] = []
    for number in range(200):
        lanes.add("a", partial(order.append, number), nothing)
    finish(lanes)
    assert order == list(range(200))


def test_every_lane_keeps_its_order_among_others(lanes: Lanes) -> None:
    order: dict[str, list[int]] = {name: [] for name in "abcdefgh"}
    for number in range(50):
        for name, done in order.items():
            lanes.add(name, partial(done.append, number), nothing)
    finish(lanes)
    assert all(done == list(range(50)) for done in order.values())


def test_lanes_run_side_by_side(lanes: Lanes) -> None:
    meeting = threading.Barrier(4)

    def work() -> None:
        meeting.wait(PATIENCE)

    for name in "abcd":
        lanes.add(name, work, nothing)
    finish(lanes)
    assert not meeting.broken


def test_no_more_at_once_than_there_are_workers(lanes: Lanes) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.005)
        with lock:
            now -= 1

    for number in range(40):
        lanes.add(str(number), work, nothing)
    finish(lanes)
    assert most <= 4


def test_one_lane_never_runs_twice_at_once(lanes: Lanes) -> None:
    running = threading.Lock()
    failed: list[bool] = []

    def work() -> None:
        failed.append(not running.acquire(blocking=False))
        threading.Event().wait(0.001)
        running.release()

    for _ in range(20):
        lanes.add("a", work, nothing)
    finish(lanes)
    assert failed == [False] * 20


def test_a_slow_lane_holds_up_no_other(lanes: Lanes) -> None:
    go_on, seen = threading.Event(), threading.Event()
    lanes.add("slow", waiting_for(go_on), nothing)
    lanes.add("slow", nothing, nothing)
    lanes.add("quick", seen.set, nothing)
    assert seen.wait(PATIENCE)
    go_on.set()


def test_finished_comes_after_its_work_and_before_the_next(lanes: Lanes) -> None:
    order: list[str] = []
    for name in ("1", "2"):
        lanes.add("a", partial(order.append, f"work {name}"), partial(order.append, f"finished {name}"))
    finish(lanes)
    assert order == ["work 1", "finished 1", "work 2", "finished 2"]


def test_busy_until_all_is_done(lanes: Lanes) -> None:
    go_on = threading.Event()
    seen = [lanes.busy]
    lanes.add("a", waiting_for(go_on), nothing)
    seen.append(lanes.busy)
    go_on.set()
    finish(lanes)
    seen.append(lanes.busy)
    assert seen == [False, True, False]


def test_done_becomes_readable_when_something_is_finished(lanes: Lanes) -> None:
    go_on = threading.Event()
    lanes.add("a", waiting_for(go_on), nothing)
    assert select.select([lanes.done], [], [], 0.05)[0] == []
    go_on.set()
    assert select.select([lanes.done], [], [], PATIENCE)[0] == [lanes.done]
    assert os.eventfd_read(lanes.done) == 1
    assert select.select([lanes.done], [], [], 0)[0] == []


def test_it_is_not_busy_any_more_when_done_says_so(lanes: Lanes) -> None:
    lanes.add("a", nothing, nothing)
    assert select.select([lanes.done], [], [], PATIENCE)[0]
    assert not lanes.busy


@pytest.mark.parametrize("lane", ["a", "another"])
def test_urgent_work_waits_for_none_that_is_not(lanes: Lanes, lane: str) -> None:
    go_on, seen = threading.Event(), threading.Event()
    for number in range(60):
        lanes.add("a" if number < 10 else str(number), waiting_for(go_on), nothing)
    lanes.add(lane, seen.set, nothing, urgent=True)
    assert seen.wait(PATIENCE)
    go_on.set()


def test_urgent_work_of_one_lane_keeps_its_order(lanes: Lanes) -> None:
    order: list[int] = []
    for number in range(50):
        lanes.add("a", partial(order.append, number), nothing, urgent=True)
    finish(lanes)
    assert order == list(range(50))


def test_work_can_be_added_by_work(lanes: Lanes) -> None:
    order: list[int] = []
    lanes.add("a", lambda: lanes.add("a", lambda: order.append(2), nothing), lambda: order.append(1))
    finish(lanes)
    assert order == [1, 2]


def test_a_worker_that_fails_ends_the_run() -> None:
    """End the run, since a lane that stays busy would keep systemd from starting the next one."""
    code = (
        "import time; from sidespawn.host import lanes; lanes.Lanes(1).add('a', lambda: 1 / 0, print); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (1, "a worker failed: ZeroDivisionError('division by zero')\n")
