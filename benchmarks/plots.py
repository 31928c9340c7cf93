"""Figures as SVG, for the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pygal
from pygal.style import CleanStyle

from benchmarks.figures import Figure

SINGLE = ("warm", "cold", "loaded-warm", "loaded-cold", "stop")
COLORS = ("#1f77b4", "#7f7f7f", "#2ca02c", "#bcbd22", "#9467bd", "#c5b0d5", "#d62728", "#ff7f0e")


def write(found: Sequence[Figure], directory: Path) -> Iterator[Path]:
    """One plot for single requests, one for bursts; those of which nothing was measured are left out."""
    directory.mkdir(parents=True, exist_ok=True)
    single = [each for each in found if each.part in SINGLE]
    if single:
        parts = list(dict.fromkeys(each.part for each in single))
        chart = pygal.Bar(title="One request: milliseconds, medians", x_title="", **looks())
        chart.x_labels = parts
        for way in dict.fromkeys(each.way for each in single):
            by_part = {each.part: each.seconds.median * 1000 for each in single if each.way == way}
            chart.add(way, [by_part.get(part) for part in parts])
        yield render(chart, directory / "single.svg")
    bursts = [each for each in found if each.part.startswith("burst")]
    if bursts:
        chart = pygal.XY(
            title="Requests at once: milliseconds per request, medians",
            x_title="requests",
            logarithmic=False,
            **looks(),
        )
        for way in dict.fromkeys(each.way for each in bursts):
            chart.add(way, [(each.size, each.seconds.median * 1000 / each.size) for each in bursts if each.way == way])
        yield render(chart, directory / "bursts.svg")


def looks() -> dict[str, object]:
    """Nothing is fetched from elsewhere, and nothing moves."""
    return {
        "style": CleanStyle(colors=COLORS, font_family="sans-serif"), "js": (), "width": 900, "height": 420,
        "legend_at_bottom": True, "legend_at_bottom_columns": 3, "truncate_legend": -1, "show_dots": True,
        "x_value_formatter": lambda value: f"{value:.0f}", "value_formatter": lambda value: f"{value:.0f}",
    }  # fmt: skip


def render(chart: pygal.Graph, path: Path) -> Path:
    path.write_bytes(chart.render())
    return path
