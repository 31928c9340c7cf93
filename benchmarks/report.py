"""Figures for people: a table for each part."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, Spread, growth, lost
from benchmarks.parts import PARTS, QUICK, Part

KIB, MIB = 1024, 1024 * 1024


def show(found: Sequence[Figure], console: Console) -> None:
    for part in dict.fromkeys(each.part for each in found):
        rows = [each for each in found if each.part == part]
        console.print(table(part, rows))
    for way, times in growth(found).items():
        console.print(f"{way}: a request among 1,000 takes {times:.2f} times what one among 100 takes")
    console.print(f"lost by sidespawn: {lost(found)}")


def table(part: str, rows: Sequence[Figure]) -> Table:
    known: dict[str, Part] = {each.name: each for each in (*PARTS, *QUICK)}
    shown = Table(title=f"{part}: {known[part].what}", title_justify="left", title_style="bold")
    is_memory = any(each.memory is not None for each in rows)
    columns = ["way", "rounds", "median", "quartiles", "ratio", "quartiles", "lost"]
    columns += ["agent's CPU", "service's CPU", "engine's CPU", "service's peak"]
    for column in ["way", "rounds", "beside the program", "resident when idle"] if is_memory else columns:
        shown.add_column(column, justify="left" if column == "way" else "right")
    for each in rows:
        if is_memory:
            resident = "" if each.resident is None else "the service" if each.resident else "nothing"
            shown.add_row(each.way, str(each.rounds), f"{(each.memory or 0) / KIB:.0f} KiB", resident)
            continue
        ratio = "" if each.ratio is None else f"{each.ratio.median:.2f}"
        shown.add_row(
            each.way,
            str(each.rounds),
            time(each.seconds.median),
            f"{time(each.seconds.low)} - {time(each.seconds.high)}",
            ratio,
            "" if each.ratio is None else quartiles(each.ratio),
            str(each.lost),
            time(each.wrapper),
            time(each.service),
            time(each.commands),
            "" if each.peak is None else f"{each.peak / MIB:.1f} MiB",
        )
    return shown


def time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def quartiles(spread: Spread) -> str:
    return f"{spread.low:.2f} - {spread.high:.2f}"
