"""Labels every file of a disk for SELinux, so that the machine can enforce its policy from its first boot on.

setfiles(8) needs no SELinux in the kernel that runs it, so no machine needs to boot to relabel itself.
"""

from __future__ import annotations

import re
from pathlib import Path

from vm import programs

_SPECIFICATION = "etc/selinux/default/contexts/files/file_contexts"
# mke2fs makes it, after everything else has its label.
_LOST_AND_FOUND = b"system_u:object_r:lost_found_t:s0\0"
_SECONDS = 600


def label_files(root: Path) -> None:
    """Label the files of an unpacked system; files written there afterwards have no label."""
    configuration = root / "etc/selinux/config"
    configuration.write_text(re.sub("(?m)^SELINUX=.*", "SELINUX=enforcing", configuration.read_text()))
    programs.run("chroot", str(root), "setfiles", "-F", f"/{_SPECIFICATION}", "/", seconds=_SECONDS)


def label_disk(disk: Path) -> None:
    """Label the directory that mke2fs has added."""
    value = disk.with_name("label")
    value.write_bytes(_LOST_AND_FOUND)
    request = f'ea_set -f "{value}" /lost+found security.selinux'
    programs.run("debugfs", "-w", "-R", request, str(disk), seconds=_SECONDS)
    value.unlink()
