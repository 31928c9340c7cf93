"""Recognises side containers that legacy wrappers started, and their instances.

The wrappers of TripleO, EDPM and Kolla-Ansible start privileged containers that are named after program and namespace.
Anyone with the engine's socket can make a container with any name, image and arguments, so these only say which
instance it would be.  A recognised container may be ended, and be told to reload files that the policy's rules accept;
nothing else is allowed because of it.  The host verifies that it is in the namespace of its name.
"""

from __future__ import annotations

from sidespawn.core.decide import beneath, fit_for_a_name
from sidespawn.core.options import Given, read_arguments
from sidespawn.core.pattern import Conflict, match_any, render, render_first
from sidespawn.core.plan import KnownFile
from sidespawn.core.policy import Adopt, Policy
from sidespawn.errors import Denied, Reason, quoted
from sidespawn.frozen import dataclass

# If the name is taken, the wrappers append the time: -2026-01-31-235959-123456789, Kolla's with _.
DATE = "0000-00-00-000000-000000000"


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A policy's verdict on a container of legacy wrappers."""

    instance: str
    netns: str
    bindings: dict[str, str]
    pid_file: str | None  # under the agent's state
    child_pid_files: tuple[str, ...]
    configuration: tuple[KnownFile, ...]


def names_of(policy: Policy, adopt: Adopt, name: str) -> dict[str, str] | None:
    """Return what a container's name binds; None if it is not a name that legacy wrappers use."""
    end = len(name) - len(DATE) - 1
    shape = "".join("0" if each in "0123456789" else each for each in name[end + 1 :])
    plain = name[:end] if end > 0 and name[end] in "-_" and shape == DATE else name
    return match_any(adopt.names, plain, policy.names, {})


def recognise(
    policy: Policy, adopt: Adopt, bindings: dict[str, str], image: str, untrusted_argv: tuple[str, ...]
) -> Recognised:
    """Return the verdict on a container whose name bound `bindings`. Raises Denied if its arguments contradict its
    name.

    The program's arguments do not need to be allowed, but anything that they name from the policy must be this
    instance's.
    """
    if match_any(adopt.images, image, policy.names, bindings) is None:
        wanted = " or ".join(pattern.source for pattern in adopt.images)
        raise Denied(Reason.IMAGE_NOT_ALLOWED, f"image {quoted(image)} is not {wanted} ({adopt.rule})", rule=adopt.rule)
    configuration: list[KnownFile] = []
    try:
        for given in read_arguments(policy.table, untrusted_argv):
            bindings, file = understand(policy, given, bindings)
            configuration += file
    except Conflict as conflict:
        message = f"its arguments are for {quoted(conflict.untrusted_value)}, its name for {quoted(conflict.bound)}"
        raise Denied(Reason.VALUE_CONFLICT, message) from None
    except Denied:  # in a spelling that is not parsed here
        configuration.append(unknown("its arguments"))
    instance = render_first(policy.instance, bindings)
    netns = None if policy.netns is None else render(policy.netns, bindings)
    if instance is None or netns is None or not fit_for_a_name(instance) or not fit_for_a_name(netns):
        raise Denied(Reason.POLICY_INVALID, "the policy's instance and netns do not produce valid names for it")
    side_container = policy.side_container
    pid_file = render(side_container.pid_file, bindings) if side_container.pid_file else None
    children = (render(pattern, bindings) for pattern, _ in side_container.child_pid_files)
    return Recognised(
        instance=instance,
        netns=netns,
        bindings=bindings,
        pid_file=pid_file and beneath(policy, pid_file, writes=True),
        child_pid_files=tuple(beneath(policy, each, writes=True) for each in children if each),
        configuration=tuple(configuration),
    )


def understand(policy: Policy, given: Given, bindings: dict[str, str]) -> tuple[dict[str, str], list[KnownFile]]:
    """Return the bindings after one option of the old program, and the configuration file that it names, if any."""
    allowed, value = policy.options.get(given.option.name), given.untrusted_value
    if allowed is None:
        return bindings, [unknown(given.option.spelling)] if given.option.danger else []
    if value is None:
        return bindings, []
    found = match_any(allowed.values, value, policy.names, bindings)
    if found is not None or not allowed.configuration:
        return found or bindings, []
    configuration = policy.configuration[allowed.configuration]
    found = match_any((configuration.path,), value, policy.names, bindings)
    if found is None:
        return bindings, [unknown(value)]
    path = f"{value}/{configuration.file}" if configuration.file else value
    return found, [KnownFile(path=path, beneath=beneath(policy, path), rules=allowed.configuration, digest="")]


def unknown(what: str) -> KnownFile:
    return KnownFile(path=what, beneath="", rules="", digest="")
