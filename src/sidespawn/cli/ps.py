"""`sidespawn ps`: the side containers, as the engine and the ledger see them."""

from __future__ import annotations

import time

import click

from sidespawn.cli.output import (
    complete_service,
    json_option,
    print_json,
    print_table,
    require_enabled,
    services,
    to_places,
)
from sidespawn.engines import get_engine
from sidespawn.host.ledger import Ledger
from sidespawn.host.places import Places
from sidespawn.host.policies import load_policy


@click.command()
@click.argument("places", metavar="[SERVICE]", required=False, callback=to_places, shell_complete=complete_service)
@json_option
def ps(places: Places | None, as_json: bool) -> None:
    """List the side containers of SERVICE, or of every enabled service."""
    if places is not None:
        require_enabled(places)
    rows = [row for each in services(places) for row in side_containers(each)]
    if as_json:
        print_json(rows)
        return
    columns = ("name", "state", "pid", "since", "netns", "request")
    print_table(columns, ([str(row[column] or "") for column in columns] for row in rows), "no side containers")


def side_containers(places: Places) -> list[dict[str, str | int | None]]:
    engine = get_engine(load_policy(places).side_container.engine)
    records = {each.container: each for each in Ledger(places.ledger).records()} if places.ledger.is_dir() else {}
    rows: list[dict[str, str | int | None]] = []
    for found in sorted(engine.list(places.service), key=lambda each: each.name):
        record = records.get(found.id)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.since)) if record else None
        rows.append(
            {
                "service": places.service,
                "instance": found.instance,
                "name": found.name,
                "state": found.state,
                "pid": found.pid,
                "since": since,
                "netns": found.netns,
                "request": found.request,
                "container": found.id,
            }
        )
    return rows
