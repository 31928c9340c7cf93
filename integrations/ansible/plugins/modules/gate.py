#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Wait until every namespace that had a helper has one again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gate
short_description: Wait until every namespace that had a helper has one again
version_added: 0.1.0
description:
  - Passes once each network namespace that had a helper has one of the same program, started by O(by).
  - Fails at once if a service has rejected or failed a request since O(since).
  - A namespace that is gone has since lost its network or router and is left out.
  - With O(agent), also waits until that container keeps running. Helpers can run without their agent.
author: The sidespawn authors (!UNKNOWN)
options:
  helpers:
    description: What ran before, as M(sidespawn.host.helper_info) returned it.
    type: list
    elements: dict
    required: true
  services:
    description: The services whose verdicts count.
    type: list
    elements: str
    default: []
  by:
    description:
      - Who must have started the helpers, for it to pass. Adopted ones count for both V(sidespawn) and V(others).
    type: str
    choices: [anyone, sidespawn, others]
    default: anyone
  monitored:
    description: Fail as well if monitor mode has let something pass.
    type: bool
    default: false
  since:
    description: A time in seconds since 1970. Earlier verdicts are not looked at.
    type: int
    default: 0
  timeout:
    description: Seconds to wait.
    type: int
    default: 120
  agent:
    description: The agent's container, of podman.
    type: str
  steady:
    description:
      - Seconds for which the agent must have run without a restart. If O(timeout) is shorter, the module waits for the
        agent this long.
    type: int
    default: 10
  command:
    description: The command C(sidespawn), or its path.
    type: path
    default: sidespawn
attributes:
  check_mode:
    description: Looks once and does not wait; nothing is changed in any mode.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: Wait for the helpers that ran before
  sidespawn.host.gate:
    helpers: "{{ before.helpers }}"
    services: [neutron-dhcp-dnsmasq]
    agent: neutron_dhcp_agent
"""

RETURN = r"""
missing:
  description: Namespaces without a helper, each with program and netns. Empty if it passed.
  returned: always
  type: list
  elements: dict
refused:
  description: What was rejected or failed, as the journal says it.
  returned: always
  type: list
  elements: str
"""

import json
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.agents import Steadiness
from ansible_collections.sidespawn.host.plugins.module_utils.command import SPECIFICATION, ask
from ansible_collections.sidespawn.host.plugins.module_utils.helpers import namespaces, places, running

EVENTS = ("rejected", "failed", "expired", "unreadable", "internal")
PAUSE = 0.5


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "helpers": {"type": "list", "elements": "dict", "required": True},
            "services": {"type": "list", "elements": "str", "default": []},
            "by": {"type": "str", "choices": ["anyone", "sidespawn", "others"], "default": "anyone"},
            "monitored": {"type": "bool", "default": False},
            "since": {"type": "int", "default": 0},
            "timeout": {"type": "int", "default": 120},
            "agent": {"type": "str"},
            "steady": {"type": "int", "default": 10},
            **SPECIFICATION,
        },
        supports_check_mode=True,
    )
    if any(not {"program", "netns"} <= set(each) for each in module.params["helpers"]):
        module.fail_json(msg="helpers: takes results of the module sidespawn.host.helper_info")
    began = time.monotonic()
    give_up, steadiness = began, Steadiness(0)
    if not module.check_mode:
        give_up += module.params["timeout"]
        steadiness = Steadiness(module.params["steady"])
    while True:
        lacking, said = missing(module), refused(module)
        result = {"missing": lacking, "refused": said}
        if said:
            module.fail_json(msg=f"{len(said)} requests were refused: {said[-1]}", **result)
        fault = agent_fault(module, steadiness)
        if not lacking and not fault:
            module.exit_json(changed=False, **result)
        # An agent that runs since the first look gets its time, even if it is more than the timeout.
        if time.monotonic() >= (give_up if lacking else max(give_up, began + steadiness.seconds + PAUSE)):
            where = ", ".join(f"{each['program']} in {each['netns']}" for each in lacking)
            faults = [fault, f"no helper: {where}" if lacking else ""]
            module.fail_json(msg="; ".join(filter(None, faults)), **result)
        time.sleep(PAUSE)


def agent_fault(module: AnsibleModule, steadiness: Steadiness) -> str:
    """Return what is wrong with the agent's container; empty if it keeps running, or is not asked for."""
    name = module.params["agent"]
    if name is None:
        return ""
    program = module.get_bin_path("podman", required=True)
    code, out, err = module.run_command([program, "container", "inspect", name])
    fault = steadiness.lacks(json.loads(out)[0]["State"] if code == 0 else None, time.monotonic())
    if code != 0:
        return f"the agent {name} cannot be inspected: {err.strip()}"
    return f"the agent {name} {fault}: look at `podman logs {name}`" if fault else ""


def missing(module: AnsibleModule) -> list[dict[str, str]]:
    wanted = places(module.params["helpers"])
    there = set(namespaces().values())
    by = module.params["by"]
    now = running(sorted({program for program, _netns in wanted}))
    if by != "anyone":
        rows = [each for each in ask(module, "ps") if each["state"] == "running"]
        # What legacy wrappers have started is adopted as soon as it runs.
        ours = {each["pid"] for each in rows if by == "sidespawn" or not each["adopted"]}
        now = [each for each in now if (each["pid"] in ours) is (by == "sidespawn")]
    found = places(now)
    return [
        {"program": program, "netns": netns}
        for program, netns in sorted(wanted)
        if netns in there and (program, netns) not in found
    ]


def refused(module: AnsibleModule) -> list[str]:
    if not module.params["services"]:
        return []
    # Every user of the host can write records with these fields, but not with root's _UID.
    matches = ["_UID=0", *(f"SIDESPAWN_SERVICE={each}" for each in module.params["services"])]
    matches += [f"SIDESPAWN_EVENT={each}" for each in (*EVENTS, *(["monitored"] if module.params["monitored"] else []))]
    program = module.get_bin_path("journalctl", required=True)
    since = f"--since=@{module.params['since']}"
    code, out, err = module.run_command([program, "--quiet", "--output=json", since, *matches])
    if code != 0:
        module.fail_json(msg=f"journalctl: {err.strip()}")
    return [str(json.loads(line).get("MESSAGE")) for line in out.splitlines()]


if __name__ == "__main__":
    main()
