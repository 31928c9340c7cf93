"""The figures that the benchmark computes from its samples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as main
from benchmarks import parts
from benchmarks.figures import Spread, figures, growth, lost, quick
from benchmarks.parts import PARTS, Sample, measure
from benchmarks.ways import Burst, Way
from tests.lab.networks import Network, Service

OURS, BARE = "sidespawn, podman", "podman run"


def sample(way: str, seconds: float, number: int = 0, part: str = "warm", size: int = 1) -> Sample:
    return Sample(part=part, way=way, reference=BARE, size=size, round=number, seconds=seconds, lost=0)


def test_ratios_are_of_one_round_each() -> None:
    samples = [sample(BARE, 1, 0), sample(OURS, 1.1, 0), sample(BARE, 10, 1), sample(OURS, 13, 1), sample(OURS, 9, 2)]
    bare, ours = figures(samples)
    assert bare.ratio is None
    assert ours.ratio is not None
    assert round(ours.ratio.median, 6) == 1.2  # of 1.1 and 1.3, not of the medians; the unpaired third is left out
    assert (ours.rounds, ours.pairs, ours.seconds.median) == (3, 2, 9)


def test_without_the_reference_there_is_no_ratio() -> None:
    [ours] = figures([sample(OURS, 1)])
    assert ours.ratio is None
    assert quick([ours]) == {
        "podman_warm": None, "podman_cold": None, "podman_burst": None, "systemd_warm": None, "systemd_cold": None,
        "systemd_burst": None, "docker_warm": None, "lost": 0,
    }  # fmt: skip


def test_a_round_in_which_the_reference_lost_something_is_no_pair() -> None:
    samples = [replace(sample(BARE, 0.1), lost=1), sample(OURS, 1), sample(BARE, 1, 1), sample(OURS, 1.5, 1)]
    ours = figures(samples)[1]
    assert ours.ratio is not None
    assert (ours.ratio.median, ours.rounds, ours.pairs) == (1.5, 2, 1)


def test_lost_counts_what_sidespawn_lost() -> None:
    samples = [replace(sample(OURS, 1), lost=2), replace(sample(OURS, 1, part="cold"), lost=1)]
    assert lost(figures([*samples, replace(sample(BARE, 1), lost=4)])) == 3


class Claims:
    """A method that reports every program as running."""

    name, reference, is_older = OURS, BARE, False

    def prepare(self, *, cold: bool) -> None:
        pass

    def start(self, networks: Sequence[Network], at_once: int | None = None) -> Burst:
        return Burst(seconds=0.001 * len(networks), lost=0)

    def clear(self, networks: Sequence[Network]) -> None:
        pass


def test_what_a_way_says_it_started_and_does_not_run_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service("nobody", Path("/nonexistent"))
    networks = [Network(service, f"never-started-{number}", Path("/nonexistent")) for number in range(3)]
    part = next(part for part in PARTS if part.name == "warm")
    monkeypatch.setattr(parts, "APPEARS", 0)
    wide = replace(part, size=3)
    [found] = measure(wide, [cast("Way", Claims())], networks, 1, 60, random.Random(1), lambda _: None)
    assert (found.size, found.lost) == (3, 3)
    monkeypatch.setattr(parts, "dnsmasqs", lambda: [f"/usr/sbin/dnsmasq -k {each.id}" for each in networks[:2]])
    [found] = measure(wide, [cast("Way", Claims())], networks, 1, 60, random.Random(1), lambda _: None)
    assert found.lost == 1


@pytest.mark.parametrize(("name", "rests"), [("warm", 0), ("cold", 1), ("loaded-cold", 1)])
def test_before_a_cold_start_nothing_runs_for_a_second_whichever_way_it_is(
    monkeypatch: pytest.MonkeyPatch, name: str, rests: int
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("benchmarks.parts.time.sleep", slept.append)
    monkeypatch.setattr(parts, "APPEARS", 0)
    monkeypatch.setattr(parts, "load", lambda _: nullcontext())
    part = next(part for part in PARTS if part.name == name)
    list(measure(part, [cast("Way", Claims())], [], 1, 60, random.Random(1), lambda _: None))
    assert slept == [parts.REST] * rests


@pytest.mark.parametrize(
    ("name", "patterns", "at_once"),
    [
        ("warm", {"TripleO's pattern", "nsenter"}, None),
        ("burst-50", {"TripleO's pattern", "nsenter"}, None),
        ("burst-200", set(), None),
        ("restart-200", {"nsenter"}, 4),
    ],
)
def test_a_part_has_the_patterns_that_it_names_and_asks_as_its_agent_does(
    monkeypatch: pytest.MonkeyPatch, name: str, patterns: set[str], at_once: int | None
) -> None:
    class Pattern(Claims):
        is_older = True

        def __init__(self, name: str) -> None:
            self.name = name

        def start(self, networks: Sequence[Network], at_once: int | None = None) -> Burst:
            asked.append((self.name, at_once))
            return super().start(networks)

    asked: list[tuple[str, int | None]] = []
    monkeypatch.setattr("benchmarks.parts.time.sleep", lambda _: None)
    monkeypatch.setattr(parts, "APPEARS", 0)
    part = next(part for part in PARTS if part.name == name)
    ways = [cast("Way", Pattern(each)) for each in parts.PATTERNS]
    list(measure(part, ways, [], parts.OLDER_ROUNDS + 1, 60, random.Random(1), lambda _: None))
    assert sorted(asked) == sorted([(each, at_once) for each in patterns] * parts.OLDER_ROUNDS)


def test_growth_is_per_request() -> None:
    samples = [sample(OURS, 10, part="burst-100", size=100), sample(OURS, 120, part="burst-1000", size=1000)]
    assert {way: round(each, 6) for way, each in growth(figures(samples)).items()} == {OURS: 1.2}
    assert growth(figures(samples[1:])) == {}


@pytest.mark.parametrize("option", ["--json", "--plots"])
def test_in_a_lab_results_go_where_they_outlive_it(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "container"
    monkeypatch.setattr(main, "CONTAINER", where)

    def said(path: str) -> str:
        return CliRunner().invoke(main.main, [f"{option}={path}", "--only=nothing"]).output

    for each in ("/var/tmp/figures", str(main.CHECKOUT / "figures"), "-", "figures"):
        assert "gone with the lab" not in said(each)
        where.write_text("docker\n")
        assert "gone with the lab" not in said(each)
        where.write_text("lab\n")
        assert ("gone with the lab" in said(each)) == (each == "/var/tmp/figures")
        where.unlink()


def test_memory_and_peak() -> None:
    samples = [replace(sample(OURS, 1), peak=5, memory=3.0), replace(sample(OURS, 1, 1), peak=7, memory=5.0)]
    [ours] = figures(samples)
    assert (ours.peak, ours.memory, ours.service) == (7, 4.0, None)


def test_a_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5.0]) == Spread(median=5, low=5, high=5)
    assert Spread.of([4.0, 1, 3, 2, 5]) == Spread(median=3, low=2, high=4)
