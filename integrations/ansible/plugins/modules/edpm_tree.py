#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Let edpm-ansible of the branch 18-stable start Neutron's agents without privileges."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edpm_tree
short_description: Let edpm-ansible of the branch 18-stable start Neutron's agents without privileges
version_added: 0.1.0
description:
  - Edits the definitions of the agents' containers in a tree of edpm-ansible, from which you build your runner's image.
  - The agents lose C(privileged) and get the capabilities that their work and their start take.
  - Every line that is added carries a mark, and V(absent) takes out exactly these.
author: The sidespawn authors (!UNKNOWN)
options:
  path:
    description: The tree, a checkout or the installed collection C(osp.edpm).
    type: path
    required: true
  agents:
    description: The agents that are not to be privileged. Those left out are as edpm-ansible has them.
    type: list
    elements: str
    choices: [dhcp, ovn_metadata, ovn]
    default: [dhcp, ovn_metadata, ovn]
  state:
    description: V(absent) restores the files.
    type: str
    choices: [present, absent]
    default: present
notes:
  - Later branches start the agents by Quadlet and need no change of the tree. Use
    M(sidespawn.host.quadlet_drop_in) there.
  - The agents' volumes are variables of the node set.
attributes:
  check_mode:
    description: Tells exactly what the run would change.
    support: full
  diff_mode:
    description: Shows the files before and after.
    support: full
"""

EXAMPLES = r"""
- name: Show what would change with --check --diff, and change it without
  sidespawn.host.edpm_tree:
    path: /home/me/edpm-ansible
    agents: [dhcp]
"""

RETURN = r"""
files:
  description: The files that are changed, relative to O(path).
  returned: always
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.edpm import DEFINITIONS, edited
from ansible_collections.sidespawn.host.plugins.module_utils.kolla import TreeError
from ansible_collections.sidespawn.host.plugins.module_utils.trees import finish


def main() -> None:
    agents = list(DEFINITIONS)
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "agents": {"type": "list", "elements": "str", "choices": agents, "default": agents},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    wanted = module.params["agents"] if module.params["state"] == "present" else ()
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for agent, (name, programs) in DEFINITIONS.items():
        path = os.path.join(module.params["path"], name)
        # Of agents that are left out it need not be there.
        if agent not in wanted and not os.path.exists(path):
            continue
        try:
            with open(path, encoding="utf-8") as file:
                before[name] = file.read()
            after[name] = edited(before[name], programs, wanted=agent in wanted)
        except OSError as error:
            module.fail_json(msg=f"no tree of edpm-ansible 18-stable: {path}: {error.strerror}; nothing was changed")
        except TreeError as error:
            module.fail_json(msg=f"{path}: {error}; nothing was changed")
    finish(module, module.params["path"], before, after)


if __name__ == "__main__":
    main()
