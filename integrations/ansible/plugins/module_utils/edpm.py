# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""The changes that an operator's edpm-ansible, branch 18-stable, needs for agents without privileges; text to text."""

from __future__ import annotations

import json
import re

from ansible_collections.sidespawn.host.plugins.module_utils.kolla import INSTEAD, MARK, TreeError, joined, restored
from ansible_collections.sidespawn.host.plugins.module_utils.tripleo import start

# Each agent's definition of its container in the tree, and the programs that have a wrapper in it.
DEFINITIONS = {
    "dhcp": ("roles/edpm_neutron_dhcp/templates/container_defs/neutron_dhcp_agent.yaml.j2", ("dnsmasq", "haproxy")),
    "ovn_metadata": ("roles/edpm_neutron_metadata/templates/container_defs/ovn_metadata_agent.yaml.j2", ("haproxy",)),
    "ovn": ("roles/edpm_neutron_ovn/templates/container_defs/ovn_agent.yaml.j2", ("haproxy",)),
}
# The agent's, and what the start of its image takes besides an engine's default: sudo writes to the audit log.
CAPABILITIES = ("NET_ADMIN", "SYS_ADMIN", "AUDIT_WRITE")


def unprivileged(text: str, programs: tuple[str, ...]) -> str:
    """`text` has no line of this collection. Raises TreeError."""
    if re.search(r"(?m)^(command|cap_add):", text):
        raise TreeError("it has a command or capabilities of its own")
    lines, done = [], 0
    for line in text.splitlines():
        if not re.fullmatch(r"privileged: +true\s*", line):
            lines.append(line)
            continue
        done += 1
        command = json.dumps(["sh", "-c", start({f"/usr/sbin/{each}" for each in programs})])
        lines += [f"{INSTEAD}{line}", f"privileged: false{MARK}"]
        lines += [f"cap_add: [{', '.join(CAPABILITIES)}]{MARK}", f"command: {command}{MARK}"]
    if done != 1:
        raise TreeError(f"it has {done} lines `privileged: true`, where one was expected")
    made: str = joined(lines)
    return made


def edited(text: str, programs: tuple[str, ...], *, wanted: bool) -> str:
    original: str = restored(text)
    if not wanted:
        return original
    made = unprivileged(original, programs)
    if restored(made) != original:
        raise TreeError("it could not be restored afterwards")
    return made
