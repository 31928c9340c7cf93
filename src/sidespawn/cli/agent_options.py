"""`sidespawn options`, and what `enable` prints of the same: options for the container of an agent."""

from __future__ import annotations

from contextlib import suppress

import click

from sidespawn.cli import hardening, security_modules, selinux
from sidespawn.cli.output import (
    complete_service,
    json_option,
    print_json,
    require_enabled,
    services,
    to_places,
)
from sidespawn.core.policy import Policy
from sidespawn.errors import PolicyError, Reason, SidespawnError
from sidespawn.host import syscalls
from sidespawn.host.directories import IMAGE_IN_AGENT, wrapper_files
from sidespawn.host.places import Places
from sidespawn.host.policies import load_policy

agent_image_option = click.option(
    "--agent-image", metavar="IMAGE", help="The agent's own image, to be mounted where wrappers look for programs."
)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...", shell_complete=complete_service)
@agent_image_option
@json_option
@click.pass_context
def options(context: click.Context, names: tuple[str, ...], agent_image: str | None, as_json: bool) -> None:
    """Print podman's options for one agent that has all of these services.

    Each mount is printed once, also those that services share; podman refuses a container that has one twice.
    """
    chosen = [each for name in sorted(set(names)) if (each := to_places(context, context.command.params[0], name))]
    for places in chosen:
        require_enabled(places)
    found = {
        "services": [places.service for places in chosen],
        "podman_options": joint_options(chosen, agent_image or "AGENT-IMAGE"),
        "security_options": list(dict.fromkeys(each for places in chosen for each in security_options(places))),
    }
    if as_json:
        print_json(found)
        return
    for option in (*found["podman_options"], *found["security_options"]):
        click.echo(option)


def joint_options(chosen: list[Places], agent_image: str) -> list[str]:
    """Of several services, sorted by name: of a script that they share, the first brings the mount."""
    taken: dict[str, tuple[str, Policy]] = {}
    found: dict[str, None] = {}
    for places in chosen:
        policy = load_policy(places)
        for source, target in wrapper_files(places, policy).items():
            if target not in taken:
                taken[target] = (places.service, policy)
                found[volume(str(source), target, writable=False)] = None
                continue
            first, other = taken[target]
            if target not in set(other.agent.shared_kill_scripts) & set(policy.agent.shared_kill_scripts):
                message = f"{first} and {places.service} both mount {target}"
                hint = "give them different agents, or list the script in shared_kill_scripts of both policies"
                raise SidespawnError(Reason.USAGE, message, hint)
        found |= {volume(path, path, writable=path == str(places.spool)): None for path in directories(places)}
        if policy.agent.local:
            found[image_option(agent_image)] = None
    if selinux.is_installed():
        found[selinux.LEVEL] = None
    return list(found)


def directories(places: Places) -> tuple[str, str]:
    return str(places.spool), str(places.replies)


def volume(source: str, target: str, *, writable: bool) -> str:
    return f"--volume={source}:{target}:{'rw' if writable else 'ro'},rprivate"


def image_option(image: str) -> str:
    return f"--mount=type=image,src={image},dst={IMAGE_IN_AGENT}"


def agent_mounts(places: Places, policy: Policy) -> list[dict[str, object]]:
    mounts: list[dict[str, object]] = [
        {"source": path, "target": path, "writable": path == str(places.spool), "propagation": "rprivate"}
        for path in directories(places)
    ]
    brought = brought_by_another(places, policy)
    for source, target in wrapper_files(places, policy).items():
        if target in brought:
            continue
        mounts.append({"source": str(source), "target": target, "writable": False, "propagation": "rprivate"})
    return mounts


def brought_by_another(places: Places, policy: Policy) -> set[str]:
    """Kill scripts that an enabled service of the same agent shares and, being the first by name, has the mount of."""
    found: set[str] = set()
    for other in services(None):
        with suppress(PolicyError):
            agent = load_policy(other).agent
            if other.service < places.service and agent.state_on_host == policy.agent.state_on_host:
                found |= set(agent.shared_kill_scripts) & set(policy.agent.shared_kill_scripts)
    return found


def podman_options(places: Places, policy: Policy, agent_image: str | None = None) -> list[str]:
    """For the agent's `podman run` or its Quadlet unit (Volume=, PodmanArgs=)."""
    mounts = [
        volume(str(mount["source"]), str(mount["target"]), writable=bool(mount["writable"]))
        for mount in agent_mounts(places, policy)
    ]
    if policy.agent.local and agent_image is not None:
        mounts.append(image_option(agent_image))
    return [*mounts, *((selinux.LEVEL,) if selinux.is_installed() else ())]


def security_options(places: Places) -> list[str]:
    """For an agent that makes namespaces.

    What podman chooses by itself, AppArmor's profile or SELinux's domain, refuses `ip netns add`. podman's list of
    system calls allows ways around any such profile; see host/syscalls.py.
    """
    found = [f"--security-opt=apparmor={security_modules.AGENT}"] if hardening.has_apparmor() else []
    if syscalls.base() is not None:
        found.append(f"--security-opt=seccomp={syscalls.place_of_agents(places.run)}")
    return [*found, *((selinux.AGENT,) if selinux.is_installed() else ())]
