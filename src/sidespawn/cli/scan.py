"""`sidespawn scan`: which containers still have an engine's socket or more privileges than they need."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.markup import escape

from sidespawn.cli.output import console, json_option, print_json, printable
from sidespawn.errors import Reason, SidespawnError

CLEAN, FOUND, NOT_LOOKED_AT = 0, 1, 2


@click.command()
@json_option
def scan(as_json: bool) -> int:
    """Find engine sockets and privileges that are not needed.

    Changes nothing. Looks at the containers of podman and docker, running or not, at running containers of Kubernetes,
    at wrappers and kill scripts of Kolla-Ansible, EDPM and TripleO, and at units and compose files. For each finding:
    what it means, and the setting that replaces it there.

    Exit code 0 without findings, 1 with findings, 2 if something could not be checked and nothing was found.
    """
    try:
        from sidespawn import host_scan
    except ImportError as error:
        hint = "install python3-yaml, or: pip install PyYAML"
        raise SidespawnError(Reason.HOST_UNSUITABLE, f"this installation cannot scan: {error}", hint) from None
    report = host_scan.scan()
    code = FOUND if report.findings else NOT_LOOKED_AT if report.not_looked_at else CLEAN
    if as_json:
        rows = [each.as_row() for each in report.findings]
        print_json(asdict(report) | {"findings": rows})
        return code
    out = console()
    for each in report.findings:
        where, found = escape(printable(each.where)), escape(printable(each.found))
        out.print(f"[bold]{where}[/bold] [red]{each.kind}[/red]: {found}")
        out.print(f"  {printable(each.meaning)}", markup=False)
        out.print(f"  -> {printable(each.hint)}", markup=False)
    for note in report.notes:
        out.print(f"note: {printable(note)}", markup=False)
    for failure in report.not_looked_at:
        out.print(f"[yellow]not checked[/yellow] {escape(printable(failure))}")
    count = len(report.findings)
    out.print(f"{report.containers} containers, {count or 'no'} finding{'s' if count != 1 else ''}")
    return code
