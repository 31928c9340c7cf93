"""The playbooks that the documentation shows are valid, and set only variables that the roles have."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import CHECKOUT, COLLECTION, Ansible

PAGES = (COLLECTION / "README.md", *(CHECKOUT / "docs" / f"{each}.md" for each in ("ansible", "edpm", "tripleo")))
# There is a reader of YAML beside Ansible.
READ = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"


def blocks(page: Path) -> list[str]:
    """The page's YAML; that of a list's item is indented."""
    found = re.findall(r"^( *)```yaml\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


EXAMPLES = [pytest.param(text, id=f"{page.stem}-{n}") for page in PAGES for n, text in enumerate(blocks(page), 1)]


def options(ansible: Ansible, role: str) -> set[str]:
    told = json.loads(ansible.call("ansible-doc", "--type=role", "--json", role).stdout)
    return set(told[role]["entry_points"]["main"]["options"])


def test_each_page_shows_one() -> None:
    assert [page.name for page in PAGES if not blocks(page)] == []


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_is_a_playbook_with_options_of_its_roles(ansible: Ansible, text: str) -> None:
    (ansible.home / "example.yml").write_text(text)
    made: Any = json.loads(ansible.call("python3", "-c", READ, "example.yml").stdout)
    if isinstance(made, dict):  # EDPM's node set: its variables are for the roles of the data plane's service
        variables = made["spec"]["nodeTemplate"]["ansible"]["ansibleVars"]
        known = [options(ansible, f"sidespawn.host.{role}") for role in ("install", "edpm")]
        assert set(variables) <= set.union(*known)
        return
    ansible.call("ansible-playbook", "--syntax-check", "--inventory=localhost,", "example.yml")
    for each in (role for play in made for role in play["roles"]):
        assert each["vars"].keys() <= options(ansible, each["role"]), each["role"]
