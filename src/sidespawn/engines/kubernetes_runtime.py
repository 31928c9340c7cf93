"""Adds settings that Kubernetes cannot express to a side container's OCI description before runc reads it.

Kubernetes joins no network namespace by path and gives programs no capabilities unless they are root.  kubernetes.py
writes a pod whose uid names a record, which it leaves beside the pinned namespace in a directory that only root can
reach.  The record holds parts of a description (see `record` there).  The pod's sandbox, a container that does nothing,
needs a record; the program's container uses it up.  So the runtime refuses another user's pod with this runtime's
class, a copy of a pod, a second start in the same pod, a pod from before a reboot, and `kubectl exec`.

The command in a pod is `/.sidespawn`, which no image has, followed by the program's own for people to read.  A node
that maps the class to plain runc fails to start it.  The pod has the host's network, since it must have one, but its
sandbox gets an empty network namespace.

The runtime leaves the outcome for the engine.  Beside the record, UID.taken is the used record, locked while runc makes
the container, and UID.failed says why it failed.  RUNS/UID describes the container while its pod exists.

Runs alone, as root, once per container: it imports little, and only from the standard library (annotations as
containerd 1.6 to 2.1 write them).
"""

from __future__ import annotations

import fcntl
import json
import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from sidespawn.system import oci

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every start milliseconds
    from typing import Any

WORD = "/.sidespawn"
CRI = "io.kubernetes.cri."
ONLY_CREATE = "side containers are not entered, saved or restored: this runtime only starts, shows and ends them"
DIFFERS = "the pod is not what sidespawn wrote: its {what} differs from the record"
USED = "the record of this side container was used already; sidespawn writes a new pod for each start"
NOT_CONFINED = "the pod lacks what confines a side container: {what}"


class Refusal(Exception):
    pass


def main(argv: list[str]) -> int:
    """Carry out runc's call `argv`, or refuse it; return the exit status."""
    if "create" not in argv[1:]:
        return oci.refuse(argv, ONLY_CREATE)
    path = oci.description_of(argv)
    description = oci.read(path)
    said = description.get("annotations", {})
    place = oci.find_record(said.get(f"{CRI}sandbox-uid", ""))
    kind = said.get(f"{CRI}container-type")
    if place is None:
        return oci.refuse(argv, USED if kind == "container" else oci.REFUSAL)
    if kind == "sandbox":
        return create_sandbox(argv, path, description)
    return create_program(argv, path, description, place.removesuffix(".oci"))


def create_sandbox(argv: list[str], path: str, description: dict[str, Any]) -> int:
    adapt_sandbox(description)
    oci.write(path, description)
    return runc(argv)


