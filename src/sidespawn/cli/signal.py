"""`sidespawn signal` and `sidespawn stop`: the operator's requests, served like an agent's but without its limits."""

from __future__ import annotations

import click

from sidespawn import wrapper
from sidespawn.cli.output import json_option, print_json, require_enabled, service_argument
from sidespawn.core.wire import SIGNALS
from sidespawn.errors import Reason, SidespawnError
from sidespawn.host.ledger import Ledger, Record
from sidespawn.host.places import Places

TIMEOUT = 120  # seconds


@click.command()
@service_argument
@click.argument("instance")
@click.argument("name", metavar="SIGNAL", type=click.Choice(SIGNALS, case_sensitive=False))
@json_option
def signal(places: Places, instance: str, name: str, as_json: bool) -> None:
    """Send SIGNAL to the program of a side container. INSTANCE is its name, or the name without the service."""
    show([ask(places, find(places, instance), name)], as_json)


@click.command()
@service_argument
@click.argument("instances", metavar="[INSTANCE]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every side container of the service.")
@click.option("--kill", is_flag=True, help="At once, without asking the program to end.")
@json_option
def stop(places: Places, instances: tuple[str, ...], every: bool, kill: bool, as_json: bool) -> None:
    """Stop side containers, and return when they are gone."""
    if every == bool(instances):
        raise click.UsageError("name side containers, or say --all")
    records = [find(places, each) for each in instances] if instances else running(places)
    show([ask(places, record, "KILL" if kill else "TERM") for record in records], as_json)


def running(places: Places) -> list[Record]:
    require_enabled(places)
    return [record for record in Ledger(places.ledger).records() if record.is_running]


def find(places: Places, instance: str) -> Record:
    records = running(places)
    for record in records:
        if instance in (record.instance, record.name):
            return record
    names = ", ".join(record.instance for record in records[:5]) or "none"
    raise SidespawnError(
        Reason.NO_SUCH_PROCESS, f"{places.service} runs no side container {instance}", f"running: {names}"
    )


def ask(places: Places, record: Record, name: str) -> dict[str, object]:
    settings = {
        "service": places.service,
        "spool": str(places.operator),
        "replies": str(places.replies),
        "timeout": TIMEOUT,
    }
    reply: dict[str, object] = wrapper.signal(settings, name.upper(), record.pid)
    if reply["status"] != "done":
        raise SidespawnError(Reason(str(reply["reason"])), str(reply["message"]))
    return {"name": record.name, "pid": record.pid, "signal": name.upper(), "message": reply["message"]}


def show(done: list[dict[str, object]], as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    for each in done:
        click.echo(each["message"])
