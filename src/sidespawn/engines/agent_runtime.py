"""Shares /run/netns with an agent's container, which Kubernetes does only for privileged containers.

It runs the containers of pods with RuntimeClass sidespawn-agent. A list on the node, LIST, which only root can write,
must name each container in a line `NAMESPACE/CONTAINER`, as in the pod. Others are refused.

An agent that makes namespaces needs SYS_ADMIN, which makes it root on the node unless it is contained. So this runtime
enforces the contained recipe of docs/agents.md, whatever the pod says: its list of system calls, and ambient
capabilities. It refuses a pod that shares the host's pids or another mount with the host, runs as root, is privileged
or may gain privileges. It does not change a listed container that does not mount /run/netns.

Runs alone, as root, once per container: it imports little, and only from the standard library (annotations as
containerd 1.6 to 2.1 write them).
"""

from __future__ import annotations

import os
import stat
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from sidespawn.system import oci

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every start milliseconds
    from typing import Any

    Mounts = list[dict[str, Any]]

LIST = "/etc/sidespawn/kubernetes-agents"
NETNS = "/run/netns"
SYSTEM_CALLS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "recipes/contained-agent.oci.json"
)
CAPABILITIES = frozenset(("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"))
CRI = "io.kubernetes.cri."
SHARING = ("shared", "rshared", "slave", "rslave", "private", "rprivate")
NO_RESTORE = "this runtime creates containers of agents and restores none"
NOT_LISTED = f"{LIST} names no container {{who}}: only agents that it names use this runtime"
UNSAFE_LIST = f"{LIST} is missing, or can be written by others than root"
NOT_CONTAINED = "an agent that shares /run/netns must {what}"


def main(argv: list[str]) -> int:
    """Prepare runc's call `argv`, or refuse it; return the exit status."""
    if "create" not in argv[1:]:
        return oci.refuse(argv, NO_RESTORE)
    path = oci.description_of(argv)
    description = oci.read(path)
    shared: Mounts = []
    try:
        shared = binds_of_namespaces(description)  # once: a pod may change where a link leads
        why = refusal(description, shared)
        if shared and not why:
            adapt(description, shared)
    except (OSError, LookupError, TypeError, AttributeError) as error:
        why = f"the pod cannot be judged: {type(error).__name__}: {error}"
    if why:
        return oci.refuse(argv, why)
    if shared:
        oci.write(path, description)
    return 0


def refusal(description: dict[str, Any], shared: Mounts) -> str:
    """Return why a container is refused; empty if it is not."""
    said = description.get("annotations", {})
    namespace, name = (said.get(f"{CRI}{each}", "") for each in ("sandbox-namespace", "container-name"))
    listed = read_list(LIST)
    if listed is None:
        return UNSAFE_LIST
    if said.get(f"{CRI}container-type") == "sandbox":  # it has no name
        is_listed = namespace in {each.partition("/")[0] for each in listed}
    else:
        is_listed = f"{namespace}/{name}" in listed
    if not is_listed:
        return NOT_LISTED.format(who=f"{namespace}/{name}")
    wrong = [what for what, holds in contained(description, shared).items() if not holds] if shared else []
    return NOT_CONTAINED.format(what=wrong[0]) if wrong else ""


def read_list(path: str) -> set[str] | None:
    """Return the list's lines without comments; None if the list is missing or others can write it."""
    try:
        with open(path, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            lines = {line.partition("#")[0].strip() for line in file}
    except (OSError, ValueError):
        return None
    is_safe = status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return lines - {""} if is_safe else None


def binds_of_namespaces(description: dict[str, Any]) -> Mounts:
    return [each for each in description["mounts"] if oci.is_bind(each) and os.path.realpath(each["source"]) == NETNS]


def other_binds(description: dict[str, Any], shared: Mounts) -> Mounts:
    return [each for each in description["mounts"] if oci.is_bind(each) and not any(each is one for one in shared)]


def contained(description: dict[str, Any], shared: Mounts) -> dict[str, bool]:
    """Return what the recipe requires of a pod, and whether the pod complies."""
    process, linux = description["process"], description["linux"]
    kinds = {each["type"]: each.get("path", "") for each in linux["namespaces"]}
    given = set(process.get("capabilities", {}).get("bounding") or ())
    also_shared = (set(each["options"]) & {"shared", "rshared"} for each in other_binds(description, shared))
    return {
        "run as a user other than root, by runAsUser": process["user"]["uid"] != 0,
        "have allowPrivilegeEscalation: false": bool(process.get("noNewPrivileges")),
        "have no capability but NET_ADMIN, NET_RAW and SYS_ADMIN": given <= CAPABILITIES,
        "not share the host's pids": is_private(kinds, "pid"),
        "not share the host's ipc": is_private(kinds, "ipc"),
        "have the host's users": "user" not in kinds,
        "hide parts of /proc, as every container that is not privileged": bool(linux.get("maskedPaths")),
        "share no other mount with the host": not any(also_shared),
        "run on another architecture than s390x": os.uname().machine != "s390x",
    }


def is_private(kinds: dict[str, str], kind: str) -> bool:
    """Return whether a namespace differs from the host's. It may be the pod's."""
    path = kinds.get(kind)
    if path is None:
        return False
    return not path or os.stat(path).st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino  # containerd has the host's


def adapt(description: dict[str, Any], shared: Mounts) -> None:
    process, linux = description["process"], description["linux"]
    given = process.get("capabilities", {}).get("bounding") or []
    process["capabilities"] = dict.fromkeys(oci.SETS, given)
    linux["seccomp"] = oci.read(SYSTEM_CALLS)
    # File modes protect it from the user; it contains the network namespace's settings.
    linux["readonlyPaths"] = [each for each in linux.get("readonlyPaths", ()) if each != "/proc/sys"]
    for mount in shared:
        mount["source"] = NETNS  # runc opens it later, and a pod may have put something else in place of a link
        mount["options"] = [*(each for each in mount["options"] if each not in SHARING), "rshared"]
    linux["rootfsPropagation"] = "rshared"
    for mount in other_binds(description, shared):  # with that one, mounts without a setting would be shared too
        mount["options"] = [*mount["options"], *([] if set(mount["options"]) & set(SHARING) else ["rprivate"])]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
