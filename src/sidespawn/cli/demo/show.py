"""Prints the demo: each step with its time and what was seen, for a terminal with colour, otherwise plain."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sidespawn.cli.demo.stage import KEPT_HINT, Stage
from sidespawn.testing.agent import CAPABILITIES

PIPE_WIDTH = 400  # do not truncate unless the output is a terminal
NOTE = (0, 0, 0, 6)  # padding: a long line stays indented where it wraps


class Outcome:
    """The outcome of a step, filled in by the code that ran it."""

    def __init__(self) -> None:
        self.trouble: dict[str, str] = {}

    def failed(self, expected: str, came: str, look: str) -> None:
        self.trouble = {"expected": expected, "came": came, "look": look}


class Teller:
    def __init__(self, *, as_json: bool) -> None:
        """Print everything for people on standard error if `as_json`."""
        out = Console(stderr=as_json, highlight=False)
        self.out = out if out.is_terminal else Console(stderr=as_json, highlight=False, width=PIPE_WIDTH)
        self.steps: list[dict[str, object]] = []
        self.notes: list[Any] = []

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Outcome]:
        """Time the context, then print the outcome with the notes taken in it."""
        outcome, began, finished = Outcome(), time.monotonic(), False
        self.notes = []
        number = len(self.steps) + 1
        running = self.out.status(f"{number:2}  {escape(title)}") if self.out.is_terminal else nullcontext()
        try:
            with running:
                yield outcome
            finished = True
        finally:
            seconds = time.monotonic() - began
            ok = finished and not outcome.trouble
            self.steps.append({"name": name, "title": title, "seconds": round(seconds, 3), "ok": ok})
            word = "[green]ok[/green]" if ok else "[red]FAILED[/red]" if finished else "[yellow]stopped[/yellow]"
            self.out.print(f"{number:2}  [bold]{escape(title)}[/bold]  [dim]{seconds:.2f} s[/dim]  {word}")
            for note in self.notes:
                self.out.print(note)
            for what, text in outcome.trouble.items():
                if text:
                    self.out.print(indented(f"[red]{what:8}[/red]  {escape(text)}"))

    def note(self, text: str) -> None:
        """Note a line about the running step."""
        self.notes.append(indented(escape(text)))

    def call(self, text: str) -> None:
        """Show a command that an operator or an agent would type, as it was executed."""
        self.notes.append(indented(f"[cyan]{escape(text)}[/cyan]"))

    def table(self, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold dim", padding=(0, 2, 0, 0))
        for column in ("    ", *columns):
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row("", *(escape(cell) for cell in row))
        self.notes.append(table)

    def summary(self, stage: Stage, *, keep: bool) -> None:
        result = stage.result
        self.out.print()
        agent, side_container = result["agent_capabilities"], result["side_container_capabilities"]
        if agent is not None and side_container is not None:
            table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
            for column in ("", "agent today", "agent with sidespawn", "side container"):
                table.add_column(column, overflow="fold")
            table.add_row("user", "root", "root", str(result["side_container_user"]))
            table.add_row("capabilities", "all", " ".join(agent), " ".join(side_container))
            table.add_row("container engine", "its socket, or nsenter", "none", "none")
            table.add_row("starts", "anything, as root on the host", "what the policy allows, nothing else", "nothing")
            self.out.print(table)
            for name, why in CAPABILITIES.items():
                self.out.print(f"  the agent has {name} for {escape(why)}")
            self.out.print("  sidespawn itself needs none of them: the wrapper writes a file and reads one")
        verdict = "[green]All of it worked[/green]" if result["ok"] else "[red]The demo failed[/red]"
        if result["stopped"]:
            verdict = f"[yellow]Stopped by {result['stopped']}[/yellow]"
        self.out.print(f"{verdict} in {result['seconds']:.1f} s.")
        if keep:
            self.out.print(escape(KEPT_HINT))


def indented(markup: str) -> Padding:
    return Padding(Text.from_markup(markup, overflow="fold"), NOTE, expand=False)
