"""The documentation is correct: examples are valid, tables complete, pages and links present."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from click.shell_completion import BashComplete

from sidespawn.cli.main import cli
from sidespawn.core.policy import Policy
from sidespawn.core.values import TYPES
from sidespawn.core.wire import SIGNALS, Status, parse_request
from sidespawn.errors import Reason
from sidespawn.host import journal
from sidespawn.host_report.findings import State, Topic
from sidespawn.host_scan.findings import Deployment, Kind
from sidespawn.loading import parse, programs
from sidespawn.loading.parse import CAPABILITIES, ENGINES
from sidespawn.loading.programs import parse_program
from sidespawn.service_report.diagnosis.ailments import Sign
from sidespawn.setup import services
from tests.contract.command import sidespawn_command
from tests.unit.shipped import policy_of
from tests.unit.small import denial, start_request

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
PACKAGE = CHECKOUT / "src" / "sidespawn"
PAGES = sorted([*CHECKOUT.glob("*.md"), *DOCS.rglob("*.md"), *(CHECKOUT / "tests").rglob("*.md")])
POLICY = (DOCS / "policy.md").read_text()
WIRE = (DOCS / "wire.md").read_text()

UUID = "4f3c1f4e-8a5b-4f2e-9a36-2f1d7b0c5e11"
SECOND_ID = "61a1c98acaf6235b68a1e841934ac713"

# Functions of core.document that read a table's key, which is their first argument.
READERS = {"take", "table", "path", "number", "strings", "pattern", "patterns", "choice"}


def fenced(text: str, kind: str) -> list[str]:
    """Return the code blocks whose info string is exactly `kind`."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def in_tables(text: str) -> set[str]:
    """Return the text in backquotes in the first column of a table."""
    first_columns = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return {word for column in first_columns for word in re.findall(r"`([^`]+)`", column)}


# ---------------------------------------------------------------- policies


@pytest.mark.parametrize("number", range(4))
def test_an_example_of_a_policy_is_valid(number: int) -> None:
    examples = fenced(POLICY, "toml policy")
    assert len(examples) == 4
    assert policy_of(examples[number]).options


def test_the_example_of_a_programs_table_is_valid() -> None:
    (example,) = fenced(POLICY, "toml program radvd")
    table = parse_program("radvd", example)
    assert table.spelled("-C") is table.options["config"]


def test_every_other_example_is_toml() -> None:
    for page in PAGES:
        for example in fenced(page.read_text(), "toml"):
            tomllib.loads(example)


def keys_read() -> set[str]:
    """Yield every constant that loading/parse.py and loading/programs.py read as a key."""
    trees = [ast.parse(Path(str(module.__file__)).read_text()) for module in (parse, programs)]
    keys = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if not isinstance(node, ast.Call):
            continue
        reads = isinstance(node.func, ast.Attribute) and node.func.attr in READERS
        is_size = isinstance(node.func, ast.Name) and node.func.id == "size"
        pops = isinstance(node.func, ast.Attribute) and node.func.attr == "pop"
        keys |= {
            each.value
            for each in (node.args[1:2] if is_size else node.args[:1] if reads or pops else [])
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        }
    return keys


def test_every_key_is_described() -> None:
    keys = keys_read()
    assert {"netns", "memory", "extends", "alive", "danger"} <= keys
    sections = {part for heading in re.findall(r"\[([a-z_.NAME]+)\]", POLICY) for part in heading.split(".")}
    assert keys - in_tables(POLICY) - sections == set()


def test_every_type_signal_engine_and_capability_is_named() -> None:
    assert {f"<{name}>" for name in TYPES} | {"<integer LOW..HIGH>", "<TYPE,...>"} == {
        each for each in in_tables(POLICY) if each.startswith("<") and each != "<type>"
    }
    assert all(f"`{signal}`" in POLICY for signal in SIGNALS)
    assert all(f"`{engine}`" in POLICY for engine in ENGINES)
    (sentence,) = re.findall(r"^Capabilities can be (.*?)\.", POLICY, re.MULTILINE | re.DOTALL)
    assert set(re.split(r",\s+|\s+and\s+", sentence)) == CAPABILITIES


# ---------------------------------------------------------------- requests, reasons, journal


def test_the_examples_of_requests_are_requests() -> None:
    requests, replies = (block.splitlines() for block in fenced(WIRE, "json"))
    assert len(requests) == 2
    assert len(replies) == 1
    assert [parse_request(line.encode()).id for line in requests] == [json.loads(replies[0])["id"], SECOND_ID]


def test_every_status_is_described() -> None:
    assert {str(status) for status in Status} <= in_tables(WIRE)


def test_the_reasons_are_those_of_the_code() -> None:
    assert in_tables((DOCS / "reasons.md").read_text()) == {str(reason) for reason in Reason}


def test_the_refusal_that_operators_are_led_through_is_what_they_would_see(neutron_dhcp: Policy) -> None:
    argv = ("dnsmasq", "--no-hosts", "--dhcp-script=/tmp/x")
    denied = denial(neutron_dhcp, start_request(argv, f"qdhcp-{UUID}", {}))
    line = re.sub(r"[\w-]+\.toml:\d+", "RULE", f"sidespawn: rejected ({denied.reason}): {denied.message};")
    shown = re.sub(r"presets/[\w-]+\.toml:\d+", "RULE", " ".join((DOCS / "operating.md").read_text().split()))
    assert line in shown


def test_the_message_ids_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| `([0-9a-f]{32})` \|", (DOCS / "operating.md").read_text(), re.MULTILINE)
    assert dict(rows) == {event.name.lower(): event.message_id for event in journal.Event}


