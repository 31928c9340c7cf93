"""The catalog explains each kind of journal record, with commands that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from sidespawn.cli.main import cli
from sidespawn.host.journal import Event
from sidespawn.setup.systemd import PACKAGE

CATALOG = PACKAGE / "catalog/sidespawn.catalog"
TEXT = CATALOG.read_text(encoding="utf-8")
ENTRIES = {each[:32]: each[33:] for each in re.split(r"^-- ", TEXT, flags=re.MULTILINE)[1:]}
# What every such record has.
ALWAYS = {"SIDESPAWN_SERVICE"}
WITH = {
    Event.REJECTED: {"SIDESPAWN_REASON"},
    Event.FAILED: {"SIDESPAWN_REASON"},
    Event.MONITORED: {"SIDESPAWN_REASON"},
    Event.EXITED: {"SIDESPAWN_INSTANCE"},
}


def test_each_kind_of_record_is_explained_once() -> None:
    assert len(re.findall(r"^-- ", TEXT, re.MULTILINE)) == len(ENTRIES)
    assert set(ENTRIES) == {event.message_id for event in Event}


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name.lower())
def test_an_entry_is_complete_and_names_fields_that_are_there(event: Event) -> None:
    head, _, body = ENTRIES[event.message_id].partition("\n\n")
    keys = [line.partition(": ")[0] for line in head.splitlines()]
    assert keys == ["Subject", "Defined-By", "Documentation"]
    assert body.strip()
    assert all(len(line) <= 110 for line in body.splitlines())
    assert set(re.findall(r"@([A-Z_]+)@", head + body)) <= ALWAYS | WITH.get(event, set())


def test_the_commands_are_there() -> None:
    named = re.findall(r"(?:^ +|`|&& )sidespawn ([a-z-]+)", TEXT, re.MULTILINE)
    assert "explain" in named
    assert set(named) <= set(cli.commands)


def test_systemd_takes_all_of_it(tmp_path: Path) -> None:
    place, made = tmp_path / "usr/lib/systemd/catalog", tmp_path / "var/lib/systemd/catalog"
    for path in (place, made):
        path.mkdir(parents=True)
    (place / CATALOG.name).write_text(TEXT)
    argv = ["journalctl", f"--root={tmp_path}"]
    done = subprocess.run([*argv, "--update-catalog"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    listed = subprocess.run([*argv, "--list-catalog"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert {line.partition(" ")[0] for line in listed.splitlines()} == set(ENTRIES)
