"""The site as its readers see it: built strictly, every link followed, and displayed in a browser.

Screenshots for people are kept in .cache/site.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

import pytest

from tests.docs.browser import Browser

CHECKOUT = Path(__file__).parents[2]
MKDOCS = CHECKOUT / ".cache" / "docs" / "bin" / "mkdocs"
PICTURES = CHECKOUT / ".cache" / "site"
LOOKS = (Path(__file__).parent / "looks.js").read_text()
PAGES = ("index", "operating", "security", "benchmarks", "policy", "tutorial")
WIDE, NARROW = 1280, 360

pytestmark = [
    pytest.mark.skipif(not MKDOCS.exists(), reason="needs mkdocs in .cache/docs, which ./dev test docs makes"),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium"),
]


def build(target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", target, *options],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(target)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def origin(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_looks_right(browser: Browser, origin: str, page: str, width: int, dark: bool) -> None:
    browser.look(f"{origin}/{page}.html", width=width, dark=dark)
    PICTURES.mkdir(parents=True, exist_ok=True)
    name = f"{page}-{'wide' if width == WIDE else 'narrow'}-{'dark' if dark else 'light'}.png"
    browser.screenshot(PICTURES / name, height=2400)
    assert browser.evaluate("document.body.dataset.mdColorScheme") == ("slate" if dark else "default")
    assert browser.evaluate(LOOKS) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("document.querySelector('article p').style.width = '3000px'", "reaches out of the window"),
        ("document.querySelector('article p').style.color = '#999'", "contrast 2."),
        ("document.querySelector('article h2').outerHTML = '<h4>x</h4>'", "skips a level"),
        ("document.querySelector('svg.picture text').setAttribute('x', 590)", "outside of its picture"),
        ("document.querySelector('svg.picture text.quiet').setAttribute('y', 30)", "lies on other text"),
        ("document.querySelector('svg.picture .box').style.fill = '#555'", "contrast"),
    ],
)
def test_what_looks_wrong_is_found(browser: Browser, origin: str, change: str, complaint: str) -> None:
    browser.look(f"{origin}/index.html", width=WIDE, dark=False)
    browser.evaluate(change)
    assert any(complaint in each for each in browser.evaluate(LOOKS))


def test_search_finds_a_page(browser: Browser, origin: str) -> None:
    browser.look(f"{origin}/index.html", width=WIDE, dark=False)
    browser.evaluate(
        """{
        const field = document.querySelector("input[name=query]");
        document.querySelector("#__search").click();
        field.focus();
        field.value = "option-not-allowed";
        field.dispatchEvent(new Event("input", {bubbles: true}));
        field.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}));
        }"""
    )
    browser.wait_for("document.querySelectorAll('.md-search-result__item').length")
    first = browser.evaluate("[...document.querySelectorAll('.md-search-result__link')].map(each => each.href).join()")
    assert "reasons.html" in first


# ---------------------------------------------------------------- links


class Document(HTMLParser):
    """The ids and links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.ids.add(value)
            if name in {"href", "src"} and value:
                self.links.add(value)


def test_every_link_leads_somewhere(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): Document(path) for path in site.rglob("*.html")}
    assert len(pages) > 20
    broken = []
    for name, page in pages.items():
        if name == "404.html":  # its links begin with the site's root
            continue
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = urljoin(f"/{name}", link).partition("#")
            target = unquote(path).lstrip("/") or "index.html"
            if not (site / target).is_file() or (
                anchor and target in pages and unquote(anchor) not in pages[target].ids
            ):
                broken.append(f"{name}: {link}")
    assert broken == []


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    pages = [path.name for path in CHECKOUT.glob("*.md")]
    for each in ("mkdocs.yml", "docs", "packaging", "integrations", *pages):
        source, target = CHECKOUT / each, tmp_path / each
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    page = tmp_path / "docs" / "faq.md"
    page.write_text(page.read_text() + "\n[x](concepts.md#no-such-heading)\n")
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0
    assert "no-such-heading" in done.stdout + done.stderr
