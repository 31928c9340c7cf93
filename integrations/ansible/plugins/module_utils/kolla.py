# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Changes an operator's own Kolla-Ansible tree for agents without socket and privileges; text in, text out.

Nothing of Kolla-Ansible is here: volumes are taken from the tree, and lines are added to it and taken out again.
"""

from __future__ import annotations

import re

DEFAULTS = "ansible/roles/neutron/defaults/main.yml"
HANDLERS = "ansible/roles/neutron/handlers/main.yml"

# Each agent with what its own work takes besides the engine's default capabilities (docs/agents.md).
CAPABILITIES = {
    "dhcp": ("NET_ADMIN", "SYS_ADMIN"),
    "l3": ("NET_ADMIN", "NET_RAW", "SYS_ADMIN"),
    "ovn_metadata": ("NET_ADMIN", "SYS_ADMIN"),
}
# Engines' sockets, and where podman and docker keep images, containers and volumes.
ENGINE = re.compile(r"docker\.sock|podman\.sock|containerd\.sock|/var/lib/(containers|docker|containerd)(?![\w-])")

MARK = "  # sidespawn.host"
INSTEAD = "# sidespawn.host, instead of: "


class TreeError(Exception):
    """The tree is not what this collection knows; nothing was changed."""


def service(agent: str) -> str:
    return f"neutron-{agent.replace('_', '-')}-agent"


def variable(agent: str) -> str:
    return f"neutron_{agent}_agent_default_volumes"


def without_engine(agent: str, volumes: object) -> list[str]:
    """Return the agent's volumes in the tree, except the engine's."""
    if not isinstance(volumes, list) or not all(isinstance(each, str) for each in volumes):
        raise TreeError(f"{DEFAULTS} has no list {variable(agent)}")
    kept = [each for each in volumes if not ENGINE.search(each)]
    if len(kept) == len(volumes):
        raise TreeError(f"{variable(agent)} in {DEFAULTS} mounts no engine's socket: nothing to replace")
    return kept


def unprivileged_defaults(text: str, agents: tuple[str, ...]) -> str:
    """Return the role's services, with these agents unprivileged. `text` has no line of this collection."""
    wanted = {service(each): each for each in agents}
    written, done, agent = [], set(), None
    for line in text.splitlines():
        heading = re.fullmatch(r"  ([\w-]+):", line)
        if heading or re.match(r"\S", line):
            agent = wanted.get(heading[1]) if heading else None
        if agent is None or not re.fullmatch(r"    privileged: \S.*", line):
            written.append(line)
            continue
        done.add(agent)
        written.append(f"    {INSTEAD}{line.strip()}")
        written.append(f"    privileged: false{MARK}")
        written.append(f"    cap_add: [{', '.join(CAPABILITIES[agent])}]{MARK}")
        written.append(f'    security_opt: "{{{{ sidespawn_security_opt | default([]) }}}}"{MARK}')
    if missing := sorted(set(agents) - done):
        raise TreeError(f"{DEFAULTS} has no line `privileged:` for {', '.join(map(service, missing))}")
    return joined(written)


def passing_handlers(text: str, agents: tuple[str, ...]) -> str:
    """Return the role's handlers, which pass on the services' settings. `text` has no line of this collection."""
    wanted = {service(each) for each in agents}
    written, done = [], set()
    for task in re.split(r"(?m)^(?=- )", text):
        named = re.search(r"""(?m)^    service_name: ["']?([\w-]+)["']?$""", task)
        if named is None or named[1] not in wanted or "kolla_container:" not in task:
            written.append(task)
            continue
        lines = [
            f'    {key}: "{{{{ service.{key} | default(omit) }}}}"{MARK}\n'
            for key in ("cap_add", "security_opt")
            if not re.search(rf"(?m)^    {key}:", task)
        ]
        changed, found = re.subn(r"(?m)^    privileged: .*\n", lambda line: line[0] + "".join(lines), task)  # noqa: B023
        if found == 1:
            done.add(named[1])
        written.append(changed)
    if missing := sorted(wanted - done):
        raise TreeError(f"{HANDLERS} has no task that starts {', '.join(missing)} with `privileged:`")
    return "".join(written)


def restored(text: str) -> str:
    """Remove lines that this collection wrote into it."""
    kept = [line for line in text.splitlines() if not line.endswith(MARK)]
    return joined([re.sub(rf"^( *){re.escape(INSTEAD)}", r"\1", line) for line in kept])


def joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def edited(path: str, text: str, agents: tuple[str, ...]) -> str:
    """Return one of the two files with its changes; without agents, the original. Raises TreeError."""
    original = restored(text)
    if not agents:
        return original
    made = (unprivileged_defaults if path == DEFAULTS else passing_handlers)(original, agents)
    if restored(made) != original:
        raise TreeError(f"{path} could not be restored afterwards")
    return made
