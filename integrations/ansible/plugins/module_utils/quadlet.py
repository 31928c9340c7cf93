# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""A drop-in that takes an engine's socket and privileges from a Quadlet unit of another tool; text in, text out.

A drop-in can only add to a list or empty it. So it empties the lists of the unit and has them again, without what is
not to be there.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator

from ansible_collections.sidespawn.host.plugins.module_utils.agents import (
    RUN,
    image_mount,
    mounted,
    unwanted,
)

# As the container's first command: engines mount /proc/sys read-only, and Neutron sets sysctls in its namespaces.
WRITABLE_SYSCTLS = "mount --bind /proc/sys/net /proc/sys/net && mount -o remount,rw,bind /proc/sys/net"
# A directory of EDPM's, of which sidespawn mounts single files.
KILL_SCRIPTS = "/etc/neutron/kill_scripts"
# EDPM's wrappers, wherever its files are.
WRAPPER = re.compile(r"/.*_wrapper:/usr/local/bin/.*")
MOUNTING = ("-v", "--volume", "--mount")
# Tells from which text of the drop-in a container was started.
LABEL = "io.sidespawn.drop-in"
# Quoting would be read three times, by Quadlet, systemd and the shell.
COMMAND = re.compile(r"[\w./ :=@,+-]+")


class UnitError(Exception):
    """The unit is not one that this collection can change; nothing was written."""


def values(texts: list[str], key: str) -> list[str]:
    """Return what [Container] says in a unit and its drop-ins, in order. An empty value takes back those before."""
    found: list[str] = []
    for text in texts:
        section = ""
        for line in re.sub(r"\\\n", " ", text).splitlines():
            heading = re.fullmatch(r"\s*\[(.+)\]\s*", line)
            if heading:
                section = heading[1]
            name, equals, value = line.partition("=")
            if section != "Container" or not equals or name.strip() != key:
                continue
            found = [*found, value.strip()] if value.strip() else []
    return found


def kept_volumes(given: list[str], targets: set[str]) -> list[str]:
    kept = []
    for volume in given:
        ((source, target),) = mounted(["--volume", volume])
        if RUN.fullmatch(source):
            raise UnitError(f"Volume={volume} has engines' sockets: mount what the agent needs of it")
        if not unwanted(source) and target not in targets and not WRAPPER.fullmatch(volume):
            kept.append(volume)
    return kept


def options_in(words: list[str]) -> Iterator[list[str]]:
    """Yield the words, mounting options together with their values. Which of the others have values does not matter."""
    remaining = iter(words)
    for word in remaining:
        yield [word, next(remaining, "")] if word in MOUNTING else [word]


def kept_arguments(given: list[str], targets: set[str], *, unprivileged: bool) -> list[str]:
    """Lines of PodmanArgs=; one that stays as it is keeps its quoting."""
    kept = []
    for line in given:
        rest: list[str] = []
        for option in options_in(shlex.split(line)):
            pairs = mounted(option)
            if any(RUN.fullmatch(source) for source, _target in pairs):
                raise UnitError(f"PodmanArgs={line} has engines' sockets: mount what the agent needs of it")
            if any(unwanted(source) or target in targets for source, target in pairs):
                continue
            if not unprivileged or option[0] not in ("--privileged", "--privileged=true"):
                rest += option
        if rest == shlex.split(line):
            kept.append(line)
        elif rest:
            kept.append(" ".join(map(quoted, rest)))
    return kept


def quoted(word: str) -> str:
    """Quote for systemd and Quadlet, whose quoting differs from a shell's."""
    if re.fullmatch(r"[\w./:=@,+-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def image_of(texts: list[str]) -> str:
    """Return podman's name for it; empty if it belongs to another unit."""
    image = values(texts, "Image")[-1:]
    return image[0] if image and not image[0].endswith((".image", ".build")) else ""


def command_of(texts: list[str], command: str | None) -> str:
    if command is None and values(texts, "Exec"):
        raise UnitError(f"the unit has a command already, Exec={values(texts, 'Exec')[-1]}: say what to start")
    command = command or "kolla_start"
    if not COMMAND.fullmatch(command):
        raise UnitError(f"{command!r} is not a command without quotes and special characters")
    return command


def drop_in(
    texts: list[str],
    *,
    volumes: list[str],
    units: list[str],
    options: list[str],
    capabilities: list[str],
    unprivileged: bool,
    command: str | None,
) -> str:
    """`texts` are the unit and the drop-ins that come before this one; `options` are podman's."""
    targets = {target for volume in volumes for _source, target in mounted(["--volume", volume])} | {KILL_SCRIPTS}
    image = image_of(texts)
    mounts = [image_mount(image)] if image else []
    lines = [
        "# Written by the Ansible module sidespawn.host.quadlet_drop_in from the unit and the services of its agent.",
        "[Unit]",
        f"Wants={' '.join(units)}",
        f"After={' '.join(units)}",
        "",
        "[Container]",
        "# The unit's, without an engine's socket, its storage and the wrappers before sidespawn.",
        "Volume=",
        *(f"Volume={each}" for each in kept_volumes(values(texts, "Volume"), targets)),
        "PodmanArgs=",
        *(
            f"PodmanArgs={each}"
            for each in kept_arguments(values(texts, "PodmanArgs"), targets, unprivileged=unprivileged)
        ),
        "# sidespawn's.",
        *(f"Volume={each}" for each in volumes),
        *(f"PodmanArgs={quoted(each)}" for each in (*(options if unprivileged else ()), *mounts)),
    ]
    if unprivileged:
        lines += [
            "DropCapability=all",
            f"AddCapability={' '.join(capabilities)}",
            f"Exec=sh -c '{WRITABLE_SYSCTLS} && exec {command_of(texts, command)}'",
        ]
    text = "".join(f"{line}\n" for line in lines)
    return f"{text}Label={LABEL}={hashlib.sha256(text.encode()).hexdigest()}\n"


def label_of(text: str) -> str:
    """Return the value of the label that containers started with this drop-in have; empty without one."""
    labels = [each.partition("=")[::2] for each in values([text], "Label")]
    return next((value for name, value in labels if name == LABEL), "")


def label_in(unit: str) -> str:
    """Return the value of the label in the unit that Quadlet has made, as `systemctl cat` prints it."""
    found = re.search(rf"\b{re.escape(LABEL)}=([0-9a-f]+)", unit)
    return found[1] if found else ""


def started(printed: str, name: str) -> list[str]:
    """Return the command that starts the container, from the output of `quadlet --dryrun`."""
    unit = printed.partition(f"---{name}.service---\n")[2]
    unit = unit.partition("\n---")[0]
    found = re.search(r"(?m)^ExecStart=(.*(?:\\\n.*)*)", unit)
    return shlex.split(found[1].replace("\\\n", " ")) if found else []


def faults(words: list[str], *, volumes: list[str], unprivileged: bool) -> list[str]:
    """Return what is wrong with that command."""
    if not words:
        return ["Quadlet made no unit of it"]
    pairs = [pair for option in options_in(words) for pair in mounted(option)]
    made = {target for _source, target in pairs}
    if not {target for volume in volumes for _source, target in mounted(["--volume", volume])} <= made:
        return ["Quadlet on this host does not read drop-ins, which podman 5.0 and newer do"]
    found = [f"it mounts {source}" for source, _target in pairs if unwanted(source)]
    targets = [target for _source, target in pairs]
    found += [f"it mounts {each} twice" for each in sorted(made) if targets.count(each) > 1]
    if unprivileged and "--privileged" in words:
        found.append("it is still privileged")
    return found
