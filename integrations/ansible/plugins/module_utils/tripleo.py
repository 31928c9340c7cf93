# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Templates for Neutron's agents without privileges, made of an operator's own tripleo-heat-templates.

Data in, data out.

Nothing of TripleO's is here: what a template says is kept, but for what gives an agent the host.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.sidespawn.host.plugins.module_utils.agents import mounted, unwanted
from ansible_collections.sidespawn.host.plugins.module_utils.quadlet import KILL_SCRIPTS, WRITABLE_SYSCTLS

MARK = "# Made by the Ansible module sidespawn.host.tripleo_templates; run that again instead of changing it.\n"
SUFFIX = "-sidespawn.yaml"
# For the start of Kolla's images, which calls sudo. The rest of what it takes is an engine's default.
START = ("AUDIT_WRITE",)
# Where docker of older releases has the sockets that DockerAdditionalSockets names.
SOCKETS = "/var/lib/openstack"
WRAPPERS = "_agent_wrappers"
ENABLING = re.compile(r"(Neutron|OVN)Enable\w*Wrapper")


class TreeError(Exception):
    """The tree is not what this collection knows; nothing was changed."""


@dataclass(frozen=True)
class Agent:
    service: str  # OS::TripleO::Services::
    template: str  # in the tree
    capabilities: tuple[str, ...] = ("NET_ADMIN", "SYS_ADMIN")


AGENTS = {
    "dhcp": Agent("NeutronDhcpAgent", "deployment/neutron/neutron-dhcp-container-puppet.yaml"),
    "l3": Agent(
        "NeutronL3Agent",
        "deployment/neutron/neutron-l3-container-puppet.yaml",
        ("NET_ADMIN", "NET_RAW", "SYS_ADMIN"),
    ),
    "ovn_metadata": Agent("OVNMetadataAgent", "deployment/ovn/ovn-metadata-container-puppet.yaml"),
}

# The image's program is under the wrapper, which answers calls such as --version by it: it is kept beside the wrapper.
# In a new mount namespace, where unmounting the wrapper does not reach the container.
KEEP = (
    'for each in {programs}; do [ -e "$each.real" ] || '
    'unshare --mount sh -c \'umount "$1" && cp -p "$1" "$1.real"\' sh "$each" || '
    'echo "sidespawn: no $each.real" >&2; done'
)

# What a filter gives for a part that goes.
GONE = object()


def derived(template: Any, volumes: list[str], capabilities: tuple[str, ...]) -> dict[str, Any]:
    """Return the template of an agent with only these volumes and capabilities of the host. Raises TreeError."""
    made: dict[str, Any] = copy.deepcopy(template)
    try:
        role = made["outputs"]["role_data"]["value"]
        steps = [step for step in role["docker_config"].values() if isinstance(step, dict)]
    except (KeyError, TypeError, AttributeError):
        raise TreeError("it has no role_data with a docker_config") from None
    agents = 0
    for step in steps:
        for name, container in list(step.items()):
            if not isinstance(container, dict):
                continue
            if WRAPPERS in json.dumps(container, default=str):
                del step[name]  # of older releases: it writes the wrappers
            elif "restart" in container and container.get("privileged") is True:
                confine(container, volumes, capabilities)
                agents += 1
    if agents != 1:
        raise TreeError(f"it has {agents} privileged containers that are restarted, where one was expected")
    for key, part in (
        ("config_settings", without_settings),
        ("puppet_config", without_lines),
        ("host_prep_tasks", without_tasks),
    ):
        if key in role:
            role[key] = part(role[key])
    if left := faults(made):
        raise TreeError(f"what is made of it still has {', '.join(left)}")
    return made


