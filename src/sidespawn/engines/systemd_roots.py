"""Root directories of side containers that systemd starts: made once for a service's image, and kept.

    /run/sidespawn/SERVICE/roots/KEY/root   what a program sees as /, read-only for it
    /run/sidespawn/SERVICE/roots/KEY/given  what else it is given that is the service's, read-only: /dev, /proc with
                                            nothing but /proc/sys, an empty /sys, and the directory of copies
                                            twice, for texts and for scripts
    /run/sidespawn/SERVICE/roots/KEY/image  the name of an image that podman keeps mounted for it
    /run/sidespawn/SERVICE/roots/KEY/mount  where containerd keeps it mounted, if podman does not have the image

KEY is made from the policy's image: the name of an image of podman or containerd, a directory of the host, or `host`
for the host's own programs.  An overlay in memory covers an image or a directory, so that missing mount points can be
made; nothing else is ever written there.  The root of `host` contains only what the program may see of the host,
mounted read-only.

Read-only mounts here stay read-only wherever they are mounted from here.  So systemd needs to make only the root
read-only.  For each further path, it would read the host's whole list of mounts at each start, and that list grows with
the number of namespaces.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from sidespawn.engines import containerd, domain, image_missing
from sidespawn.errors import LaunchError, Reason
from sidespawn.system import kernel
from sidespawn.system.files import HARMLESS, closing
from sidespawn.system.places import Places
from sidespawn.system.processes import last_line, run

HOST = "host"
DEVICES = ("null", "zero", "full", "random", "urandom")
PODMAN = "/usr/bin/podman"
TIMEOUT = 120.0  # seconds; a large image is mounted slowly on a slow disk
EXECUTABLE = kernel.MS_NOSUID | kernel.MS_NODEV
# SELinux types. The first is of what PID 1 executes in the side containers' domain, which starts with that.
PROGRAMS_LABEL, SCRATCH_LABEL = "sidespawn_root_t", "container_file_t"
# Parts of the host's own root: programs and what they need to run. Those that do not exist on this host are left out.
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SETTINGS = ("alternatives", "group", "ld.so.cache", "localtime", "nsswitch.conf", "passwd", "protocols", "services")


def root_path(service: str, image: str) -> Path:
    return Places(service).home / "roots" / hashlib.sha256(image.encode()).hexdigest()[:16] / "root"


def given_path(service: str, image: str) -> Path:
    return root_path(service, image).parent / "given"


def seen_of_the_host() -> tuple[str, ...]:
    """Return the host's paths that are mounted into the root of `host`, each at its own path."""
    paths = (*(path for path in PROGRAMS if not os.path.islink(path)), *(f"/etc/{name}" for name in SETTINGS))
    return tuple(path for path in paths if os.path.exists(path))


