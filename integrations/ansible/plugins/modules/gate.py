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
  - Fails at once if a service has rejected or failed a request since O(since), or if the journal, which says so, does
    not reach back to that time.
  - A namespace that is gone has since lost its network or router and is left out.
  - With O(agent), also waits until that container keeps running. Helpers can run without their agent.
  - With O(idle) as well, it also waits until the agent has made requests to sidespawn. Adopted helpers run even if the
    agent cannot reach sidespawn at all.
author: The sidespawn authors (!UNKNOWN)
options:
  helpers:
    description: What ran before, as M(sidespawn.host.helper_info) returned it.
    type: list
    elements: dict
    required: true
  serves:
    description:
      - What the services serve, as M(sidespawn.host.helper_info) returned it. Of O(helpers), only those count then.
      - Required with O(idle).
    type: list
    elements: dict
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
    description:
      - Fail as well if monitor mode has let something pass. Warns of a service that was asked for nothing.
    type: bool
    default: false
  since:
    description: A time in seconds since 1970. Earlier verdicts are not looked at.
    type: int
    default: 0
  boot:
    description:
      - The content of C(/proc/sys/kernel/random/boot_id) at the time of O(since), if that may be before the last
        reboot. Then the module fails if the journal may have lost records in a reboot.
    type: str
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
  idle:
    description:
      - Wait until a request of the agent was completed, since its start, in each namespace that had a helper. If an
        agent does not ask again for some, or if there are none, wait until it has run for this many seconds without
        asking for anything new. An agent that never stops asking passes after O(timeout), with a warning.
      - An agent that had helpers and asks for none of them in this time passes only if all of them still run.
    type: int
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

- name: Wait until the new agent has asked for the helpers that ran before
  sidespawn.host.gate:
    helpers: "{{ before.helpers }}"
    services: [neutron-dhcp-dnsmasq]
    serves: "{{ now.serves }}"
    by: sidespawn
    agent: neutron_dhcp_agent
    idle: 90
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
unasked:
  description: Namespaces with a former helper for which the agent has not asked, each with program and netns.
  returned: with O(idle)
  type: list
  elements: dict
