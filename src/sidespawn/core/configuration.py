"""Checks a program's configuration files, directive by directive, against an allow-list.

A program does whatever its configuration file says, so the file is checked like the arguments: the policy must name
each directive, and its values must match.  The program does not get the agent's file, but the accepted directives,
rewritten in one plain spelling that it cannot read differently from the policy.  That spelling has no quotes, escapes,
variables or includes; a file that uses them is refused.

Formats:

    lines     `name` or `name=value`, one a line                                   (dnsmasq)
    sections  `name words…`, one a line; a top-level name opens a section          (haproxy)
    blocks    `name words… { … }`, nested; one directive a line                    (keepalived, conntrackd)
    braces    `name words… { … };`, nested; a directive ends with `;`              (radvd)
    quoted    as blocks; a word may be in double quotes                            (dibbler-client)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from sidespawn.core.pattern import Bindings, Conflict, Names, Pattern, match_any, render
from sidespawn.core.values import ALPHANUMERIC, only
from sidespawn.errors import Denied, Reason, quoted
from sidespawn.frozen import dataclass

CONFIGURATION_BYTES = 4 * 2**20  # the most that a policy can allow
LINE_CHARACTERS = 1000  # dnsmasq 2.90 reads 1024 at a time, and would read the rest of a longer line as another line
DEPTH = 8
WORD = ALPHANUMERIC | frozenset("._-:/%+*[](),<>=&")  # none quotes, escapes, expands or comments
# Also allowed in words that the program does not get. A leading `@` makes a line conditional for keepalived.
LEFT_OUT = WORD | frozenset("@$~^|?")
ANY = "*"  # the rule for lines that contain only values


class Format(StrEnum):
    LINES = "lines"
    SECTIONS = "sections"
    BLOCKS = "blocks"
    BRACES = "braces"
    QUOTED = "quoted"


@dataclass(frozen=True, kw_only=True)
class Directive:
    """An allowed directive. `values` is empty if it takes none; `block` is None if it opens no block."""

    name: str
    values: tuple[Pattern, ...]
    block: tuple[Directive, ...] | None
    bare: bool  # it may appear without its block or, if it has none, without its value
    passed_on: bool
    instead: Pattern | None  # what the program gets in place of the values
    secret: bool  # its values are secrets, which may contain characters that other words may not
    rule: str  # FILE:LINE in the policy


@dataclass(frozen=True, kw_only=True)
class ConfigurationRules:
    name: str
    format: Format
    directives: tuple[Directive, ...]
    dangers: Mapping[str, str]  # what a directive could do, for the message if it is not allowed
    most: int  # bytes
    rule: str


@dataclass(frozen=True)
class Line:
    """One directive in the file: its words, joined by single blanks, and the content of its block."""

    number: int
    untrusted_name: str
    untrusted_value: str | None
    block: list[Line] | None


def accept_configuration(
    rules: ConfigurationRules, path: str, untrusted_content: bytes, names: Names, bindings: Bindings
) -> tuple[str, dict[str, str]]:
    """Return the text for the program, and the bindings after it. Raises Denied at the first forbidden line."""
    reader = Reader(rules, path, names, dict(bindings))
    lines = reader.read(untrusted_content)
    text = "".join(reader.accept(lines, rules.directives, depth=0))
    return text, reader.bindings


class Reader:
    def __init__(self, rules: ConfigurationRules, path: str, names: Names, bindings: dict[str, str]) -> None:
        self.rules, self.path, self.names, self.bindings = rules, path, names, bindings

    def denied(self, number: int, text: str, problem: str, rule: str = "") -> Denied:
        message = f"line {number} of {quoted(self.path)}, {quoted(text)}, {problem} ({rule or self.rules.rule})"
        return Denied(Reason.CONFIGURATION_NOT_ALLOWED, message, rule=rule or self.rules.rule)

    def read(self, untrusted_content: bytes) -> list[Line]:
        """Return the file's lines, with their blocks."""
        if len(untrusted_content) > self.rules.most:
            message = f"{quoted(self.path)} is larger than {self.rules.most} bytes ({self.rules.rule})"
            raise Denied(Reason.CONFIGURATION_NOT_ALLOWED, message, rule=self.rules.rule)
        plain = list(self.plain_lines(untrusted_content.decode("latin-1")))
        if self.rules.format is Format.LINES:
            return [self.assignment(number, line) for number, line in plain]
        if self.rules.format is Format.SECTIONS:
            return self.sections(plain)
        return self.blocks(list(self.statements(plain)))

    def plain_lines(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield each line that is not empty without its comment and surrounding blanks.

        Comments are only checked for control characters, since the program does not get them.
        """
        for number, untrusted_line in enumerate(text.split("\n"), 1):
            spaced = untrusted_line.removesuffix("\r").replace("\t", " ")
            line = spaced[: comment(spaced, self.rules.format)].strip(" ")
            if any(each < " " or each == "\x7f" for each in spaced) or len(untrusted_line) > LINE_CHARACTERS:
                raise self.denied(
                    number, line, f"contains a control character or is longer than {LINE_CHARACTERS} characters"
                )
            if not line.isascii():
                raise self.denied(number, line, "contains bytes that are not ASCII, outside a comment")
            if line:
                yield number, line

    def assignment(self, number: int, line: str) -> Line:
        """Remove blanks around `=` and commas, which dnsmasq ignores."""
        name, equals, value = line.partition("=")
        if '"' not in value:
            value = ",".join(each.strip(" ") for each in value.split(","))
        return Line(number, name.rstrip(" "), value if equals else None, None)

    def directive(self, number: int, untrusted_words: list[str], block: list[Line] | None) -> Line:
        return Line(number, untrusted_words[0], " ".join(untrusted_words[1:]) or None, block)

    def check_words(self, line: Line, text: str, directive: Directive) -> None:
        """Refuse anything that the program could read differently from the policy."""
        allowed = WORD if directive.passed_on and directive.instead is None else LEFT_OUT
        for word in () if directive.secret else text.split(" "):
            is_quoted = self.rules.format is Format.QUOTED and len(word) > 2 and word[0] == word[-1] == '"'
            bare = word[1:-1] if is_quoted else word
            if word not in ("{", "}") and (not only(bare, allowed) or bare[0] == "@"):
                raise self.denied(line.number, text, "contains a character that a word cannot have", directive.rule)

    def sections(self, plain: list[tuple[int, str]]) -> list[Line]:
        openers = {directive.name for directive in self.rules.directives}
        found: list[Line] = []
        for number, line in plain:
            words = line.split()
            if words[0] in openers:
                found.append(self.directive(number, words, []))
            elif not found or found[-1].block is None:
                raise self.denied(number, line, "is not in an allowed section")
            else:
                found[-1].block.append(self.directive(number, words, None))
        return found

    def statements(self, plain: list[tuple[int, str]]) -> Iterator[tuple[int, list[str], str]]:
        """Yield words and what ends them: `{`, `}`, or nothing for a directive without a block."""
        words: list[str] = []
        by_semicolon = self.rules.format is Format.BRACES
        last = 0
        for number, line in plain:
            spaced = line.replace("{", " { ").replace("}", " } ")
            for word in (spaced.replace(";", " ; ") if by_semicolon else spaced).split():
                if word not in ("{", "}", ";"):
                    words.append(word)
                elif word == "}" and words:
                    if by_semicolon:
                        raise self.denied(number, " ".join(words), "does not end with ;")
                    yield number, words, ""
                    yield number, [], word
                    words = []
                elif words or word != ";":
                    yield number, words, "" if word == ";" else word
                    words = []
            if words and not by_semicolon:
                yield number, words, ""
                words = []
            last = number
        if words:
            raise self.denied(last, " ".join(words), "does not end with ;")

    def blocks(self, statements: list[tuple[int, list[str], str]]) -> list[Line]:
        top: list[Line] = []
        open_blocks = [top]
        for position, (number, words, end) in enumerate(statements):
            if end == "}":
                open_blocks.pop()
                if not open_blocks:
                    raise self.denied(number, "}", "closes a block that is not open")
                continue
            if not words:  # the brace of a block whose name was on the line before
                continue
            following = statements[position + 1] if position + 1 < len(statements) else (0, [], "")
            opens = end == "{" or (following[2] == "{" and not following[1])
            line = self.directive(number, words, [] if opens else None)
            open_blocks[-1].append(line)
            if line.block is not None:
                open_blocks.append(line.block)
            if len(open_blocks) > DEPTH:
                raise self.denied(number, " ".join(words), f"is nested deeper than {DEPTH} blocks")
        if len(open_blocks) != 1:
            raise self.denied(statements[-1][0], "", "leaves a block open")
        return top

    def accept(self, lines: list[Line], allowed: tuple[Directive, ...], depth: int) -> Iterator[str]:
        """Yield each line that is passed on, in canonical spelling."""
        by_name = {directive.name: directive for directive in allowed}
        for line in lines:
            name, value = line.untrusted_name, line.untrusted_value
            text = name if value is None else f"{name}{'=' if self.rules.format is Format.LINES else ' '}{value}"
            directive = by_name.get(name) or by_name.get(ANY)
            if directive is None:
                danger = self.rules.dangers.get(name, "")
                raise self.denied(line.number, text, "is not an allowed directive" + (danger and f": it {danger}"))
            if self.rules.format is not Format.LINES:
                self.check_words(line, text, directive)
            self.bind(line.number, text, text if directive.name == ANY else value, directive)
            is_missing = line.block is None and directive.block is not None and not directive.bare
            if is_missing or (line.block is not None and directive.block is None):
                problem = "must have a block" if is_missing else "must not have a block"
                raise self.denied(line.number, text, problem, directive.rule)
            inside = "".join(self.accept(line.block or [], directive.block or (), depth + 1))
            if directive.instead is not None:
                instead = render(directive.instead, self.bindings)
                # Arguments may have bound them to more than one word, so they would become separate words here.
                if instead is None or not all(only(self.bindings[each], WORD) for each in directive.instead.names):
                    problem = "has a replacement with a name that is not bound, or not to a plain word"
                    raise self.denied(line.number, text, problem, directive.rule)
                text = f"{name}{'=' if self.rules.format is Format.LINES else ' '}{instead}"
            if directive.passed_on:
                yield self.written(text, line, inside, depth)

    def bind(self, number: int, text: str, value: str | None, directive: Directive) -> None:
        if value is None and directive.bare and directive.block is None:
            return
        if not directive.values:
            if value is not None:
                raise self.denied(number, text, "must have no value", directive.rule)
            return
        try:
            found = (
                None if value is None else match_any(directive.values, value, self.names, self.bindings, blanks=False)
            )
        except Conflict as conflict:
            problem = f"has another {{{conflict.name}}} than the request, {quoted(conflict.bound)},"
            raise self.denied(number, text, problem, directive.rule) from None
        if found is None:
            raise self.denied(number, text, "has a value that is not allowed", directive.rule)
        self.bindings = found

    def written(self, text: str, line: Line, inside: str, depth: int) -> str:
        indent = "    " * depth
        end = ";" if self.rules.format is Format.BRACES else ""
        if line.block is None:
            return f"{indent}{text}{end}\n"
        if self.rules.format is Format.SECTIONS:
            return f"{text}\n{inside}\n"
        return f"{indent}{text} {{\n{inside}{indent}}}{end}\n"


def comment(line: str, form: Format) -> int:
    """Return where the line's comment begins, or its length."""
    within_quotes = False
    for position, character in enumerate(line):
        within_quotes ^= character == '"'
        begins = character == "#" and (form is not Format.LINES or line[:position][-1:] in ("", " "))
        if not within_quotes and (begins or (character == "!" and form is Format.BLOCKS)):
            return position
    return len(line)
