"""Writes the manual pages, and docs/commands.md, from the commands: python docs/man/make.py [DIRECTORY]

The pages are kept in the repository, so that packagers need not run this; a test compares them. They hold neither
date nor version.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sidespawn.cli.main import SECTIONS, cli

HERE = Path(__file__).parent


def pages() -> dict[str, str]:
    """The text of each page by its file's name."""
    top = click.Context(cli, info_name="sidespawn", **cli.context_settings)
    made = {"sidespawn.1": page(top, commands())}
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=name, parent=top)
        made[f"sidespawn-{name}.1"] = page(context, subcommands(context))
    return made


def commands() -> list[str]:
    lines = [".SH COMMANDS"]
    for heading, section in SECTIONS.items():
        lines.append(f".SS {text(heading)}")
        for name in section:
            lines += [".TP", rf"\fBsidespawn\-{name}\fR(1)", text(summary(cli.commands[name]))]
    return lines


def subcommands(context: click.Context) -> list[str]:
    """What a verb that is a group has, with its arguments and options."""
    if not isinstance(context.command, click.Group):
        return []
    lines = [".SH COMMANDS"]
    for name, command in context.command.commands.items():
        pieces = command.collect_usage_pieces(click.Context(command, info_name=name, parent=context))
        lines += [".TP", rf"\fB{text(name)}\fR {text(' '.join(pieces))}", text(summary(command))]
    return lines


def reference() -> str:
    """docs/commands.md: every verb with its help and options."""
    lines = ["# Commands", "", "Made by docs/man/make.py from the commands' own help, as are the manual pages.", ""]
    top = click.Context(cli, info_name="sidespawn", **cli.context_settings)
    lines += [f"{marked(each)}\n" for each in (cli.help or "").split("\n\n")]
    for heading, section in SECTIONS.items():
        lines += [f"## {heading}", ""]
        for name in section:
            lines += of_verb(click.Context(cli.commands[name], info_name=name, parent=top), "###")
    return "\n".join(lines).rstrip() + "\n"


def of_verb(context: click.Context, mark: str) -> list[str]:
    command = context.command
    pieces = " ".join(command.collect_usage_pieces(context))
    lines = [f"{mark} {context.command_path}", "", f"    {context.command_path} {pieces}", ""]
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            lines += [*(f"    {line.strip()}" for line in paragraph.splitlines()[1:]), ""]
        else:
            lines += [marked(paragraph), ""]
    options = [
        each for each in command.get_params(context) if isinstance(each, click.Option) and "--help" not in each.opts
    ]
    if options:
        lines += ["| option | |", "| --- | --- |"]
    for option in options:
        choices = option.type.choices if isinstance(option.type, click.Choice) else ()
        value = str(option.name).upper() if choices else value_of(option)
        spelled = ", ".join(f"`{each}{f' {value}' if value else ''}`" for each in option.opts)
        named = f" One of {', '.join(f'`{each}`' for each in choices)}." if choices else ""
        lines.append(f"| {spelled} | {marked(help_of(option) + named)} |")
    lines += [""] if options else []
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            lines += of_verb(click.Context(each, info_name=name, parent=context), f"{mark}#")
    return lines


def marked(paragraph: str) -> str:
    """One line, in which no word in capitals or angles is taken for HTML."""
    return " ".join(paragraph.split()).replace("<", "&lt;")


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
    if len(sys.argv) == 1:
        (HERE.parent / "commands.md").write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
