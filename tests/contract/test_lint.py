"""The linters, as tests: they hold for every commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent.parent
FOLDERS = ("src", "lab", "packaging", "release", "vm", "tests", "benchmarks", "integrations")
PAGES = [path.name for path in CHECKOUT.glob("*.md")]
TYPED = [name for name in FOLDERS if any((CHECKOUT / name).rglob("*.py"))]


@pytest.mark.parametrize(
    "arguments",
    [["ruff", "check"], ["ruff", "format", "--check"], ["mypy", *TYPED], ["codespell_lib", *FOLDERS, "docs", *PAGES]],
    ids=["ruff", "format", "mypy", "spelling"],
)
def test_lint(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
