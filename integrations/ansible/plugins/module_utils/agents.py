# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""The command that makes an agent's container again, with sidespawn's mounts in place of the engine's socket."""

from __future__ import annotations

import re
from typing import Any

ENGINE = re.compile(r".*\.sock|(/var)?/run/podman/?|/var/lib/(containers|docker|containerd)(/.*)?")
# What TripleO and EDPM mount of their own wrappers.
WRAPPERS = re.compile(r"/var/lib/neutron/([\w-]+_wrapper|kill_scripts)/?")
# With an engine's socket in it, and with what the agent needs.
RUN = re.compile(r"(/var)?/run/?")
# Where the wrappers find the image's programs, for calls that the agent answers itself.
IMAGE = "/run/sidespawn/image"
JOINED = re.compile(r"(?:(-v)=?|(--volume|--mount)=)(.+)", re.DOTALL)
# Options of `podman create` whose value is the next word, if it is not part of the same one. Others are switches.
VALUED = frozenset(
    [
        "--add-host",
        "--annotation",
        "--arch",
        "--attach",
        "--authfile",
        "--blkio-weight",
        "--blkio-weight-device",
        "--cap-add",
        "--cap-drop",
        "--cert-dir",
        "--cgroup-conf",
        "--cgroup-parent",
        "--cgroupns",
        "--cgroups",
        "--chrootdirs",
        "--cidfile",
        "--conmon-pidfile",
        "--cpu-period",
        "--cpu-quota",
        "--cpu-rt-period",
        "--cpu-rt-runtime",
        "--cpu-shares",
        "--cpus",
        "--cpuset-cpus",
        "--cpuset-mems",
        "--creds",
        "--decryption-key",
        "--detach-keys",
        "--device",
        "--device-cgroup-rule",
        "--device-read-bps",
        "--device-read-iops",
        "--device-write-bps",
        "--device-write-iops",
        "--dns",
        "--dns-opt",
        "--dns-option",
        "--dns-search",
        "--entrypoint",
        "--env",
        "--env-file",
        "--env-merge",
        "--expose",
        "--gidmap",
        "--gpus",
        "--group-add",
        "--group-entry",
        "--health-cmd",
        "--health-interval",
        "--health-log-destination",
        "--health-max-log-count",
        "--health-max-log-size",
        "--health-on-failure",
        "--health-retries",
        "--health-start-period",
        "--health-startup-cmd",
        "--health-startup-interval",
        "--health-startup-retries",
        "--health-startup-success",
        "--health-startup-timeout",
        "--health-timeout",
        "--hostname",
        "--hosts-file",
        "--hostuser",
        "--image-volume",
        "--init-ctr",
        "--init-path",
        "--intel-rdt-closid",
        "--ip",
        "--ip6",
        "--ipc",
        "--label",
        "--label-file",
        "--link",
        "--log-driver",
        "--log-opt",
        "--mac-address",
        "--memory",
        "--memory-reservation",
        "--memory-swap",
        "--memory-swappiness",
        "--mount",
        "--name",
        "--net",
        "--net-alias",
        "--network",
        "--network-alias",
        "--oom-score-adj",
        "--os",
        "--passwd-entry",
        "--personality",
        "--pid",
        "--pidfile",
        "--pids-limit",
        "--platform",
        "--pod",
        "--pod-id-file",
        "--preserve-fd",
        "--publish",
        "--pull",
        "--rdt-class",
        "--requires",
        "--restart",
        "--retry",
        "--retry-delay",
        "--rootfs-propagation",
        "--runtime-flag",
        "--sdnotify",
        "--seccomp-policy",
        "--secret",
        "--security-opt",
        "--shm-size",
        "--shm-size-systemd",
        "--stop-signal",
        "--stop-timeout",
        "--storage-opt",
        "--subgidname",
        "--subuidname",
        "--sysctl",
        "--systemd",
        "--timeout",
        "--tmpfs",
        "--tz",
        "--uidmap",
        "--ulimit",
        "--umask",
        "--unsetenv",
        "--user",
        "--userns",
        "--uts",
        "--variant",
        "--volume",
        "--volumes-from",
        "--workdir",
        "-a",
        "-c",
        "-e",
        "-h",
        "-l",
        "-m",
        "-p",
        "-u",
        "-v",
        "-w",
    ]
)
# Files of the caller, which podman resolves in its working directory.
FILES = frozenset(
    [
        "--authfile",
        "--cert-dir",
        "--conmon-pidfile",
        "--env-file",
        "--hosts-file",
        "--init-path",
        "--label-file",
        "--pidfile",
        "--pod-id-file",
    ]
)
# The new container would differ, or not be made: each with the reason.
REFUSED = {
    "--cidfile": "podman fails if that file exists",
    "--env-host": "it takes the environment of the process that calls podman",
    "--passwd": "`podman create` has no such option",
    "--preserve-fd": "the module has no such files open",
    "--preserve-fds": "the module has no such files open",
    "--rmi": "the former container needs its image, and `podman create` of some versions has no such option",
}
PROXIES = frozenset(f"{name}_proxy" for name in ("http", "https", "ftp", "no"))
# Said of the container as a whole; `create` has none of them.
RUN_ONLY = ("-d", "--detach", "--rm", "--replace", "--sig-proxy", "--detach-keys")


class AgentError(Exception):
    """The command cannot be told."""


