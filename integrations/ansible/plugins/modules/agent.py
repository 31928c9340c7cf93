#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Replace an agent's container by one with sidespawn's mounts, and bring the former one back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: agent
short_description: Replace an agent's container by one with sidespawn's mounts, and bring the former one back
version_added: 0.1.0
description:
  - For agents that podman's command line started. The former container is stopped and kept under another name, so that
    V(restored) starts the very same one.
  - Side containers are not touched, no matter who started them.
  - Fails before it changes anything if podman removes the container when it stops (C(--rm)), or if a unit creates it at
    each start (Quadlet, C(podman generate systemd --new)). Such a container cannot be kept, so change what creates it.
  - Each step can be interrupted; the next run continues from there.
author: The sidespawn authors (!UNKNOWN)
options:
  name:
    description: The agent's container.
    type: str
    required: true
  state:
    description:
      - V(replaced) starts an agent with O(options) and without an engine's socket. If another command created the
        container that was started so before, it is created again.
      - V(restored) removes that and starts the former one.
      - V(settled) removes the former one for good.
    type: str
    choices: [replaced, restored, settled]
    default: replaced
  options:
    description: Options of C(podman create), such as C(podman_options) of M(sidespawn.host.service).
    type: list
    elements: str
    default: []
  create:
    description:
      - The arguments of C(podman) that create the new container, from C(create) on.
      - By default those that created the former one, without sockets and storage of engines and without mounts of
        earlier wrappers, with O(options) added. Everything else, privileges too, stays.
      - With O(options), the agent's image is mounted at C(/run/sidespawn/image) as well, for calls such as C(--version)
        that the agent answers itself.
    type: list
    elements: str
    default: []
  services:
    description: Services that are disabled next. V(restored) fails if the agent uses one and has no former container.
    type: list
    elements: str
    default: []
  unit:
    description: The unit that starts the container by its name, if there is one.
    type: str
  restart:
    description: Whether V(replaced) restarts a new agent that stays as it is.
    type: bool
    default: false
  stop_timeout:
    description: Seconds until an agent that does not end is killed.
    type: int
    default: 30
attributes:
  check_mode:
    description: Tells exactly what the run would change.
    support: full
  diff_mode:
    description: Shows the command before and after.
    support: full
"""

EXAMPLES = r"""
- name: Give the DHCP agent its helpers instead of the socket
  sidespawn.host.agent:
    name: neutron_dhcp_agent
    options: "{{ dnsmasq.podman_options }}"
"""

RETURN = r"""
former:
  description: The id of the former container.
  returned: if there is one
  type: str
steps:
  description: What was done, or would be.
  returned: always
  type: list
  elements: str
