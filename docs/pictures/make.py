"""Draws terminals as SVG, from what the command really prints.

    .venv/bin/python docs/pictures/make.py          writes refusal.svg, which needs no host
    SIDESPAWN_WRITE_PICTURES=1 ./dev test lab -k "demo_shows and podman"        writes demo.svg from a real run

Tests compare both with what is printed. The colours are the style sheet's where a page has one, else those of the
reader's light or dark scheme.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
COLUMNS, CELL, LINE, SIZE, PADDING, BAR = 104, 7.8, 19, 13, 14, 30
REFUSAL = (
    "explain", "--preset", "neutron-dhcp-dnsmasq", "--netns", "qdhcp-4f3c1f4e-8a5b-4f2e-9a36-2f1d7b0c5e11",
    "--", "dnsmasq", "--no-hosts", "--dhcp-script=/tmp/x",
)  # fmt: skip
# Of the demo: the steps, and those of their notes that match.
NOTES = re.compile(
    r"capabilities .*no engine socket|returned 0 after|pid \d+, user|\S+ has \S+ for .*router|\d+ renewals:"
    r"|exit code 77|returned after"
)
STYLE = """
    .terminal { --ink: #1f2933; --quiet: #52606d; --line: #7b8794; --box: #ffffff; --strong: #0b5cad; --no: #b42318; }
    @media (prefers-color-scheme: dark) {
      .terminal { --ink: #e4e7eb; --quiet: #b3bcc7; --line: #8b97a5; --box: #11161d; --strong: #7cb8f5; --no: #ff9c90; }
    }
    .terminal rect { fill: var(--box); stroke: var(--line); }
    .terminal circle { fill: var(--line); }
    .terminal text { fill: var(--ink); white-space: pre; }
    .terminal .title { fill: var(--quiet); }
    .terminal .strong { fill: var(--strong); font-weight: 600; }
    .terminal .step { font-weight: 600; }
    .terminal .no { fill: var(--no); }
"""


def picture(title: str, lines: Iterable[tuple[str, str]]) -> str:
    """One window. A line has a class, empty for plain text. What is too long goes on below its own beginning."""
    rows = [(kind, row) for kind, line in lines for row in broken(line)]
    width, height = COLUMNS * CELL + 2 * PADDING, len(rows) * LINE + BAR + 2 * PADDING
    font = f'font-family="ui-monospace, \'DejaVu Sans Mono\', monospace" font-size="{SIZE}"'
    box = f'viewBox="0 0 {width:.0f} {height}"'
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="picture terminal" {box} {font}>',
        f"  <style>{STYLE}  </style>",
        f'  <rect x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1}" rx="8"/>',
        *(f'  <circle cx="{PADDING + 4 + 18 * number}" cy="{BAR / 2 + 2:.0f}" r="5"/>' for number in range(3)),
        *(
            [f'  <text class="title" x="{width / 2:.0f}" y="{BAR / 2 + 6:.0f}" text-anchor="middle">{title}</text>']
            * bool(title)
        ),
    ]
    for number, (kind, row) in enumerate(rows, 1):
        text = row.strip()
        if text:
            x = PADDING + CELL * (len(row) - len(row.lstrip()))
            named = f' class="{kind}"' if kind else ""
            place = f'x="{x:.1f}" y="{BAR + PADDING + LINE * number - 6}"'
            # The length is given, so that it fits whatever font the reader has.
            length = f'textLength="{CELL * len(text):.1f}" lengthAdjust="spacingAndGlyphs"'
            drawn.append(f"  <text{named} {place} {length}>{escape(text, quote=False)}</text>")
    return "\n".join([*drawn, "</svg>", ""])


def broken(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, COLUMNS, subsequent_indent=indent, break_on_hyphens=False) or [""]


def refusal(printed: str) -> str:
    shown = " ".join(REFUSAL).replace(" -- ", " \\\n    -- ").splitlines()
    command = [("strong", f"$ sidespawn {shown[0]}"), *(("strong", line) for line in shown[1:])]
    return picture("", [*command, *((kind_of(line), line.rstrip()) for line in printed.splitlines())])


def demo(printed: str) -> str:
    """The steps of a run, what each of them showed first of all, and how it ended."""
    chosen = []
    for line in printed.splitlines():
        if re.match(r" ?\d+  \S", line) or line.startswith("All of it worked"):
            chosen.append(("step", line.rstrip()))
        elif NOTES.match(line.strip()):
            chosen.append((kind_of(line), line.rstrip().replace("      ", "    ", 1)))
    return picture("shortened", [("strong", "$ sidespawn demo"), *chosen])


def kind_of(line: str) -> str:
    return "no" if re.match(r"refused|'.*refused |exit code 77", line.strip()) else ""


def read(svg: str) -> str:
    """Return the text of a picture, with each number as N: times and pids differ from run to run."""
    text = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    return re.sub(r"\d+", "N", " ".join(text.split()))


def main() -> None:
    command = [sys.executable, "-m", "sidespawn.cli.main", *REFUSAL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    (HERE / "refusal.svg").write_text(refusal(done.stdout + done.stderr), encoding="utf-8")


if __name__ == "__main__":
    main()