"""

import json
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.agents import Steadiness
from ansible_collections.sidespawn.host.plugins.module_utils.command import SPECIFICATION, ask_rows
from ansible_collections.sidespawn.host.plugins.module_utils.helpers import namespaces, places, running, served
from ansible_collections.sidespawn.host.plugins.module_utils.journal import events, gap
from ansible_collections.sidespawn.host.plugins.module_utils.requests import COMPLETED, Requests, unix_time

EVENTS = ("rejected", "failed", "expired", "unreadable", "internal")
PAUSE = 0.5
KEPT = "Let journald keep a journal (Storage= in journald.conf is not none), and try again"
REVIEWED = (
    "Either let journald keep it (Storage=persistent in journald.conf, and enough SystemMaxUse=) and migrate again, or "
    "review the policies yourself (`sidespawn learn`, `sidespawn metrics`); the role migrate then enforces them with "
    "migrate_reviewed: true"
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "helpers": {"type": "list", "elements": "dict", "required": True},
            "serves": {"type": "list", "elements": "dict"},
            "services": {"type": "list", "elements": "str", "default": []},
            "by": {"type": "str", "choices": ["anyone", "sidespawn", "others"], "default": "anyone"},
            "monitored": {"type": "bool", "default": False},
            "since": {"type": "int", "default": 0},
            "boot": {"type": "str"},
            "timeout": {"type": "int", "default": 120},
            "agent": {"type": "str"},
            "steady": {"type": "int", "default": 10},
            "idle": {"type": "int"},
            **SPECIFICATION,
        },
        required_by={"idle": ("agent", "serves")},
        supports_check_mode=True,
    )
    Gate(module).wait()


class Gate:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        given = module.params
        require(module, "helpers", {"program", "netns"})
        require(module, "serves", {"service", "program", "namespaces"})
        self.serves: list[dict[str, Any]] = given["serves"] or []
        self.helpers = given["helpers"] if given["serves"] is None else served(given["helpers"], self.serves)
        # In check mode, look once.
        self.timeout = 0 if module.check_mode else given["timeout"]
        self.steadiness = Steadiness(0 if module.check_mode else given["steady"])
        self.idle: int | None = None if module.check_mode else given["idle"]

    def wait(self) -> None:
        began = time.monotonic()
        give_up = began + self.timeout
        if self.module.params["services"] and self.module.params["since"]:
            self.require_journal()
        while True:
            state, trouble = self.look_at_agent()
            fault = self.agent_fault(state, trouble)
            unasked, is_quiet = self.requests(state)
            # Last, so that all that has been asked for so far counts.
            lacking, said = self.missing(), refused(self.module)
            result = {"missing": lacking, "refused": said} | ({} if self.idle is None else {"unasked": unasked})
            if said:
                hint = f". {REVIEWED}" if self.module.params["monitored"] else ""
                self.module.fail_json(msg=f"{len(said)} requests were refused: {said[-1]}{hint}", **result)
            # On a busy cloud, an agent is served and never stops asking for something new.
            is_busy = not is_quiet and time.monotonic() >= max(give_up, began + (self.idle or 0))
            if not lacking and not fault and (is_quiet or is_busy):
                self.warn_of_silence()
                if is_busy:
                    self.module.warn(f"the agent still asks for new helpers, and has not asked for: {names(unasked)}")
                self.module.exit_json(changed=False, **result)
            # An agent that runs since the first look gets its time, even if it is more than the timeout.
            if lacking or fault:
                end = give_up if lacking else max(give_up, began + self.steadiness.seconds + PAUSE)
                if time.monotonic() >= end:
                    faults = [fault, f"no helper: {names(lacking)}" if lacking else ""]
                    self.module.fail_json(msg="; ".join(filter(None, faults)), **result)
            time.sleep(PAUSE)

    def require_journal(self) -> None:
        given = self.module.params
        if fault := gap(self.module, given["since"], given["boot"] or "", time.time()):
            unknown, hint = ("let pass", REVIEWED) if given["monitored"] else ("refused", KEPT)
            message = f"{fault}. So it is not known whether requests were {unknown}. {hint}"
            self.module.fail_json(msg=message, missing=[], refused=[])

    def warn_of_silence(self) -> None:
        """Warn of services that let nothing pass because they were asked for nothing."""
        given = self.module.params
        if given["monitored"]:
            records = events(self.module, given["services"], given["since"], COMPLETED)
            silent = set(given["services"]) - {each["SIDESPAWN_SERVICE"] for each in records}
            for each in sorted(silent):
                self.module.warn(
                    f"{each} has answered no request since: it is not known whether its policy fits the agent"
                )

    def look_at_agent(self) -> tuple[dict[str, Any] | None, str]:
        """Return the state of its container, or what podman says instead."""
        if self.module.params["agent"] is None:
            return None, ""
        program = self.module.get_bin_path("podman", required=True)
        code, out, err = self.module.run_command([program, "container", "inspect", self.module.params["agent"]])
        return (json.loads(out)[0]["State"], "") if code == 0 else (None, err.strip())

    def agent_fault(self, state: dict[str, Any] | None, trouble: str) -> str:
        """Return what is wrong with the agent's container; empty if it keeps running, or is not asked for."""
        name = self.module.params["agent"]
        if name is None:
            return ""
        fault = self.steadiness.lacks(state, time.monotonic())
        if state is None:
            return f"the agent {name} cannot be inspected: {trouble}"
        return f"the agent {name} {fault}: look at `podman logs {name}`" if fault else ""

    def requests(self, state: dict[str, Any] | None) -> tuple[list[dict[str, str]], bool]:
        """Return which former helpers the agent has not asked for, and whether nothing more is expected of it."""
        if self.idle is None:
            return [], True
        if state is None or state["Status"] != "running":
            return [], False
        started = self.start_of(state)
        instances = {str(each["instance"]): str(each["netns"] or "") for each in self.side_containers()}
        records = events(self.module, self.module.params["services"], int(started), COMPLETED)
        made = Requests(records, instances, started)
        wanted = self.wanted()
        unasked = made.lacking(wanted, self.serves)
        is_quiet = bool(wanted and not unasked) or time.time() - made.latest >= self.idle
        return [{"program": program, "netns": netns} for program, netns in unasked], is_quiet

    def start_of(self, state: dict[str, Any]) -> float:
        try:
            moment: float = unix_time(state["StartedAt"])
        except ValueError as error:
            self.module.fail_json(msg=f"podman says when {self.module.params['agent']} was started: {error}")
            raise SystemExit(1) from None
        return moment

    def side_containers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = ask_rows(self.module, "ps", has=("instance", "netns", "state", "pid", "adopted"))
        return rows

    def wanted(self) -> set[tuple[str, str]]:
        """Return programs and namespaces of the former helpers, as far as these namespaces still exist."""
        there = set(namespaces().values())
        return {(program, netns) for program, netns in places(self.helpers) if netns in there}

    def missing(self) -> list[dict[str, str]]:
        wanted, by = self.wanted(), self.module.params["by"]
        now = running(sorted({program for program, _netns in wanted}))
        if by != "anyone":
            rows = [each for each in self.side_containers() if each["state"] == "running"]
            # What legacy wrappers have started is adopted as soon as it runs.
            ours = {each["pid"] for each in rows if by == "sidespawn" or not each["adopted"]}
            now = [each for each in now if (each["pid"] in ours) is (by == "sidespawn")]
        found = places(now)
        return [{"program": program, "netns": netns} for program, netns in sorted(wanted - found)]


def names(helpers: list[dict[str, str]]) -> str:
    return ", ".join(f"{each['program']} in {each['netns']}" for each in helpers)


def require(module: AnsibleModule, option: str, keys: set[str]) -> None:
    if any(not keys <= set(each) for each in module.params[option] or ()):
        module.fail_json(msg=f"{option}: takes results of the module sidespawn.host.helper_info")


def refused(module: AnsibleModule) -> list[str]:
    kinds = (*EVENTS, *(("monitored",) if module.params["monitored"] else ()))
    found = events(module, module.params["services"], module.params["since"], kinds)
    return [str(each.get("MESSAGE")) for each in found]


if __name__ == "__main__":
    main()
