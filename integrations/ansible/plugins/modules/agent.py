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
  - Switches the restart policy of the former container off, so that it does not start at the next boot beside the new
    one, and V(restored) sets it again. podman can do so since 5.1. With an earlier podman, and
    C(podman-restart.service) enabled, the module fails before it changes anything if the policy is C(always); see
    O(restart_policy_kept).
  - Fails before it changes anything if the new container could not be created or would depend on the process that
    creates it, such as with C(--env=NAME) without a value, relative paths or C(--cidfile), or if a file that it mounts
    or its image is missing. V(restored) checks the same of the former container.
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
      - The name of the image is completed as that of the former container.
    type: list
    elements: str
    default: []
  services:
    description:
      - The agent's services. With V(replaced), what starts the agent at boot waits for their directories, by a drop-in
        of O(unit), or of C(podman-restart.service) if the container has a restart policy.
      - They are disabled after V(restored), which fails if the agent uses one and has no former container.
    type: list
    elements: str
    default: []
  unit:
    description: The unit that starts the container by its name, if there is one.
    type: str
  restart_policy_kept:
    description:
      - Replace an agent even if podman cannot switch off the restart policy of the former container. Then make sure
        yourself that C(podman-restart.service) does not start it at boot.
    type: bool
    default: false
  record:
    description: A directory, in which the restart policy of the former container is kept.
    type: path
    default: /var/lib/sidespawn-migration
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
import os
import re
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.agents import (
    PROXIES,
    AgentError,
    creating,
    from_environment,
    lasting,
    sources,
    split,
)

SUFFIX = "-before-sidespawn"
# An agent may be running: podman says `initialized` if it was killed after it had started it.
ALIVE = ("running", "paused", "stopping", "initialized")
# With these, podman-restart.service starts a container at boot. For the second, newer ones ask whether it was stopped.
AT_BOOT = ("always", "unless-stopped")
RESTARTER = "podman-restart.service"
UNITS = "/etc/systemd/system"
OURS = "/run/sidespawn/"  # made by the services' units, which check mode has not started yet


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
                self.write_drop_in(model)
                self.start_again(model)
                return
            self.require_startable(command)
            self.refuse_to_start_twice(model)
            self.show(model, command)
            self.write_drop_in(model)
            self.stop(self.name)
            self.do(f"keep {self.name} as {self.former}", "rename", self.name, self.former)
            self.switch_restarts_off(model)
            own = None
        else:
            self.write_drop_in(former)
            self.stop(self.former)  # a run was interrupted
            self.switch_restarts_off(former)
            if own is None:
                self.clear()
                self.finish_renaming()
            elif created_by(own)[1:] != command:
                self.require_startable(command)
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
        image = found["Config"]["Image"]
        try:
            if self.module.params["create"]:
                command = list(self.module.params["create"])
            else:
                self.refuse_environment(found)
                command = creating(created_by(found), image, self.module.params["options"])
            made: list[str] = lasting(command, self.name, image)
            return made
        except AgentError as error:
            self.fail(f"{self.name}: {error}")

    def refuse_environment(self, found: dict[str, Any]) -> None:
        """Fail if the former container has settings that only the process that created it had."""
        own = set(found["Config"].get("Env") or []) - self.environment_of(found["Image"])
        taken = from_environment(created_by(found), sorted(own))
        if taken:
            message = (
                f"podman took {', '.join(taken)} of {self.name} from the environment of the process that created it"
            )
            self.fail(f"{message}: give the command, with --env=NAME=VALUE for each")

    def environment_of(self, image: str) -> set[str]:
        code, out, _err = self.module.run_command([self.program, "image", "inspect", image])
        return set(json.loads(out)[0]["Config"].get("Env") or []) if code == 0 else set()

    def require_startable(self, command: list[str]) -> None:
        """Fail if podman would not create or start it."""
        self.require_sources(self.name, sources(command))
        _options, (image, *_program) = split(command[1:])
        if self.module.run_command([self.program, "image", "exists", image])[0] == 1:
            self.fail(f"{self.name} could not be created: its image {image} is not on this host. Pull it first")

    def require_mounts(self, former: dict[str, Any]) -> None:
        """Fail if podman would not start it, since something that it mounts is gone."""
        mounts = former.get("Mounts") or []
        self.require_sources(self.former, [each["Source"] for each in mounts if each.get("Type") == "bind"])
        for name in [each["Name"] for each in mounts if each.get("Type") == "volume" and each.get("Name")]:
            if self.module.run_command([self.program, "volume", "exists", name])[0] == 1:
                self.fail(f"{self.former} would not start, since its volume {name} is gone: make it first")

    def require_sources(self, name: str, paths: list[str]) -> None:
        missing = [each for each in paths if not os.path.exists(each)]
        if self.module.check_mode:
            missing = [each for each in missing if not each.startswith(OURS)]
        if missing:
            what = ", ".join(sorted(set(missing)))
            hint = "; start its socket unit" if any(each.endswith(".sock") for each in missing) else ""
            self.fail(f"{name} would not start, since it mounts what is not there: {what}. Make it first{hint}")

    def restore(self) -> None:
        former = self.inspect(self.former)
        if former is not None:
            self.require_mounts(former)
            if self.inspect(self.name) is not None:
                self.remove()
            self.do(f"bring {self.name} back", "rename", self.former, self.name)
            self.switch_restarts_on(former)
            self.remove_drop_ins()
            self.start()
            return
        own = self.inspect(self.name)
        if own is None:
            self.fail(f"there is no container {self.name}")
        mounted = [each.get("Source") or "" for each in own.get("Mounts") or []]
        for service in self.module.params["services"]:
            if any(each.startswith(f"/run/sidespawn/{service}/") for each in mounted):
                self.fail(f"{self.name} uses {service}, and there is no {self.former} to bring back")
        self.switch_restarts_on(own)  # a run was interrupted
        self.remove_drop_ins()
        self.start_again(own)

    # The restart policy. It is written down first, so that a run that was interrupted loses nothing.

    @property
    def policy_file(self) -> str:
        return os.path.join(self.module.params["record"], f"restart-{self.name}")

    def can_switch_restarts(self) -> bool:
        code, out, _err = self.module.run_command([self.program, "update", "--help"])
        return code == 0 and re.search(r"--restart\b", out) is not None

    def refuse_to_start_twice(self, found: dict[str, Any]) -> None:
        """Fail if the former container would start at the next boot, beside the new one."""
        if self.module.params["restart_policy_kept"] or restart_policy(found) != "always" or self.can_switch_restarts():
            return
        _code, out, _err = self.module.run_command([self.systemctl(), "is-enabled", RESTARTER])
        if out.strip() in ("", "disabled", "masked", "not-found"):
            return
        self.fail(
            f"{self.name} has the restart policy always, which this podman cannot change (5.1 can): {RESTARTER} would "
            f"start the former agent at the next boot, beside the new one. Disable {RESTARTER}, and have a unit start "
            "the containers that need it; or upgrade podman; or set restart_policy_kept and prevent that yourself"
        )

    def switch_restarts_off(self, former: dict[str, Any]) -> None:
        policy = restart_policy(former)
        if policy not in AT_BOOT or not self.can_switch_restarts():
            return
        if not self.module.check_mode:
            os.makedirs(self.module.params["record"], mode=0o700, exist_ok=True)
            write(self.policy_file, f"{policy}\n", 0o600)
        self.do(f"switch off the restart policy {policy} of {self.former}", "update", "--restart=no", self.former)

    def switch_restarts_on(self, found: dict[str, Any]) -> None:
        """Set the policy that the container had; called once it has its own name again."""
        if not os.path.exists(self.policy_file):
            return
        with open(self.policy_file, encoding="utf-8") as file:
            policy = file.read().strip()
        if restart_policy(found) != policy:
            self.do(f"set the restart policy {policy} of {self.name}", "update", f"--restart={policy}", self.name)
        if not self.module.check_mode:
            os.unlink(self.policy_file)

    # The drop-in of what starts the agent at boot: there is nothing to mount before the services' units have run.

    def write_drop_in(self, found: dict[str, Any]) -> None:
        services = self.module.params["services"]
        unit = self.module.params["unit"] or (RESTARTER if self.restarts_at_boot(found) else "")
        if not services or not unit:
            return
        path = os.path.join(UNITS, f"{unit_name(unit)}.d", self.drop_in)
        if content(path) == (wanted := drop_in(self.name, services)):
            return
        if not self.module.check_mode:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write(path, wanted, 0o644)
        self.do(f"have {unit_name(unit)} wait for the services", "daemon-reload", program=self.systemctl())

    def restarts_at_boot(self, found: dict[str, Any]) -> bool:
        return restart_policy(found) in AT_BOOT or os.path.exists(self.policy_file)

    def remove_drop_ins(self) -> None:
        units = {RESTARTER, unit_name(self.module.params["unit"] or RESTARTER)}
        found = [
            path for unit in sorted(units) if os.path.exists(path := os.path.join(UNITS, f"{unit}.d", self.drop_in))
        ]
        if not found:
            return
        if not self.module.check_mode:
            for path in found:
                os.unlink(path)
                if not os.listdir(os.path.dirname(path)):
                    os.rmdir(os.path.dirname(path))
        self.do("remove what had its unit wait for the services", "daemon-reload", program=self.systemctl())

    @property
    def drop_in(self) -> str:
        return f"50-sidespawn-{self.name}.conf"

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


