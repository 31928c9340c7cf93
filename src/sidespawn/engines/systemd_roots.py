"""The root directories of side containers that systemd starts: made once for a service's image, and kept.

    /run/sidespawn/SERVICE/roots/KEY/root   what a program sees as /, read-only for it
    /run/sidespawn/SERVICE/roots/KEY/dev    what it sees as /dev
    /run/sidespawn/SERVICE/roots/KEY/image  the name of an image that podman keeps mounted for it

KEY is made from the policy's image: the name of one that podman has, a directory of the host, or `host` for the host's
own programs.  An overlay in memory lies upon an image or a directory, so that mount points can be made where it has
none; nothing else is ever written there.  The root of `host` is empty: what the program may see of the host is mounted
into it at the start.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from sidespawn.engines import image_missing
from sidespawn.errors import LaunchError, Reason
from sidespawn.host import kernel
from sidespawn.host.files import closing
from sidespawn.host.places import Places
from sidespawn.host.processes import last_line, run

HOST = "host"
DEVICES = ("null", "zero", "full", "random", "urandom")
PODMAN = "/usr/bin/podman"
TIMEOUT = 60.0
FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV
# Of the host's own root: programs and what they need to be run. Whatever is not there on this host is left out.
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SETTINGS = ("alternatives", "group", "ld.so.cache", "localtime", "nsswitch.conf", "passwd", "protocols", "services")


def root_path(service: str, image: str) -> Path:
    return Places(service).home / "roots" / hashlib.sha256(image.encode()).hexdigest()[:16] / "root"


def seen_of_the_host(image: str) -> tuple[str, ...]:
    """What is mounted into the root of `host`, each at its own path."""
    if image != HOST:
        return ()
    return (*(path for path in PROGRAMS if not os.path.islink(path)), *(f"/etc/{name}" for name in SETTINGS))


def prepare(service: str, image: str, *, anew: bool = False) -> None:
    """See that the root is there; `anew`, that it shows what the image's name stands for now. Raises LaunchError."""
    root = root_path(service, image)
    if os.path.ismount(root.parent / "dev" / DEVICES[-1]) and (image == HOST or os.path.ismount(root)) and not anew:
        return
    try:
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(os.open(root.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            make(root, image, anew)
            make_devices(root.parent / "dev")  # last, since it tells that all is there
    except OSError as error:
        raise LaunchError(Reason.ENGINE_FAILED, f"no root directory for {image}: {error.strerror}") from None


def make(root: Path, image: str, anew: bool) -> None:
    if image == HOST:
        make_directory(root)
        for path in PROGRAMS:
            if os.path.islink(path) and not os.path.lexists(root / path[1:]):
                (root / path[1:]).symlink_to(os.readlink(path))
        return
    if os.path.ismount(root):
        if not anew:
            return
        kernel.unmount(str(root))  # side containers that run have their own mounts
        release_image(root.parent)
    lower = image if image.startswith("/") else mount_image(root.parent, image)
    if not os.path.isdir(lower):
        raise LaunchError(Reason.IMAGE_MISSING, f"the host has no directory {image}")
    upper, work = root.parent / "upper", root.parent / "work"
    for each in (root, upper, work):
        make_directory(each)
    kernel.mount("sidespawn", str(root), "overlay", FLAGS, f"lowerdir={lower},upperdir={upper},workdir={work}")


def make_devices(place: Path) -> None:
    """Once, so that a start has one mount for all: for each of its own systemd reads the host's whole list twice."""
    for each in (place, place / "shm", place / "mqueue"):
        make_directory(each)
    for name in DEVICES:
        (place / name).touch()
        if not os.path.ismount(place / name):
            kernel.mount(f"/dev/{name}", str(place / name), None, kernel.MS_BIND)


def make_directory(path: Path) -> None:
    path.mkdir(exist_ok=True)
    path.chmod(0o755)  # whatever the umask is


def mount_image(place: Path, image: str) -> str:
    done = run((PODMAN, "image", "mount", image), TIMEOUT)
    if done.code != 0:
        if "image not known" in done.stderr or "no such image" in done.stderr.lower():
            raise image_missing("the host", image)
        raise LaunchError(Reason.ENGINE_FAILED, f"podman image mount ended with {done.code}: {last_line(done.stderr)}")
    (place / "image").write_text(image)
    return done.stdout.strip()


def release_image(place: Path) -> None:
    if (place / "image").exists():
        run((PODMAN, "image", "unmount", (place / "image").read_text()), TIMEOUT)
        (place / "image").unlink()


def release_all(service: str) -> None:
    """What `sidespawn disable` does; when the service's units stop, only what lies in its own directory goes."""
    for place in (Places(service).home / "roots").glob("*"):
        for each in (place / "root", *(place / "dev" / name for name in DEVICES)):
            if os.path.ismount(each):
                kernel.unmount(str(each))
        release_image(place)
