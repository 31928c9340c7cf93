"""Decisions of the Ansible collection's roles: single tasks, read from their files."""

from __future__ import annotations

import base64
import json
import os
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import StrictUndefined
from jinja2.nativetypes import NativeEnvironment

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


def rendered(expression: str, **variables: Any) -> Any:
    environment = NativeEnvironment(undefined=StrictUndefined)
    environment.filters |= {
        "b64decode": lambda text: base64.b64decode(text).decode(),
        "basename": os.path.basename,
        "difference": lambda some, others: [each for each in some if each not in others],
        "flatten": lambda lists: list(chain.from_iterable(lists)),
        "from_json": json.loads,
        "regex_replace": lambda text, pattern, new: re.sub(pattern, new, text, count=1),
    }
    return environment.from_string(expression).render(**variables)


@pytest.mark.parametrize(
    ("done", "agent", "unused"),
    [
        ([], "b", ["of-b"]),  # the other stays, or comes back next
        (["b"], "a", ["shared", "of-a"]),  # the other is back; in check mode its record is still there
    ],
)
def test_a_rollback_disables_no_service_that_another_agent_uses(done: list[str], agent: str, unused: list[str]) -> None:
    agents = {name: [{"name": "shared"}, {"name": f"of-{name}"}] for name in ("a", "b")}
    mine = {"rollback_agent": {"container": agent, "services": agents[agent]}}
    path = "rollback/tasks/agent.yml"
    reading = task(path, "Read what the others' services serve")
    adding = task(path, "Know which agents are brought back")["ansible.builtin.set_fact"]["rollback_done"]
    now_done = rendered(adding, rollback_done=[f"serves-{name}" for name in done], **mine)
    files = {"files": [{"path": f"/record/serves-{name}"} for name in agents]}
    read = rendered(reading["loop"], rollback_others_serve=files, rollback_done=now_done)
    rows = [[{"service": each["name"]} for each in agents[name.removeprefix("serves-")]] for name in read]
    results = [{"content": base64.b64encode(json.dumps(each).encode()).decode()} for each in rows]
    knowing = task(path, "Know which services are not used any more")["ansible.builtin.set_fact"]["rollback_unused"]
    assert rendered(knowing, rollback_others_read={"results": results}, **mine) == unused
    assert "item.name in rollback_unused" in task(path, "Disable the services")["when"]
    # Otherwise the next run of the role migrate would no longer enforce the policy of the other agent's service.
    removed = task(path, "Remove the agent's records")["loop"]
    assert "{{ rollback_unused | map('regex_replace', '^', 'enforced-')" in removed
