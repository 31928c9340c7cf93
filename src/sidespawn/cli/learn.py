"""`sidespawn learn`: policy lines that allow what monitor mode let pass."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from sidespawn.authoring.generalise import Value, generalise
from sidespawn.cli.output import json_option, print_json, require_enabled, service_argument
from sidespawn.core.options import Option
from sidespawn.core.pattern import Conflict, match_any
from sidespawn.core.policy import OptionRule, Policy
from sidespawn.core.values import ALPHANUMERIC, only
from sidespawn.errors import Reason, quoted
from sidespawn.host.policies import load_policy
from sidespawn.service_report.journal import read_journal
from sidespawn.system.places import Places

EXAMPLES = 3


@dataclass(frozen=True)
class Seen:
    """An argument that monitor mode let pass. `value` is None if the option has no value or is missing."""

    request: str
    reason: str
    option: str
    count: int  # of this option up to here
    value: str | None
    names: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Changes that the policy needs for one option. With any `doubts`, the line is commented out."""

    option: str
    line: str
    now: str  # FILE:LINE of the existing rule, or the empty string
    requests: int
    examples: tuple[str, ...]
    doubts: tuple[str, ...]


@click.command()
@service_argument
@click.option("--since", help="A time as journalctl takes it: '10 min ago', 'today'.")
@json_option
def learn(places: Places, since: str | None, as_json: bool) -> None:
    """Print policy lines that allow what monitor mode let pass.

    Read the lines, and paste those that you accept under [options] of the policy. Doubtful lines are commented out:
    options that can do more than the program's job, values of another instance, and patterns that allow any text.
    Calls that the policy already allows are left out.
    """
    if not places.policy.exists():
        require_enabled(places)
    policy = load_policy(places)
    records = list(read_journal(places, "monitored", since))
    seen = [each for each in map(read, records) if each is not None]
    lessons = learned(policy, seen)
    if as_json:
        print_json([asdict(each) for each in lessons])
    else:
        click.echo(text(policy, lessons), nl=False)
    if len(seen) < len(records):
        click.echo(f"{len(records) - len(seen)} record(s) hold a value too long for the journal; left out", err=True)


def read(record: dict[str, Any]) -> Seen | None:
    """Parse a record of the journal; return None if a field was cut off and is no longer JSON."""
    value = record.get("SIDESPAWN_VALUE")
    try:
        return Seen(
            request=record["SIDESPAWN_REQUEST"],
            reason=record["SIDESPAWN_REASON"],
            option=record["SIDESPAWN_OPTION"],
            count=int(record["SIDESPAWN_COUNT"]),
            value=None if value is None else json.loads(value),
            names=json.loads(record["SIDESPAWN_NAMES"]),
        )
    except (KeyError, ValueError, TypeError, RecursionError):
        return None


def learned(policy: Policy, seen: Iterable[Seen]) -> list[Lesson]:
    by_option: dict[str, list[Seen]] = {}
    for each in seen:
        by_option.setdefault(each.option, []).append(each)
    lessons = (
        lesson(policy, policy.table.options[name], policy.options.get(name), members)
        for name, members in by_option.items()
        if name in policy.table.options
    )
    return [each for each in lessons if each is not None]


def lesson(policy: Policy, option: Option, rule: OptionRule | None, seen: list[Seen]) -> Lesson | None:
    """Return the changes that allow these, or None if the policy already does."""
    given = [each for each in seen if each.reason != Reason.OPTION_MISSING]
    refused = [each for each in given if not fits(policy, rule, each)]
    unknown = [Value(each.value, each.names) for each in refused if each.value is not None]
    patterns, hopeless = generalise(unknown, policy.names)
    values = [*(pattern.source for pattern in rule.values), *patterns] if rule else patterns
    bare = (rule is not None and rule.bare) or any(each.value is None for each in given)
    most = max([rule.most if rule else 1, *(each.count for each in given)])
    missing = rule is not None and rule.required and len(given) < len(seen)
    before = ([pattern.source for pattern in rule.values], rule.bare, rule.most) if rule else None
    if (values, bare, most) == before and not missing and not hopeless:
        return None
    fields = [f"value = {toml(values)}"] if values else []
    fields += ["bare = true"] if bare and values else []
    fields += [f"most = {most}"] if most > 1 else []
    fields += ["required = false"] if missing else []
    if fields == [f"value = {toml(values)}"] and rule is None:
        right = toml(values)
    else:
        right = f"{{ {', '.join(fields)} }}" if fields else "true" if bare else "false"
    return Lesson(
        option=option.name,
        line=f"{key(option.name)} = {right}",
        now=rule.rule if rule else "",
        requests=len({each.request for each in seen}),
        examples=tuple(dict.fromkeys(value.text for value in unknown))[:EXAMPLES],
        doubts=tuple(doubts(option, patterns, refused, hopeless)),
    )


def fits(policy: Policy, rule: OptionRule | None, seen: Seen) -> bool:
    """Return whether the rule allows the value: it may have been refused as one too many, or the policy has changed."""
    try:
        return rule is not None and match_any(rule.values, seen.value or "", policy.names, seen.names) is not None
    except Conflict:
        return False


def doubts(option: Option, patterns: list[str], refused: list[Seen], hopeless: list[Value]) -> Iterator[str]:
    if option.danger:
        yield f"it {option.danger}"
    of_another = any(each.reason == Reason.VALUE_CONFLICT for each in refused)
    if of_another or any(each.startswith("/") and "<uuid>" in each for each in patterns):
        yield "a request for one instance could name the files of another"
    if any("<text>" in each for each in patterns):  # also the result for a single value with < or {
        yield "any text would be allowed"
    for value in hopeless:
        yield f"no pattern can allow {quoted(value.text)}"


def toml(values: list[str]) -> str:
    """Return a string or a list in TOML. A JSON string in ASCII is also a TOML string."""
    written = [json.dumps(each) for each in values]
    return written[0] if len(written) == 1 else f"[{', '.join(written)}]"


def key(name: str) -> str:
    return name if only(name, ALPHANUMERIC | frozenset("_-")) else json.dumps(name)


def text(policy: Policy, lessons: list[Lesson]) -> str:
    if not lessons:
        return f"# Nothing to learn: the policy of {policy.service} allows everything that monitor mode let pass.\n"
    lines = [
        f"# Options that monitor mode allowed for {policy.service}. Review each line, paste those that you accept",
        '# under [options] in its policy, replace lines for the same option, and set mode = "enforce".',
        "",
        "[options]",
    ]
    for each in lessons:
        where = f"; now at {each.now}" if each.now else ""
        lines.append(f"# {each.option}: in {each.requests} request(s){where}")
        lines += [f"# seen: {quoted(example)}" for example in each.examples]
        lines += [f"# DANGER: {doubt}" for doubt in each.doubts]
        lines.append(f"# {each.line}" if each.doubts else each.line)
    return "\n".join(lines) + "\n"
