"""Draws the plots of docs/benchmarks.md from its tables: .venv/bin/python docs/plots/make.py

The plots are kept in the repository; a test compares them with the tables.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.figures import Spread  # noqa: E402
from benchmarks.plots import Bar, draw  # noqa: E402

ORDER = (
    "sidespawn, podman",
    "podman run",
    "nsenter",
    "TripleO's pattern",
    "sidespawn, systemd",
    "systemd-run",
    "sidespawn, docker",
    "docker run",
)


@dataclass(frozen=True, kw_only=True)
class Plot:
    name: str
    table: str  # how its header line begins
    column: str
    unit: str
    message: str  # with the ratio to `podman run`


PLOTS = (
    Plot(
        name="warm",
        table="| way | warm | ratio | cold | ratio |\n",
        column="warm",
        unit="Milliseconds",
        message="One request while the service runs: {} × podman run",
    ),
    Plot(
        name="cold",
        table="| way | warm | ratio | cold | ratio |\n",
        column="cold",
        unit="Milliseconds",
        message="One request that starts the service first: {} × podman run",
    ),
    Plot(
        name="burst-200",
        table="| way | 10 | ratio | 50 |",
        column="200",
        unit="Seconds",
        message="200 requests at once, none lost: {} × podman run",
    ),
    Plot(
        name="burst-1000",
        table="| way | 100 | ratio | 1,000 |",
        column="1,000",
        unit="Seconds",
        message="1,000 requests at once, none lost: {} × podman run",
    ),
)


def plots(page: str) -> dict[str, str]:
    """The text of each plot by its file's name."""
    return {f"{each.name}.svg": plot(each, page) for each in PLOTS}


def plot(wanted: Plot, page: str) -> str:
    bars = sorted(read(wanted, page), key=lambda bar: ORDER.index(bar.way))
    (ratio,) = (bar.ratio for bar in bars if bar.way == "sidespawn, podman")
    return draw(wanted.message.format(f"{ratio:.2f}"), wanted.unit, bars)


def read(wanted: Plot, page: str) -> list[Bar]:
    """The bars of one column. A cell is a median, with quartiles behind it where they were noted."""
    _, start, table = page.partition(wanted.table)
    if not start:
        raise ValueError(f"no table of docs/benchmarks.md begins with {wanted.table!r}")
    rows = [_cells(line) for line in (start + table).split("\n\n")[0].splitlines()]
    column = rows[0].index(wanted.column)
    bars = []
    for row in rows[2:]:
        if not row[column]:
            continue
        way = row[0].replace("`", "").partition(", four at")[0].partition(" (3 rounds)")[0]
        numbers = [float(each) for each in re.findall(r"[\d.]+", row[column])]
        median, low, high = (numbers * 3)[:3]
        ratio = float(re.match(r"[\d.]+", row[column + 1])[0])  # type: ignore[index]
        bars.append(Bar(way=way, spread=Spread(median=median, low=low, high=high), ratio=None if ratio == 1 else ratio))
    return bars


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def main() -> None:
    for name, content in plots((HERE.parent / "benchmarks.md").read_text(encoding="utf-8")).items():
        (HERE / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
