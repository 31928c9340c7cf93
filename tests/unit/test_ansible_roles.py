"""Decisions of the Ansible collection's roles: single tasks, read from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).parents[2] / "integrations/ansible/roles"


def task(path: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in yaml.safe_load((ROLES / path).read_text(encoding="utf-8")) if each["name"] == name)
    return dict(found)


def test_the_time_that_the_gate_reads_was_written_even_of_an_agent_that_stays_as_it_is() -> None:
    """Such as one that the module agent has replaced, or whose record is lost."""
    read = task("migrate/tasks/gate.yml", "Look since when verdicts count")
    written = task("migrate/tasks/agent.yml", "Write down the time before the agent is replaced")
    assert read["ansible.builtin.slurp"]["src"] == written["ansible.builtin.copy"]["dest"]
    assert read["when"] == written["when"] == "not migrate_again"
