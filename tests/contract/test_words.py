"""Words that the project does not write, each with what to write instead.

Held over pages, messages, docstrings, comments, presets and units. A word is added when the tree is free of it.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

INSTEAD = {
    # Constructions that must be read twice.
    r"of before": "legacy, earlier",
    r"of which (?:it|they)": "whose",
    r"the same goes for": "also, too; or say it of both at once",
    r"that runs already": "running",
    r"shall": "must, will; or the present tense",
    r"upon": "on",
    r"in vain": "without success",
    r"as good as": "almost",
    r"what is a request": "a valid request",
    r"started anew": "restarted",
    r"tidying up": "cleanup",
    r"of (?:late|old)": "recent, earlier",
    r"(?:here|there|where)(?:by|in|of|upon)": "a sentence of its own",
    r"anew": "again, restart, recreate",
    r"meanwhile": "in the meantime, since; or nothing",
    r"whoever": "anyone who, those who",
    r"in the place of": "in place of, instead of",
    r"nothing of it": "none of it",
    r"for ever": "forever",
    r"puts? into place": "install",
    r"nobody": "no one; or the active voice",
    r"of podman's": "podman, as in a podman container",
    r"(?-i:is none)": "if missing, is not one",
    r"of (?:its|their|our|one's) own(?=[,.;:)]| (?:and|or|in|on|for|that|which|with|where|here|there|from|to)\b)": (
        "its own X, a separate X"
    ),
    r"(?:has|have) to": "must, need",
    r"(?<=\w )beneath|beneath(?= \w)": "under",
    r"mend(?:s|ed|ing)?": "fix, correct",
    r"to the byte": "byte for byte",
    r"by means of": "with, by, through",
    r"as (?:it|they) stands?": "unchanged, literally",
    r"also not": "not even",
    r"came off": "succeeded",
    r"put right": "restored, corrected",
    r"what stands": "the text, the content",
    r"has not got": "lacks",
    r"by way of": "through, with",
    r"(?:some|any|every)body": "someone, anyone, everyone; or say who",
    r"goes on|go on": "continue, keep doing",
    r"what is left(?: of)?": "the rest, what remains",
    r"lest": "so that it does not",
    r"stands? behind|(?:lie|lies|lay) (?:in|there|beside|below)": "comes after; is in, is there, is beside, is under",
    r"all the same": "still, anyway",
    # Longer than the common word.
    r"in order to": "to",
    r"to this end": "so",
    r"due to the fact that": "because",
    r"utili[sz]e[sd]?": "use",
    r"leverag(?:e|es|ed|ing)": "use",
    r"prior to": "before",
    r"in the event (?:that|of)": "if",
    r"at this point in time": "now",
    # Empty, or about the reader.
    r"simply|obviously|basically|of course": "nothing",
    r"easy|easily": "say what it takes",
    # Abbreviations that are read aloud in two ways.
    r"e\.g\.": "such as, for example",
    r"i\.e\.": "that is",
    # Terms.
    r"whitelist(?:s|ed)?": "allow-list",
    r"blacklist(?:s|ed)?": "deny-list",
    r"sanity[- ]check": "check",
}
PATTERNS = {re.compile(rf"(?<![\w-])(?:{word})(?![\w-])", re.IGNORECASE): instead for word, instead in INSTEAD.items()}

# A function's docstring says what the function does: "Return the program's pid", not "The program's pid".
NO_VERB = {
    *("A", "All", "Also", "An", "As", "By", "Each", "Else", "Every", "From", "Half", "How", "Its", "Neither"),
    *("No", "None", "Not", "Nothing", "Of", "One", "Or", "Over", "Raises", "So", "That", "The", "Their"),
    *("Those", "To", "Until", "Upon", "Where", "Which", "Who", "Whoever", "Whose", "Why", "With", "Without"),
}

FOLDERS = ("src", "lab", "release", "vm", "benchmarks", "packaging", "integrations")
TESTS = ("attacks", "contract", "data", "docs", "fuzz", "host", "lab", "neutron", "packaging", "unit", "watch")
PAGES = [
    *CHECKOUT.glob("*.md"),
    *(path for name in ("changelog.d", "docs", "integrations") for path in (CHECKOUT / name).rglob("*.md")),
]
PYTHON = [
    *(path for folder in FOLDERS for path in (CHECKOUT / folder).rglob("*.py")),
    *(CHECKOUT / "tests").glob("*.py"),
    *(path for folder in TESTS for path in (CHECKOUT / "tests" / folder).rglob("*.py")),
]
TEXTS = [
    *(path for suffix in ("presets/**/*.toml", "units/*") for path in (CHECKOUT / "src/sidespawn").glob(suffix)),
    CHECKOUT / "dev",
    CHECKOUT / "src/sidespawn/catalog/sidespawn.catalog",
]


def written(path: Path) -> str:
    """Return what people read in a file. Of a page, code is left out; of a test, strings, which are mostly data."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py" and path.is_relative_to(CHECKOUT / "tests"):
        return "\n\n".join(["\n".join(comments(text)), *docstrings(text), *names(text)])
    if path.suffix == ".md":
        return re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(of_python(text)) if path.suffix == ".py" else text


def comments(text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def docstrings(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def names(text: str) -> Iterator[str]:
    """Yield the names of functions, which tests use as sentences."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name.replace("_", " ")


def of_python(text: str) -> Iterator[str]:
    """Yield comments, docstrings and messages."""
    yield from comments(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:  # else a key or a name
            yield node.value


def found(text: str) -> list[str]:
    # Join lines, but not paragraphs.
    flat = re.sub(r"(?<!\n)\n(?:[ #]*)(?!\n)", " ", text)
    return [
        f"{match[0]!r}: write {instead}" for pattern, instead in PATTERNS.items() for match in pattern.finditer(flat)
    ]


@pytest.mark.parametrize("path", [*PAGES, *PYTHON, *TEXTS], ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_only_words_that_we_write(path: Path) -> None:
    assert found(written(path)) == []


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_a_docstring_begins_with_a_verb_or_a_noun(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            assert not text.startswith(("Whether ", "What ")), f"write: Return {text[:1].lower()}{text[1:60]}"
            # "Of a service": the reader must guess what is done with it.
            assert not text.startswith(("Of ", "Those ", "Until ")), f"begin with a verb: {text[:60]}"
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            assert not is_function or text.split(" ")[0] not in NO_VERB, f"say what the function does: {text[:60]}"


def test_what_we_do_not_write_is_found() -> None:
    assert found("the wrappers of\nbefore") == ["'of\\nbefore': write legacy, earlier".replace("\\n", " ")]
    assert found(written_of('x = f"This shall {end}"  # in order\n')) == [
        "'shall': write must, will; or the present tense"
    ]
    assert found("a shallow, uppon-hold, shall-not") == []
    assert found("lists of\n\nbefore") == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_page_has_both_sides_of_a_merge(path: Path) -> None:
    assert not re.search(r"^(?:<{7}|={7}|>{7})(?: |$)", path.read_text(encoding="utf-8"), re.MULTILINE)


def written_of(python: str) -> str:
    return "\n".join(of_python(python))
