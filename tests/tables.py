"""Tables in documentation pages that tests write from their results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The only table of a page with this head."""

    page: Path
    head: Row

    def rows(self) -> list[Row]:
        return [tuple(cell.strip() for cell in each.strip("|").split("|")) for each in self.lines()[2:]]

    def write(self, rows: Iterable[Row]) -> None:
        """Replace all rows."""
        text = self.page.read_text()
        self.page.write_text(text.replace("\n".join(self.lines()), "\n".join(self.written(rows))))

    def lines(self) -> list[str]:
        """Return the lines in the page."""
        lines = self.page.read_text().splitlines()
        begin = lines.index(line(self.head))
        return lines[begin : next(number for number in range(begin, len(lines)) if not lines[number].startswith("|"))]

    def written(self, rows: Iterable[Row]) -> list[str]:
        return [line(self.head), line(("---",) * len(self.head)), *map(line, rows)]


def line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"
