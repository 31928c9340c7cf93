#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Enable or disable a service of sidespawn."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service
short_description: Enable or disable a service of sidespawn
version_added: 0.1.0
description:
  - Runs C(sidespawn enable) or C(sidespawn disable) on the host.
  - An enabled service lets one agent container have its helper program started on the host, by policy.
author: The sidespawn authors (!UNKNOWN)
options:
  name:
    description: The service's name, up to 40 lower-case letters, digits and hyphens.
    type: str
    required: true
  state:
    description: Whether the service is enabled. V(absent) ends its side containers.
    type: str
    choices: [present, absent]
    default: present
  preset:
    description: The shipped policy to extend; the service's name if left out.
    type: str
  image:
    description: The image of the side containers. It is not pulled.
    type: str
  engine:
    description: Engine that starts the side containers.
    type: str
    choices: [podman, docker, systemd, kubernetes]
  mode:
    description: With V(monitor) the policy lets pass and logs arguments that it would refuse with V(enforce).
    type: str
    choices: [enforce, monitor]
  parameters:
    description: Parameters of the preset.
    type: dict
    default: {}
  policy:
    description:
      - The whole policy, such as a rendered template. It replaces one that exists, even if that was changed by hand.
      - Excludes O(preset), O(image), O(engine), O(mode) and O(parameters), which write a policy.
    type: str
  purge:
    description: With O(state=absent), remove the policy even if it was changed by hand.
    type: bool
    default: false
  command:
    description: The command C(sidespawn), or its path.
    type: path
    default: sidespawn
notes:
  - Without O(policy), O(preset), O(image), O(engine), O(mode) and O(parameters), an existing policy is used unchanged.
    With some of them, what the others would say stays as it is in the policy. So O(mode) alone changes only the mode,
    even of a policy that was given by O(policy) or changed by hand; the others cannot change such a policy.
  - A parameter that is left out stays as well. To remove one, give the whole policy by O(policy).
attributes:
  check_mode:
    description:
      - Tells exactly what the run would change. What all services share, such as sidespawn@.service, is told with each
        service; a run changes it with the first.
      - On a host that has no command yet, or one that is too old for this collection, warns that the changes are not
        known and that the run fails unless it first installs one. With O(state=present) it then reports a change and
        returns empty lists. With O(state=absent) it reports a change if the service has a policy.
    support: full
  diff_mode:
    description: Shows the policy, units and drop-ins before and after.
    support: full
"""

EXAMPLES = r"""
- name: Enable dnsmasq for the DHCP agent
  sidespawn.host.service:
    name: neutron-dhcp-dnsmasq
    image: registry.example.org/helpers:1
    parameters:
      state_on_host: /var/lib/neutron
  register: dnsmasq

- name: Enable a service with a policy of your own
  sidespawn.host.service:
    name: forwarder
    policy: "{{ lookup('ansible.builtin.template', 'forwarder.toml.j2') }}"
"""

RETURN = r"""
agent_mounts:
  description: What to mount into the agent. The filter P(sidespawn.host.volumes#filter) turns it into volumes.
  returned: O(state=present)
  type: list
  elements: dict
podman_options:
  description: The same as options of C(podman run).
  returned: O(state=present)
  type: list
  elements: str
security_options:
  description: More options, for an agent that makes namespaces.
  returned: O(state=present)
  type: list
  elements: str
namespaces:
  description:
    - Patterns of the network namespaces that the service's policy allows, such as V(qdhcp-<uuid>).
    - C(<TYPE>) stands for a value of this type, the rest for itself. Empty if the service uses the host's own network.
  returned: O(state=present)
  type: list
  elements: str
units:
  description: The service's units.
  returned: O(state=present)
  type: list
  elements: str
side_containers:
  description: Those that were ended.
  returned: O(state=absent)
  type: list
  elements: str
"""

import os
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.command import SPECIFICATION, ask, program_of

SHOWN = ("agent_mounts", "namespaces", "podman_options", "security_options", "units")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "preset": {"type": "str"},
            "image": {"type": "str"},
            "engine": {"type": "str", "choices": ["podman", "docker", "systemd", "kubernetes"]},
            "mode": {"type": "str", "choices": ["enforce", "monitor"]},
            "parameters": {"type": "dict", "default": {}},
            "policy": {"type": "str"},
            "purge": {"type": "bool", "default": False},
            **SPECIFICATION,
        },
        mutually_exclusive=[("policy", each) for each in ("preset", "image", "engine", "mode")],
        supports_check_mode=True,
    )
    if module.check_mode and program_of(module) is None:
        tell_nothing_is_known(module, "sidespawn is not installed yet")
    dry_run = ["--dry-run"] if module.check_mode else []
    too_old = partial(tell_it_is_too_old, module) if module.check_mode else None
    if module.params["state"] == "absent":
        purge = ["--purge"] if module.params["purge"] else []
        told = ask(
            module,
            "disable",
            module.params["name"],
            *purge,
            *dry_run,
            has=("changed", "side_containers"),
            too_old=too_old,
        )
        there = f"{module.params['name']}\n"
        module.exit_json(
            changed=told["changed"],
            side_containers=told["side_containers"],
            diff={"before": there if told["changed"] else "", "after": ""},
        )
    has = ("changed", "diff", "warnings", *SHOWN)
    arguments = (module.params["name"], *options(module.params), *dry_run)
    told = ask(module, "enable", *arguments, has=has, data=module.params["policy"], too_old=too_old)
    for each in told["warnings"]:
        module.warn(each)
    module.exit_json(
        changed=told["changed"],
        diff=[
            {"before_header": each["what"], "after_header": each["what"]}
            | {side: f"{each[side].rstrip()}\n" for side in ("before", "after")}
            for each in told["diff"]
        ],
        **{key: told[key] for key in SHOWN},
    )


def tell_it_is_too_old(module: AnsibleModule, *, msg: str, **_: Any) -> None:
    tell_nothing_is_known(module, msg)


def tell_nothing_is_known(module: AnsibleModule, why: str) -> None:
    """End check mode on a host where the run installs or upgrades sidespawn before this task, or fails."""
    enables, verb = module.params["state"] == "present", "enable" if module.params["state"] == "present" else "disable"
    message = f"{why}: what {verb} would change is not known, and a run fails here unless it installs sidespawn first"
    module.warn(message)
    lists = SHOWN if enables else ("side_containers",)
    has_policy = os.path.exists(f"/etc/sidespawn/{module.params['name']}.toml")
    module.exit_json(changed=enables or has_policy, msg=message, **{key: [] for key in lists})


def options(given: dict[str, Any]) -> list[str]:
    named = [f"--{name}={given[name]}" for name in ("preset", "image", "engine", "mode") if given[name] is not None]
    if given["policy"] is not None:
        named.append("--policy=-")
    return named + [f"--set={name}={value}" for name, value in sorted(given["parameters"].items())]


if __name__ == "__main__":
    main()
