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
  - Looks at processes and named network namespaces. Without O(services), needs neither sidespawn nor an engine.
author: The sidespawn authors (!UNKNOWN)
options:
  programs:
    description: Names of the programs.
    type: list
    elements: str
    default: [dnsmasq, haproxy, keepalived, radvd, conntrackd, dibbler-client]
  services:
    description:
      - List only helpers that these services serve, by the program and the network namespaces of their policies. The
        services must be enabled, or at least have a policy.
    type: list
    elements: str
  command:
    description: The command C(sidespawn), or its path. Used only with O(services).
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
- name: Count the namespaces that have a dnsmasq
  sidespawn.host.helper_info:
    programs: [dnsmasq]

- name: List the helpers of the L3 agent, and not the haproxy of other agents
  sidespawn.host.helper_info:
    services: [neutron-l3-haproxy, neutron-l3-radvd]
"""

RETURN = r"""
helpers:
  description: Each with program, netns and pid.
  returned: always
  type: list
  elements: dict
serves:
  description:
    - What each service serves, with service, program and namespaces. The latter are as C(sidespawn check) prints them,
      such as C(qrouter-{router} or snat-{router}).
    - Empty in check mode on a host without sidespawn.
  returned: with O(services)
  type: list
  elements: dict
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.command import OTHER, SPECIFICATION, ask_rows, program_of
from ansible_collections.sidespawn.host.plugins.module_utils.helpers import running, served

PROGRAMS = ["dnsmasq", "haproxy", "keepalived", "radvd", "conntrackd", "dibbler-client"]


# A policy that cannot do all that it allows on this host is still a policy: see `sidespawn check --help`.
CODES = (0, 1, 69, 78)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "programs": {"type": "list", "elements": "str", "default": PROGRAMS},
            "services": {"type": "list", "elements": "str"},
            **SPECIFICATION,
        },
        supports_check_mode=True,
    )
    programs, services = module.params["programs"], module.params["services"]
    if services is None:
        module.exit_json(changed=False, helpers=running(programs))
    serves = what_they_serve(module, services)
    found = running(sorted({*programs, *(each["program"] for each in serves)}))
    module.exit_json(changed=False, helpers=served(found, serves), serves=serves)


def what_they_serve(module: AnsibleModule, services: list[str]) -> list[dict[str, Any]]:
    if not services or (module.check_mode and program_of(module) is None):
        return []
    told = ask_rows(module, "check", *services, codes=CODES, has=("subject", "valid"))
    for each in told:
        # In check mode, services that are not enabled yet have no policy.
        if not each["valid"] and not module.check_mode:
            module.fail_json(msg=f"{each['subject']}: {each.get('error')}")
    valid = [each for each in told if each["valid"]]
    if any(not {"program", "namespace"} <= set(each.get("allows") or ()) for each in valid):
        module.fail_json(msg=f"{OTHER}: `sidespawn check --json` does not say what a policy allows")
    return [
        {
            "service": each["subject"],
            "program": os.path.basename(each["allows"]["program"].partition(" of ")[0]),
            "namespaces": each["allows"]["namespace"],
        }
        for each in valid
    ]


if __name__ == "__main__":
    main()
