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
from sidespawn.core.policy import Policy
from sidespawn.engines import get_engine
from sidespawn.host.adoption import find_old
from sidespawn.host.ledger import Ledger, Record
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
    cells = ([str(row[column] or "") for column in columns] for row in (shown(each) for each in rows))
    print_table(columns, cells, "no side containers")


Row = dict[str, str | int | None]


def shown(row: Row) -> Row:
    return row | {"state": f"{row['state']}, adopted"} if row["adopted"] else row


def side_containers(places: Places) -> list[Row]:
    policy = load_policy(places)
    engine = get_engine(policy.side_container.engine)
    records = {each.container: each for each in Ledger(places.ledger).records()} if places.ledger.is_dir() else {}
    rows: list[Row] = []
    for found in sorted(engine.list(places.service), key=lambda each: each.name):
        record = records.get(found.id)
        rows.append(
            {
                "service": places.service,
                "instance": found.instance,
                "name": found.name,
                "state": found.state,
                "pid": found.pid,
                "since": moment(record.since) if record else None,
                "netns": found.netns,
                "request": found.request,
                "container": found.id,
                "adopted": False,
            }
        )
    rows += [
        {
            "service": places.service,
            "instance": record.instance,
            "name": record.name,
            "state": "running",
            "pid": record.pid,
            "since": moment(record.since),
            "netns": record.netns,
            "request": None,
            "container": record.container,
            "adopted": True,
        }
        for record in adopted(policy)
    ]
    return rows


def moment(since: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))


def adopted(policy: Policy) -> list[Record]:
    """What the wrappers of before started and still runs, whether or not a run of the service has seen it yet."""
    if policy.adopt is None:
        return []
    found = find_old(policy, get_engine(policy.adopt.engine))
    return sorted((each for _, each in found if isinstance(each, Record)), key=lambda each: each.name)
