"""`sidespawn presets`: the policies to build on, and their text.

Presets ship with the package; `/etc/sidespawn/presets` may hold more, or an operator's own version of one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import click

from sidespawn import presets as shipped
from sidespawn.cli.output import json_option, print_json, print_table
from sidespawn.cli.verbs import Suggesting, did_you_mean
from sidespawn.errors import PolicyError
from sidespawn.host.policies import policy_of
from sidespawn.loading.document import Table
from sidespawn.loading.parse import EXTENSIONS, extended
from sidespawn.system.files import read_trusted
from sidespawn.system.places import POLICIES, Places


@dataclass(frozen=True, kw_only=True)
class Preset:
    name: str
    program: str
    description: str
    file: str


OWN = POLICIES / "presets"


def names() -> list[str]:
    return sorted({*shipped.names(), *(path.stem for path in OWN.glob("*.toml"))})


def require_preset(name: str) -> None:
    """Raise PolicyError if there is no such preset, with the one that was probably meant."""
    if name not in names():
        hint = did_you_mean(name, names(), otherwise="sidespawn presets lists them")
        raise PolicyError(f"there is no preset named {name}", hint)


def complete_preset(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in names() if name.startswith(incomplete)]


@click.group(cls=Suggesting, invoke_without_command=True)
@json_option
@click.pass_context
def presets(context: click.Context, as_json: bool) -> None:
    """List the presets that policies can build on, or show one.

    Without a subcommand, list the presets.
    """
    if context.invoked_subcommand is None:
        show_list(as_json=as_json)


@presets.command(name="list")
@json_option
def list_presets(as_json: bool) -> None:
    """List the presets: name, program, and what it is for."""
    show_list(as_json=as_json)


@presets.command()
@click.argument("name", metavar="NAME", shell_complete=complete_preset)
@json_option
def show(name: str, as_json: bool) -> None:
    """Print the text of a preset.

    A preset may extend another. `sidespawn check NAME` shows what the whole allows.
    """
    require_preset(name)
    text = read(name)
    if as_json:
        print_json({**asdict(found(name)), "text": text})
    else:
        click.echo(text, nl=not text.endswith("\n"))


def path_of(name: str) -> Path:
    own = OWN / f"{name}.toml"
    return own if own.exists() else shipped.DIRECTORY / f"{name}.toml"


def read(name: str) -> str:
    path = path_of(name)
    return read_trusted(path) if path.parent == OWN else shipped.read_preset(name)


def parameters_of_preset(name: str) -> set[str]:
    """Return the parameters of a preset and of those that it extends. Raises PolicyError."""
    require_preset(name)
    document, _lines = extended(str(path_of(name)), read(name), read, EXTENSIONS)
    return set(Table(document, {}, str(path_of(name))).table("parameters", optional=True).keys())


def found(name: str) -> Preset:
    path = path_of(name)
    policy = policy_of(Places(name), read(name), source=str(path))
    return Preset(name=name, program=policy.table.program, description=policy.description, file=str(path))


def show_list(*, as_json: bool) -> None:
    every = [found(name) for name in names()]
    if as_json:
        print_json([asdict(each) for each in every])
    else:
        print_table(("preset", "program", "for"), ((each.name, each.program, each.description) for each in every), "")
