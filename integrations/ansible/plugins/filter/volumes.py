# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""The mounts of an agent in the syntax of what starts it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: volumes
short_description: The mounts of an agent in the syntax of what starts it
version_added: 0.1.0
description:
  - Takes what M(sidespawn.host.service) returned, or a list of that for an agent with several services.
  - A kill script that several services share is mounted once.
author: The sidespawn authors (!UNKNOWN)
positional: syntax
options:
  _input:
    description: Results of M(sidespawn.host.service).
    type: raw
    required: true
  syntax:
    description:
      - V(podman), for C(--volume) and for what takes the same words, such as TripleO's and EDPM's lists of volumes.
      - V(quadlet), lines for the section C([Container]).
      - V(compose), the long syntax, which docker modules take as well.
      - V(kolla), for lists such as C(neutron_dhcp_agent_extra_volumes). Kolla-Ansible takes every mode but C(ro) and
        C(shared) for writable, and mounts a source once only.
      - V(edpm), as V(podman), with each wrapper in /usr/local/bin as well, where EDPM's agents look first.
    type: str
    choices: [podman, quadlet, compose, kolla, edpm]
    default: podman
"""

EXAMPLES = r"""
- name: Show what goes into globals.yml
  ansible.builtin.debug:
    msg: "{{ [dnsmasq, haproxy] | sidespawn.host.volumes('kolla') }}"
"""

RETURN = r"""
_value:
  description: One string, or with V(compose) one dictionary, for each volume.
  type: list
  elements: raw
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

KOLLA_WRAPPERS = "/usr/local/lib/neutron-wrappers"


def volumes(results: Any, syntax: str = "podman") -> list[Any]:
    if syntax not in SYNTAXES:
        raise AnsibleFilterError(f"volumes: {syntax!r} is not one of {', '.join(SYNTAXES)}")
    written = SYNTAXES[syntax]
    return [volume for mount in union(results) for volume in written(mount)]


def union(results: Any) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for result in [results] if isinstance(results, dict) else results:
        if not isinstance(result, dict) or "agent_mounts" not in result:
            raise AnsibleFilterError("volumes: takes results of the module sidespawn.host.service")
        for mount in result["agent_mounts"]:
            other = found.get(mount["target"], mount)
            if mount["program"] and other["source"] != mount["source"]:
                raise AnsibleFilterError(
                    f"volumes: {other['source']} and {mount['source']} are both for {mount['target']}: "
                    "they cannot be of one agent"
                )
            # That of the service whose name sorts first, which alone has it once all are enabled.
            if mount["source"].split("/") <= other["source"].split("/"):
                found.pop(mount["target"], None)
                found[mount["target"]] = mount
    return list(found.values())


def podman(mount: dict[str, Any]) -> list[str]:
    return [f"{mount['source']}:{mount['target']}:{'rw' if mount['writable'] else 'ro'},{mount['propagation']}"]


def quadlet(mount: dict[str, Any]) -> list[str]:
    return [f"Volume={each}" for each in podman(mount)]


def compose(mount: dict[str, Any]) -> list[dict[str, Any]]:
    bind = {"propagation": mount["propagation"], "create_host_path": False}
    read_only = {} if mount["writable"] else {"read_only": True}
    return [{"type": "bind", "source": mount["source"], "target": mount["target"], **read_only, "bind": bind}]


def kolla(mount: dict[str, Any]) -> list[str]:
    mode = "" if mount["writable"] else ":ro"
    target = f"{KOLLA_WRAPPERS}/{mount['program']}" if mount["program"] else mount["target"]
    return [f"{mount['source']}:{target}{mode}"]


def edpm(mount: dict[str, Any]) -> list[str]:
    more = podman(mount | {"target": f"/usr/local/bin/{mount['program']}"}) if mount["program"] else []
    return [*podman(mount), *more]


SYNTAXES: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    "podman": podman,
    "quadlet": quadlet,
    "compose": compose,
    "kolla": kolla,
    "edpm": edpm,
}


class FilterModule:
    """The filters, where Ansible looks for them."""

    def filters(self) -> dict[str, Any]:
        return {"volumes": volumes}