def test_every_field_of_the_journal_is_described() -> None:
    calls = (
        node
        for path in (PACKAGE / "host").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "write"
    )
    fields = {f"SIDESPAWN_{keyword.arg.upper()}" for call in calls for keyword in call.keywords if keyword.arg}
    assert "SIDESPAWN_REQUEST" in fields
    assert fields <= in_tables((DOCS / "operating.md").read_text())


def test_every_finding_about_the_host_is_described() -> None:
    text = (DOCS / "operating.md").read_text().partition("## Is the host ready?")[2].partition("\n## ")[0]
    assert in_tables(text) == {str(each) for each in (*Topic, *State)}


def test_every_ailment_is_described() -> None:
    text = (DOCS / "operating.md").read_text().partition("## What is wrong?")[2].partition("\n## ")[0]
    assert in_tables(text) == {str(each) for each in Sign}


def test_every_kind_of_scans_findings_is_described() -> None:
    text = (DOCS / "scan.md").read_text()
    assert in_tables(text.partition("## Kinds of findings")[2]) == {str(each) for each in Kind}
    assert all(f"`{each}`" in text for each in Deployment)


# ---------------------------------------------------------------- the command line


def maker(folder: str) -> ModuleType:
    """Load the script that generates the contents of a folder of docs/."""
    specification = importlib.util.spec_from_file_location(f"make_{folder}", DOCS / folder / "make.py")
    assert specification is not None
    assert specification.loader is not None
    module = sys.modules[specification.name] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_manual_pages_are_those_of_the_commands() -> None:
    there = {path.name: path.read_text() for path in (DOCS / "man").glob("*.1")}
    assert there == maker("man").pages(), "run: .venv/bin/python docs/man/make.py"
    assert (DOCS / "commands.md").read_text() == maker("man").reference(), "run: .venv/bin/python docs/man/make.py"


def test_every_verb_is_in_the_documentation() -> None:
    everything = "\n".join(page.read_text() for page in PAGES)
    assert [
        verb for verb in cli.commands if f"sidespawn {verb}" not in everything and f"./dev {verb}" not in everything
    ] == []


def test_completion_of_verbs() -> None:
    environment = {"_SIDESPAWN_COMPLETE": "bash_complete", "COMP_WORDS": "sidespawn en", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "sidespawn.cli.main"],
        env={"PATH": os.defpath} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["plain,enable"]


@pytest.mark.parametrize(
    "verb", [["ps"], ["top"], ["logs"], ["stop"], ["disable"], ["explain"], ["learn"], ["agent-options"], ["options"]]
)
def test_completion_of_services(verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("neutron-dhcp-dnsmasq", "other"):
        (tmp_path / f"{name}.toml").touch()
    monkeypatch.setattr(services, "POLICIES", tmp_path)
    completed = BashComplete(cli, {}, "sidespawn", "_SIDESPAWN_COMPLETE").get_completions(verb, "neu")
    assert [each.value for each in completed] == ["neutron-dhcp-dnsmasq"]


def test_the_plots_are_those_of_the_tables() -> None:
    there = {path.name: path.read_text() for path in (DOCS / "plots").glob("*.svg")}
    assert there == maker("plots").plots((DOCS / "benchmarks.md").read_text()), (
        "run: .venv/bin/python docs/plots/make.py"
    )


def test_the_picture_of_a_refusal_is_of_what_the_command_prints() -> None:
    pictures = maker("pictures")
    printed = sidespawn_command(*pictures.REFUSAL)
    there = (DOCS / "pictures/refusal.svg").read_text()
    made = pictures.refusal(printed.stdout + printed.stderr)
    assert pictures.read(there) == pictures.read(made), "run: .venv/bin/python docs/pictures/make.py"


@pytest.mark.parametrize("name", ["demo", "refusal"])
def test_a_picture_of_a_terminal_is_small_and_has_two_schemes(name: str) -> None:
    text = (DOCS / f"pictures/{name}.svg").read_text()
    assert len(text) < 10_000
    assert "@media (prefers-color-scheme: dark)" in text


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_refusal_on_a_first_page_is_what_the_command_prints(page: str) -> None:
    page = (CHECKOUT / page).read_text()
    [command], [shown] = fenced(page, "console"), fenced(page, "text")
    words = shlex.split(command.removeprefix("$ sidespawn").replace("\\\n", ""))
    printed = sidespawn_command(*words)
    assert printed.returncode == 77

    def plain(text: str) -> list[str]:
        return [re.sub(r"toml:\d+", "toml:LINE", line).rstrip() for line in text.splitlines()]

    assert plain(shown) == plain(printed.stdout + printed.stderr)


# ---------------------------------------------------------------- the pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that Markdown renderers give to headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_paths_of_the_checkout_are_there(page: Path) -> None:
    for path in re.findall(r"`((?:src|tests|docs|lab)/[\w./*-]+)`", page.read_text()):
        assert list(CHECKOUT.glob(path.rstrip("/"))) or "NAME" in path or "SERVICE" in path, f"{page.name} names {path}"


# ---------------------------------------------------------------- what docs/dependencies.md promises


def test_the_dependencies_are_those_of_the_package() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    page = (DOCS / "dependencies.md").read_text()
    rows = re.findall(r"^\| \[([\w-]+)\]\([^)]+\) \| ([\d.]+) \|", page, re.MULTILINE)
    without_extras = [re.sub(r"\[.*\]", "", each) for each in required]
    assert sorted(f"{name}>={least}" for name, least in rows) == sorted(without_extras)
