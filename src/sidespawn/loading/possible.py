"""Checks that a policy can allow anything at all: each of its paths and names is tried with examples.

A pattern's examples are its text with a plain value of its type in each hole.  If none of them can be part of a plan,
no request can, so loading fails with the line.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from sidespawn.core.decide import beneath, fit_for_a_name
from sidespawn.core.options import Takes
from sidespawn.core.pattern import Literal, Name, Names, Part, Pattern, Typed
from sidespawn.core.policy import Caller, Policy
from sidespawn.errors import Denied, PolicyError
from sidespawn.loading.configuration import every
from sidespawn.loading.document import Table

EXAMPLES = {
    "uuid": "0065347c-3513-59a1-aef3-65d693fe6e19",
    "ip": "10.0.0.1",
    "ipv4": "10.0.0.1",
    "ipv6": "2001:db8::1",
    "cidr": "10.0.0.0/8",
    "netmask": "255.255.255.0",
    "mac": "fa:16:3e:00:00:01",
    "interface": "eth0",
    "hostname": "host.example",
    "duration": "60s",
    "quoted": '"a"',
}
MOST = 256  # examples of one pattern

Bound = dict[str, str]


def example(spelling: str) -> str:
    """Return an example value of a type."""
    if spelling.startswith("integer "):
        return spelling.removeprefix("integer ").removesuffix(",...").partition("..")[0]
    return EXAMPLES.get(spelling.removesuffix(",..."), "a")


def examples(patterns: tuple[Pattern, ...], names: Names, bound: Bound) -> Iterator[tuple[str, Bound]]:
    """Yield values that the patterns match, each with the names that it binds."""
    for pattern in patterns:
        yield from islice(filled(pattern.parts, names, bound), MOST)


def filled(parts: tuple[Part, ...], names: Names, bound: Bound) -> Iterator[tuple[str, Bound]]:
    if not parts:
        yield "", bound
        return
    heads: Iterator[tuple[str, Bound]]
    match parts[0]:
        case Literal(text=text):
            heads = iter([(text, bound)])
        case Typed(spelling=spelling):
            heads = iter([(example(spelling), bound)])
        case Name(name=name):
            heads = iter([(bound[name], bound)]) if name in bound else named(name, names, bound)
    for head, after in heads:
        for tail, found in filled(parts[1:], names, after):
            yield head + tail, found


def named(name: str, names: Names, bound: Bound) -> Iterator[tuple[str, Bound]]:
    for text, after in examples(names[name], names, bound):
        yield text, {**after, name: text}


def check_possible(policy: Policy, top: Table) -> None:
    """Raise PolicyError, with file and line, for anything that can never be part of a plan."""
    request, side_container, agent = top.table("request"), top.table("side_container"), top.table("agent")
    if policy.agent.wrapper.rpartition("/")[2] != policy.table.program:
        raise agent.error(
            "wrapper", f"must end with {policy.table.program}, or every call would be for another program"
        )
    words = [rule for rule in policy.options.values() if rule.required and rule.option.takes is Takes.WORD]
    if len(words) > 1:
        raise PolicyError(f"{words[1].rule}: a second word is required, but only the first argument can be one")
    check_names(policy, request)
    check_mounts(policy, side_container)
    places = policy.side_container
    if places.pid_file is not None:
        check_place(policy, places.pid_file, side_container, "pid_file", writes=True)
    for pattern, _ in places.child_pid_files:
        check_place(policy, pattern, side_container, "child_pid_files", writes=True)
    for name, configuration in policy.configuration.items():
        table = top.table("configuration").table(name)
        check_place(policy, configuration.path, table, "path", inside=configuration.file)
        if all(hidden(policy, configuration.at or path, bound) for path, bound in all_of(policy, configuration.path)):
            raise table.error("path", "is inside a mount of the side container, where the agent could replace the file")


def check_mounts(policy: Policy, side_container: Table) -> None:
    """Check that each can be made, and is not always inside another, where the agent could replace it."""
    places = policy.side_container
    for pattern in places.mounts:
        check_place(policy, pattern, side_container, "mounts", writes=True)
        if all(hidden(policy, path, bound) for path, bound in all_of(policy, pattern)):
            raise side_container.error("mounts", f"has {pattern.source!r}, which is inside another mount")
    for at, pattern in places.writes:
        check_place(policy, pattern, side_container.table("writes"), at, writes=True)
    for at, pattern in places.reads:
        check_place(policy, pattern, side_container.table("reads"), at, or_all=True)
    for key, inside in (("writes", places.writes), ("reads", places.reads), ("scratch", places.scratch)):
        for each in inside:
            at = each if isinstance(each, str) else each[0]
            if hidden(policy, at, {}):
                raise side_container.error(key, f"has {at}, which is inside a mount")


def all_of(policy: Policy, pattern: Pattern) -> Iterator[tuple[str, Bound]]:
    return examples((pattern,), policy.names, {})


def check_names(policy: Policy, request: Table) -> None:
    """Check that namespace and instance produce valid names, from names that something binds."""
    binding = [pattern for rule in policy.options.values() for pattern in rule.values]
    binding += [pattern for patterns, _ in policy.environment.values() for pattern in patterns]
    binding += [each.path for each in policy.configuration.values()]
    binding += [policy.netns] if policy.netns and policy.caller is Caller.INSIDE else []
    bound = {name for pattern in binding for name in closure(policy.names, pattern)}
    for configuration in policy.configuration.values():
        lines = [pattern for each in every(configuration.rules.directives) for pattern in each.values]
        bound |= {name for pattern in lines for name in closure(policy.names, pattern)}
    for key, patterns in (("netns", (policy.netns,) if policy.netns else ()), ("instance", policy.instance)):
        if patterns and not any(set(pattern.names) <= bound for pattern in patterns):
            raise request.error(key, "is made of names that nothing in a request binds")
        texts = [text for pattern in patterns for text, _ in all_of(policy, pattern)]
        if texts and not any(map(fit_for_a_name, texts)):
            problem = f"never produces a name of letters, digits and hyphens, at most 64: {texts[0]!r}, for example"
            raise request.error(key, problem)


def closure(names: Names, pattern: Pattern) -> Iterator[str]:
    for name in pattern.names:
        yield name
        for inner in names[name]:
            yield from closure(names, inner)


def check_place(
    policy: Policy,
    pattern: Pattern,
    table: Table,
    key: str,
    *,
    or_all: bool = False,
    writes: bool = False,
    inside: str = "",
) -> None:
    texts = [text for text, _ in all_of(policy, pattern)]
    found: Denied | None = None
    for text in texts:
        try:
            beneath(policy, f"{text}/{inside}" if inside else text, or_all=or_all, writes=writes)
        except Denied as denied:
            found = denied
        else:
            return
    if found is not None:
        raise table.error(key, f"can never be used: {found.message}", "[agent.roots] names other directories")


def hidden(policy: Policy, path: str, bound: Bound) -> bool:
    side_container = policy.side_container
    places = [at for at, _ in (*side_container.writes, *side_container.reads)]
    places += [
        text for pattern in side_container.mounts for text, _ in islice(filled(pattern.parts, policy.names, bound), 1)
    ]
    return any(path.startswith(f"{each}/") for each in places)
