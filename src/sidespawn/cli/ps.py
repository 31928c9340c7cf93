"""`sidespawn ps`: side containers, as the engine and the ledger see them, and requests that limits hold back."""

from __future__ import annotations

from dataclasses import asdict

import click

from sidespawn.cli.output import (
    NONE_ENABLED,
    complete_service,
    console,
    json_option,
    print_json,
    print_table,
    require_enabled,
    to_places,
)
from sidespawn.host.policies import load_policy
from sidespawn.host_report.suitability import MONITOR
from sidespawn.service_report.side_containers import Row, side_containers
from sidespawn.service_report.usage import Usage, usage
from sidespawn.setup.services import services
from sidespawn.system.places import Places


@click.command()
@click.argument("places", metavar="[SERVICE]", required=False, callback=to_places, shell_complete=complete_service)
@click.option("--limits", is_flag=True, help="Show how much of each service's limits is used, and what is queued.")
@json_option
def ps(places: Places | None, limits: bool, as_json: bool) -> None:
    """List the side containers of SERVICE, or of all services.

    Below the table, it lists requests that the limits hold back now. --limits shows all limits.
    """
    if places is not None:
        require_enabled(places)
    used = [usage(each) for each in services(places)]
    if limits:
        show_limits(used, as_json)
        return
    rows = [row for each in services(places) for row in side_containers(each)]
    if as_json:
        print_json(rows)
        return
    columns = ("name", "state", "pid", "since", "netns", "request")
    cells = ([str(row[column] or "") for column in columns] for row in (shown(each) for each in rows))
    print_table(columns, cells, "no side containers" if used else NONE_ENABLED)
    for each in used:
        for message in each.held_back:
            click.echo(f"{each.service}: {message}")
    for service in services(places):
        if load_policy(service).is_monitor:
            console().print(f"[yellow]warning[/yellow] {service.service}: {MONITOR}")


def show_limits(used: list[Usage], as_json: bool) -> None:
    if as_json:
        print_json([{**asdict(each), "held_back": each.held_back} for each in used])
        return
    columns = ("service", "instances", "requests at once", "a second", "waiting", "backing off")
    rows = (
        (
            each.service,
            f"{each.instances} of {each.most_instances}",
            f"{each.requests_left} of {each.burst}",
            str(each.rate),
            f"{each.waiting} bytes",
            " ".join(f"{name} ({wait:.0f} s)" for name, wait in each.backing_off.items()) or "none",
        )
        for each in used
    )
    print_table(columns, rows, NONE_ENABLED)


def shown(row: Row) -> Row:
    marks = [mark for mark in ("adopted", "orphan") if row[mark]]
    return row | {"state": ", ".join((str(row["state"]), *marks))}
