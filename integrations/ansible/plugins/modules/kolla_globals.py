#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Write Kolla-Ansible's variables for agents without an engine's socket."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kolla_globals
short_description: Write Kolla-Ansible's variables for agents without an engine's socket
version_added: 0.1.0
description:
  - Runs on the host from which Kolla-Ansible is run. Takes the agents' default volumes from the tree, leaves out the
    engine's socket and storage, and adds those that are given.
  - Lists for additional volumes, such as C(neutron_dhcp_agent_extra_volumes), stay the operator's.
author: The sidespawn authors (!UNKNOWN)
options:
  path:
    description: The tree, such as C(share/kolla-ansible) of the virtual environment, or a checkout.
    type: path
    required: true
  dest:
    description: The file to write. Kolla-Ansible reads all files of this directory.
    type: path
    default: /etc/kolla/globals.d/sidespawn.yml
  agents:
    description:
      - For each of C(dhcp), C(l3) and C(ovn_metadata) its volumes, as the filter P(sidespawn.host.volumes#filter)
        writes them for C(kolla).
      - Agents that are left out are as Kolla-Ansible has them.
    type: dict
    default: {}
  security_opt:
    description: Security options of agents that M(sidespawn.host.kolla_tree) has made unprivileged; with docker only.
    type: list
    elements: str
    default: []
  state:
    description: V(absent) removes the file.
    type: str
    choices: [present, absent]
    default: present
notes:
  - Run it again after an upgrade of Kolla-Ansible, whose lists may have changed.
attributes:
  check_mode:
    description: Tells exactly what the run would change.
    support: full
  diff_mode:
    description: Shows the file before and after.
    support: full
"""

EXAMPLES = r"""
- name: Give the DHCP agent its helpers instead of the socket
  sidespawn.host.kolla_globals:
    path: /opt/kolla/share/kolla-ansible
    agents:
      dhcp: "{{ dnsmasq | sidespawn.host.volumes('kolla') }}"
"""

RETURN = r"""
content:
  description: The file as it is, or would be.
  returned: always
  type: str
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.kolla import (
    CAPABILITIES,
    DEFAULTS,
    TreeError,
    variable,
    without_engine,
)

try:
    import yaml
except ImportError:
    HAS_YAML = False
else:
    HAS_YAML = True

HEADING = """\
---
# Written by the collection sidespawn.host. Run its role kolla again after an upgrade of Kolla-Ansible.
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "dest": {"type": "path", "default": "/etc/kolla/globals.d/sidespawn.yml"},
            "agents": {"type": "dict", "default": {}},
            "security_opt": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    if not HAS_YAML:
        module.fail_json(msg="needs PyYAML, which Ansible itself needs: use its interpreter")
    dest = module.params["dest"]
    after = content(module) if module.params["state"] == "present" else ""
    before = ""
    if os.path.exists(dest):
        with open(dest, encoding="utf-8") as file:
            before = file.read()
    if before != after and not module.check_mode:
        replace(module, dest, after)
    module.exit_json(
        changed=before != after,
        content=after,
        diff={"before": before, "after": after, "before_header": dest, "after_header": dest},
    )


def content(module: AnsibleModule) -> str:
    agents = module.params["agents"]
    if unknown := sorted(set(agents) - set(CAPABILITIES)):
        module.fail_json(msg=f"no agent of Kolla-Ansible's: {', '.join(unknown)}; known are {', '.join(CAPABILITIES)}")
    defaults = read_defaults(module)
    lists = {}
    try:
        for agent in sorted(agents):
            lists[variable(agent)] = [*without_engine(agent, defaults.get(variable(agent))), *agents[agent]]
    except TreeError as error:
        module.fail_json(msg=str(error))
    # "no" would take away the host's pids, by which agents look their helpers up.
    given = {"neutron_agents_wrappers": "yes", "sidespawn_security_opt": module.params["security_opt"], **lists}
    refuse_other_settings(module, set(lists), set(given))
    return HEADING + "".join(written(name, value) for name, value in given.items())


def read_defaults(module: AnsibleModule) -> dict[str, object]:
    path = os.path.join(module.params["path"], DEFAULTS)
    found = None
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except OSError as error:
        module.fail_json(msg=f"no tree of Kolla-Ansible: {error.filename}: {error.strerror}")
    except yaml.YAMLError as error:
        module.fail_json(msg=f"{path} cannot be read: {error}")
    if not isinstance(found, dict):
        module.fail_json(msg=f"{path} has no variables")
    return dict(found or {})


def written(name: str, value: str | list[str]) -> str:
    """Return a variable in YAML. A JSON string is a quoted YAML string."""
    if isinstance(value, str) or not value:
        return f"{name}: {json.dumps(value)}\n"
    return f"{name}:\n" + "".join(f"  - {json.dumps(each)}\n" for each in value)


def read_settings(module: AnsibleModule, path: str) -> object:
    """Read an operator's file, which may have Ansible's tags, such as !vault."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda *_: None)
    found = None
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.load(file, Loader=Loader)  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        module.fail_json(msg=f"{path} cannot be read: {error}")
    return found


def refuse_other_settings(module: AnsibleModule, lists: set[str], names: set[str]) -> None:
    """Fail if another file sets these lists: one of the two would silently have no effect.

    Kolla-Ansible reads globals.yml, then the files of the directory in the order of their names, and the last one wins.
    So a later file must set none of `names`.
    """
    dest = module.params["dest"]
    directory = os.path.dirname(dest)
    others = [os.path.join(os.path.dirname(directory), "globals.yml")]
    if os.path.isdir(directory):
        others += sorted(os.path.join(directory, each) for each in os.listdir(directory))
    for index, path in enumerate(others):
        if path == dest or not path.endswith((".yml", ".yaml", ".json")) or not os.path.exists(path):
            continue
        refused = names if index > 0 and path > dest else lists
        found = read_settings(module, path)
        if isinstance(found, dict) and (both := sorted(refused & set(found))):
            hint = "move your volumes to the list for extra ones" if lists & set(both) else "remove that"
            module.fail_json(msg=f"{path} sets {', '.join(both)} as well: {hint}")


def replace(module: AnsibleModule, dest: str, text: str) -> None:
    if not text:
        os.unlink(dest)
        return
    os.makedirs(os.path.dirname(dest), exist_ok=True)
    draft = os.path.join(module.tmpdir, "globals")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(draft, 0o644)
    module.atomic_move(draft, dest)


if __name__ == "__main__":
    main()
