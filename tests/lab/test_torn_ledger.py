"""Ledger files are cut at every length: what runs is recognised or replaced, once, and no one must help."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.agent.client import Client
from tests.lab.lives import RUNNING, STOPPED, Answers, Life, assert_in_order, restless_service, settle
from tests.lab.networks import Network, Service, kill_process

EVERY = int(os.environ.get("SIDESPAWN_EVERY", "9"))  # interval of lengths; 1 takes a minute


@pytest.fixture
def restless() -> Iterator[Service]:
    with restless_service() as made:
        yield made


def record_of(network: Network) -> Path:
    return network.service.places.ledger / f"{network.netns}.json"


def cut(network: Network, length: int) -> None:
    record_of(network).write_bytes(record_of(network).read_bytes()[:length])


@pytest.mark.slow
def test_what_runs_is_known_by_its_pid_with_its_record_cut(restless: Service) -> None:
    """Check that the next run gets the name and the program from podman, and rewrites the record."""
    life = Life(restless.network(), 0)
    network, client = life.network, Client(restless.name)
    life.note("start", network.start())
    answers, pid, content = Answers(restless), network.pid, record_of(network).read_bytes()
    lengths = range(0, len(content) + 1, EVERY)
    for length in lengths:
        record_of(network).write_bytes(content[:length])
        assert client.find(pid) == (pid, network.container), f"cut at {length}"
        assert network.record is not None
        assert network.record.pid == pid
    life.note("start", network.start())
    life.state = RUNNING
    settle(restless)
    counted = answers.count()
    assert (len(counted), set(counted.values())) == (len(lengths) + 1, {1})
    assert network.pid == pid
    assert_in_order(restless, [life])


@pytest.mark.slow
def test_with_a_record_cut_a_start_recognises_or_replaces_and_an_end_leaves_nothing(restless: Service) -> None:
    recognised, replaced, stopped, ended = lives = [Life(restless.network(), seed) for seed in range(4)]
    plans = {id(life): life.plans[0 if life is recognised else 2] for life in lives}

    def start(*which: Life) -> None:
        for life in which:
            life.note("start", life.network.start(*plans[id(life)]))
            life.state = RUNNING

    start(*lives)
    for name in ("nothing of it", "one byte", "half of it", "all but one byte"):
        pids = [life.network.pid for life in lives]
        for life in lives:
            size = record_of(life.network).stat().st_size
            cut(life.network, {"nothing of it": 0, "one byte": 1, "half of it": size // 2}.get(name, size - 1))
        if name == "half of it":
            settle(restless)  # the timer's run leaves running programs alone
            assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        start(recognised, replaced)
        stopped.note("TERM", stopped.network.kill("TERM"))
        kill_process(pids[3])
        stopped.state = ended.state = STOPPED
        assert recognised.network.pid == pids[0], name
        # The text of its configuration file is no longer known.
        assert replaced.network.pid != pids[1], name
        settle(restless)
        for life in (stopped, ended):
            life.network.pid_file.unlink(missing_ok=True)  # only the record said where it is
        assert_in_order(restless, lives)
        start(stopped, ended)
    settle(restless)
    assert_in_order(restless, lives)


def test_records_and_marks_cut_at_every_length_are_swept_and_touch_nothing_that_runs(restless: Service) -> None:
    lives = [Life(restless.network(), seed) for seed in range(2)]
    for life in lives:
        life.note("start", life.network.start())
        life.state = RUNNING
    pids = [life.network.pid for life in lives]
    ledger, key, content = restless.places.ledger, lives[0].network.netns, record_of(lives[0].network).read_bytes()
    for length in range(len(content)):  # as for instances that ended
        (ledger / f"gone-{length}.json").write_bytes(content[:length])
    for length in range(len(key) + 1):
        (ledger / f"{length:032x}.tried").write_text(key[:length])
    settle(restless)
    assert [life.network.pid for life in lives] == pids
    assert_in_order(restless, lives)
