"""Computes medians and spreads of measurements, and the ratios that the project has aims for."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.parts import Sample

QUICK_KEYS = (
    ("podman_warm", "warm", "sidespawn, podman"),
    ("podman_cold", "cold", "sidespawn, podman"),
    ("podman_burst", "burst", "sidespawn, podman"),
    ("systemd_warm", "warm", "sidespawn, systemd"),
    ("systemd_cold", "cold", "sidespawn, systemd"),
    ("systemd_burst", "burst", "sidespawn, systemd"),
    ("docker_warm", "warm", "sidespawn, docker"),
)


@dataclass(frozen=True, kw_only=True)
class Spread:
    median: float
    low: float  # the quartiles
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(median=values[0], low=values[0], high=values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median=median, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One way in one part. Times in seconds, memory in bytes."""

    part: str
    way: str
    reference: str
    size: int
    rounds: int
    pairs: int  # of these, those whose reference ran and lost nothing: what `ratio` is of
    seconds: Spread
    ratio: Spread | None  # to the reference, of the same round each; None for the reference itself
    lost: int
    wrapper: float  # median of processor seconds per request
    service: float | None
    commands: float | None
    peak: int | None  # the largest
    memory: float | None
    resident: bool | None


def figures(samples: Iterable[Sample]) -> list[Figure]:
    """Return the figures in the order of the samples' first appearance."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for each in samples:
        groups.setdefault((each.part, each.way), []).append(each)
    return [figure(group, groups.get((part, group[0].reference), [])) for (part, _), group in groups.items()]


def figure(group: list[Sample], reference: list[Sample]) -> Figure:
    first = group[0]
    beside = {each.round: each.seconds for each in reference if not each.lost}
    ratios = [each.seconds / beside[each.round] for each in group if each.round in beside]
    return Figure(
        part=first.part,
        way=first.way,
        reference=first.reference,
        size=first.size,
        rounds=len(group),
        pairs=len(ratios),
        seconds=Spread.of([each.seconds for each in group]),
        ratio=Spread.of(ratios) if ratios and first.way != first.reference else None,
        lost=sum(each.lost for each in group),
        wrapper=statistics.median(each.wrapper for each in group),
        service=middle(each.service for each in group),
        commands=middle(each.commands for each in group),
        peak=max((each.peak for each in group if each.peak), default=None),
        memory=middle(each.memory for each in group),
        resident=any(each.resident for each in group) if first.resident is not None else None,
    )


def middle(values: Iterable[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return statistics.median(known) if known else None


def growth(found: Sequence[Figure]) -> dict[str, float]:
    """Return, for each way, the time per request of 1,000 at once relative to that of 100."""
    per_request = {(each.part, each.way): each.seconds.median / each.size for each in found}
    return {
        way: per_request["burst-1000", way] / per_request["burst-100", way]
        for part, way in per_request
        if part == "burst-1000" and ("burst-100", way) in per_request
    }


def lost(found: Iterable[Figure]) -> int:
    """Return the number of requests that sidespawn lost, at any size."""
    return sum(each.lost for each in found if each.way.startswith("sidespawn"))


def quick(found: Sequence[Figure]) -> dict[str, float | int | None]:
    """Return the short form: ratios to the bare engine, None if an engine is missing."""
    ratios = {(each.part, each.way): each.ratio.median for each in found if each.ratio is not None}
    keys: dict[str, float | int | None] = {
        key: round(ratios[part, way], 3) if (part, way) in ratios else None for key, part, way in QUICK_KEYS
    }
    return keys | {"lost": lost(found)}


def as_json(found: Sequence[Figure | Sample]) -> list[dict[str, Any]]:
    return [asdict(each) for each in found]
