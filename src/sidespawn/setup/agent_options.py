"""Options of an agent's container for its services: mounts, security options, and units to start before it.

An agent may have several services. Its options are the union of theirs: kill scripts that services share are mounted
once, and services that put different wrappers in one place cannot be of one agent.
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
    """A bind mount. Its propagation is always rprivate: nothing that the agent mounts below it reaches the host."""

    source: str
    target: str
    writable: bool = False
    program: str = ""  # the program whose place a wrapper takes; empty for everything else

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
    """`apparmor`, `seccomp` and `label_type` are for agents that make namespaces; empty where the host lacks them."""

    services: tuple[str, ...]
    mounts: tuple[Mount, ...]
    apparmor: str = ""  # the profile's name
    seccomp: str = ""  # the path of the profile
    label_level: str = ""  # SELinux; without categories, as what the agent shares with side containers has none
    label_type: str = ""
    answers_itself: bool = False  # some calls are answered by the program of the agent's image; see IMAGE_IN_AGENT
    image: str = ""  # the agent's image; empty if unknown

    @property
    def units(self) -> tuple[str, ...]:
        """The agent has nothing to mount before these have started."""
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

    `has_module`: whether SELinux has it by the time that the agent starts; by default whether it has it now.
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

    What podman chooses by itself, AppArmor's profile or SELinux's domain, refuses `ip netns add`. podman's list of
    system calls allows ways around any such profile; see host/seccomp.py.
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
    """`--security-opt=label=level:s0` to `s0`."""
    return option.rpartition(":")[2]


def union(policies: Iterable[Policy]) -> tuple[Mount, ...]:
    """The first to mount a path brings it. Others may want the same only if it is a kill script that they share."""
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
    """Kill scripts that an enabled service of the same agent shares and, being the first by name, has the mount of."""
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
