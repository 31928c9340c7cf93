"""`sidespawn doctor`: problems on this host, in the order to fix them."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from sidespawn.cli.output import console, json_option, print_json
from sidespawn.service_report.diagnosis import diagnose
from sidespawn.service_report.diagnosis.ailments import Ailment

WELL, ILL, NOT_LOOKED_AT = 0, 1, 2


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """List what is wrong on this host, and how to fix it.

    Groups consequences under their causes. Fix the first cause, then run it again: its consequences may be gone.
    Changes nothing. Run it as root.

    Exit code 0 if nothing is wrong, 1 if something is, 2 if something could not be checked and nothing was found.
    """
    found = diagnose()
    code = ILL if found.causes else NOT_LOOKED_AT if found.not_looked_at else WELL
    if as_json:
        print_json(asdict(found))
        return code
    out = console()
    for number, each in enumerate(found.causes, 1):
        show(number, each)
    for sentence in found.not_looked_at:
        out.print("not checked:", sentence, markup=False)
    if not found.causes:
        out.print(f"{os.uname().nodename}: nothing is wrong" + (" that could be seen" if found.not_looked_at else ""))
    return code


def show(number: int, cause: Ailment) -> None:
    out = console()
    out.print(f"[bold]{number}[/bold] [red]{cause.state}[/red] {cause.id}")
    lines = [cause.found, f"so {cause.message}"]
    lines += [f"and {each.id}: {each.found}" for each in cause.consequences]
    lines.append(f"-> {cause.command or cause.advice}")
    for line in lines:
        out.print(f"  {line}", markup=False)
