"""The version is written in one place, and all builds take it from there."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import sidespawn

CHECKOUT = Path(__file__).parents[2]
# What is built or run. Prose may mention versions.
BUILT = ("dev", "docs/man", "packaging", "pyproject.toml", "release", "src")


def files_with(version: str) -> set[str]:
    whole = re.compile(rf"(?<![\w.]){re.escape(version)}(?![\w.])")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *BUILT],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    paths = (CHECKOUT / name for name in listed.split("\0") if name)
    texts = {path: path.read_text(encoding="utf-8") for path in paths if path.is_file()}
    return {str(path.relative_to(CHECKOUT)) for path, text in texts.items() if whole.search(text)}


def test_there_is_no_second_place() -> None:
    assert files_with(sidespawn.__version__) == {"src/sidespawn/__init__.py"}


def test_the_project_has_it_from_there() -> None:
    configuration = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert "version" not in configuration["project"]
    assert configuration["project"]["dynamic"] == ["version"]
    assert configuration["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sidespawn.__version__"}
