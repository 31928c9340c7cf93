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
attributes:
  check_mode:
    description:
      - Tells exactly what the run would change. What all services share, such as sidespawn@.service, is told with each
        service; a run changes it with the first.
      - On a host where the run would first install the command, warns that the changes are not known. With
        O(state=present) it then reports a change and returns empty lists.
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

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.command import SPECIFICATION, ask, program_of

SHOWN = ("agent_mounts", "podman_options", "security_options", "units")


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
        tell_nothing_is_known(module)
    dry_run = ["--dry-run"] if module.check_mode else []
    if module.params["state"] == "absent":
        purge = ["--purge"] if module.params["purge"] else []
        told = ask(module, "disable", module.params["name"], *purge, *dry_run, has=("changed", "side_containers"))
        there = f"{module.params['name']}\n"
        module.exit_json(
            changed=told["changed"],
            side_containers=told["side_containers"],
            diff={"before": there if told["changed"] else "", "after": ""},
        )
    has = ("changed", "diff", "warnings", *SHOWN)
    arguments = (module.params["name"], *options(module.params), *dry_run)
    told = ask(module, "enable", *arguments, has=has, data=module.params["policy"])
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


def tell_nothing_is_known(module: AnsibleModule) -> None:
    """End check mode on a host where the run installs sidespawn before this task."""
    enables = module.params["state"] == "present"
    message = f"sidespawn is not installed yet: what {'enable' if enables else 'disable'} would change is not known"
    module.warn(message)
    lists = SHOWN if enables else ("side_containers",)
    module.exit_json(changed=enables, msg=message, **{key: [] for key in lists})


def options(given: dict[str, Any]) -> list[str]:
    named = [f"--{name}={given[name]}" for name in ("preset", "image", "engine", "mode") if given[name] is not None]
    if given["policy"] is not None:
        named.append("--policy=-")
    return named + [f"--set={name}={value}" for name, value in sorted(given["parameters"].items())]


if __name__ == "__main__":
    main()
