"""Writes an agent's options in the syntax of the tool that starts its container.

Each syntax keeps read-only mounts read-only, and fails if a source is missing, where that can be requested: docker's
`--volume` and compose's short syntax would create a directory in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from sidespawn.setup import agent_options
from sidespawn.setup.agent_options import AgentOptions, podman_options, security_options

# At its start, Kolla's container copies files from here into /usr/local/bin, which sudo searches first.
KOLLA_WRAPPERS = "/usr/local/lib/neutron-wrappers"


def podman(options: AgentOptions) -> Iterator[str]:
    yield from podman_options(options)
    yield from security_options(options)


def docker(options: AgentOptions) -> Iterator[str]:
    for each in options.mounts:
        read_only = "" if each.writable else ",readonly"
        yield f"--mount=type=bind,source={each.source},target={each.target}{read_only},bind-propagation=rprivate"
    if options.label_level:
        yield f"--security-opt=label=level:{options.label_level}"
    yield from security_options(options)


def quadlet(options: AgentOptions) -> Iterator[str]:
    """Return a drop-in: NAME.container.d/50-sidespawn.conf."""
    units = " ".join(options.units)
    yield from ("[Unit]", f"Wants={units}", f"After={units}", "", "[Container]")
    for each in options.mounts:
        yield f"Volume={each.source}:{each.target}:{'rw' if each.writable else 'ro'},rprivate"
    keys = {
        "SeccompProfile=": options.seccomp,
        "SecurityLabelType=": options.label_type,
        "SecurityLabelLevel=": options.label_level,
        # Generators in use have no key for AppArmor.
        "PodmanArgs=--security-opt=apparmor=": options.apparmor,
    }
    yield from (f"{key}{given}" for key, given in keys.items() if given)
    if options.has_image_mount:
        yield f"PodmanArgs={agent_options.image_option(options.image)}"


def compose(options: AgentOptions) -> Iterator[str]:
    """Return the keys of one service in a compose file. A JSON string is a quoted YAML string."""
    yield "volumes:"
    for each in options.mounts:
        yield "  - type: bind"
        yield f"    source: {json.dumps(each.source)}"
        yield f"    target: {json.dumps(each.target)}"
        if not each.writable:
            yield "    read_only: true"
        yield "    bind:"
        yield "      propagation: rprivate"
        yield "      create_host_path: false"
    given = [f"label=level:{options.label_level}"] if options.label_level else []
    given += [each.removeprefix("--security-opt=") for each in security_options(options)]
    if given:
        yield "security_opt:"
        yield from (f"  - {json.dumps(each)}" for each in given)


def kolla(options: AgentOptions) -> Iterator[str]:
    """Return items of a list such as neutron_dhcp_agent_extra_volumes.

    Kolla-Ansible's podman worker knows the modes `ro` and `shared`, and treats all others as writable and rprivate,
    even `ro,rprivate`. A source is mounted only once, and with docker a second time is an error. So wrappers are
    mounted only where Kolla's agents copy wrappers from at their start. Security options are not part of this list.
    """
    for each in options.mounts:
        target = f"{KOLLA_WRAPPERS}/{each.program}" if each.program else each.target
        yield f"- {json.dumps(f'{each.source}:{target}' if each.writable else f'{each.source}:{target}:ro')}"


SYNTAXES: Mapping[str, Callable[[AgentOptions], Iterator[str]]] = {
    "podman": podman,
    "docker": docker,
    "quadlet": quadlet,
    "compose": compose,
    "kolla": kolla,
}
WITH_IMAGE_MOUNT = ("podman", "quadlet")


def written(options: AgentOptions, syntax: str) -> str:
    return "".join(f"{line}\n" for line in SYNTAXES[syntax](options))


def missing(options: AgentOptions, syntax: str) -> Iterator[str]:
    """Yield other things that the agent needs and that this text does not contain."""
    if options.answers_itself and not (options.image and syntax in WITH_IMAGE_MOUNT):
        kept = " and ".join(f"{each.target}.real" for each in options.mounts if each.program)
        ways = ["use --agent-image"] if syntax in WITH_IMAGE_MOUNT else []
        ways.append(f"keep the real program in the agent's image as {kept}")
        yield f"calls that the agent answers itself, such as --version, will fail: {', or '.join(ways)}"
    if syntax == "kolla" and (security := security_options(options)):
        yield f"Kolla-Ansible does not take these as a volume: {' '.join(security)}"
