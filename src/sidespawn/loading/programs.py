"""Parses a program's table of options from TOML text; docs/policy.md explains the format."""

from __future__ import annotations

from sidespawn.core.options import Option, ProgramTable, Takes
from sidespawn.loading.document import Table, parse_toml


def parse_program(program: str, text: str) -> ProgramTable:
    source = f"programs/{program}.toml"
    document, lines = parse_toml(source, text)
    top = Table(document, lines, source)
    dangers = top.table("danger", optional=True)
    directives = top.table("directive", optional=True)
    dash = top.take("dash", str, default="")
    if dash not in ("", "-", "--"):
        raise top.error("dash", 'must be "-" or "--"')
    options: dict[str, Option] = {}
    for takes in Takes:
        group = top.table(takes.value, optional=True)
        for name in group.keys():
            if name in options:
                raise group.error(name, "is listed twice")
            danger = dangers.take(name, str, default="")
            short = group.take(name, str)
            if dash and (short or takes is Takes.OPTIONAL):
                raise group.error(name, "must not have a short letter or an optional value where there is a dash")
            letter = short.removesuffix(":") if takes is Takes.OPTIONAL else short
            options[name] = Option(
                name=name, takes=takes, dash=dash, short=letter, short_takes_value=letter != short, danger=danger
            )
    for name in directives.keys():
        if name not in options:
            raise directives.error(name, "is not an option of the program")
    if top.take("program", str) != program:
        raise top.error("program", f"must be {program}")
    table = ProgramTable(
        program=program,
        version=top.take("version", str),
        options=options,
        directives={name: directives.take(name, str) for name in directives.keys()},
    )
    for each in (dangers, top):
        each.done()
    return table
