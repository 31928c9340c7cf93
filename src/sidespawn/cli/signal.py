"""`sidespawn signal` and `sidespawn stop`: the operator's requests, served like an agent's but without its limits."""

from __future__ import annotations

import click

from sidespawn.agent import wrapper
from sidespawn.cli.output import json_option, print_json, require_enabled, service_argument
from sidespawn.cli.verbs import Unfinished
from sidespawn.core.wire import SIGNALS
from sidespawn.engines import Found, get_engine
from sidespawn.errors import Denied, Reason, SidespawnError
from sidespawn.host.ledger import Record
from sidespawn.host.policies import load_policy
from sidespawn.service_report.side_containers import adopted
from sidespawn.system.places import Places

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
@click.option("--all", "every", is_flag=True, help="Stop all side containers of the service.")
@click.option("--kill", is_flag=True, help="Kill at once, without asking the program to exit.")
@json_option
def stop(places: Places, instances: tuple[str, ...], every: bool, kill: bool, as_json: bool) -> None:
    """Stop side containers, and return when they are gone."""
    if every == bool(instances):
        raise click.UsageError("name side containers, or use --all")
    found, done, failed = list[Target](), list[dict[str, object]](), list[SidespawnError]()
    for instance in instances:
        try:
            found.append(find(places, instance))
        except SidespawnError as error:
            if error.reason is not Reason.NO_SUCH_PROCESS:
                raise
            failed.append(error)
    for each in running(places) if every else found:
        try:
            done.append(end(places, each, "KILL" if kill else "TERM"))
        except SidespawnError as error:
            failed.append(error)
        else:
            if not as_json:
                click.echo(done[-1]["message"])
    if failed:
        raise Unfinished(done, failed)
    if as_json or not done:
        show(done, as_json)


Target = Found | Record  # our own or an adopted one


def running(places: Places) -> list[Target]:
    """Ask the engine: an operator must reach running side containers, whatever the ledger knows."""
    require_enabled(places)
    policy = load_policy(places)
    found = get_engine(policy.side_container.engine, places.service).list(places.service)
    return [*(each for each in found if each.pid is not None), *adopted(policy)]


def find(places: Places, instance: str) -> Target:
    found = running(places)
    for each in found:
        if instance in (each.instance, each.name):
            return each
    names = ", ".join(each.instance for each in found[:5]) or "none"
    raise SidespawnError(
        Reason.NO_SUCH_PROCESS, f"{places.service} runs no side container {instance}", f"running: {names}"
    )


def end(places: Places, found: Target, name: str) -> dict[str, object]:
    """Ask for its end. If it ended before the host could act, end its replacement, if there is one."""
    try:
        return ask(places, found, name)
    except SidespawnError as error:
        if error.reason is not Reason.NO_SUCH_PROCESS:
            raise
    for each in running(places):
        if each.name == found.name:
            return ask(places, each, name)
    return {"name": found.name, "pid": found.pid, "signal": name, "message": f"{found.name} has already ended"}


def ask(places: Places, found: Target, name: str) -> dict[str, object]:
    settings = {
        "service": places.service,
        "spool": str(places.operator),
        "replies": str(places.answers),
        "timeout": TIMEOUT,
    }
    try:
        reply: dict[str, object] = wrapper.signal(settings, name.upper(), found.pid or 0)
    except wrapper.Unavailable as error:
        raise SidespawnError(Reason.NOT_ENABLED, f"{places.service} is no longer enabled: {error}") from None
    if reply["status"] != "done":
        kind = Denied if reply["status"] == "rejected" else SidespawnError
        raise kind(Reason(str(reply["reason"])), str(reply["message"]))
    return {"name": found.name, "pid": found.pid, "signal": name.upper(), "message": reply["message"]}


def show(done: list[dict[str, object]], as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    if not done:
        click.echo("nothing to stop")
    for each in done:
        click.echo(each["message"])
