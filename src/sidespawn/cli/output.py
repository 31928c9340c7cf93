"""Shared by verbs that print: `--json`, tables for people, and the arguments that name a service."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidespawn.cli.verbs import did_you_mean
from sidespawn.core.policy import is_service_name
from sidespawn.errors import Reason, SidespawnError
from sidespawn.setup.services import services_with_policy
from sidespawn.system.places import Places

NONE_ENABLED = "no service is enabled on this host; see: sidespawn enable --help"

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def complete_service(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in services_with_policy() if name.startswith(incomplete)]


def to_places(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Places | None:
    if value is None:
        return None
    if not is_service_name(value):
        raise click.BadParameter("a service name has at most 40 lower-case letters, digits and hyphens")
    return Places(value)


def to_all_places(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Places, ...]:
    """Return each service once."""
    names = dict.fromkeys(values)
    return tuple(places for name in names if (places := to_places(context, parameter, name)) is not None)


service_argument = click.argument("places", metavar="SERVICE", callback=to_places, shell_complete=complete_service)


def require_enabled(places: Places) -> None:
    if not places.home.is_dir():
        message = f"service {places.service} is not enabled on this host"
        raise SidespawnError(Reason.NOT_ENABLED, message, hint_at_services(places.service))


def hint_at_services(service: str) -> str:
    """Return how to enable it, which service was probably meant, or else all of them."""
    if Places(service).policy.exists():
        return f"enable it: sidespawn enable {service}"
    known = services_with_policy()
    return did_you_mean(service, known, otherwise=f"services with a policy: {', '.join(known) or 'none'}")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], empty: str) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # an agent's text is never markup
    if table.row_count:
        console().print(table)
    else:
        click.echo(empty)


def printable(untrusted_text: str) -> str:
    """Return the text with escapes for characters that a terminal might obey or cannot show."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in untrusted_text)


def console() -> Console:
    """Return a console: with colour on a terminal; in a pipe without, and not cut at 80 columns."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=400)
