"""`sidespawn ps`: side containers, as the engine and the ledger see them, and requests that limits hold back."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from sidespawn.cli.output import (
    complete_service,
    console,
    json_option,
    print_json,
    print_table,
    require_enabled,
    to_places,
)
from sidespawn.core.policy import Policy
from sidespawn.engines import get_engine
from sidespawn.host.adoption import find_legacy
from sidespawn.host.ledger import Ledger, Record
from sidespawn.host.limits import SUFFIX, Bucket, Falls
from sidespawn.host.policies import load_policy
from sidespawn.host.spool import REQUESTS
from sidespawn.host_report.suitability import MONITOR
from sidespawn.setup.services import services
from sidespawn.system import kernel
from sidespawn.system.files import closing
from sidespawn.system.namespaces import namespace_of, opened_names
from sidespawn.system.places import NAMESPACES, Places

NONE_ENABLED = "no service is enabled on this host; see: sidespawn enable --help"


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


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Usage of a service's limits."""

    service: str
    instances: int
    most_instances: int
    requests_left: int  # requests that would be taken at once; negative after a flood
    burst: int
    rate: int
    waiting: int  # bytes in the spool
    backing_off: dict[str, float]  # instance to seconds

    @property
    def held_back(self) -> list[str]:
        found = [f"{name} keeps exiting; not started again for {wait:.0f} s" for name, wait in self.backing_off.items()]
        if self.instances >= self.most_instances:
            found.append(f"instance limit reached ({self.most_instances} side containers)")
        if self.requests_left < 1:
            found.append(f"rate limit reached ({self.rate} requests/s); {self.waiting} bytes of requests queued")
        return found


def usage(places: Places) -> Usage:
    limits = load_policy(places).limits
    bucket = Bucket(places.bucket, limits.burst, limits.rate)
    bucket.closed_for()
    there = places.ledger.is_dir()
    return Usage(
        service=places.service,
        instances=len(Ledger(places.ledger).keys()) if there else 0,
        most_instances=limits.instances,
        requests_left=int(bucket.left),
        burst=limits.burst,
        rate=limits.rate,
        waiting=bytes_waiting(places.spool),
        backing_off=backing_off(places, limits.backoff) if there else {},
    )


def bytes_waiting(spool: Path) -> int:
    """Return the size of queued requests. Do not open other things that an agent put there: they might block."""
    with suppress(OSError):
        status = os.lstat(spool / REQUESTS)
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    return 0


def backing_off(places: Places, longest: int) -> dict[str, float]:
    falls = Falls(places.ledger, longest)
    pauses = {path.stem: falls.pause(path.stem)[1] for path in places.ledger.glob(f"*{SUFFIX}")}
    return {instance: round(pause, 1) for instance, pause in sorted(pauses.items()) if pause > 0}


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


Row = dict[str, str | int | None]


def shown(row: Row) -> Row:
    marks = [mark for mark in ("adopted", "orphan") if row[mark]]
    return row | {"state": ", ".join((str(row["state"]), *marks))}


def is_orphan(pid: int, netns: str) -> bool:
    """Return whether its network namespace has lost its name: nothing can reach it, and no agent requests it again."""
    inode = namespace_of(pid)
    if not netns or inode is None:
        return False
    try:
        flags, of_namespaces = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, os.stat("/proc/self/ns/net").st_dev
        with opened_names(NAMESPACES) as held, closing(os.open(netns, flags, dir_fd=held)) as name:
            return kernel.device_and_mode(name)[0] != of_namespaces or os.fstat(name).st_ino != inode
    except OSError:
        return True


def side_containers(places: Places) -> list[Row]:
    policy = load_policy(places)
    engine, mode = (
        get_engine(policy.side_container.engine, policy.service),
        "monitor" if policy.is_monitor else "enforce",
    )
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
                "orphan": found.pid is not None and is_orphan(found.pid, found.netns),
                "mode": mode,
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
            "orphan": is_orphan(record.pid, record.netns),
            "mode": mode,
        }
        for record in adopted(policy)
    ]
    return rows


def moment(since: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))


def adopted(policy: Policy) -> list[Record]:
    """Return running side containers of legacy wrappers, whether or not a run of the service has seen them yet."""
    if policy.adopt is None:
        return []
    found = find_legacy(policy, get_engine(policy.adopt.engine, policy.service))
    return sorted((each for _, each in found if isinstance(each, Record)), key=lambda each: each.name)