def restart_policy(found: dict[str, Any]) -> str:
    policy: str = ((found.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or ""
    return policy


def unit_name(name: str) -> str:
    return name if "." in name else f"{name}.service"


def drop_in(agent: str, services: list[str]) -> str:
    units = " ".join(f"sidespawn-spool@{each}.service" for each in sorted(services))
    comment = f"# Written by the module sidespawn.host.agent: {agent} mounts what these make."
    return f"{comment}\n[Unit]\nWants={units}\nAfter={units}\n"


def content(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write(path: str, text: str, mode: int) -> None:
    """Write it whole, or not at all."""
    unfinished = f"{path}.unfinished"
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
        file.write(text)
        os.fsync(file.fileno())
    os.replace(unfinished, path)


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
            "restart_policy_kept": {"type": "bool", "default": False},
            "record": {"type": "path", "default": "/var/lib/sidespawn-migration"},
            "restart": {"type": "bool", "default": False},
            "stop_timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    if "/" in (module.params["unit"] or ""):
        module.fail_json(msg=f"unit: {module.params['unit']} is not the name of a unit")
    # podman gives a container the proxies of the process that creates it.
    for name in [each for each in os.environ if each.lower() in PROXIES]:
        del os.environ[name]
    agent = Agent(module)
    {"replaced": agent.replace, "restored": agent.restore, "settled": agent.settle}[module.params["state"]]()
    former = agent.inspect(agent.former)
    result = {"former": former["Id"]} if former is not None else {}
    module.exit_json(changed=bool(agent.steps), steps=agent.steps, diff=agent.diff, **result)


if __name__ == "__main__":
    main()
