"""`sidespawn check`: is the host ready, are the policies valid, and what do they allow?"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sidespawn import host_report
from sidespawn.authoring.example_calls import example_calls
from sidespawn.authoring.policy_tests import Outcome, run_tests
from sidespawn.cli.output import console, json_option, print_json, print_table
from sidespawn.cli.presets import names, read
from sidespawn.cli.verbs import did_you_mean
from sidespawn.core.pattern import Name, Pattern
from sidespawn.core.policy import Policy, is_service_name
from sidespawn.errors import PolicyError
from sidespawn.host.policies import policy_of
from sidespawn.host_report.findings import Finding, State, worst
from sidespawn.host_report.suitability import host_findings, policy_warnings, unit_warnings
from sidespawn.setup import coverage
from sidespawn.setup.services import Service, is_enabled, services_with_policy
from sidespawn.system.files import read_trusted
from sidespawn.system.places import Places

FAILED_TESTS, UNSUITABLE, INVALID = 1, 69, 78
STYLES = {State.OK: "green", State.WARNING: "yellow", State.PROBLEM: "bold red"}


@dataclass(frozen=True)
class Checked:
    """A policy that was found. If it is invalid, `policy` is None and `error` says why."""

    subject: str
    policy: Policy | None = None
    error: PolicyError | None = None
    outcomes: tuple[Outcome, ...] = ()
    gaps: tuple[str, ...] = ()  # why calls of the agent's release may fail

    @property
    def is_dangerous(self) -> bool:
        return bool(self.gaps) and self.policy is not None and self.policy.table.program in coverage.VITAL


@click.command()
@click.argument("subjects", metavar="[SERVICE|PRESET|FILE]...", nargs=-1)
@click.option("--examples", "with_examples", is_flag=True, help="Show a call that each rule allows.")
@json_option
def check(subjects: tuple[str, ...], as_json: bool, with_examples: bool) -> int:
    """Examine the host, and validate and test policies.

    Without arguments, it examines the host, says what to do about each finding, and checks the policy of every
    service. With arguments, it checks only these policies, and what they lack on this host.

    Exit code 69 if the host has a problem that makes requests fail or costs routers their failover, else 78 if a
    policy is invalid, else 1 if a policy's test case fails. Warnings alone give 0.
    """
    results = [checked(subject) for subject in subjects or services_with_policy()]
    findings = () if subjects else host_report.report(services(results))
    if as_json:
        judged = [summary(each, is_alone=bool(subjects), with_examples=with_examples) for each in results]
        print_json(judged if subjects else {"host": host(findings), "services": judged})
    else:
        show_host(findings)
        for each in results:
            show(each, is_alone=bool(subjects))
            if with_examples and each.policy is not None:
                show_examples(each.policy)
        if not results:
            click.echo("no service has a policy on this host; see: sidespawn enable --help")
    if worst(findings) is State.PROBLEM or any(each.is_dangerous for each in results):
        return UNSUITABLE
    if any(each.error for each in results):
        return INVALID
    return FAILED_TESTS if any(not outcome.passed for each in results for outcome in each.outcomes) else 0


def checked(subject: str) -> Checked:
    try:
        places, source, text = find(subject)
        policy = policy_of(places, text, source)
        gaps = tuple(coverage.problems(policy))
        return Checked(subject, policy, outcomes=tuple(run_tests(policy, source, text)), gaps=gaps)
    except (OSError, UnicodeDecodeError) as error:
        return Checked(subject, error=unreadable(subject, error))
    except PolicyError as error:
        return Checked(subject, error=error)


def unreadable(subject: str, error: OSError | UnicodeDecodeError) -> PolicyError:
    if isinstance(error, FileNotFoundError):
        known = sorted({*services_with_policy(), *names()})
        hint = did_you_mean(subject, known, otherwise="`sidespawn presets` lists the presets")
        return PolicyError("no such service, preset or policy file", hint)
    why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error.strerror).lower()
    return PolicyError(f"cannot be read: {why}")


def find(subject: str) -> tuple[Places, str, str]:
    """Load a service of this host as the host would; else a preset; else the file of that name."""
    if is_service_name(subject):
        places = Places(subject)
        if places.policy.exists():
            return places, str(places.policy), read_trusted(places.policy)
        if subject in names():
            return places, f"presets/{subject}.toml", read(subject)
    path = Path(subject)
    return Places(path.stem if is_service_name(path.stem) else "unnamed"), subject, path.read_text(encoding="utf-8")


def services(results: Iterable[Checked]) -> list[Service]:
    return [Service(name=each.subject, policy=each.policy, is_enabled=is_enabled(each.subject)) for each in results]


def notes(each: Checked, policy: Policy, *, is_alone: bool) -> list[tuple[State, str]]:
    """Return what to know of a policy. Findings about the host are not repeated after its report."""
    own = [(State.WARNING, text) for text in (*policy_warnings(policy), *unit_warnings(policy))]
    if each.is_dangerous:
        own += [(State.PROBLEM, f"{text}; {coverage.CONSEQUENCE}") for text in each.gaps]
    else:
        own += [(State.WARNING, text) for text in each.gaps]
    return own + [(found.state, found.sentence) for found in (host_findings(policy) if is_alone else ())]


def host(findings: tuple[Finding, ...]) -> dict[str, object]:
    return {"state": worst(findings), "findings": [asdict(each) for each in findings]}


def summary(each: Checked, *, is_alone: bool, with_examples: bool = False) -> dict[str, object]:
    if each.policy is None:
        message, hint = (each.error.message, each.error.hint) if each.error else ("", "")
        return {"subject": each.subject, "valid": False, "error": message, "hint": hint}
    options = {name: [pattern.source for pattern in rule.values] for name, rule in each.policy.options.items()}
    return {
        "subject": each.subject,
        "valid": True,
        "description": each.policy.description,
        "allows": dict(allows(each.policy)),
        "options": options,
        **({"examples": [asdict(call) for call in example_calls(each.policy)]} if with_examples else {}),
        "tests": [{**asdict(outcome), "passed": outcome.passed} for outcome in each.outcomes],
        "warnings": [text for _, text in notes(each, each.policy, is_alone=is_alone)],
    }


def allows(policy: Policy) -> list[tuple[str, str]]:
    side_container = policy.side_container
    writable = (*side_container.mounts, *(pattern for _, pattern in side_container.writes))
    user = f"{side_container.uid}:{side_container.gid}"
    return [
        ("program", f"{side_container.command} of {side_container.image}, by {side_container.engine}"),
        ("namespace", "none: the host's own network" if policy.netns is None else written_out(policy, policy.netns)),
        ("user", user + (" (root)" if side_container.uid == 0 else "")),
        ("capabilities", " ".join(side_container.capabilities) or "none"),
        ("writable", " ".join(pattern.source for pattern in writable) or "nothing"),
        ("readable", " ".join(pattern.source for _, pattern in side_container.reads) or "nothing"),
        ("limits", f"{side_container.limits.memory // 2**20} MiB memory, {side_container.limits.tasks} tasks"),
        ("signals", " ".join(policy.signals) or "none"),
        ("adopts", " ".join(pattern.source for pattern in policy.adopt.names) if policy.adopt else "nothing"),
        ("environment", " ".join(policy.environment) or "none"),
        ("options", f"{len(policy.options)} of the {len(policy.table.options)} that {policy.table.program} has"),
    ]


def written_out(policy: Policy, pattern: Pattern) -> str:
    """Replace a pattern that is only a name with the name's own patterns."""
    match pattern.parts:
        case (Name(name=name),):
            return " or ".join(each.source for each in policy.names[name])
    return pattern.source


