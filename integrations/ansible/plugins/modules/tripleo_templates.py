#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Make templates of TripleO for Neutron's agents without an engine's socket and without privileges."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tripleo_templates
short_description: Make templates of TripleO for Neutron's agents without an engine's socket and without privileges
version_added: 0.1.0
description:
  - Reads the agents' templates in your tree of tripleo-heat-templates, and writes a second one beside each, with
    C(-sidespawn.yaml) at the end of its name. Your templates stay as they are.
  - The new ones have sidespawn's mounts and a few capabilities instead of privileges, wrappers, kill scripts and
    sockets. All else is as in yours.
  - Writes an environment file that maps the agents to them. Give it to C(openstack overcloud deploy) as the last one.
  - Needs PyYAML, which Ansible needs as well.
author: The sidespawn authors (!UNKNOWN)
options:
  path:
    description: The tree.
    type: path
    required: true
  volumes:
    description: >-
      The mounts of each agent's services, as the filter P(sidespawn.host.volumes#filter) writes them. Agents that are
      not in it keep TripleO's template.
    type: dict
    default: {}
  templates:
    description: Templates in the tree that are not where TripleO has them, by agent.
    type: dict
    default: {}
  environment:
    description: The environment file, from O(path).
    type: str
    default: environments/sidespawn.yaml
  state:
    description: V(absent) removes what the module wrote.
    type: str
    choices: [present, absent]
    default: present
notes:
  - Run the module again after a change of the tree.
attributes:
  check_mode:
    description: Tells exactly what the run would change.
    support: full
  diff_mode:
    description: >-
      Shows a new template against the one that it is made of, in the same form, and a changed one against the earlier.
    support: full
"""

EXAMPLES = r"""
- name: Show what would be different with --check --diff, and write it without
  sidespawn.host.tripleo_templates:
    path: /home/stack/tripleo-heat-templates
    volumes:
      dhcp: "{{ service_results | sidespawn.host.volumes('edpm') }}"
"""

RETURN = r"""
files:
  description: The files that are written or removed, from O(path).
  returned: always
  type: list
  elements: str
"""

import os
import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.sidespawn.host.plugins.module_utils.tripleo import (
    AGENTS,
    MARK,
    TreeError,
    derived,
    environment,
    path_of,
)

try:
    import yaml
except ImportError:
    YAML_ERROR = traceback.format_exc()
else:
    YAML_ERROR = ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "volumes": {"type": "dict", "default": {}},
            "templates": {"type": "dict", "default": {}},
            "environment": {"type": "str", "default": "environments/sidespawn.yaml"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    if YAML_ERROR:
        module.fail_json(msg=missing_required_lib("PyYAML"), exception=YAML_ERROR)
    tree = module.params["path"]
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    shown: dict[str, str] = {}
    try:
        if not os.path.isdir(os.path.join(tree, "deployment")):
            raise TreeError(f"{tree} has no directory deployment: it is no tree of tripleo-heat-templates")
        after, shown = wanted(module)
        before = {name: mine(os.path.join(tree, name)) for name in (*ours(module), *after)}
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}; nothing was changed")
    except (TreeError, yaml.YAMLError) as error:
        module.fail_json(msg=f"{error}; nothing was changed")
    changed = [name for name in before if before[name] != after.get(name, "")]
    if not module.check_mode:
        for name in changed:
            write(module, os.path.join(tree, name), after.get(name, ""))
    module.exit_json(
        changed=bool(changed),
        files=changed,
        diff=[
            {
                "before": before[name] or shown.get(name, ""),
                "after": after.get(name, ""),
                "before_header": name,
                "after_header": name,
            }
            for name in changed
        ],
    )


def wanted(module: AnsibleModule) -> tuple[dict[str, str], dict[str, str]]:
    """Return the resulting files, and the source of each template."""
    given = module.params
    texts: dict[str, str] = {}
    shown: dict[str, str] = {}
    made: dict[str, tuple[str, dict[str, Any]]] = {}
    if given["state"] == "absent":
        return {}, {}
    if unknown := sorted(set(given["volumes"]) - set(AGENTS)):
        raise TreeError(f"no agent of TripleO's: {', '.join(unknown)}; there are {', '.join(AGENTS)}")
    if not given["volumes"]:
        raise TreeError("no agent is named in volumes")
    for agent, volumes in given["volumes"].items():
        name = template_of(module, agent)
        with open(os.path.join(given["path"], name), encoding="utf-8") as file:
            theirs = yaml.safe_load(file)
        try:
            ours = derived(theirs, list(volumes), AGENTS[agent].capabilities)
        except TreeError as error:
            raise TreeError(f"{name}: {error}") from None
        texts[path_of(name)] = MARK + dumped(ours)
        shown[path_of(name)] = dumped(theirs)
        made[agent] = (path_of(name), ours)
    directory = os.path.dirname(given["environment"])
    texts[given["environment"]] = MARK + dumped(environment(directory or ".", made))
    return texts, shown


def ours(module: AnsibleModule) -> list[str]:
    """Return all files that the module may have written."""
    return [module.params["environment"], *(path_of(template_of(module, agent)) for agent in AGENTS)]


def template_of(module: AnsibleModule, agent: str) -> str:
    name: str = module.params["templates"].get(agent, AGENTS[agent].template)
    return name


def mine(path: str) -> str:
    """Return the existing content. A file that this module did not write is not overwritten."""
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if not text.startswith(MARK):
        raise TreeError(f"{path} is not this module's")
    return text


def dumped(content: object) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=False, width=1000, allow_unicode=True)
    return text


def write(module: AnsibleModule, path: str, text: str) -> None:
    if not text:
        os.unlink(path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = os.path.join(module.tmpdir, os.path.basename(path))
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
    module.atomic_move(draft, path)
    os.chmod(path, 0o644)


if __name__ == "__main__":
    main()
