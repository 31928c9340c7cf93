"""The root file system of a lab: an overlay over the machine's, except for what must be its own.

All of this runs in the lab's mount namespace, whose mounts do not propagate to the machine. The
machine's files are the read-only lower layer. What differs is written into the upper layer before
the two are mounted, so no step writes or removes through a path that could be the machine's.
"""

from __future__ import annotations

import os
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path

from lab import kernel
from lab.kernel import MountFlag

_NOTHING_SPECIAL = MountFlag.NO_SUID | MountFlag.NO_DEV

# The lab boots these and nothing else. Whatever packages and administrators enabled on the machine
# (databases, timers, udev, sysctl, module loading) stays out: their directories appear empty.
_WANTED = {
    "sysinit.target.wants": (
        "systemd-journald.service",
        "systemd-journal-flush.service",
        "systemd-tmpfiles-setup.service",
    ),
    "sockets.target.wants": (
        "dbus.socket",
        "systemd-journald.socket",
        "systemd-journald-dev-log.socket",
    ),
    "multi-user.target.wants": (
        "dbus.service",
        "systemd-logind.service",
        "systemd-user-sessions.service",
    ),
}
_UNITS = "usr/lib/systemd/system"
_EMPTIED = ("etc/systemd", "usr/lib/systemd/system-generators", "usr/local/lib/systemd")

_JOURNALD = """\
[Journal]
Storage=volatile
RateLimitBurst=0
ForwardToConsole=no
"""

# What podman chooses by itself on Debian with systemd, except for the runtime. It is not crun, which
# insists on limits that only CAP_SYS_RESOURCE can raise.
_CONTAINERS = """\
[containers]
log_driver = "journald"

[network]
network_backend = "netavark"

[engine]
cgroup_manager = "systemd"
events_logger = "journald"
runtime = "runc"

[engine.runtimes]
runc = ["{checkout}/lab/oci-runtime"]
"""

_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
"""

# What a host of sidespawn's docker engine has in its daemon.json, and no bridge, which only root's own
# network namespace could have.
_DOCKER = """\
{{
    "bridge": "none",
    "iptables": false,
    "ip6tables": false,
    "ip-forward": false,
    "ip-masq": false,
    "live-restore": true,
    "log-driver": "journald",
    "runtimes": {{"sidespawn": {{"path": "{checkout}/src/sidespawn/engines/docker-runtime"}}}}
}}
"""

# Limits as a lab can have them.
_DOCKER_UNIT = """\
[Service]
LimitNOFILE=
LimitNPROC=
LimitCORE=
"""

# docker finds its runtime by PATH; so does sidespawn's.
_RUNC = """\
#!/bin/sh
exec {checkout}/lab/oci-runtime "$@"
"""

_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of one lab's root. `console` is a terminal of the machine."""

    name: str
    scratch: Path
    checkout: Path
    console: Path


def build(layout: Layout) -> Path:
    """Mounts the root with all below it; returns where.

    The caller must be in a cgroup namespace rooted in the lab's cgroup.
    """
    kernel.mount("tmpfs", layout.scratch, "tmpfs", MountFlag(0), "mode=755")
    upper, work, root = (layout.scratch / name for name in ("upper", "work", "root"))
    for directory in (upper, work, root):
        directory.mkdir(mode=0o755)
    _fill_upper(upper, layout)
    kernel.mount("overlay", root, "overlay", MountFlag(0), f"lowerdir=/,upperdir={upper},workdir={work}")
    _mount_own_directories(root)
    _mount_kernel_views(root)
    _make_devices(root / "dev", layout.console)
    _show_checkout(root, layout.checkout)
    return root