"""

import json
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.agents import AgentError, creating

SUFFIX = "-before-sidespawn"
# An agent may be running: podman says `initialized` if it was killed after it had started it.
ALIVE = ("running", "paused", "stopping", "initialized")


class Agent:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.program = module.get_bin_path("podman", required=True)
        self.name: str = module.params["name"]
        self.former = self.name + SUFFIX
        self.steps: list[str] = []
        self.diff: dict[str, str] = {}

    def inspect(self, name: str) -> dict[str, Any] | None:
        code, out, err = self.module.run_command([self.program, "container", "inspect", name])
        if code == 0:
            found: dict[str, Any] = json.loads(out)[0]
            return found
        # A failing podman may still have the container.
        if self.module.run_command([self.program, "container", "exists", name])[0] != 1:
            self.fail(f"podman does not say whether there is a container {name}: {err.strip()}")
        return None

    def do(self, what: str, *arguments: str, program: str = "") -> None:
        self.steps.append(what)
        if not self.module.check_mode:
            code, _out, err = self.module.run_command([program or self.program, *arguments])
            if code != 0:
                self.fail(f"{what}: {err.strip()}")

    def fail(self, message: str) -> NoReturn:
        self.module.fail_json(msg=message, steps=self.steps, changed=bool(self.steps))
        raise SystemExit(1)

    def stop(self, name: str) -> None:
        found = self.inspect(name)
        if found is None or found["State"]["Status"] not in ALIVE:
            return
        if unit := self.module.params["unit"]:
            self.do(f"stop {unit}", "stop", unit, program=self.systemctl())
        self.do(f"stop {name}", "stop", f"--time={self.module.params['stop_timeout']}", name)

    def start(self) -> None:
        unit = self.module.params["unit"]
        program, name = (self.systemctl(), unit) if unit else (self.program, self.name)
        if not self.module.check_mode:
            # Where a podman was killed, this fails once: the OCI runtime has the container, which podman then removes.
            code = self.module.run_command([program, "start", name])[0]
            if code == 0:
                self.steps.append(f"start {name}")
                return
        self.do(f"start {name}", "start", name, program=program)

    def start_again(self, found: dict[str, Any]) -> None:
        """Start it unless it runs, or restart it if that is asked for."""
        if found["State"]["Status"] != "running" or self.module.params["restart"]:
            self.stop(self.name)
            self.start()

    def clear(self) -> None:
        """Remove what a podman that was killed has left of a container with the agent's name, which is not there."""
        if not self.module.check_mode:
            self.module.run_command([self.program, "rm", "--force", "--ignore", self.name])

    def finish_renaming(self) -> None:
        """Finish a rename: a killed podman may have renamed the former container, but not its storage."""
        if not self.module.check_mode:
            for names in ((self.former, self.name), (self.name, self.former)):
                self.module.run_command([self.program, "rename", *names])

    def systemctl(self) -> str:
        return str(self.module.get_bin_path("systemctl", required=True))

    def replace(self) -> None:
        own, former = self.inspect(self.name), self.inspect(self.former)
        model = former or own
        if model is None:
            self.fail(f"there is no container {self.name}")
        if former is None:
            self.refuse_to_lose(model)
        command = self.creating(model)
        if former is None:
            if self.is_settled(model, command):
                self.start_again(model)
                return
            self.show(model, command)
            self.stop(self.name)
            self.do(f"keep {self.name} as {self.former}", "rename", self.name, self.former)
            own = None
        else:
            self.stop(self.former)  # a run was interrupted
            if own is None:
                self.clear()
                self.finish_renaming()
            elif created_by(own)[1:] != command:
                self.show(own, command)
                self.remove()
                own = None
        if own is None:
            self.do(f"create {self.name}", *command)
            self.start()
        else:
            self.start_again(own)

    def is_settled(self, own: dict[str, Any], command: list[str]) -> bool:
        """Return whether the container that has no former one is a replacement already."""
        given = self.module.params["options"] or self.module.params["create"]
        return bool(given) and created_by(own)[1:] == command

    def show(self, found: dict[str, Any], command: list[str]) -> None:
        self.diff = {"before": shown(created_by(found)), "after": shown(["podman", *command])}

    def remove(self) -> None:
        self.stop(self.name)
        self.do(f"remove {self.name}", "rm", "--force", "--ignore", self.name)

    def refuse_to_lose(self, found: dict[str, Any]) -> None:
        """Fail if the container would not exist any more once it has stopped."""
        if unit := (found["Config"].get("Labels") or {}).get("PODMAN_SYSTEMD_UNIT"):
            self.fail(f"{unit} creates {self.name} at each start: add sidespawn's mounts to that unit instead")
        if (found.get("HostConfig") or {}).get("AutoRemove"):
            self.fail(f"podman removes {self.name} when it stops: start it without --rm, or change its unit")

    def creating(self, found: dict[str, Any]) -> list[str]:
        if self.module.params["create"]:
            return list(self.module.params["create"])
        config = found["Config"]
        try:
            made: list[str] = creating(created_by(found), config["Image"], self.module.params["options"])
            return made
        except AgentError as error:
            self.fail(f"{self.name}: {error}")

    def restore(self) -> None:
        if self.inspect(self.former) is not None:
            if self.inspect(self.name) is not None:
                self.remove()
            self.do(f"bring {self.name} back", "rename", self.former, self.name)
            self.start()
            return
        own = self.inspect(self.name)
        if own is None:
            self.fail(f"there is no container {self.name}")
        sources = [each.get("Source") or "" for each in own.get("Mounts") or []]
        for service in self.module.params["services"]:
            if any(each.startswith(f"/run/sidespawn/{service}/") for each in sources):
                self.fail(f"{self.name} uses {service}, and there is no {self.former} to bring back")
        self.start_again(own)

    def settle(self) -> None:
        if self.inspect(self.former) is not None:
            own = self.inspect(self.name)
            if own is None or not own["State"]["Running"]:
                self.fail(f"{self.name} does not run: {self.former} stays")
            self.do(f"remove {self.former}", "rm", "--force", self.former)


def created_by(found: dict[str, Any]) -> list[str]:
    """Return the command that created the container, from the program on; empty if podman does not know it."""
    command: list[str] = found["Config"].get("CreateCommand") or []
    return command


def shown(command: list[str]) -> str:
    return "".join(f"{word}\n" for word in command)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["replaced", "restored", "settled"], "default": "replaced"},
            "options": {"type": "list", "elements": "str", "default": []},
            "create": {"type": "list", "elements": "str", "default": []},
            "services": {"type": "list", "elements": "str", "default": []},
            "unit": {"type": "str"},
            "restart": {"type": "bool", "default": False},
            "stop_timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    agent = Agent(module)
    {"replaced": agent.replace, "restored": agent.restore, "settled": agent.settle}[module.params["state"]]()
    former = agent.inspect(agent.former)
    result = {"former": former["Id"]} if former is not None else {}
    module.exit_json(changed=bool(agent.steps), steps=agent.steps, diff=agent.diff, **result)


if __name__ == "__main__":
    main()