def show_host(findings: tuple[Finding, ...]) -> None:
    """Print a row for each finding; under one that is not ok, its consequence and what to do."""
    if not findings:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("state", "id", "found"):
        table.add_column(column, overflow="fold")
    for each in findings:
        lines = [each.found, each.message, f"-> {each.hint}"] if each.hint else [each.found]
        table.add_row(Text(each.state, STYLES[each.state]), each.id, Text("\n".join(lines)))
    counts = [(sum(each.state is state for each in findings), state) for state in (State.PROBLEM, State.WARNING)]
    told = ", ".join(f"{count} {state}{'s' if count > 1 else ''}" for count, state in counts if count)
    out = console()
    out.print(f"[bold]host {os.uname().nodename}[/bold]: {told or 'fit'}")
    out.print(table)


def show_examples(policy: Policy) -> None:
    """Print a line for each rule, quoted for a shell."""
    click.echo("  examples of calls that it allows, one for each rule:")
    for call in example_calls(policy):
        where = f"ip netns exec {call.netns} " if call.netns else ""
        click.echo(f"    {call.rule}: {where}{shlex.join(call.argv) or 'none found: ' + call.problem}")


def show(each: Checked, *, is_alone: bool) -> None:
    out = console()
    if each.policy is None:
        assert each.error is not None  # noqa: S101 - one of the two is there
        message = each.error.message
        where = "" if message.startswith(f"{each.subject}:") else f"{each.subject}: "  # a place in a file names it
        out.print(f"[red]invalid[/red] {escape(where)}{escape(message)}")
        if each.error.hint:
            out.print(f"  {each.error.hint}", markup=False)
        return
    out.print(f"[green]valid[/green] [bold]{escape(each.subject)}[/bold]: {escape(each.policy.description)}")
    print_table(("  allows", ""), (("  " + name, value) for name, value in allows(each.policy)), "")
    failed = [outcome for outcome in each.outcomes if not outcome.passed]
    if each.outcomes:
        out.print(f"  tests: {len(each.outcomes) - len(failed)} passed, {len(failed)} failed", highlight=False)
    for outcome in failed:
        out.print(f"  [red]test {outcome.number}[/red] expected {outcome.expected}, found {outcome.found}:", end=" ")
        out.print(outcome.message or " ".join(outcome.argv), markup=False)
    for state, note in notes(each, each.policy, is_alone=is_alone):
        out.print(f"  [{STYLES[state]}]{state}[/{STYLES[state]}] {escape(note)}")
