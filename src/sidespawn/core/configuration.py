"""Configuration files of a program, checked directive by directive against an allow-list.

A program that is told to read a file does whatever the file says, so the file is judged like the arguments are.  The
host reads it once, safely; `check` judges those bytes; and the very same bytes are what the program is given.

Format `lines`: one `name` or `name=value` a line, `#` starts a comment line, blank lines are ignored (dnsmasq).
"""

from __future__ import annotations

from dataclasses import dataclass

from sidespawn.core.pattern import Bindings, Conflict, Names, Pattern, match_any
from sidespawn.errors import Denied, Reason, quoted

CONFIGURATION_BYTES = 256 * 1024
LINE_CHARACTERS = 1000  # dnsmasq 2.90 reads 1024 at a time, and would take the rest of a longer line for another line


@dataclass(frozen=True, kw_only=True)
class Directive:
    """An allowed directive; `values` is empty when it takes none."""

    name: str
    values: tuple[Pattern, ...]
    rule: str  # FILE:LINE in the policy


@dataclass(frozen=True, kw_only=True)
class ConfigurationRules:
    name: str
    directives: tuple[Directive, ...]
    rule: str


def check_configuration(
    rules: ConfigurationRules, path: str, untrusted_content: bytes, names: Names, bindings: Bindings
) -> None:
    """Raises Denied at the first line that is not allowed."""
    if not untrusted_content.isascii():
        raise Denied(
            Reason.CONFIGURATION_NOT_ALLOWED, f"{quoted(path)} holds bytes that are not ASCII", rule=rules.rule
        )
    allowed = {directive.name: directive for directive in rules.directives}
    for number, untrusted_line in enumerate(untrusted_content.decode("ascii").split("\n"), 1):
        line = untrusted_line.strip(" \t")
        where = f"line {number} of {quoted(path)}, {quoted(line)},"
        if not line.replace("\t", " ").isprintable() or len(untrusted_line) > LINE_CHARACTERS:
            message = f"{where} holds a control character or is longer than {LINE_CHARACTERS} characters"
            raise Denied(Reason.CONFIGURATION_NOT_ALLOWED, message, rule=rules.rule)
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        directive = allowed.get(name)
        if directive is None:
            raise Denied(
                Reason.CONFIGURATION_NOT_ALLOWED, f"{where} is not an allowed directive ({rules.rule})", rule=rules.rule
            )
        try:
            fits = match_any(directive.values, value, names, bindings) if directive.values else not equals
        except Conflict:
            fits = None
        if fits is None or fits is False:
            raise Denied(
                Reason.CONFIGURATION_NOT_ALLOWED,
                f"{where} has a value that is not allowed ({directive.rule})",
                rule=directive.rule,
            )