def creating(command: list[str], image: str, options: list[str]) -> list[str]:
    """`podman create` for the same container, with the options added, and the image mounted for the wrappers.

    Mounts of engines' sockets and storage and of earlier wrappers are left out, and mounts that the options replace.
    `image` is the full name of the container's image; the command may have a short one.
    """
    given_options, end = split(arguments(command))
    if not end or not is_name_of(end[0], image):
        raise AgentError("what started it is not known: give the command")
    targets = {target for word in options for _source, target in mounted([word])}
    kept = []
    for given in given_options:
        if given[0].partition("=")[0] in RUN_ONLY or (
            options and given == [image_mount(image)]
        ):  # which is added below
            continue
        found = mounted(given)
        if any(RUN.fullmatch(source) for source, _target in found):
            raise AgentError("all of /run is mounted, which has engines' sockets: give the command")
        if not any(unwanted(source) or target in targets for source, target in found):
            kept += given
    if options and IMAGE not in targets | {target for _source, target in mounts_in(kept)}:
        options = [*options, image_mount(image)]
    return ["create", *kept, *options, image, *end[1:]]


def arguments(command: list[str]) -> list[str]:
    """Return what follows `run` or `create`; options of podman itself may come before that."""
    verb = next((index for index, word in enumerate(command) if word in ("run", "create")), None)
    if verb is None:
        raise AgentError("what started it is not known: give the command")
    return command[verb + 1 :]


def lasting(command: list[str], name: str, image: str) -> list[str]:
    """Return the arguments of podman, which begin with `create`, with the full name of the image.

    Raises AgentError if the container would not be this agent's, or would depend on the process that creates it.
    """
    if command[:1] != ["create"]:
        raise AgentError("the command must begin with create")
    options, end = split(command[1:])
    if not end:
        raise AgentError("the command names no image")
    names = [option_value(each) for each in options if option_name(each) == "--name"]
    if names[-1:] != [name]:
        raise AgentError(f"the command must have the option --name={name}")
    for each in options:
        if fault := fleeting(each):
            raise AgentError(f"{' '.join(each)} would not last: {fault}")
    rest = [image, *end[1:]] if is_name_of(end[0], image) else end
    return ["create", *(word for each in options for word in each), *rest]


def fleeting(option: list[str]) -> str:
    """Return why the option means something different when a module gives it; empty if it does not."""
    name, value = option_name(option), option_value(option)
    if name in REFUSED and (name, value) != ("--env-host", "false"):
        return REFUSED[name]
    if name in ("-e", "--env") and "=" not in value:
        return "its value is taken from the process that calls podman; write NAME=VALUE"
    if name in FILES and not value.startswith("/"):
        return RELATIVE
    if name == "--security-opt" and re.fullmatch(r"seccomp[=:](?!unconfined$)[^/].*", value):
        return RELATIVE
    if name in ("-v", "--volume"):
        source = value.partition(":")[0] if ":" in value else ""
        return RELATIVE if source[:1] in (".", "~") or ("/" in source and not source.startswith("/")) else ""
    if name == "--mount":
        keys = dict(each.partition("=")[::2] for each in value.split(","))
        source = keys.get("source", keys.get("src", ""))
        return RELATIVE if keys.get("type") == "bind" and not source.startswith("/") else ""
    return ""


RELATIVE = "a relative path depends on the directory in which podman is called"


def from_environment(command: list[str], environment: list[str]) -> list[str]:
    """Return the container's proxy settings that podman has taken from the process that created it."""
    options, _end = split(arguments(command))
    given = {option_value(each).partition("=")[0] for each in options if option_name(each) in ("-e", "--env")}
    if any(option_name(each) == "--env-file" for each in options):
        return []  # they may be from there
    names = {each.partition("=")[0] for each in environment}
    return sorted(name for name in names - given if name.lower() in PROXIES)


def sources(command: list[str]) -> list[str]:
    """Return the host's files that the command mounts or reads, of a command that `lasting` has accepted."""
    options, _end = split(command[1:])
    found = [source for each in options for source, _target in mounted(each)]
    found += [option_value(each) for each in options if option_name(each) in ("--env-file", "--label-file")]
    return [each for each in found if each.startswith("/")]


def is_name_of(word: str, image: str) -> bool:
    """Return whether the word is this image's full name or a short one."""
    name = word.removeprefix("docker://")
    return any(image == each or image.endswith(f"/{each}") for each in (name, f"{name}:latest"))


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


def split(words: list[str]) -> tuple[list[list[str]], list[str]]:
    """Return the options, each with its value, and the words from the image on."""
    options = []
    remaining = list(words)
    while remaining and remaining[0].startswith("-") and remaining[0] not in ("-", "--"):
        word = remaining.pop(0)
        # Switches of one letter may share a word with an option that has a value.
        while re.match(r"-[ditPq][^=-]", word):
            options.append([word[:2]])
            word = f"-{word[2:]}"
        options.append([word, remaining.pop(0)] if word in VALUED and remaining else [word])
    return options, remaining[1:] if remaining[:1] == ["--"] else remaining


def option_name(option: list[str]) -> str:
    return option[0].partition("=")[0] if option[0].startswith("--") else option[0][:2]


def option_value(option: list[str]) -> str:
    if len(option) == 2:
        return option[1]
    if option[0].startswith("--"):
        return option[0].partition("=")[2]
    return re.sub("^=", "", option[0][2:])


def mounts_in(words: list[str]) -> list[tuple[str, str]]:
    return [pair for option in split(words)[0] for pair in mounted(option)]


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
        source, colon, rest = value.partition(":")
        # Without a source, it is a volume without a name.
        source, target = (source, rest.partition(":")[0]) if colon else ("", source)
    return [(source, target.rstrip("/"))]
