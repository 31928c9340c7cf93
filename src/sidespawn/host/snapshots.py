"""Copies a side container's accepted configuration files, and the scripts that a policy gives it.

The program sees them as they were accepted, whatever the agent does to its own files later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sidespawn.core.plan import Plan
from sidespawn.system.files import directory, write_whole


class Snapshots:
    """Files INSTANCE.NUMBER in a directory that root owns: a plan's configuration files in order, then its scripts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for unfinished in path.glob(".*"):  # by a killed run
            unfinished.unlink()

    def write(self, plan: Plan) -> tuple[Path, ...]:
        texts = [(file.text or "", 0o444) for file in plan.configuration]
        texts += [(script.text, 0o555) for script in plan.scripts]
        with directory(self.path) as held:
            for number, (text, mode) in enumerate(texts):
                write_whole(held, f"{plan.instance}.{number}", text.encode(), mode=mode)
        return tuple(self.path / f"{plan.instance}.{number}" for number in range(len(texts)))

    def renew(self, instance: str, texts: Sequence[str]) -> None:
        """Write new texts into the configuration files, in place: the side container has them mounted by inode."""
        for number, text in enumerate(texts):
            (self.path / f"{instance}.{number}").write_text(text)

    def remove(self, instance: str) -> None:
        for path in self.path.glob(f"{instance}.[0-9]*"):
            path.unlink(missing_ok=True)
