"""The system calls of podman's side containers: podman's own profile, without those that make or enter namespaces.

podman's profile (containers-common) lets every program make a user namespace, and be root with all capabilities in it:
much of the kernel's surface that a program without capabilities cannot reach.  No side container's program needs that.
docker's profile and systemd's RestrictNamespaces= do not allow it either.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

BASES = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))  # as podman looks for it
LEFT_OUT = {"clone", "clone3", "setns", "unshare"}
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID, -NET


def profile() -> str | None:
    """The text of the profile; None where podman has no file to begin with, and uses what is built into it."""
    base = next((path for path in BASES if path.exists()), None)
    if base is None:
        return None
    made = json.loads(base.read_text(encoding="utf-8"))
    for rule in made["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in LEFT_OUT]
    flags = 1 if os.uname().machine.startswith("s390") else 0  # the argument of clone(2) with the flags
    none = {"index": flags, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    made["syscalls"] = [
        *(rule for rule in made["syscalls"] if rule["names"]),
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [none]},
        # ENOSYS: its flags are in memory, where no filter sees them; the C library then uses clone.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["setns", "unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    ]
    return json.dumps(made)