def create_program(argv: list[str], path: str, description: dict[str, Any], place: str) -> int:
    try:
        with open(f"{place}.oci", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until this process ends
            os.rename(f"{place}.oci", f"{place}.taken")
            return create_by(json.load(file), argv, path, description, place)
    except FileNotFoundError:  # just taken by another start, or withdrawn
        return oci.refuse(argv, USED)
    except (Refusal, OSError, ValueError, LookupError, TypeError) as error:
        why = str(error) if isinstance(error, Refusal) else f"the pod cannot be made: {error!r}"
        note_failure(place, why)
        return oci.refuse(argv, why)


def create_by(record: dict[str, Any], argv: list[str], path: str, description: dict[str, Any], place: str) -> int:
    """Create the container. Raises Refusal, and the errors of reading and writing."""
    adapt(description, record)
    oci.write(path, description)
    code = runc(argv)
    if code:
        note_failure(place, last_error(oci.option(argv, "--log")))
        return code
    try:
        told = made(argv, description)
    except FileNotFoundError:
        raise Refusal("the program's process ended before its start") from None
    os.makedirs(oci.RUNS, mode=0o700, exist_ok=True)
    note(f"{oci.RUNS}/{os.path.basename(place)}", told)
    return 0


def adapt_sandbox(description: dict[str, Any]) -> None:
    """Give the pod's first container, whose namespaces nothing uses, no privileges and an empty network."""
    description["process"]["capabilities"] = {}
    others = [each for each in description["linux"]["namespaces"] if each["type"] not in ("network", "uts")]
    description["linux"]["namespaces"] = [*others, {"type": "network"}, {"type": "uts"}]
    description["linux"].pop("sysctl", None)
    description.pop("hooks", None)


def adapt(description: dict[str, Any], record: dict[str, Any]) -> None:
    """Add the record's settings to the description. Raises Refusal."""
    process, linux = description["process"], description["linux"]
    check(description, record)
    oci.confine(description, record["process"]["env"], record["capabilities"], record["netns"])
    process |= record["process"]
    description["hostname"] = record["hostname"]
    description["annotations"] |= record["annotations"]
    linux["namespaces"] = [
        *({"type": each} for each in ("mount", "pid", "ipc", "uts", "cgroup")),
        {"type": "network", "path": record["netns"]},
    ]
    linux["resources"] |= record["resources"]
    linux["devices"] = []
    oci.narrow(linux["seccomp"], as_root=process["user"]["uid"] == 0)
    linux.pop("rootfsPropagation", None)
    # kubelet and containerd added the bind mounts: /etc/hosts, the pod's /dev/shm, volumes of the image.
    description["mounts"] = [each for each in description["mounts"] if not oci.is_bind(each)] + record["mounts"]


def check(description: dict[str, Any], record: dict[str, Any]) -> None:
    said, process, user = description["annotations"], description["process"], record["process"]["user"]
    agree = {
        "command": process["args"] == [WORD, *record["process"]["args"]],
        # The kubelet appends the node's name.
        "name": f"{said.get(f'{CRI}sandbox-name')}-".startswith(f"{record['pod']}-"),
        "namespace": said.get(f"{CRI}sandbox-namespace") == record["namespace"],
        "user": {key: process["user"][key] for key in ("uid", "gid")} == user,
    }
    confined = {
        "a read-only root": description["root"].get("readonly"),
        "allowPrivilegeEscalation: false": process.get("noNewPrivileges"),
        "a seccomp profile": description["linux"].get("seccomp"),
        "hidden parts of /proc": description["linux"].get("maskedPaths"),
        "the host's users": not any(each["type"] == "user" for each in description["linux"]["namespaces"]),
    }
    for problem, facts in ((DIFFERS, agree), (NOT_CONFINED, confined)):
        wrong = [what for what, holds in facts.items() if not holds]
        if wrong:
            raise Refusal(problem.format(what=wrong[0]))


def runc(argv: list[str]) -> int:
    """Run runc as a child; return its exit code."""
    pid = os.posix_spawnp("runc", ["runc", *argv[1:]], os.environ)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def made(argv: list[str], description: dict[str, Any]) -> dict[str, Any]:
    """Describe the program's process, which waits for its start, so its pid cannot have been reused."""
    with open(oci.option(argv, "--pid-file"), encoding="ascii") as file:
        pid = int(file.read())
    with open(f"/proc/{pid}/stat", "rb") as stat:
        started = int(stat.read().rpartition(b")")[2].split()[19])
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as groups:
        group = os.path.dirname(groups.read().rstrip().rpartition(":")[2])
    ours = {key: value for key, value in description["annotations"].items() if not key.startswith(CRI)}
    return {"container": argv[-1], "pid": pid, "started": started, "annotations": ours, "group": group}


def note_failure(place: str, message: str) -> None:
    """Note it for the engine, which may no longer wait: the service may be disabled, and its directory gone."""
    if os.path.isdir(os.path.dirname(place)):
        note(f"{place}.failed", {"message": message})


def note(path: str, content: dict[str, Any]) -> None:
    """Write the file atomically, since the engine waits for it."""
    oci.write(f"{path}.new", content)
    os.rename(f"{path}.new", path)


def last_error(log: str) -> str:
    """Return the last line of runc's log, which has a JSON object per line."""
    try:
        with open(log, encoding="utf-8") as file:
            return str(json.loads(file.read().rstrip().rpartition("\n")[2])["msg"])
    except (OSError, ValueError, KeyError):
        return "runc failed and did not say why"


if __name__ == "__main__":
    sys.exit(main(sys.argv))
