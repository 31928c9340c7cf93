#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""List helper programs in network namespaces; it does not matter who started them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: helper_info
short_description: List helper programs in network namespaces, no matter who started them
version_added: 0.1.0
description:
  - Looks at processes and named network namespaces. Needs neither sidespawn nor an engine.
author: The sidespawn authors (!UNKNOWN)
options:
  programs:
    description: Names of the programs.
    type: list
    elements: str
    default: [dnsmasq, haproxy, keepalived, radvd, conntrackd, dibbler-client]
attributes:
  check_mode:
    description: The module changes nothing in any mode.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: Count the namespaces that have a dnsmasq
  sidespawn.host.helper_info:
    programs: [dnsmasq]
"""

RETURN = r"""
helpers:
  description: Each with program, netns and pid.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.helpers import running

PROGRAMS = ["dnsmasq", "haproxy", "keepalived", "radvd", "conntrackd", "dibbler-client"]


def main() -> None:
    module = AnsibleModule(
        argument_spec={"programs": {"type": "list", "elements": "str", "default": PROGRAMS}},
        supports_check_mode=True,
    )
    module.exit_json(changed=False, helpers=running(module.params["programs"]))


if __name__ == "__main__":
    main()
