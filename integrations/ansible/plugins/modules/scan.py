#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Look for engine sockets, privileges and legacy wrappers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: scan
short_description: Look for engine sockets, privileges and legacy wrappers
version_added: 0.1.0
description:
  - Runs C(sidespawn scan) on the host, which changes nothing.
author: The sidespawn authors (!UNKNOWN)
options:
  fail_on_findings:
    description: Fail if there is a finding.
    type: bool
    default: false
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
- name: Make sure that no agent has a socket any more
  sidespawn.host.scan:
    fail_on_findings: true
"""

RETURN = r"""
findings:
  description: Each with kind, where, found, meaning, hint and deployment.
  returned: always
  type: list
  elements: dict
notes:
  description: What is no finding, such as privileged containers that are no agents.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.command import SPECIFICATION, ask


def main() -> None:
    module = AnsibleModule(
        argument_spec={"fail_on_findings": {"type": "bool", "default": False}, **SPECIFICATION},
        supports_check_mode=True,
    )
    told = ask(module, "scan", codes=(0, 1, 2))
    result = {"findings": told["findings"], "notes": told["notes"]}
    if told["not_looked_at"]:
        module.fail_json(msg=f"not everything was looked at: {'; '.join(told['not_looked_at'])}", **result)
    if told["findings"] and module.params["fail_on_findings"]:
        where = "; ".join(f"{each['where']} {each['kind']}" for each in told["findings"])
        module.fail_json(msg=f"{len(told['findings'])} findings: {where}", **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
