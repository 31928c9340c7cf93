"""Horizontal bars as SVG: one message a plot, each bar labelled with its value, readable on light and dark pages.

The style sheet in a plot follows the system's colour scheme; the site's own style sheet overrides it by the reader's
choice (docs/site/site.css).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.figures import Figure, Spread

WIDTH, LEFT, LONGEST, ROW, TOP = 600, 190, 270, 30, 58
STYLE = """
    .picture { --ink: #1f2933; --quiet: #52606d; --strong: #0b5cad; --other: #a9b4c0; }
    @media (prefers-color-scheme: dark) {
      .picture { --ink: #e4e7eb; --quiet: #b3bcc7; --strong: #7cb8f5; --other: #66727f; }
    }
    .picture text { fill: var(--ink); }
    .picture .title { font-weight: 600; }
    .picture .quiet { fill: var(--quiet); font-size: 13px; }
    .picture .ours { fill: var(--strong); }
    .picture .theirs { fill: var(--other); }
    .picture .quartiles { stroke: var(--ink); stroke-width: 1.5; }
"""


@dataclass(frozen=True, kw_only=True)
class Bar:
    way: str
    spread: Spread  # in the unit of the plot
    ratio: float | None = None  # to the engine's own command


def draw(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """Return the text of an SVG file. Ways of sidespawn stand out."""
    scale = LONGEST / max(bar.spread.high for bar in bars)
    height = TOP + ROW * len(bars) + 4
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" viewBox="0 0 {WIDTH} {height}"'
    what = f"{unit}, median and quartiles; × times the engine’s own command"
    lines = [
        f'{opening} font-family="system-ui, sans-serif" font-size="15">',
        f"  <style>{STYLE}  </style>",
        f'  <text class="title" x="0" y="20">{escape(title)}</text>',
        f'  <text class="quiet" x="0" y="42">{escape(what)}</text>',
    ]
    for number, bar in enumerate(bars):
        top = TOP + ROW * number
        low, middle, high = (LEFT + round(scale * each, 1) for each in _in_order(bar.spread))
        kind = "ours" if bar.way.startswith("sidespawn") else "theirs"
        value = f"{_number(bar.spread.median)} {unit_sign(unit)}"
        ratio = f', <tspan class="quiet">{bar.ratio:.2f} ×</tspan>' if bar.ratio is not None else ""
        lines += [
            f'  <text x="{LEFT - 10}" y="{top + 16}" text-anchor="end">{escape(bar.way)}</text>',
            f'  <rect class="{kind}" x="{LEFT}" y="{top}" width="{round(middle - LEFT, 1)}" height="22" rx="2"/>',
            f'  <path class="quartiles" d="M{low} {top + 11}H{high}"/>',
            f'  <text x="{round(max(middle, high) + 8, 1)}" y="{top + 16}">{value}{ratio}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _in_order(spread: Spread) -> tuple[float, float, float]:
    return spread.low, spread.median, spread.high


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def unit_sign(unit: str) -> str:
    return {"Milliseconds": "ms", "Seconds": "s"}[unit]


def write(found: Sequence[Figure], directory: Path) -> Iterator[Path]:
    """Return a plot for each measured part."""
    directory.mkdir(parents=True, exist_ok=True)
    for part in dict.fromkeys(each.part for each in found):
        bars = [
            Bar(way=each.way, spread=_milliseconds(each.seconds), ratio=each.ratio.median if each.ratio else None)
            for each in found
            if each.part == part
        ]
        path = directory / f"{part}.svg"
        path.write_text(draw(part, "Milliseconds", bars), encoding="utf-8")
        yield path


def _milliseconds(spread: Spread) -> Spread:
    return Spread(median=spread.median * 1000, low=spread.low * 1000, high=spread.high * 1000)