def prepare(service: str, image: str, *, refresh: bool = False) -> None:
    """Make the root if missing, or with `refresh` from the image that the name now refers to. Raises LaunchError."""
    root, given = root_path(service, image), given_path(service, image)
    if os.path.ismount(root) and is_read_only(given / "proc") and not refresh and not (image == HOST and unseen(root)):
        return
    try:
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(os.open(root.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            make(root, service, image, refresh)
            if not is_read_only(given / "proc"):
                make_given(given, service)
    except OSError as error:
        raise LaunchError(Reason.ENGINE_FAILED, f"no root directory for {image}: {error.strerror}") from None


def labelled(options: str, service: str, kind: str) -> str:
    """Return mount options that give every file this SELinux type, if the policy has the module's types."""
    return f"{options},context=system_u:object_r:{kind}:s0" if domain(service) else options


def make(root: Path, service: str, image: str, refresh: bool) -> None:
    if image == HOST:
        make_host(root)
        return
    if os.path.ismount(root):
        if not refresh:
            return
        kernel.unmount(str(root))  # running side containers have their own mounts
        release_image(root.parent)
    lower = image if image.startswith("/") else mount_image(root.parent, image)
    if not os.path.isdir(lower):
        raise LaunchError(Reason.IMAGE_MISSING, f"the host has no directory {image}")
    upper, work = root.parent / "upper", root.parent / "work"
    for each in (root, upper, work):
        make_directory(each)
    options = labelled(f"lowerdir={lower},upperdir={upper},workdir={work}", service, PROGRAMS_LABEL)
    kernel.mount("sidespawn", str(root), "overlay", EXECUTABLE, options)


def make_host(root: Path) -> None:
    make_directory(root)
    if not os.path.ismount(root):
        kernel.mount("sidespawn", str(root), "tmpfs", EXECUTABLE, "mode=755,size=64k")
    make_directory(root / "etc")
    for path in PROGRAMS:
        if os.path.islink(path) and not os.path.lexists(root / path[1:]):
            (root / path[1:]).symlink_to(os.readlink(path))
    for path in unseen(root):
        target = root / path[1:]
        if os.path.ismount(target):
            kernel.unmount(str(target))
        if os.path.isdir(path):
            make_directory(target)
        else:
            target.touch()
        show(path, target, kernel.MS_NOSUID)


def unseen(root: Path) -> list[str]:
    """Return paths that are not mounted yet, or that the host has since replaced, as tools do with /etc/passwd."""
    targets = ((path, root / path[1:]) for path in seen_of_the_host())
    return [path for path, target in targets if not (target.exists() and os.path.samefile(path, target))]


def make_given(place: Path, service: str) -> None:
    if os.path.ismount(place):
        kernel.unmount(str(place))  # a run was killed while doing this
    make_directory(place)
    kernel.mount("sidespawn", str(place), "tmpfs", HARMLESS, labelled("mode=755,size=64k", service, PROGRAMS_LABEL))
    for each in ("dev", "dev/shm", "dev/mqueue", "proc", "proc/sys", "sys", "texts", "scripts"):
        make_directory(place / each)
    for name in DEVICES:
        (place / "dev" / name).touch()
        show(f"/dev/{name}", place / "dev" / name, kernel.MS_NOSUID)
    show("/proc/sys", place / "proc/sys", HARMLESS)
    show(str(Places(service).snapshots), place / "texts", HARMLESS)
    show(str(Places(service).snapshots), place / "scripts", EXECUTABLE)
    kernel.remount(str(place), HARMLESS | kernel.MS_RDONLY)  # last, since it shows that everything is there


def show(source: str, target: Path, flags: int) -> None:
    kernel.mount(source, str(target), None, kernel.MS_BIND)
    kernel.mount("none", str(target), None, kernel.MS_PRIVATE)  # mounts under it on the host stay there
    kernel.remount(str(target), flags | kernel.MS_RDONLY)


def is_read_only(path: Path) -> bool:
    return path.exists() and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def make_directory(path: Path) -> None:
    path.mkdir(exist_ok=True)
    path.chmod(0o755)  # regardless of the umask


def mount_image(place: Path, image: str) -> str:
    """Return where podman keeps the image mounted, or containerd if podman does not have it."""
    if os.path.exists(PODMAN):
        done = run((PODMAN, "image", "mount", image), TIMEOUT)
        if done.code == 0:
            (place / "image").write_text(image)
            return done.stdout.strip()
        if "image not known" not in done.stderr and "no such image" not in done.stderr.lower():
            message = f"podman image mount ended with {done.code}: {last_line(done.stderr)}"
            raise LaunchError(Reason.ENGINE_FAILED, message)
    if (name := containerd.find_image(image) if containerd.is_there() else None) is None:
        raise image_missing("the host", image)
    make_directory(place / "mount")
    containerd.mount_image(name, str(place / "mount"))
    return str(place / "mount")


def release_image(place: Path) -> None:
    if (place / "mount").exists():
        containerd.unmount_image(str(place / "mount"))
        (place / "mount").rmdir()
    if (place / "image").exists():
        run((PODMAN, "image", "unmount", (place / "image").read_text()), TIMEOUT)
        (place / "image").unlink()


def release_all(service: str) -> None:
    """Release all roots, for `sidespawn disable`. When the service's units stop, only its own directory is removed."""
    for place in (Places(service).home / "roots").glob("*"):
        for each in (place / "root", place / "given"):
            if os.path.ismount(each):
                kernel.unmount(str(each))
        release_image(place)
