# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""The command that makes an agent's container again, with sidespawn's mounts in the place of the engine's socket."""

from __future__ import annotations

import re

ENGINE = re.compile(r"\.sock\b.*|^/run/?$|^/var/run/?$|^/run/podman/?$|^/var/lib/(containers|docker|containerd)(/.*)?$")
# What TripleO and EDPM mount of their own wrappers.
WRAPPERS = re.compile(r"^/var/lib/neutron/([\w-]+_wrapper|kill_scripts)/?$")
VOLUME = re.compile(r"(?:-v|--volume)=?(.*)", re.DOTALL)
# Said of the container as a whole; `create` has none of them.
RUN_ONLY = ("-d", "--detach", "--detach=true", "--rm", "--rm=true", "--replace", "--replace=true")


class AgentError(Exception):
    """The command cannot be told."""


def creating(command: list[str], image: str, options: list[str]) -> list[str]:
    """`podman create` for the same container, with the options added.

    What is left out: mounts of engines' sockets and storage, of old wrappers, and what the options mount themselves.
    """
    verb = next((index for index, word in enumerate(command) if word in ("run", "create")), None)
    if verb is None or image not in command[verb:]:
        raise AgentError("what started it is not known: give the command")
    end = command.index(image, verb)
    targets = {target(volume) for volume in volumes_of(options)}
    kept = []
    words = iter(command[verb + 1 : end])
    for word in words:
        if word in RUN_ONLY:
            continue
        given = [word, next(words, "")] if word in ("-v", "--volume") else [word]
        matched = VOLUME.fullmatch(given[-1] if len(given) == 2 else word)
        volume = given[1] if len(given) == 2 else matched[1] if matched else ""
        source = volume.partition(":")[0]
        if volume and (ENGINE.search(source) or WRAPPERS.search(source) or target(volume) in targets):
            continue
        kept += given
    return ["create", *kept, *options, *command[end:]]


def volumes_of(options: list[str]) -> list[str]:
    return [matched[1] for each in options if (matched := VOLUME.fullmatch(each))]


def target(volume: str) -> str:
    return volume.split(":")[1].rstrip("/") if ":" in volume else volume
