"""What docs and README tell people to type or to write, taken from the pages themselves."""

from __future__ import annotations

import re
import textwrap

from vm.cache import CHECKOUT


def fenced(page: str, info: str) -> str:
    """The one block of the page that begins with ``` and these words."""
    text = (CHECKOUT / page).read_text()
    (block,) = re.findall(rf"^```{re.escape(info)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(block)


def steps(page: str, heading: str) -> list[list[str]]:
    """The commands of each numbered step below a heading.

    A command is a line of an indented block, with the lines that a backslash continues it by. In a step without a
    block it is what the text has in backquotes and begins with a program's name.
    """
    text = (CHECKOUT / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = []
    for step in re.split(r"^(?=\d+\. )", text, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^(?: {7}.*\n)+", step, re.MULTILINE)
        lines = textwrap.dedent("".join(blocks)).replace("\\\n", "")
        found.append(lines.splitlines() or re.findall(r"`(sidespawn [^`]+)`", step))
    return found
