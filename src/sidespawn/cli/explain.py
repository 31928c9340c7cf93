"""`sidespawn explain`: what a request would do, argument by argument, without starting anything."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

import click

from sidespawn.agent.wrapper import encode, is_answered_here
from sidespawn.authoring.start_command import start_command
from sidespawn.cli.output import complete_service, console, json_option, print_json, print_table
from sidespawn.cli.presets import complete_preset, read, require_preset
from sidespawn.core.configuration import CONFIGURATION_BYTES
from sidespawn.core.decide import Allowed, Judge, Judged, ReadFile
from sidespawn.core.plan import Plan
from sidespawn.core.policy import Policy, is_service_name
from sidespawn.core.wire import StartRequest, parse_request
from sidespawn.engines import Pins
from sidespawn.errors import Denied, LaunchError, quoted
from sidespawn.host.policies import load_policy, policy_of
from sidespawn.host.state import AgentState
from sidespawn.system.places import Places

EXAMPLE_ID = "0" * 32
LATEST = 10**12  # a deadline with the usual number of digits


@click.command()
@click.argument("service", required=False, shell_complete=complete_service)
@click.option(
    "--preset",
    help="Use this preset instead of a service. Needs no root and no image. See `sidespawn presets`.",
    shell_complete=complete_preset,
)
@click.option("--netns", help="Network namespace that the call comes from.")
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set an environment variable of the call. Repeatable.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Read configuration files under this directory instead of the agent's state on this host.",
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
@json_option
@click.pass_context
def explain(
    context: click.Context,
    service: str | None,
    preset: str | None,
    netns: str | None,
    environment: tuple[str, ...],
    root: Path | None,
    argv: tuple[str, ...],
    as_json: bool,
) -> int:
    """Show how a policy judges a call, and why.

    \b
        sidespawn explain SERVICE --netns NS -- dnsmasq ARGS...

    Shows the rule that allows or refuses each argument, and the engine's exact command. Exit code 0 if the call is
    allowed, 77 if it is refused.
    """
    if preset is not None and service is not None:
        argv, service = (service, *argv), None  # click gave it the first word after --
    if (preset is None) == (service is None) or not argv:
        raise click.UsageError("give a SERVICE or a --preset, then -- and the call: dnsmasq ARGS...", context)
    policy = preset_policy(preset) if preset is not None else service_policy(str(service))
    if is_answered_here(policy.agent.local, argv[1:]):
        report_local(argv, policy, as_json)
        return 0
    judge = Judge(policy, reader(policy, root))
    try:
        allowed = judge.decide(as_request(policy, argv, netns, environment))
    except LaunchError as error:  # a start's error about a file: too large, a link, not a regular file
        report_denied(argv, judge, Denied(error.reason, error.message, error.hint), as_json)
        return 77
    except Denied as denied:
        report_denied(argv, judge, denied, as_json)
        return 77
    report_allowed(argv, allowed, as_json)
    return 0


def preset_policy(name: str) -> Policy:
    require_preset(name)
    return policy_of(Places(name), read(name), source=f"presets/{name}.toml")


def service_policy(name: str) -> Policy:
    if not is_service_name(name):
        raise click.UsageError(f"{name!r} is not the name of a service")
    return load_policy(Places(name))


def as_request(policy: Policy, argv: tuple[str, ...], netns: str | None, environment: tuple[str, ...]) -> StartRequest:
    """Return the request that a wrapper would write, parsed as the host would parse it.

    Like a wrapper, it includes only environment variables that the policy names.
    """
    pairs = dict(each.partition("=")[::2] for each in environment)
    for name in [each for each in pairs if each not in policy.environment]:
        click.echo(f"sidespawn: the wrapper leaves out {quoted(name)}, which the policy does not name", err=True)
        del pairs[name]
    fields = {"op": "start", "argv": argv, "netns": netns, "env": pairs, "v": 1, "id": EXAMPLE_ID}
    line = encode({**fields, "deadline": LATEST}).encode()
    request = parse_request(line, policy.limits.line)
    assert isinstance(request, StartRequest)  # noqa: S101 - op is start
    return request


def reader(policy: Policy, root: Path | None) -> ReadFile:
    """Read files as a start does, under `root` or from the agent's state on the host; return None for missing ones."""
    agent, gid = policy.agent, policy.side_container.gid
    state = root / agent.state.lstrip("/") if root else Path(agent.state_on_host)
    if root and not state.is_dir():
        raise click.UsageError(f"--root must hold the agent's whole path: there is no directory {state}")

    def read_file(beneath: str) -> bytes | None:
        on_host, slashes, inside = beneath.rpartition("//")
        if root and slashes:
            on_host = next(str(root / each.path.lstrip("/")) for each in agent.roots if each.on_host == on_host)
        if not os.access(Path(on_host or state) / inside, os.R_OK):
            return None
        path = f"{on_host}{slashes}{inside}"
        return AgentState(str(state), agent.spool_uid, gid).read(path, CONFIGURATION_BYTES)

    return read_file


