"""The figures in docs/fleet.md come from the simulation, and the simulation is correct."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from benchmarks import fleet
from benchmarks.fleet import Assumptions

PAGE = (Path(__file__).parents[2] / "docs/fleet.md").read_text()
SMALL = Assumptions(hosts=1000, spread=0.0, agents=(1,))
HOST = SMALL.install + SMALL.restart + SMALL.gate


def test_the_page_has_the_tables_of_the_simulation() -> None:
    for title, table in fleet.tables(Assumptions(), rounds=20, seed=1).items():
        section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        assert table in section, title


@pytest.mark.parametrize(
    ("sizes", "found"),
    [((100,), [100] * 10), ((400,), [400, 400, 200]), ((1, 10, 500), [1, 10, 500, 489]), ((2000,), [1000])],
)
def test_batches_are_those_of_ansibles_serial(sizes: tuple[int, ...], found: list[int]) -> None:
    assert list(fleet.batches(SMALL.hosts, sizes)) == found


@pytest.mark.parametrize(("size", "waves"), [(1, 1000), (50, 20), (100, 20), (1000, 20)])
def test_without_spread_and_failures_time_is_that_of_the_waves(size: int, waves: int) -> None:
    found = fleet.roll((size,), 0.0, SMALL, random.Random(1))
    assert found.stops == 0
    assert found.seconds == pytest.approx(waves * HOST)


def test_every_batch_stops_if_every_host_fails_and_each_stop_costs_a_person() -> None:
    found = [fleet.roll((100,), 1.0, SMALL, random.Random(seed)) for seed in range(200)]
    assert {each.stops for each in found} == {10}
    assert mean(each.waited for each in found) == pytest.approx(10 * SMALL.person, rel=0.1)
    assert all(each.seconds == pytest.approx(20 * HOST + each.waited) for each in found)


def test_a_stop_is_as_likely_as_a_batch_with_a_failing_host() -> None:
    found = mean(fleet.roll((100,), 0.01, SMALL, random.Random(seed)).stops for seed in range(300))
    assert found == pytest.approx(10 * (1 - 0.99**100), rel=0.1)


def test_a_defect_reaches_no_more_than_the_batch_that_shows_it() -> None:
    everywhere = fleet.damage((1, 10, 50), 1.0, SMALL, random.Random(1))
    assert (everywhere.broken, everywhere.migrated) == (1, 1)
    nowhere = fleet.damage((100,), 0.0, SMALL, random.Random(1))
    assert (nowhere.broken, nowhere.migrated) == (0, SMALL.hosts)


def test_the_cost_of_metrics_is_that_of_what_the_command_writes() -> None:
    one, two = (fleet.cost(services, 3) for services in (1, 2))
    assert 40 < two.series - one.series < 60
    assert fleet.cost(1, 10).series == one.series + 7
    assert replace(one, size=0) != replace(two, size=0)
