"""Writes the manual pages from the commands: python docs/man/make.py [DIRECTORY]

The pages are kept in the repository, so that packagers need not run this; a test compares them. They hold neither
date nor version.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sidespawn.cli.main import cli

HERE = Path(__file__).parent


def pages() -> dict[str, str]:
    """The text of each page by its file's name."""
    top = click.Context(cli, info_name="sidespawn", **cli.context_settings)
    made = {"sidespawn.1": page(top, commands())}
    for name, command in cli.commands.items():
        made[f"sidespawn-{name}.1"] = page(click.Context(command, info_name=name, parent=top), [])
    return made


def commands() -> list[str]:
    lines = [".SH COMMANDS"]
    for name, command in sorted(cli.commands.items()):
        lines += [".TP", rf"\fBsidespawn\-{name}\fR(1)", text(summary(command))]
    return lines


def page(context: click.Context, more: list[str]) -> str:
    command = context.command
    title = context.command_path.replace(" ", "-")
    bold, *pieces = context.command_path, *command.collect_usage_pieces(context)
    lines = [
        r".\" Made by docs/man/make.py from the command's own help.",
        f'.TH "{title.upper()}" "1" "" "sidespawn" "sidespawn"',
        ".SH NAME",
        rf"{text(title)} \- {text(without_stop(summary(command)))}",
        ".SH SYNOPSIS",
        rf"\fB{text(bold)}\fR {text(' '.join(pieces))}",
        ".SH DESCRIPTION",
        *paragraphs(command.help or ""),
        ".SH OPTIONS",
    ]
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    for option in options:
        spelled = ", ".join(rf"\fB{text(each)}\fR" for each in option.opts)
        value = value_of(option)
        lines += [".TP", spelled + (rf" \fI{text(value)}\fR" if value else ""), text(help_of(option))]
    see = ["sidespawn"] if context.parent else [f"sidespawn-{name}" for name in sorted(cli.commands)]
    lines += [
        *more,
        ".SH SEE ALSO",
        ", ".join([*(rf"\fB{text(each)}\fR(1)" for each in see), r"\fBsystemd.socket\fR(5)"]),
    ]
    return "\n".join(lines) + "\n"


def summary(command: click.Command) -> str:
    """The first sentence of the help."""
    return command.get_short_help_str(limit=500)


def without_stop(sentence: str) -> str:
    return sentence if sentence.endswith("..") else sentence.removesuffix(".")


def paragraphs(help_text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in help_text.split("\n\n"):
        lines += [".PP", text(" ".join(paragraph.split()))]
    return lines[1:]


def value_of(option: click.Option) -> str:
    """What stands behind the option. Not click's own word for it, which differs between its versions."""
    if option.is_flag or option.name == "help":
        return ""
    if isinstance(option.type, click.Choice):
        return "|".join(str(each) for each in option.type.choices)
    return option.metavar or {"integer range": "NUMBER", "directory": "DIRECTORY"}.get(option.type.name, "TEXT")


def help_of(option: click.Option) -> str:
    default = f" Default: {option.default}." if option.show_default and option.default is not None else ""
    return f"{option.help or ''}{default}"


def text(words: str) -> str:
    """Escaped for troff: no word is taken for a request, a font or a typographic hyphen."""
    escaped = words.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, content in pages().items():
        (directory / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
