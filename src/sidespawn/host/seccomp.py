"""Makes seccomp profiles for side containers and agents: podman's own list, without calls that they do not need.

podman's list (containers-common) is made for any program with any capabilities.

Side containers create and enter no namespaces. podman lets every program create a user namespace and be root with all
capabilities in it, which exposes much of the kernel that a program without capabilities cannot reach. docker's profile
and systemd's RestrictNamespaces= do not allow that either. Side containers also use no keys, which have no namespace,
and few socket families.

Agents that make network namespaces have CAP_SYS_ADMIN, for which podman allows much more. AppArmor handles calls that
must be judged by path or mount. This list denies what AppArmor does not see, such as the new mount API, whose calls
AppArmor lets through (seen with Linux 6.1 and 6.12). Without that API, mount(8) uses mount(2).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every run milliseconds
    from collections.abc import Iterable
    from typing import Any

BASES = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))  # where podman looks for it
EPERM, ENOSYS = 1, 38
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID, -NET
NEW_USER_NAMESPACE = 0x10000000
INT = 0xFFFFFFFF  # for an int argument, the kernel ignores the other half of the register
UNIX, INET, INET6, NETLINK, PACKET = 1, 2, 10, 16, 17
# Netlink protocols: routes, sockets, xfrm, netfilter, generic. Not 15, which allows forging uevents.
NETLINKS = (0, 4, 6, 12, 16)

NEW_MOUNT_API = frozenset(
    ("fsconfig", "fsmount", "fsopen", "fspick", "mount_setattr", "move_mount", "open_tree", "open_tree_attr")
)
# All processes of a user share its keys; root's are the host's own.
KEYS = frozenset(("add_key", "keyctl", "request_key"))
# A user may have 128 in total (inotify(7)), so root in a container could use up those of systemd and the host.
INOTIFY = frozenset(("inotify_init", "inotify_init1"))
REFUSED = KEYS | INOTIFY | frozenset((
    # Reaching a whole file system through a mount of one of its files.
    "fanotify_init", "open_by_handle_at", "quotactl", "quotactl_fd",
    # The kernel itself, and functions reserved for root.
    "bpf", "io_uring_enter", "io_uring_register", "io_uring_setup", "lookup_dcookie", "perf_event_open",
    # Other processes' memory and descriptors.
    "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
))  # fmt: skip
# Limits, processors and priorities: a process may set its own.
OF_A_PROCESS = frozenset(("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"))
FILTERED = frozenset(("clone", "ioprio_set", "setpriority", "socket", "unshare"))


def of_side_containers(*, as_root: bool) -> str | None:
    """Return the profile's text; None if podman has no file to start from, and uses its built-in list."""
    refused = KEYS | {"setns", "unshare"} | (INOTIFY if as_root else frozenset())
    return narrowed(
        refused | {"clone", "clone3", "socket", "socketcall"},
        [
            allow(("clone",), {clone_flags(): (NEW_NAMESPACES, 0)}),
            refuse(("clone3",), ENOSYS),
            refuse(refused, EPERM),
            *sockets(),
        ],
    )


def of_agents() -> str | None:
    """Return the same for agents."""
    return narrowed(
        NEW_MOUNT_API | REFUSED | OF_A_PROCESS | FILTERED | {"clone3", "socketcall"},
        [
            refuse(NEW_MOUNT_API, ENOSYS),
            refuse(REFUSED, EPERM),
            allow(("clone",), {clone_flags(): (NEW_USER_NAMESPACE, 0)}),
            allow(("unshare",), {0: (NEW_USER_NAMESPACE, 0)}),
            refuse(("clone3",), ENOSYS),
            allow(OF_A_PROCESS, {0: (INT, 0)}),
            allow(("setpriority",), {0: (INT, 0), 1: (INT, 0)}),  # PRIO_PROCESS, itself
            allow(("ioprio_set",), {0: (INT, 1), 1: (INT, 0)}),  # IOPRIO_WHO_PROCESS, itself
            *sockets(),
        ],
    )


def sockets() -> list[dict[str, Any]]:
    """Exclude socket families that ignore network namespaces, such as AF_VSOCK."""
    families = [allow(("socket",), {0: (INT, family)}) for family in (UNIX, INET, INET6, PACKET)]
    return families + [allow(("socket",), {0: (INT, NETLINK), 2: (INT, protocol)}) for protocol in NETLINKS]


def place_of_agents(run: Path) -> Path:
    """Return the path of the list for agents of all services; no service can have this name."""
    return run / "agent-seccomp.json"


def base() -> Path | None:
    return next((path for path in BASES if path.exists()), None)


def narrowed(left_out: frozenset[str], added: list[dict[str, Any]]) -> str | None:
    path = base()
    if path is None:
        return None
    made = json.loads(path.read_text(encoding="utf-8"))
    for rule in made["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in left_out]
    made["syscalls"] = [*(rule for rule in made["syscalls"] if rule["names"]), *added]
    # Some calls of other architectures, such as i386's socketcall(2), take arguments in memory, where no filter sees
    # them.
    for each in made.get("archMap", ()):
        each["subArchitectures"] = []
    return json.dumps(made)


def allow(names: Iterable[str], arguments: dict[int, tuple[int, int]]) -> dict[str, Any]:
    """Allow a call if each argument, by its number, has these bits of a mask."""
    return {
        "names": sorted(names),
        "action": "SCMP_ACT_ALLOW",
        "args": [
            {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
            for index, (mask, value) in arguments.items()
        ],
    }


def refuse(names: Iterable[str], error: int) -> dict[str, Any]:
    """Fail with ENOSYS, so that programs use an older call. clone3's flags are in memory, where no filter sees them."""
    return {"names": sorted(names), "action": "SCMP_ACT_ERRNO", "errnoRet": error}


def clone_flags() -> int:
    """Return which argument of clone(2) contains the flags."""
    return 1 if os.uname().machine.startswith("s390") else 0