def confine(container: dict[str, Any], volumes: list[str], capabilities: tuple[str, ...]) -> None:
    targets = {target for volume in volumes for _source, target in mounted(["--volume", volume])} | {KILL_SCRIPTS}

    def goes(volume: Any) -> bool:
        ((source, target),) = mounted(["--volume", volume])
        return (
            unwanted(source)
            or target in targets
            or source == SOCKETS
            or re.fullmatch(r"/var/lib/neutron/.*wrapper", source) is not None
        )

    theirs = filtered(container.get("volumes", []), goes)
    lists = theirs["list_concat"] if isinstance(theirs, dict) and "list_concat" in theirs else [theirs]
    container["volumes"] = {"list_concat": [*(each for each in lists if each is not GONE), list(volumes)]}
    container["privileged"] = False
    container["cap_add"] = [*capabilities, *START]
    container["user"] = "root"
    container["command"] = ["sh", "-c", start(targets)]


def start(targets: set[str]) -> str:
    """Return what the agent's container runs, given what is mounted."""
    programs = sorted(each for each in targets if each.startswith("/usr/sbin/"))
    keep = f"{KEEP.format(programs=' '.join(programs))}; " if programs else ""
    return f"{WRITABLE_SYSCTLS} && {{ {keep}exec kolla_start; }}"


def filtered(node: Any, goes: Callable[[Any], bool]) -> Any:
    """Lists of volumes as Heat concatenates them, without some; a list or a condition of which nothing is left goes."""
    if isinstance(node, str):
        return GONE if goes(node) else node
    if isinstance(node, list):
        kept = [each for each in (filtered(item, goes) for item in node) if each is not GONE]
        return kept if kept or not node else GONE
    if isinstance(node, dict) and len(node) == 1:
        ((name, given),) = node.items()
        if name in ("list_concat", "list_concat_unique") and isinstance(given, list):
            kept = filtered(given, goes)
            return GONE if kept is GONE else {name: kept}
        if name == "if" and isinstance(given, list) and given:
            branches = [filtered(each, goes) for each in given[1:]]
            if GONE in branches and all(each is GONE or not each for each in branches):
                return GONE
            return {name: [given[0], *([] if each is GONE else each for each in branches)]}
    return node


def without_settings(node: Any) -> Any:
    """Remove hieradata of the classes that write wrappers."""
    if isinstance(node, list):
        return [without_settings(each) for each in node]
    if isinstance(node, dict):
        return {key: without_settings(each) for key, each in node.items() if WRAPPERS not in str(key)}
    return node


def without_lines(node: Any) -> Any:
    """Remove the lines of a manifest that include these classes."""
    if isinstance(node, str):
        return "".join(line for line in node.splitlines(keepends=True) if WRAPPERS not in line)
    if isinstance(node, list):
        return [without_lines(each) for each in node]
    if isinstance(node, dict):
        return {key: without_lines(each) for key, each in node.items()}
    return node


def without_tasks(node: Any) -> Any:
    """Remove the tasks for kill scripts."""
    if isinstance(node, list):
        return [without_tasks(each) for each in node if not is_about_kill_scripts(each)]
    if isinstance(node, dict):
        return {key: without_tasks(each) for key, each in node.items()}
    return node


def is_about_kill_scripts(task: Any) -> bool:
    return (
        isinstance(task, dict)
        and "name" in task
        and re.search("kill[_-]script", json.dumps(task, default=str)) is not None
    )


def faults(template: dict[str, Any]) -> list[str]:
    text = json.dumps(template["outputs"], default=str)
    found = [each for each in (WRAPPERS, "kill-script", ".sock:", "/run:/run") if each in text]
    return found + re.findall(r"/var/lib/neutron/(?:kill_scripts|[\w/]*_wrapper:)", text)[:1]


def environment(directory: str, made: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Maps the agents to these templates, by paths from `directory`, and disables the wrappers that they know of."""
    parameters = {name for _path, template in made.values() for name in template.get("parameters", {})}
    return {
        "resource_registry": {
            f"OS::TripleO::Services::{AGENTS[agent].service}": os.path.relpath(path, directory)
            for agent, (path, _template) in sorted(made.items())
        },
        "parameter_defaults": {name: False for name in sorted(parameters) if ENABLING.fullmatch(name)},
    }


def path_of(template: str) -> str:
    """Beside the one that it is made of, whose relative paths it has."""
    return re.sub(r"\.yaml$", "", template) + SUFFIX
