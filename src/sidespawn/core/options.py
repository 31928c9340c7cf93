"""Parses a request's arguments by a table of the program's options.

A program's table comes from its manual page (presets/programs/*.toml).  Parsing is deliberately stricter than
getopt_long(3): no abbreviations, no glued short options, no `--`, and no positional arguments except a word that a
program expects first.  The result is canonical, so the program cannot read it differently from the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sidespawn.errors import Denied, Reason, quoted
from sidespawn.frozen import dataclass


class Takes(StrEnum):
    NOTHING = "nothing"
    VALUE = "value"
    OPTIONAL = "optional"  # a value only after `=`
    WORD = "word"  # not an option, but a verb such as `start` in the first argument


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a program. `name` is the canonical spelling without dashes: `pid-file`, or `f` without a long one.

    `dash` is empty for programs that use getopt_long(3).  Others put this dash before every name, and values into a
    separate argument: `-` for haproxy, `--` for scripts with their own parser.
    """

    name: str
    takes: Takes
    dash: str = ""
    short: str = ""
    short_takes_value: bool = False  # the letter requires a value, although it is optional for the name
    danger: str = ""  # what it could do, for the message if a policy does not allow it

    @property
    def spelling(self) -> str:
        if self.takes is Takes.WORD:
            return self.name
        return (self.dash or ("--" if len(self.name) > 1 else "-")) + self.name

    def written(self, value: str | None) -> tuple[str, ...]:
        """Return the arguments for this option, in the spelling that is hardest to misread."""
        if value is None:
            return (self.spelling,)
        glued = len(self.name) > 1 and not self.dash
        return (f"{self.spelling}={value}",) if glued else (self.spelling, value)


@dataclass(frozen=True, kw_only=True)
class ProgramTable:
    """All options of one program, as of `version`, by canonical name and by short letter."""

    program: str
    version: str
    options: Mapping[str, Option]
    directives: Mapping[str, str]  # what one could do in a configuration file, for the message if it is refused

    def spelled(self, untrusted_spelling: str) -> Option | None:
        """Return the option with exactly this spelling, dashes included."""
        name = untrusted_spelling.lstrip("-")
        option = self.options.get(name)
        if option is not None and untrusted_spelling == option.spelling:
            return option
        if len(name) == 1 and untrusted_spelling == f"-{name}":
            return next((each for each in self.options.values() if each.short == name), None)
        return None


@dataclass(frozen=True, kw_only=True)
class Given:
    """One option as given in a request. `argument` is its index in argv."""

    option: Option
    untrusted_value: str | None
    argument: int


def read_arguments(table: ProgramTable, untrusted_argv: tuple[str, ...]) -> tuple[Given, ...]:
    """Parse the arguments after the program's name (argv[1:]). Raises Denied at the first inexact one."""
    given: list[Given] = []
    index = 1
    while index < len(untrusted_argv):
        untrusted_argument = untrusted_argv[index]
        if not untrusted_argument.strip(" "):
            index += 1  # Neutron passes an empty argument if an option is off; programs ignore it, so we drop it
            continue
        untrusted_spelling, equals, untrusted_value = untrusted_argument.partition("=")
        option = table.spelled(untrusted_spelling)
        is_word = option is not None and option.takes is Takes.WORD and not given
        if not is_word and (not untrusted_argument.startswith("-") or untrusted_argument in ("-", "--")):
            raise Denied(
                Reason.POSITIONAL_NOT_ALLOWED,
                f"argument {index}, {quoted(untrusted_argument)}, is not an option; positional arguments are refused",
                argument=index,
            )
        if option is None:
            raise Denied(
                Reason.OPTION_UNKNOWN,
                f"argument {index}, {quoted(untrusted_argument)}, is not an option of {table.program}"
                f" {table.version} in full spelling",
                "write each option in full, as a separate argument: abbreviations and attached values are refused",
                argument=index,
            )
        value: str | None = untrusted_value if equals else None
        here = index
        is_long = untrusted_spelling.startswith("--") and len(option.name) > 1 and not option.dash
        if equals and (option.takes is Takes.NOTHING or not is_long):
            raise Denied(
                Reason.OPTION_MALFORMED, f"argument {index}, {option.spelling}, takes no value after =", argument=index
            )
        by_letter = len(untrusted_spelling) == 2 and len(option.name) > 1
        if not equals and (option.takes is Takes.VALUE or (by_letter and option.short_takes_value)):
            index += 1
            if index == len(untrusted_argv):
                raise Denied(Reason.OPTION_MALFORMED, f"{option.spelling} needs a value", argument=here)
            value = untrusted_argv[index]
        given.append(Given(option=option, untrusted_value=value, argument=here))
        index += 1
    return tuple(given)
