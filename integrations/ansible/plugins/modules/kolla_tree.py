#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Let Kolla-Ansible start Neutron's agents without privileges."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kolla_tree
short_description: Let Kolla-Ansible start Neutron's agents without privileges
version_added: 0.1.0
description:
  - Edits the role C(neutron) in a tree of Kolla-Ansible, on the host from which that is run.
  - The agents lose C(privileged) and get the capabilities that their work takes. The handlers that start them pass
    capabilities and security options on, which they otherwise drop.
  - Every line that is added carries a mark, and V(absent) takes out exactly these.
author: The sidespawn authors (!UNKNOWN)
options:
  path:
    description: The tree, such as C(share/kolla-ansible) of the virtual environment, or a checkout.
    type: path
    required: true
  agents:
    description: The agents that are not to be privileged. Those left out are as Kolla-Ansible has them.
    type: list
    elements: str
    choices: [dhcp, l3, ovn_metadata]
    default: [dhcp, l3, ovn_metadata]
  state:
    description: V(absent) restores the files.
    type: str
    choices: [present, absent]
    default: present
notes:
  - An upgrade of Kolla-Ansible undoes the change. Run the module again afterwards; until then agents are privileged.
  - Kolla-Ansible with podman ignores security options, so podman's own profile confines the agent. On a host with
    AppArmor that profile forbids C(ip netns add).
attributes:
  check_mode:
    description: Tells exactly what the run would change.
    support: full
  diff_mode:
    description: Shows both files before and after.
    support: full
"""

EXAMPLES = r"""
- name: Show what would change with --check --diff, and change it without
  sidespawn.host.kolla_tree:
    path: /opt/kolla/share/kolla-ansible
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
from ansible_collections.sidespawn.host.plugins.module_utils.kolla import (
    CAPABILITIES,
    DEFAULTS,
    HANDLERS,
    TreeError,
    edited,
)
from ansible_collections.sidespawn.host.plugins.module_utils.trees import finish


def main() -> None:
    agents = list(CAPABILITIES)
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "agents": {"type": "list", "elements": "str", "choices": agents, "default": agents},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    wanted = tuple(module.params["agents"]) if module.params["state"] == "present" else ()
    before, after = {}, {}
    try:
        for name in (DEFAULTS, HANDLERS):
            with open(os.path.join(module.params["path"], name), encoding="utf-8") as file:
                before[name] = file.read()
            after[name] = edited(name, before[name], wanted)
    except OSError as error:
        module.fail_json(msg=f"no tree of Kolla-Ansible: {error.filename}: {error.strerror}")
    except TreeError as error:
        module.fail_json(msg=f"{error}; nothing was changed")
    finish(module, module.params["path"], before, after)


if __name__ == "__main__":
    main()
