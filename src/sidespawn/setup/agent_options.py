"""Computes the options of an agent's container: mounts, security options, and units to start before it.

An agent may have several services. Its options are the union of theirs: shared kill scripts are mounted once, and
services with different wrappers in one place cannot belong to one agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from sidespawn.core.policy import Policy
from sidespawn.errors import PolicyError, Reason, SidespawnError
from sidespawn.host import seccomp
from sidespawn.host.directories import IMAGE_IN_AGENT, wrapper_files
from sidespawn.host.policies import load_policy
from sidespawn.setup import hardening, security_modules, selinux
from sidespawn.setup.services import services
from sidespawn.system.places import RUN, Places


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A bind mount. Its propagation is always rprivate: nothing that the agent mounts in it reaches the host."""

    source: str
    target: str
    writable: bool = False
    program: str = ""  # the program that a wrapper replaces; empty for everything else

    def as_json(self) -> dict[str, object]:
        return {
            "source": self.source,
            "target": self.target,
            "writable": self.writable,
            "propagation": "rprivate",
            "program": self.program,
        }


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """`apparmor`, `seccomp` and `label_type` are for agents that make namespaces; empty if the host lacks them."""

    services: tuple[str, ...]
    mounts: tuple[Mount, ...]
    apparmor: str = ""  # the profile's name
    seccomp: str = ""  # the path of the profile
    label_level: str = ""  # SELinux; without categories, since files shared with side containers have none
    label_type: str = ""
    answers_itself: bool = False  # the program in the agent's image answers some calls; see IMAGE_IN_AGENT
    image: str = ""  # the agent's image; empty if unknown

    @property
    def units(self) -> tuple[str, ...]:
        """Return the units that create the agent's mounts, and must start before it."""
        return tuple(f"sidespawn-spool@{name}.service" for name in self.services)

    @property
    def has_image_mount(self) -> bool:
        return self.answers_itself and bool(self.image)


def options_of(policies: Iterable[Policy], *, image: str = "") -> AgentOptions:
    """Return the options of an agent with all of these services. Raises SidespawnError if they cannot belong to one
    agent."""
    known = sorted({each.service: each for each in policies}.values(), key=lambda each: each.service)
    return complete(
        services=tuple(each.service for each in known),
        mounts=union(known),
        answers_itself=any(each.agent.local for each in known),
        image=image,
    )


def options_beside_others(
    places: Places, policy: Policy, *, image: str = "", has_module: bool | None = None
) -> AgentOptions:
    """Return the options of a service, without the kill scripts that another enabled service of the same agent brings.

    `has_module`: whether SELinux will have the module when the agent starts; by default, whether it has it now.
    """
    brought = brought_by_another(places, policy)
    mounts = tuple(each for each in mounts_of(places, policy) if each.target not in brought)
    answers_itself = bool(policy.agent.local)
    return complete(
        services=(places.service,), mounts=mounts, answers_itself=answers_itself, image=image, has_module=has_module
    )


def complete(
    *,
    services: tuple[str, ...],
    mounts: tuple[Mount, ...],
    answers_itself: bool,
    image: str,
    has_module: bool | None = None,
) -> AgentOptions:
    """Return the options, with the security options that this host has.

    podman's default AppArmor profile and SELinux domain deny `ip netns add`. podman's list of system calls allows ways
    around any such profile; see host/seccomp.py.
    """
    if has_module is None:
        has_module = selinux.is_installed()
    return AgentOptions(
        services=services,
        mounts=mounts,
        apparmor=security_modules.AGENT if hardening.has_apparmor() else "",
        seccomp=str(seccomp.place_of_agents(RUN)) if seccomp.base() is not None else "",
        label_level=value(selinux.LEVEL) if has_module else "",
        label_type=value(selinux.AGENT) if has_module else "",
        answers_itself=answers_itself,
        image=image,
    )


def value(option: str) -> str:
    """Turn `--security-opt=label=level:s0` into `s0`."""
    return option.rpartition(":")[2]


def union(policies: Iterable[Policy]) -> tuple[Mount, ...]:
    """Return the union of mounts. Only a shared kill script may be mounted at the same path by several services."""
    found: dict[str, Mount] = {}
    brought_by: dict[str, Policy] = {}
    for policy in policies:
        for mount in mounts_of(Places(policy.service), policy):
            target, other = mount.target, brought_by.get(mount.target)
            if other is None:
                found[target], brought_by[target] = mount, policy
            elif not all(target in each.agent.shared_kill_scripts for each in (policy, other)):
                raise SidespawnError(
                    Reason.USAGE,
                    f"{other.service} and {policy.service} both mount {target}: they cannot serve one agent",
                    "name only the services of one agent",
                )
    return tuple(found.values())


def mounts_of(places: Places, policy: Policy) -> Iterator[Mount]:
    yield Mount(source=str(places.spool), target=str(places.spool), writable=True)
    yield Mount(source=str(places.replies), target=str(places.replies))
    for source, target in wrapper_files(places, policy).items():
        program = target.rpartition("/")[2] if target == policy.agent.wrapper else ""
        yield Mount(source=str(source), target=target, program=program)


def brought_by_another(places: Places, policy: Policy) -> set[str]:
    """Return shared kill scripts that another enabled service of the same agent mounts, as its name sorts first."""
    found: set[str] = set()
    for other in services(None):
        with suppress(PolicyError):
            agent = load_policy(other).agent
            if other.service < places.service and agent.state_on_host == policy.agent.state_on_host:
                found |= set(agent.shared_kill_scripts) & set(policy.agent.shared_kill_scripts)
    return found


def podman_options(options: AgentOptions) -> list[str]:
    """Return the options of `podman run` that every agent needs. `security_options` are for one that makes
    namespaces."""
    found = [f"--volume={each.source}:{each.target}:{mode(each)},rprivate" for each in options.mounts]
    if options.has_image_mount:
        found.append(image_option(options.image))
    return [*found, *([f"--security-opt=label=level:{options.label_level}"] if options.label_level else [])]


def security_options(options: AgentOptions) -> list[str]:
    found = {"apparmor=": options.apparmor, "seccomp=": options.seccomp, "label=type:": options.label_type}
    return [f"--security-opt={name}{given}" for name, given in found.items() if given]


def image_option(image: str) -> str:
    """Return the mount with the program that the wrapper hides, for the calls that the agent answers itself."""
    return f"--mount=type=image,src={image},dst={IMAGE_IN_AGENT}"


def mode(mount: Mount) -> str:
    return "rw" if mount.writable else "ro"
