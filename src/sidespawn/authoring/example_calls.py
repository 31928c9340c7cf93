"""`sidespawn check --examples`: a call that each rule of a policy allows, found by trying."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from sidespawn.core.decide import decide
from sidespawn.core.options import Takes
from sidespawn.core.policy import Caller, OptionRule, Policy
from sidespawn.core.wire import StartRequest
from sidespawn.errors import Denied
from sidespawn.frozen import replace
from sidespawn.loading.possible import Bound, examples

TRIES = 64  # of one rule


@dataclass(frozen=True)
class ExampleCall:
    """A rule and a call that it allows; if none was found, `argv` is empty and `problem` says why."""

    rule: str  # the option's name
    argv: tuple[str, ...]
    netns: str | None
    problem: str = ""


def example_calls(policy: Policy) -> list[ExampleCall]:
    """Return one call with what is required, and one for each other option. Configuration files are not read."""
    enforcing = replace(policy, is_monitor=False)
    required = [rule for rule in policy.options.values() if rule.required]
    others = [rule for rule in policy.options.values() if not rule.required]
    calls = [found(enforcing, required, "what is required")] if required else []
    return calls + [found(enforcing, [*required, rule], rule.option.name) for rule in others]


def found(policy: Policy, rules: list[OptionRule], name: str) -> ExampleCall:
    problem = "there is no example of one of its patterns"
    for argv, netns in islice(requests(policy, rules), TRIES):
        request = StartRequest(
            id="0" * 32, deadline=0, untrusted_argv=argv, untrusted_netns=netns, untrusted_environment=()
        )
        try:
            decide(policy, request, lambda _beneath: None)
        except Denied as denied:
            problem = denied.message
        else:
            return ExampleCall(name, argv, netns)
    return ExampleCall(name, (), None, problem)


def requests(policy: Policy, rules: list[OptionRule]) -> Iterator[tuple[tuple[str, ...], str | None]]:
    inside = policy.netns is not None and policy.caller is Caller.INSIDE
    words_first = sorted(rules, key=lambda rule: rule.option.takes is not Takes.WORD)
    names = policy.names
    namespaces: Iterator[tuple[str | None, Bound]]
    namespaces = examples((policy.netns,), names, {}) if inside and policy.netns else alone({})
    for netns, bound in namespaces:
        for arguments in given(policy, words_first, bound):
            yield (policy.table.program, *arguments), netns


def given(policy: Policy, rules: list[OptionRule], bound: Bound) -> Iterator[tuple[str, ...]]:
    """Return arguments that give each of the options once."""
    if not rules:
        yield ()
        return
    rule, *rest = rules
    patterns = rule.values
    if rule.configuration:
        patterns = (policy.configuration[rule.configuration].path, *patterns)
    values: Iterator[tuple[str | None, Bound]] = examples(patterns, policy.names, bound) if patterns else alone(bound)
    for value, after in values:
        for more in given(policy, rest, after):
            yield (*rule.option.written(value), *more)


def alone(bound: Bound) -> Iterator[tuple[None, Bound]]:
    yield None, bound
