# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""The changes that an operator's own puppet-tripleo needs to write no wrappers and make no sockets; text in, text out.

The classes stay, with their parameters, because templates include them. Conditions become false.
"""

from __future__ import annotations

import re

MARK = "  # sidespawn.host, instead of: "
# Files in the tree with the conditions to take out of them.
CONDITIONS = {
    "manifests/profile/base/neutron/*_agent_wrappers.pp": re.compile(r"if \$enable_\w+wrapper\w* \{"),
    "manifests/profile/base/docker.pp": re.compile(r"if \$additional_sockets \{"),
}


class TreeError(Exception):
    """The tree is not what this collection knows; nothing was changed."""


def disabled(text: str, condition: re.Pattern[str]) -> str:
    """`text` has no line of this collection."""
    lines = []
    for line in text.splitlines(keepends=True):
        indent, statement = re.fullmatch(r"([ \t]*)(.*?)\s*", line, re.DOTALL).groups()  # type: ignore[union-attr]
        if condition.fullmatch(statement):
            lines.append(f"{indent}if false {{{MARK}{statement}{line[len(indent) + len(statement) :]}")
        else:
            lines.append(line)
    return "".join(lines)


def restored(text: str) -> str:
    """Remove lines that this collection wrote into it."""
    return re.sub(rf"(?m)^([ \t]*)if false \{{{re.escape(MARK)}", r"\1", text)


def edited(name: str, text: str, condition: re.Pattern[str], *, wanted: bool) -> str:
    original = restored(text)
    if not wanted:
        return original
    made = disabled(original, condition)
    if made == original:
        raise TreeError(f"{name} has no condition such as `{condition.pattern.replace(chr(92), '')}`")
    if restored(made) != original:
        raise TreeError(f"{name} could not be restored afterwards")
    return made
