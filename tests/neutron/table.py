"""The table of docs/neutron.md: a row for each preset."""

from __future__ import annotations

from tests.neutron.agents import DOCS
from tests.tables import Table

COLUMNS = ("start", "reload", "stop", "survives agent restart", "respawn", "capabilities", "uid")
TABLE = Table(DOCS, ("helper", *COLUMNS))

Row = dict[str, str]


def read() -> dict[str, Row]:
    """Return the rows by preset."""
    rows = ([cell.strip("`") for cell in row] for row in TABLE.rows())
    return {preset: dict(zip(COLUMNS, cells, strict=True)) for preset, *cells in rows}


def write(measured: dict[str, Row]) -> None:
    """Replace these rows, keep the others."""
    rows = {**read(), **measured}
    TABLE.write((f"`{preset}`", *(rows[preset][name] for name in COLUMNS)) for preset in sorted(rows))
