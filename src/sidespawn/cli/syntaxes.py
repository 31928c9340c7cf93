"""Shared by verbs that print an agent's options: `--print`, `--agent-image`, and the options alone, for a file."""

from __future__ import annotations

from collections.abc import Iterable

import click

from sidespawn.errors import Reason, SidespawnError
from sidespawn.setup.agent_options import AgentOptions
from sidespawn.setup.syntaxes import SYNTAXES, missing, written

print_option = click.option(
    "--print",
    "syntax",
    type=click.Choice(tuple(SYNTAXES)),
    help="Print only the agent's options, in the syntax of this tool.",
)


def to_image(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if any(each in value for each in ", \t\n") or not value.isprintable():
        raise click.BadParameter(f"{value!r} is not the name of an image")
    return value


image_option = click.option(
    "--agent-image",
    default="",
    callback=to_image,
    metavar="IMAGE",
    help="The agent's image, to mount for calls that the agent answers itself (podman, Quadlet).",
)


def require_one_form(syntax: str | None, *, as_json: bool) -> None:
    if syntax is not None and as_json:
        raise SidespawnError(Reason.USAGE, "--print and --json exclude each other", "JSON has the options in parts")


def show(options: AgentOptions, syntax: str, notes: Iterable[str] = ()) -> None:
    """Print only the options on standard output, for a file or a command line; everything else on standard error."""
    click.echo(written(options, syntax), nl=False)
    for note in (*notes, *missing(options, syntax)):
        click.echo(f"sidespawn: warning: {note}", err=True)
