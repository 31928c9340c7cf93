#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Let puppet-tripleo write no wrappers for Neutron's agents, and docker listen on no more sockets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: puppet_tree
short_description: Let puppet-tripleo write no wrappers for Neutron's agents
version_added: 0.1.0
description:
  - Edits your own tree of puppet-tripleo, such as a fork, or /usr/share/openstack-puppet/modules/tripleo on hosts.
  - The classes that write wrappers of the DHCP, L3 and OVN metadata agents write none any more, whatever hieradata say.
    With releases that still have docker, C(DockerAdditionalSockets) has no effect.
  - Classes and parameters stay, so templates and hieradata that name them are valid.
  - Every line that is changed carries a mark and what it was before, and V(absent) restores exactly these.
author: The sidespawn authors (!UNKNOWN)
options:
  path:
    description: The tree, which has a directory C(manifests).
    type: path
    required: true
  state:
    description: V(absent) restores the files.
    type: str
    choices: [present, absent]
    default: present
notes:
  - Agents that have no sidespawn yet start their helpers in their own container then. Move them first.
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
  sidespawn.host.puppet_tree:
    path: /home/stack/puppet-tripleo
"""

RETURN = r"""
files:
  description: The files that are changed, relative to O(path).
  returned: always
  type: list
  elements: str
"""

import glob
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.puppet import CONDITIONS, TreeError, edited
from ansible_collections.sidespawn.host.plugins.module_utils.trees import finish


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    tree, wanted = module.params["path"], module.params["state"] == "present"
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    try:
        for pattern, condition in CONDITIONS.items():
            for path in sorted(glob.glob(os.path.join(glob.escape(tree), pattern))):
                name = os.path.relpath(path, tree)
                with open(path, encoding="utf-8", newline="") as file:
                    before[name] = file.read()
                after[name] = edited(name, before[name], condition, wanted=wanted)
        if not before:
            raise TreeError(f"{tree} has none of {', '.join(CONDITIONS)}")
    except (OSError, TreeError) as error:
        module.fail_json(msg=f"{error}; nothing was changed")
    finish(module, tree, before, after)


if __name__ == "__main__":
    main()
