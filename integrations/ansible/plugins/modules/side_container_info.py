#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""List the side containers that run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: side_container_info
short_description: List the side containers that run
version_added: 0.1.0
description:
  - Runs C(sidespawn ps) on the host, which changes nothing.
author: The sidespawn authors (!UNKNOWN)
options:
  service:
    description: Only those of this service.
    type: str
  command:
    description: The command C(sidespawn), or its path.
    type: path
    default: sidespawn
attributes:
  check_mode:
    description: The module changes nothing in any mode.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: See which helpers run
  sidespawn.host.side_container_info:
  register: helpers
"""

RETURN = r"""
side_containers:
  description: As C(sidespawn ps --json) prints them; each has at least name, service, state, pid and netns.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.command import SPECIFICATION, ask


def main() -> None:
    module = AnsibleModule(argument_spec={"service": {"type": "str"}, **SPECIFICATION}, supports_check_mode=True)
    service = module.params["service"]
    module.exit_json(changed=False, side_containers=ask(module, "ps", *([service] if service else [])))


if __name__ == "__main__":
    main()
