"""Sets SELinux labels on what the host creates in /run. selinux/sidespawn.cil says who may do what with each.

A directory is labelled as soon as it is created, and new files in it inherit the label. A later restorecon(8) for the
whole tree would follow paths that an agent can change at the same time, and label something else on the host.
"""

from __future__ import annotations

import os
from pathlib import Path

VALID = Path("/sys/fs/selinux/context")
HOST = "sidespawn_runtime_t"
PINS = "sidespawn_pins_t"
WRITABLE = "container_file_t"
READABLE = "container_ro_file_t"


def context_of(kind: str) -> str:
    """Return the context of a type, without the categories that podman gives each container at random."""
    return f"system_u:object_r:{kind}:s0"


def is_known(kind: str) -> bool:
    """Return whether the kernel's loaded policy knows this file type."""
    try:
        with open(VALID, "wb", 0) as kernel:
            kernel.write(context_of(kind).encode())
    except OSError:  # no SELinux, or no such type
        return False
    return True


def label(path: Path, kind: str) -> None:
    """Label the path if SELinux's policy knows the type; without the module it keeps the default."""
    if is_known(kind):
        os.setxattr(path, "security.selinux", f"{context_of(kind)}\0".encode(), follow_symlinks=False)
