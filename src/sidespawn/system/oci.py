"""Common parts of the OCI runtimes around runc: finding root's record of a side container, and confining it.

An engine leaves a record beside the pinned namespace, in a directory that only root can reach.  A runtime takes
settings for the new container's description from it (config.md of the OCI runtime specification, version 1.0 to 1.2).
Without a record there is no container: these runtimes are for side containers only.

It imports little, and only from the standard library, since each container waits for it.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every start milliseconds
    from typing import Any

HOMES = "/run/sidespawn"
RUNC = "/run/sidespawn-runc"  # the handler's Root in containerd's configuration
RUNS = f"{RUNC}/runs"  # a file for each program that was started
HEX = frozenset("0123456789abcdef")
REFUSAL = "no record of such a side container: only sidespawn uses this runtime"
EXECUTABLE = ("nosuid", "nodev")
# From docker's and containerd's lists. For AF_UNIX, AF_INET, AF_INET6, AF_PACKET and netlink protocols the same as
# podman's: see host/seccomp.py.
LEFT_OUT = {"io_uring_enter", "io_uring_register", "io_uring_setup", "socket", "socketcall"}
INOTIFY = {"inotify_init", "inotify_init1"}  # root has 128, on the host and in all containers together
SOCKETS = [*({0: each} for each in (1, 2, 10, 17)), *({0: 16, 2: each} for each in (0, 4, 6, 12, 16))]
SETS = ("bounding", "permitted", "effective", "inheritable", "ambient")


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def description_of(argv: list[str]) -> str:
    """Return the path of the description in a call of runc that creates a container."""
    return os.path.join(option(argv, "--bundle"), "config.json")


def read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        return dict(json.load(file))


def write(path: str, content: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def refuse(argv: list[str], why: str) -> int:
    """Report the refusal where runc's caller looks for an error; return the exit status."""
    line = json.dumps({"level": "error", "msg": why}) + "\n"
    if "--log" not in argv:  # of a caller that is not containerd
        os.write(2, line.encode())
        return 1
    with open(option(argv, "--log"), "a", encoding="utf-8") as log:
        log.write(line)
    return 1


def find_record(name: str) -> str | None:
    """Return the path of the record that an engine left under this name, in one service's directory."""
    if len(name) == 32 and HEX.issuperset(name) and os.path.exists(HOMES):  # not before a service starts at boot
        for service in os.listdir(HOMES):
            path = f"{HOMES}/{service}/pins/{name}.oci"
            if os.path.exists(path):
                return path
    return None


def is_bind(mount: dict[str, Any]) -> bool:
    """Return whether it is a bind mount, by its options: its type may be anything, or missing."""
    return mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options", ()))


def confine(description: dict[str, Any], environment: list[str], capabilities: list[str], netns: str) -> None:
    """Give it exactly these variables and capabilities, none of the image's groups, and that network namespace."""
    process, linux = description["process"], description["linux"]
    process["env"] = environment
    process["user"]["additionalGids"] = []
    process["capabilities"] = dict.fromkeys(SETS, capabilities)
    others = [each for each in linux["namespaces"] if each["type"] != "network"]
    linux["namespaces"] = [*others, {"type": "network", "path": netns}]
    linux.pop("sysctl", None)  # they would be set in the agent's namespace
    description.pop("hooks", None)  # programs that an engine runs before and after the container, in its namespaces


def narrow(calls: dict[str, Any], *, as_root: bool) -> None:
    """Remove system calls that no side container needs."""
    left_out = LEFT_OUT | INOTIFY if as_root else LEFT_OUT
    own = f"SCMP_ARCH_{os.uname().machine.upper()}"  # filters do not see all arguments of others
    calls["architectures"] = [each for each in calls["architectures"] if each == own]
    for rule in calls["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in left_out]
    for wanted in SOCKETS:
        arguments = [{"index": each, "value": value, "op": "SCMP_CMP_EQ"} for each, value in wanted.items()]
        calls["syscalls"].append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": arguments})
    calls["syscalls"] = [rule for rule in calls["syscalls"] if rule["names"]]
