"""The package's folders are layers: each imports from the layers below it, and not from its own."""

from __future__ import annotations

import pytest

from sidespawn.cli.main import SECTIONS
from tests.contract.imports import PACKAGE, imports

# From the bottom up, which excludes both upward imports and cycles.
FLOORS = (
    ("agent", "errors"),
    ("frozen", "presets"),
    ("core", "system"),
    ("engines", "loading"),
    ("host", "recipes"),
    ("run", "setup"),
    ("host_report", "testing"),
    ("authoring", "host_scan", "service_report"),
    ("cli",),
)
VERBS = {module for section in SECTIONS.values() for module in section.values()}
SHARED = {"main", "output", "syntaxes", "verbs"}
FLOOR = {folder: number for number, floor in enumerate(FLOORS) for folder in floor}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
)  # fmt: skip


def folder(module: str) -> str:
    """Return the module's folder, or its file if it is at the top of the package."""
    return module.split(".")[1]


def file_of(module: str) -> str:
    """Return the module's file or folder in its folder."""
    return module.split(".")[2]


def ours(module: str) -> set[str]:
    return {each for each in imports(module) if each.startswith("sidespawn.")}


def test_every_folder_has_its_floor() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert names - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize("module", [each for each in MODULES if each != "sidespawn.__init__"])
def test_imports_go_down(module: str) -> None:
    assert [
        each for each in ours(module)
        if folder(each) != folder(module) and FLOOR[folder(each)] >= FLOOR[folder(module)]
    ] == []  # fmt: skip


@pytest.mark.parametrize("module", [each for each in MODULES if folder(each) == "engines"])
def test_engines_know_plans_and_nothing_of_who_judged(module: str) -> None:
    assert {each for each in ours(module) if folder(each) == "core"} <= {"sidespawn.core.plan"}


def test_cli_has_a_file_for_each_verb_and_what_they_share() -> None:
    assert {file_of(each) for each in MODULES if folder(each) == "cli"} == {"__init__", *VERBS, *SHARED}


@pytest.mark.parametrize("module", [each for each in MODULES if folder(each) == "cli"])
def test_a_verb_imports_no_verb(module: str) -> None:
    """Except for the names of presets, which are arguments of other verbs, too."""
    verbs = {file_of(each) for each in ours(module) if folder(each) == "cli"} & VERBS
    assert verbs - {file_of(module)} <= {"presets"}


@pytest.mark.parametrize("module", [each for each in MODULES[1:] if folder(each) != "cli"])
def test_only_cli_knows_the_terminal(module: str) -> None:
    assert not {each.partition(".")[0] for each in imports(module)} & {"click", "rich"}


def test_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    arrows = {(folder(module), folder(each)) for module in MODULES[1:] for each in ours(module)}
    arrows = {(a, b) for a, b in arrows if a != b}
    longest = max(PACKAGE.rglob("*.py"), key=lambda path: len(path.read_text(encoding="utf-8").splitlines()))
    with capsys.disabled():
        print(f"\n{len(FLOOR)} folders, {len(arrows)} arrows between them, none up, no circle", end="")
        print(f"\nlongest file: {longest.relative_to(PACKAGE)}, {len(longest.read_text().splitlines())} lines")
