"""What the site needs beside MkDocs: pages from outside docs/, links to sources, pictures in the colours of a page.

Pages link to each other by their paths in the repository, so that they work in a checkout and on a forge too. Links to
files that the site does not have, such as tests, become plain text. MkDocs checks all others.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).parents[2]

# Of the repository, to the page it becomes.
OUTSIDE = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "HACKING.md": "project/hacking.md",
    "SECURITY.md": "project/security.md",
    "README.md": "index.md",
    "integrations/ansible/README.md": "project/ansible.md",
    "packaging/README.md": "project/packaging.md",
}
SOURCES = {page: path for path, page in OUTSIDE.items() if page != "index.md"}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
# Behind the language of a code block, words for tests; the highlighter knows the language only.
INFO = re.compile(r"^(```\w+) .*$", re.MULTILINE)
PICTURE = re.compile(r'<img alt="([^"]*)" src="([^"]+\.svg)"[^>]*>')


def on_files(files: Files, config: Any) -> Files:
    for page, path in SOURCES.items():
        files.append(File.generated(config, page, content=(CHECKOUT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Point each link to a page of the site, or make it text."""
    here = page.file.src_uri
    source = SOURCES.get(here, f"docs/{here}")

    def replace(found: re.Match[str]) -> str:
        text, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        path, _, anchor = target.partition("#")
        linked = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        where = OUTSIDE.get(linked, linked.removeprefix("docs/"))
        if where in files.src_uris:
            relative = posixpath.relpath(where, posixpath.dirname(here) or ".")
            return f"[{text}]({relative}{'#' if anchor else ''}{anchor})"
        # A link to nowhere stays one, for MkDocs to complain of.
        return text if (CHECKOUT / linked).exists() else found[0]

    return LINK.sub(replace, INFO.sub(r"\1", markdown))


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Put pictures into the page itself, where its style sheet can give them the colours of the reader's choice."""

    def inline(found: re.Match[str]) -> str:
        alternative, target = found.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.dest_uri), target))
        svg = (CHECKOUT / "docs" / path).read_text(encoding="utf-8")
        labelled = svg.replace("<svg ", f'<svg role="img" aria-label="{alternative}" ', 1)
        return f'<div class="picture-frame">{labelled}</div>'

    return PICTURE.sub(inline, html)