def _fill_upper(upper: Path, layout: Layout) -> None:
    for emptied in _EMPTIED:
        _hide(upper / emptied)
    for wants_directory in Path("/", _UNITS).glob("*.wants"):
        _hide(upper / _UNITS / wants_directory.name)
    (upper / "etc/systemd/system").mkdir(mode=0o755)
    # logind wants it; modules are the machine's.
    (upper / "etc/systemd/system/modprobe@.service").symlink_to("/dev/null")
    for wants, units in _WANTED.items():
        for unit in units:
            (upper / _UNITS / wants / unit).symlink_to(f"../{unit}")
    files = {
        "etc/hostname": f"lab-{layout.name}\n",
        # An empty one would mean a first boot, at which systemd enables all units there are.
        "etc/machine-id": f"{uuid.uuid4().hex}\n",
        "etc/fstab": "",
        "etc/systemd/journald.conf": _JOURNALD,
        "etc/containers/containers.conf": _CONTAINERS.format(checkout=layout.checkout),
        "etc/containers/storage.conf": _STORAGE,
        "etc/docker/daemon.json": _DOCKER.format(checkout=layout.checkout),
        "etc/systemd/system/docker.service.d/lab.conf": _DOCKER_UNIT,
        "etc/systemd/system/containerd.service.d/lab.conf": _DOCKER_UNIT,
        "usr/local/sbin/runc": _RUNC.format(checkout=layout.checkout),
        # Empties /tmp at boot; the checkout may be there.
        "etc/tmpfiles.d/tmp.conf": "",
    }
    for name, text in files.items():
        path = upper / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_text(text)
    (upper / "usr/local/sbin/runc").chmod(0o755)


def _hide(directory: Path) -> None:
    """Makes a directory of the upper layer that shows nothing of the lower one's."""
    directory.mkdir(mode=0o755, parents=True)
    os.setxattr(directory, "trusted.overlay.opaque", b"y")


def _mount_own_directories(root: Path) -> None:
    # podman's storage cannot lie on an overlay. systemd empties /tmp and /var/tmp: they must be the
    # lab's before it starts.
    for name, mode in {
        "run": "755",
        "tmp": "1777",
        "var/tmp": "1777",
        "var/lib/containers": "700",
        "var/lib/containerd": "711",
        "var/lib/docker": "710",
    }.items():
        (root / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        kernel.mount("tmpfs", root / name, "tmpfs", MountFlag(0), f"mode={mode}")


def _mount_kernel_views(root: Path) -> None:
    limited = _NOTHING_SPECIAL | MountFlag.NO_EXEC
    proc = root / "proc"
    kernel.mount("proc", proc, "proc", limited)
    # Only network settings belong to the lab; any other one is the machine's.
    kernel.bind_read_only(proc / "sys")
    kernel.bind(proc / "sys/net", proc / "sys/net")
    kernel.mount(None, proc / "sys/net", None, MountFlag.BIND | MountFlag.REMOUNT)
    if (proc / "sysrq-trigger").exists():
        kernel.bind_read_only(proc / "sysrq-trigger")
    # Read-only, it also tells systemd that the devices are not its own.
    kernel.mount("sysfs", root / "sys", "sysfs", limited | MountFlag.READ_ONLY)
    # Left to itself, systemd would take to the machine's cgroup v1 hierarchies where there are any,
    # and make its groups in their roots.
    kernel.mount("cgroup2", root / "sys/fs/cgroup", "cgroup2", limited, "nsdelegate")


def _make_devices(dev: Path, console: Path) -> None:
    # Not the machine's /dev: journald would plant its /dev/log there.
    kernel.mount("tmpfs", dev, "tmpfs", MountFlag.NO_SUID, "mode=755")
    for name, (major, minor) in _DEVICES.items():
        os.mknod(dev / name, stat.S_IFCHR, os.makedev(major, minor))
        (dev / name).chmod(0o666)
    for name, target in _DEVICE_LINKS.items():
        (dev / name).symlink_to(target)
    (dev / "console").touch()
    kernel.bind(console, dev / "console")
    for name, kind, options in (
        ("pts", "devpts", "newinstance,ptmxmode=666,mode=620,gid=5"),
        ("shm", "tmpfs", "mode=1777"),
        ("mqueue", "mqueue", ""),
    ):
        (dev / name).mkdir()
        flags = MountFlag.NO_SUID if kind == "devpts" else _NOTHING_SPECIAL
        kernel.mount(kind, dev / name, kind, flags, options)


def _show_checkout(root: Path, checkout: Path) -> None:
    """Binds the real checkout to its own path: caches written in it stay.

    Without this it would be missing where it lies on another file system than the root.
    """
    target = root / checkout.relative_to("/")
    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    kernel.bind(checkout, target)
