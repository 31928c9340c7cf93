"""Makes a container inside a lab ask for no more than the machine can give.

A real host may raise limits and has every cgroup controller. A development machine may lack CAP_SYS_RESOURCE and the
memory and pids controllers, and runc then refuses the whole container. Before runc reads the description of a
container, this removes what the machine cannot provide, so podman accepts the same commands in a lab as on a host.

Runs alone, on each start of a container: it imports nothing of ours and as little as it can.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

# By the verbs of runc: the option that names the description.
_OPTIONS = {"create": "--bundle", "exec": "--process"}
# By cgroup controller: the part of the description that it serves.
_PARTS = {"memory": "memory", "pids": "pids", "cpu": "cpu", "cpuset": "cpu", "io": "blockIO"}


def adapt(argv: list[str]) -> None:
    """Adapts the description that these arguments of runc name."""
    for verb, option in _OPTIONS.items():
        if verb in argv and option in argv:
            path = argv[argv.index(option) + 1]
            if verb == "create":
                path = os.path.join(path, "config.json")
            with open(path, "r+", encoding="utf-8") as file:
                description = json.load(file)
                lower_limits(description.get("process", description))
                drop_resources(description.get("linux", {}).get("resources", {}))
                file.seek(0)
                file.truncate()
                json.dump(description, file)


def lower_limits(process: dict[str, Any]) -> None:
    """Lowers each resource limit to the most that this process may hand on."""
    for limit in process.get("rlimits") or ():
        most = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if most != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], most)
            limit["soft"] = min(limit["soft"], most)


def drop_resources(resources: dict[str, Any]) -> None:
    """Leaves out what no controller of this machine would enforce."""
    with open("/sys/fs/cgroup/cgroup.controllers", encoding="ascii") as file:
        there = file.read().split()
    for controller, part in _PARTS.items():
        if controller not in there:
            resources.pop(part, None)


if __name__ == "__main__":
    adapt(sys.argv[1:])
