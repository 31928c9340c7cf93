"""Puts what docker cannot say of a side container into its OCI description before runc reads it.

docker joins no network namespace by path, gives programs that are not root no capabilities, adds variables and volumes
of the image to what it was asked for, and sets network settings in the namespace.  docker.py asks for the container
with the request's id as host name, and leaves a record beside the pinned namespace, in a directory that only root can
reach; this takes from the record what the description must have.  A container without such a record is refused: the
runtime is for side containers only, and one that is started again by hand has lost its namespace.

Runs alone, as root, once per container: standard library only, and little of that (config.md of the OCI runtime
specification; docker 20.10 to 28 write its version 1.0 and 1.2).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

HOMES = "/run/sidespawn"
HEX = frozenset("0123456789abcdef")
REFUSAL = "no record of such a side container: only sidespawn uses this runtime"
HARMLESS = ("nosuid", "nodev")
# Of docker's list. Of AF_UNIX, AF_INET, AF_INET6 and AF_PACKET, and of netlink's protocols the same as podman's: see
# host/seccomp.py.
LEFT_OUT = {"io_uring_enter", "io_uring_register", "io_uring_setup", "socket", "socketcall"}
SOCKETS = [
    {0: 1},
    {0: 2},
    {0: 10},
    {0: 17},
    {0: 16, 2: 0},
    {0: 16, 2: 4},
    {0: 16, 2: 6},
    {0: 16, 2: 12},
    {0: 16, 2: 16},
]


def main(argv: list[str]) -> int:
    path = os.path.join(argv[argv.index("--bundle") + 1], "config.json")
    with open(path, encoding="utf-8") as file:
        description = json.load(file)
    record = find_record(description.get("hostname", ""))
    if record is None:
        with open(argv[argv.index("--log") + 1], "a", encoding="utf-8") as log:  # from where docker shows it
            log.write(json.dumps({"level": "error", "msg": REFUSAL}) + "\n")
        return 1
    adapt(description, record)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(description, file)
    return 0


def find_record(request: str) -> dict[str, Any] | None:
    """Return what docker.py left for this request, in the directory of one service."""
    if len(request) == 32 and HEX.issuperset(request):
        for service in os.listdir(HOMES):
            try:
                with open(f"{HOMES}/{service}/pins/{request}.oci", encoding="utf-8") as file:
                    return dict(json.load(file))
            except OSError:
                continue
    return None


def adapt(description: dict[str, Any], record: dict[str, Any]) -> None:
    process, linux = description["process"], description["linux"]
    process["env"] = record["environment"]
    process["user"]["additionalGids"] = []  # docker adds the groups that the image gives to this user
    sets = ("bounding", "permitted", "effective", "inheritable", "ambient")
    process["capabilities"] = dict.fromkeys(sets, record["capabilities"])
    others = [each for each in linux["namespaces"] if each["type"] != "network"]
    linux["namespaces"] = [*others, {"type": "network", "path": record["netns"]}]
    linux.pop("sysctl", None)  # they would be set in the agent's namespace
    description.pop("hooks", None)  # docker's own, which would make the namespace one of its networks
    ours = dict.fromkeys(record["binds"], (*HARMLESS, "noexec")) | dict.fromkeys(record["scripts"], HARMLESS)
    # Any other bind mount is docker's: /etc/hosts and the like, and the image's volumes.
    kept = [each for each in description["mounts"] if each["type"] != "bind" or each["source"] in ours]
    for mount in kept:
        mount["options"] = [*mount["options"], *ours.get(mount["source"], ())]
    description["mounts"] = kept
    if "seccomp" in linux:
        narrow(linux["seccomp"])


def narrow(calls: dict[str, Any]) -> None:
    calls["architectures"] = calls["architectures"][:1]  # its own: of others no filter sees all arguments
    for rule in calls["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in LEFT_OUT]
    for wanted in SOCKETS:
        arguments = [{"index": each, "value": value, "op": "SCMP_CMP_EQ"} for each, value in wanted.items()]
        calls["syscalls"].append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": arguments})
    calls["syscalls"] = [rule for rule in calls["syscalls"] if rule["names"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
