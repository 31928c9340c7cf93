"""Installs the SELinux module if the kernel's policy lacks it, and removes it with the last service.

It is CIL, which semodule(8) reads directly. To install a module, semodule rebuilds the whole policy, which takes
seconds to minutes. So it is called only if the kernel does not know a type whose name contains a digest of the module's
text.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sidespawn.errors import LaunchError, Reason, SidespawnError
from sidespawn.host import labels
from sidespawn.setup.systemd import PACKAGE
from sidespawn.system.places import NAMESPACES
from sidespawn.system.processes import last_line, run

MODULE = PACKAGE / "selinux" / "sidespawn.cil"
SEMODULE, RESTORECON, RUNCON = "/usr/sbin/semodule", "/usr/sbin/restorecon", "/usr/bin/runcon"
OWN_CONTEXT = Path("/proc/self/attr/current")
RUNCON_REFUSED = (125, 126, 127)  # it could not change its domain, or not execute the program
TIMEOUT = 900.0  # seconds; on an emulated machine the policy is rebuilt in one to two minutes
# Under the reference policy, podman run by hand leaves files here with labels that a service's podman cannot read. The
# module labels names in these places correctly from the start; existing ones are relabelled.
PODMAN = (Path("/run/containers"), Path("/run/crun"), Path("/run/libpod"), Path("/run/runc"))
UNREADABLE = ":var_run_t:"
# Names that may be in /run/netns; others were made before the module told their creators the label.
OF_NAMESPACES = (":ifconfig_runtime_t:", ":ifconfig_var_run_t:", ":nsfs_t:")
FILES = {
    Path("/dev/shm/libpod_lock"): "container_engine_tmpfs_t",  # noqa: S108
    Path("/run/lock/netavark.lock"): "container_engine_lock_t",
}
# For `podman run` of an agent: no categories, since files shared with its side containers have none.
LEVEL = "--security-opt=label=level:s0"
# For an agent that makes namespaces, which container_t may not.
AGENT = "--security-opt=label=type:sidespawn_agent_t"
DOMAINS = ("sidespawn_agent_t", "sidespawn_side_container_t")


def is_enabled() -> bool:
    return labels.VALID.exists()


def is_installable() -> bool:
    """Return whether `enable` would try to install the module."""
    return is_enabled() and os.access(SEMODULE, os.X_OK)


def is_installed() -> bool:
    """Return whether the kernel has some version of the module."""
    return labels.is_known(labels.HOST)


def is_current() -> bool:
    return labels.is_known(f"sidespawn_{digest()}_t")


def digest() -> str:
    return hashlib.sha256(MODULE.read_bytes()).hexdigest()[:16]


def install() -> None:
    if not is_current():
        install_module()
    mend_labels()


def install_module() -> None:
    with tempfile.TemporaryDirectory(prefix="sidespawn-") as place:
        path = Path(place) / MODULE.name
        path.write_text(MODULE.read_text(encoding="utf-8").replace("@DIGEST@", digest()), encoding="utf-8")
        semodule("-i", str(path))
    if not is_current():
        raise SidespawnError(Reason.HOST_UNSUITABLE, "semodule installed the module, but the kernel does not have it")


def remove() -> list[str]:
    """Remove the module; return a sentence if it must stay: a process without its domain may no longer do anything."""
    if not is_installed():
        return []
    if confined := sorted(processes()):
        who = ", ".join(str(pid) for pid in confined[:5])
        return [
            f"SELinux's module sidespawn stays, since processes ({who}) run in its domains; then: semodule -r sidespawn"
        ]
    semodule("-r", "sidespawn")
    return []


def processes() -> Iterator[int]:
    """Return the processes that run in a domain of the module."""
    for path in Path("/proc").glob("[0-9]*/attr/current"):
        with suppress(OSError):
            if path.read_text(errors="replace").split(":")[2:3] in ([each] for each in DOMAINS):
                yield int(path.parts[2])


def own_context() -> str:
    return OWN_CONTEXT.read_text(encoding="ascii").rstrip("\0\n")


def mend_labels() -> None:
    """Label files from before the module was installed. Containers' files in these places have their own labels."""
    wrong = [str(path) for top in PODMAN for path in tree(top) if UNREADABLE in label_of(path)]
    wrong += [str(path) for path in tree(NAMESPACES) if not any(each in label_of(path) for each in OF_NAMESPACES)]
    for start in range(0, len(wrong), 500):
        run((RESTORECON, "-F", *wrong[start : start + 500]), TIMEOUT)
    for path, kind in FILES.items():
        if path.exists():
            labels.label(path, kind)


def tree(top: Path) -> Iterator[Path]:
    """Yield the tree without mounts in it, which are the file systems of containers."""
    for directory, below, files in os.walk(top):
        yield from (Path(directory, name) for name in ("", *files))
        below[:] = [name for name in below if not os.path.ismount(os.path.join(directory, name))]


def label_of(path: Path) -> str:
    try:
        return os.getxattr(path, "security.selinux", follow_symlinks=False).decode(errors="replace")
    except OSError:
        return ""


def semodule(*arguments: str) -> None:
    """Run semodule. Raises SidespawnError with its message; the last line is `Failed!`, after the cause.

    It stays in this process's domain if the policy lets it. Debian's policy gives it a domain that may not set the
    labels of the store that it copies, which causes more than a thousand denials per call.
    """
    try:
        done = run((RUNCON, own_context(), SEMODULE, *arguments), TIMEOUT)
        if done.code in RUNCON_REFUSED:
            done = run((SEMODULE, *arguments), TIMEOUT)
    except LaunchError as error:
        raise SidespawnError(Reason.HOST_UNSUITABLE, error.message, "install policycoreutils") from None
    if done.code != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.endswith("Failed!")]
        raise SidespawnError(
            Reason.HOST_UNSUITABLE, f"semodule {' '.join(arguments)}: {last_line('; '.join(said)) or done.code}"
        )
