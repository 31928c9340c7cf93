"""Parses the rules for a program's configuration files, `[configuration.NAME]`, from a policy's TOML."""

from __future__ import annotations

from collections.abc import Iterator

from sidespawn.core.configuration import CONFIGURATION_BYTES, DEPTH, ConfigurationRules, Directive, Format
from sidespawn.core.options import ProgramTable
from sidespawn.core.pattern import Literal, Part, Pattern, Typed
from sidespawn.core.policy import Configuration
from sidespawn.loading.document import Table, size

SECRET = Typed("secret")


def build_configuration(table: Table, name: str, program: ProgramTable) -> Configuration:
    format_ = Format(table.choice("format", tuple(Format)))
    directives = table.table("directives")
    most = size(table, "most") if table.has("most") else 256 * 2**10
    if most > CONFIGURATION_BYTES:
        raise table.error("most", f"must be at most {CONFIGURATION_BYTES // 2**20}M")
    # dnsmasq's file has its options for directives.
    dangers = {option.name: option.danger for option in program.options.values() if option.danger}
    rules = ConfigurationRules(
        name=name,
        format=format_,
        directives=build_directives(directives, 0),
        dangers={**dangers, **program.directives} if format_ is Format.LINES else {},
        most=most,
        rule=directives.where(),
    )
    if format_ is not Format.BLOCKS and any(SECRET in holes(each.values) for each in every(rules.directives)):
        raise directives.error("", 'contains a <secret>, which only format "blocks" can have')
    configuration = Configuration(
        path=table.pattern("path"),
        file=table.take("file", str, default=""),
        at=table.path("at") if table.has("at") else "",
        rules=rules,
    )
    table.done()
    return configuration


def every(directives: tuple[Directive, ...]) -> Iterator[Directive]:
    for each in directives:
        yield each
        yield from every(each.block or ())


def build_directives(table: Table, depth: int) -> tuple[Directive, ...]:
    """Build directives. The long form is a table; `true`, a pattern or a list of patterns are short for one."""
    found = []
    for name in table.keys():
        given = table.take(name, bool, str, list, dict)
        if given is False:
            continue  # a service's own policy revokes what its preset allows
        long = table.table(name) if isinstance(given, dict) else None
        if long is None:
            values = () if given is True else table.patterns(name)
            found.append(
                Directive(
                    name=name, values=values, block=None, bare=False, passed_on=True, instead=None,
                    secret=holes(values) == {SECRET}, rule=table.where(name),
                )
            )  # fmt: skip
            continue
        if depth == DEPTH:
            raise table.error(name, f"is nested deeper than {DEPTH} blocks")
        block = build_directives(long.table("block"), depth + 1) if long.has("block") else None
        values = long.patterns("value", optional=True)
        found.append(
            Directive(
                name=name,
                values=values,
                block=block,
                bare=long.take("bare", bool, default=False),
                passed_on=long.take("pass", bool, default=True),
                instead=long.pattern("instead") if long.has("instead") else None,
                secret=holes(values) == {SECRET},
                rule=table.where(name),
            )
        )
        long.done()
    return tuple(found)


def holes(values: tuple[Pattern, ...]) -> set[Part]:
    return {part for pattern in values for part in pattern.parts if not isinstance(part, Literal)}
