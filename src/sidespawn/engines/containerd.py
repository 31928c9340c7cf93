"""Asks a Kubernetes node's containerd for images by its own command, ctr, and has it keep one mounted."""

from __future__ import annotations

import os

from sidespawn.errors import LaunchError, Reason
from sidespawn.system.processes import last_line, run

SOCKET = "/run/containerd/containerd.sock"
CTR = ("/usr/bin/ctr", f"--address={SOCKET}", "--namespace=k8s.io")
QUERY_TIMEOUT, MOUNT_TIMEOUT = 30.0, 120.0
# Without it, containerd would remove what is mounted a day later, or when kubelet removes the image.
KEPT = "containerd.io/gc.root=sidespawn"


def is_there() -> bool:
    return os.path.exists(CTR[0]) and os.path.exists(SOCKET)


def find_image(image: str) -> str | None:
    """Return its name there, which may be completed; None if containerd lacks it. Raises LaunchError if ctr fails.

    An equal name, not one that ends like it: a tenant who has the node pull an image chooses how its name ends.
    """
    registry, slash, _ = image.partition("/")
    home = "" if slash and (registry == "localhost" or {".", ":"} & set(registry)) else "docker.io/"
    full = home + "library/" * (not slash) + image + ":latest" * (":" not in image.rpartition("/")[2])
    return max({image, full} & set(ctr("images", "list", "--quiet").split()), default=None)


def mount_image(name: str, target: str) -> None:
    """Mount an image there, read-only, by its full name."""
    unmount_image(target)  # its snapshot may be left from before a reboot, when the mount was gone
    ctr("images", "mount", name, target)
    ctr("snapshots", "label", target, KEPT)


def unmount_image(target: str) -> None:
    """Remove the mount and its snapshot; no error if they are missing."""
    run((*CTR, "images", "unmount", "--rm", target), MOUNT_TIMEOUT)


def ctr(*arguments: str) -> str:
    done = run((*CTR, *arguments), MOUNT_TIMEOUT if "mount" in arguments else QUERY_TIMEOUT)
    if done.code != 0:
        raise LaunchError(Reason.ENGINE_FAILED, f"ctr {arguments[0]} ended with {done.code}: {last_line(done.stderr)}")
    return done.stdout
