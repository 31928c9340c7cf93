"""The table of docs/neutron.md: a row for each preset."""

from __future__ import annotations

from tests.neutron.agents import DOCS

COLUMNS = ("start", "reload", "stop", "survives agent restart", "respawn", "capabilities", "uid")
HEAD = ("helper", *COLUMNS)

Row = dict[str, str]


def read() -> dict[str, Row]:
    """By preset."""
    rows = {}
    for line in table()[2:]:
        preset, *cells = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
        rows[preset] = dict(zip(COLUMNS, cells, strict=True))
    return rows


def write(measured: dict[str, Row]) -> None:
    """Replace these rows, keep the others."""
    rows = {**read(), **measured}
    lines = [line(HEAD), line(("---",) * len(HEAD))]
    lines += [line((f"`{preset}`", *(rows[preset][name] for name in COLUMNS))) for preset in sorted(rows)]
    DOCS.write_text(DOCS.read_text().replace("\n".join(table()), "\n".join(lines)))


def table() -> list[str]:
    lines = DOCS.read_text().splitlines()
    begin = lines.index(line(HEAD))
    end = next(number for number in range(begin, len(lines)) if not lines[number].startswith("|"))
    return lines[begin:end]


def line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