def configuration_verdicts(plan: Plan) -> list[dict[str, str | None]]:
    verdicts: list[dict[str, str | None]] = []
    for file in plan.configuration:
        verdict = "allowed" if file.text is not None else "to be checked at the start"
        verdicts.append({"file": file.path, "verdict": verdict, "rules": file.rules, "text": file.text})
    return verdicts


def engine_command(plan: Plan) -> tuple[str, ...]:
    pins = Places(plan.service).pins
    return start_command(
        plan,
        Pins(
            netns=pins / f"{EXAMPLE_ID}.netns",
            pid_file=pins / f"{EXAMPLE_ID}.pid",
            mounts=tuple(pins / f"{EXAMPLE_ID}.mount{number}" for number in range(len(plan.mounts))),
            configuration=tuple(
                Places(plan.service).snapshots / f"{plan.instance}.{number}"
                for number in range(len(plan.configuration))
            ),
            scripts=tuple(
                Places(plan.service).snapshots / f"{plan.instance}.{len(plan.configuration) + number}"
                for number in range(len(plan.scripts))
            ),
        ),
        EXAMPLE_ID,
    )


def judged_rows(argv: tuple[str, ...], judged: Iterable[Judged]) -> list[tuple[str, str, str]]:
    """Return each accepted argument, what the program gets for it, and the rule that allowed it."""
    rows = [(argv[each.argument], " ".join(each.passed_on) or "not passed on", each.rule) for each in judged]
    return rows + [(each, "not passed on: empty", "") for each in argv[1:] if not each.strip(" ")]


def as_objects(rows: list[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [{"argument": argument, "passed_on": passed_on, "rule": rule} for argument, passed_on, rule in rows]


def report_allowed(argv: tuple[str, ...], allowed: Allowed, as_json: bool) -> None:
    plan, command = allowed.plan, engine_command(allowed.plan)
    rows = judged_rows(argv, allowed.judged)
    if as_json:
        print_json(
            {
                "verdict": "allowed",
                "instance": plan.instance,
                "name": plan.name,
                "program": [plan.command, *plan.arguments],
                "arguments": as_objects(rows),
                "only_in_monitor_mode": [{"reason": each.reason, "message": each.message} for each in allowed.excused],
                "names": dict(allowed.bindings),
                "configuration": configuration_verdicts(plan),
                "capabilities": list(plan.capabilities),
                "user": f"{plan.uid}:{plan.gid}",
                "engine_command": list(command),
            }
        )
        return
    out = console()
    out.print(f"[green]allowed[/green] as side container [bold]{plan.name}[/bold]")
    print_table(("argument", "passed on as", "rule"), rows, "no arguments")
    for each in allowed.excused:
        out.print("[yellow]only in monitor mode[/yellow]: ", end="")
        out.print(f"({each.reason}) {each.message}", markup=False)
    for file in configuration_verdicts(plan):
        out.print(f"{file['file']}: {file['verdict']}", markup=False)
        if file["text"]:
            out.print("  the program gets:", markup=False)
            click.echo("".join(f"    {line}\n" for line in file["text"].splitlines()), nl=False)
    out.print("names: " + ", ".join(f"{name}={value}" for name, value in allowed.bindings.items()), markup=False)
    out.print("the engine's command:")
    click.echo("  " + shlex.join(command))


def report_local(argv: tuple[str, ...], policy: Policy, as_json: bool) -> None:
    if as_json:
        print_json({"verdict": "local", "argv": list(argv)})
        return
    message = f"answered in the agent, by the {policy.table.program} of its own image; nothing is started for it"
    console().print(f"[green]local[/green]: {message}")


def report_denied(argv: tuple[str, ...], judge: Judge, denied: Denied, as_json: bool) -> None:
    at = denied.argument
    culprit = argv[at] if at is not None and at < len(argv) else None
    rows = judged_rows(argv[:at], judge.judged)
    if as_json:
        print_json(
            {
                "verdict": "refused",
                "reason": denied.reason,
                "message": denied.message,
                "hint": denied.hint,
                "argument": culprit,
                "rule": denied.rule,
                "arguments": as_objects(rows),
            }
        )
        return
    out = console()
    if rows or culprit is not None:
        refused = [(quoted(culprit), "refused", denied.rule)] if culprit is not None else []
        print_table(("argument", "passed on as", "rule"), [*rows, *refused], "")
    out.print(f"[red]refused[/red] ({denied.reason}): ", end="")
    out.print(denied.message, markup=False)
    if denied.hint:
        out.print(f"  {denied.hint}", markup=False)
