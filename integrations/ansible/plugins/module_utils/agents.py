# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""The command that makes an agent's container again, with sidespawn's mounts in place of the engine's socket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

ENGINE = re.compile(r".*\.sock|(/var)?/run/podman/?|/var/lib/(containers|docker|containerd)(/.*)?")
# What TripleO and EDPM mount of their own wrappers.
WRAPPERS = re.compile(r"/var/lib/neutron/([\w-]+_wrapper|kill_scripts)/?")
# With an engine's socket in it, and with what the agent needs.
RUN = re.compile(r"(/var)?/run/?")
MOUNTING = ("-v", "--volume", "--mount")
# Where the wrappers find the image's programs, for calls that the agent answers itself.
IMAGE = "/run/sidespawn/image"
JOINED = re.compile(r"(?:(-v)=?|(--volume|--mount)=)(.+)", re.DOTALL)
# Said of the container as a whole; `create` has none of them.
RUN_ONLY = ("-d", "--detach", "--detach=true", "--rm", "--rm=true", "--replace", "--replace=true")


class AgentError(Exception):
    """The command cannot be told."""


def creating(command: list[str], image: str, options: list[str]) -> list[str]:
    """`podman create` for the same container, with the options added, and the image mounted for the wrappers.

    Mounts of engines' sockets and storage and of earlier wrappers are left out, and mounts that the options replace.
    """
    verb = next((index for index, word in enumerate(command) if word in ("run", "create")), None)
    if verb is None or image not in command[verb:]:
        raise AgentError("what started it is not known: give the command")
    end = command.index(image, verb)
    targets = {target for word in options for _source, target in mounted([word])}
    kept = []
    for given in options_in(command[verb + 1 : end]):
        if given[0] in RUN_ONLY or (options and given == [image_mount(image)]):  # which is added below
            continue
        found = mounted(given)
        if any(RUN.fullmatch(source) for source, _target in found):
            raise AgentError("all of /run is mounted, which has engines' sockets: give the command")
        if not any(unwanted(source) or target in targets for source, target in found):
            kept += given
    if options and IMAGE not in targets | {target for _source, target in mounts_in(kept)}:
        options = [*options, image_mount(image)]
    return ["create", *kept, *options, *command[end:]]


def image_mount(image: str) -> str:
    """Return the option that `sidespawn options --agent-image` prints."""
    return f"--mount=type=image,src={image},dst={IMAGE}"


class Steadiness:
    """Judges whether a container keeps running, by its state at several moments."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started: object = None
        self.since = 0.0

    def lacks(self, state: dict[str, Any] | None, now: float) -> str:
        """Return what is wrong, or an empty string once it has run for long enough without a restart.

        `state` is what `podman container inspect` says, or None if it fails. `now` is in seconds.
        """
        if state is None:
            self.started = None
            return "is not known"
        if state["Status"] != "running":
            self.started = None
            return f"is {state['Status']}, with exit code {state.get('ExitCode')}"
        if state["StartedAt"] != self.started:
            self.started, self.since = state["StartedAt"], now
        if now - self.since < self.seconds:
            return f"has not run for {self.seconds} seconds since its last start"
        return ""


def unwanted(source: str) -> bool:
    return bool(ENGINE.fullmatch(source) or WRAPPERS.fullmatch(source))


def options_in(words: list[str]) -> Iterator[list[str]]:
    """Yield the options, those that mount something together with their values."""
    remaining = iter(words)
    for word in remaining:
        yield [word, next(remaining, "")] if word in MOUNTING else [word]


def mounts_in(words: list[str]) -> list[tuple[str, str]]:
    return [pair for option in options_in(words) for pair in mounted(option)]


def mounted(words: list[str]) -> list[tuple[str, str]]:
    """Source and target, if this option mounts something."""
    joined = JOINED.fullmatch(words[0])
    if len(words) == 2:
        option, value = words
    elif joined:
        option, value = joined[1] or joined[2], joined[3]
    else:
        return []
    if option == "--mount":
        keys = dict(each.partition("=")[::2] for each in value.split(","))
        source = keys.get("source", keys.get("src", ""))
        target = keys.get("target", keys.get("destination", keys.get("dst", "")))
    else:
        source, _colon, rest = value.partition(":")
        target = rest.partition(":")[0]
    return [(source, target.rstrip("/"))]
