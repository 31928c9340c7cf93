"""The group of all verbs: its help has sections, and the error for a misspelt verb suggests the right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from sidespawn.errors import Reason, SidespawnError

USAGE = 64  # sysexits.h(3head)


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that was probably meant, or None."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(word: str, known: Sequence[str], *, otherwise: str = "") -> str:
    """Return a hint: the word that was probably meant, or else `otherwise`."""
    meant = closest(word, known)
    return f"did you mean {meant}?" if meant else otherwise


class Unfinished(Exception):
    """Raised after a verb has done one part of its work, `done`, and failed in the others, in this order."""

    def __init__(self, done: list[dict[str, object]], failed: list[SidespawnError]) -> None:
        super().__init__(failed[0].message)
        self.done, self.failed = done, failed


class Suggesting(click.Group):
    """A group that suggests which of its commands was probably meant."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = arguments[0]
        if self.get_command(context, word) is None and not word.startswith("-"):
            known = self.list_commands(context)
            hint = did_you_mean(word, known, otherwise=f"commands: {', '.join(known)}")
            raise SidespawnError(Reason.USAGE, f"no such command: {context.command_path} {word}", hint)
        return super().resolve_command(context, arguments)


class Imported(Mapping[str, click.Command]):
    """Verbs by name. A verb's module is imported when the verb is looked up."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self.modules = modules

    def __getitem__(self, name: str) -> click.Command:
        module = import_module(f"sidespawn.cli.{self.modules[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


class Verbs(Suggesting):
    """Verbs in the order of their sections. `sections` maps a heading to its verbs, and these to their modules."""

    def __init__(self, *, sections: Mapping[str, Mapping[str, str]], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.sections = sections
        # click only looks commands up in it and lists them.
        self.commands = Imported({name: each[name] for each in sections.values() for name in each})  # type: ignore[assignment]

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        if not arguments and not context.resilient_parsing:
            click.echo(context.get_help(), err=True)
            context.exit(USAGE)
        return super().parse_args(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Print whole first sentences, wrapped rather than cut."""
        widest = max(len(name) for name in self.commands)
        for heading, section in self.sections.items():
            rows = [(name.ljust(widest), self.commands[name].get_short_help_str(limit=500)) for name in section]
            with formatter.section(heading):
                formatter.write_dl(rows)
