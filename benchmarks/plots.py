"""Figures as SVG, for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pygal
from pygal.style import CleanStyle

from benchmarks.figures import Figure

SINGLE = ("warm", "cold", "stop", "loaded-warm", "loaded-cold")
# Each engine's own command paler than sidespawn with it; the older patterns grey.
COLORS = {
    "sidespawn, podman": "#1f77b4",
    "podman run": "#aec7e8",
    "sidespawn, systemd": "#2ca02c",
    "systemd-run": "#98df8a",
    "sidespawn, docker": "#d9730a",
    "docker run": "#ffbb78",
    "TripleO's pattern": "#555555",
    "nsenter": "#bbbbbb",
}


def write(found: Sequence[Figure], directory: Path) -> Iterator[Path]:
    """One plot for single requests, one for bursts; those of which nothing was measured are left out."""
    directory.mkdir(parents=True, exist_ok=True)
    single = [each for each in found if each.part in SINGLE]
    if single:
        parts = [part for part in SINGLE if any(each.part == part for each in single)]
        chart = pygal.Bar(title="One request: milliseconds, medians", **looks(single))
        chart.x_labels = parts
        for way in ways(single):
            by_part = {each.part: each.seconds.median * 1000 for each in single if each.way == way}
            chart.add(way, [by_part.get(part) for part in parts])
        yield render(chart, directory / "single.svg")
    bursts = [each for each in found if each.part.startswith("burst")]
    if bursts:
        title = "Requests at once: milliseconds per request, medians"
        most = max(each.seconds.median * 1000 / each.size for each in bursts)
        chart = pygal.XY(title=title, x_title="requests", range=(0, most), **looks(bursts))
        for way in ways(bursts):
            chart.add(way, [(each.size, each.seconds.median * 1000 / each.size) for each in bursts if each.way == way])
        yield render(chart, directory / "bursts.svg")


def ways(found: Iterable[Figure]) -> list[str]:
    there = {each.way for each in found}
    return [way for way in COLORS if way in there]


def looks(found: Sequence[Figure]) -> dict[str, object]:
    """Nothing is fetched from elsewhere, and nothing moves."""
    colors = tuple(COLORS[way] for way in ways(found))
    return {
        "style": CleanStyle(colors=colors, font_family="sans-serif", background="#ffffff", opacity="1"), "js": (),
        "width": 900, "height": 500, "legend_at_bottom": True, "legend_at_bottom_columns": 4, "truncate_legend": -1,
        "x_value_formatter": lambda value: f"{value:.0f}", "value_formatter": lambda value: f"{value:.0f}",
    }  # fmt: skip


def render(chart: pygal.Graph, path: Path) -> Path:
    path.write_bytes(chart.render())
    return path
