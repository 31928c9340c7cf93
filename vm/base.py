"""The base layer: a disk with Debian's packages, adapted to be a machine, and the kernel to boot it with."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path

from sidespawn.testing.images import apt_options, sources_of
from vm import labels, programs
from vm.cache import Cache, digest, say
from vm.keys import Keys
from vm.layers import Base
from vm.recipes import Module, Recipe

_BUILD_SECONDS = 1800
_DISK_SIZE = "10G"  # sparse
HOST_NAME = "vm"

# Started by tests, if at all. docker.socket stays, and starts docker when it is first called.
_OFF = (
    *("containerd.service", "docker.service", "haproxy.service", "keepalived.service", "radvd.service"),
    *("podman.service", "podman.socket", "podman-restart.service"),
)
# They would work in the background of a test, on a machine that lives for minutes.
_NEVER = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("man-db.timer", "podman-auto-update.timer", "sshd-keygen.service"),
)
_FILES = {
    "etc/hostname": f"{HOST_NAME}\n",
    "etc/hosts": f"127.0.0.1 localhost {HOST_NAME}\n::1 localhost\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/resolv.conf": "",
    "etc/systemd/network/10-ethernet.network": "[Match]\nName=en*\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n",
    "etc/ssh/sshd_config.d/vm.conf": "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\nMaxSessions 100\n",
}


def ensure_base(cache: Cache, recipe: Recipe, keys: Keys) -> Base:
    """Makes the layer unless it is there; needs the network then."""
    identity = digest(recipe.version, recipe.release, recipe.disk, recipe.packages, keys.public)
    layer = cache.layer("base", f"{recipe.disk}-{identity}", lambda draft: _build(draft, recipe, keys))
    return Base(identity=identity, directory=layer)


def _build(draft: Path, recipe: Recipe, keys: Keys) -> None:
    say(f"making the disk of {recipe.disk} from Debian's packages (once)")
    root = draft / "root"
    with tempfile.TemporaryDirectory(prefix="sidespawn-sources-") as scratch:
        programs.run(
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=directory"),
            f"--include={','.join(recipe.packages)}",
            *(f"--aptopt={option}" for option in apt_options()),
            # Release files of sid may be out of date on a mirror that is not.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            *(recipe.release, str(root), *map(str, sources_of(recipe.release, Path(scratch)))),
            seconds=_BUILD_SECONDS,
        )
    _adapt(root, recipe, keys)
    (boot,) = root.glob("boot/vmlinuz-*")
    shutil.copy(boot, draft / "vmlinuz")
    (initial_root,) = root.glob("boot/initrd.img-*")
    shutil.copy(initial_root, draft / "initrd.img")
    (draft / "python").write_text((root / "usr/bin/python3").readlink().name.removeprefix("python"))
    disk = draft / "disk.img"
    programs.run("truncate", f"--size={_DISK_SIZE}", str(disk), seconds=60)
    # Fills the file system without mounting it: that needs no loop device.
    programs.run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), seconds=_BUILD_SECONDS)
    if recipe.module is Module.SELINUX:
        labels.label_disk(disk)
    shutil.rmtree(root)


def _adapt(root: Path, recipe: Recipe, keys: Keys) -> None:
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
    # An empty one would mean a first boot, at which systemd enables all units there are.
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    shutil.copy(keys.host, root / "etc/ssh/ssh_host_ed25519_key")
    shutil.copy(keys.host_public, root / "etc/ssh/ssh_host_ed25519_key.pub")
    authorized = root / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(keys.user_public, authorized)
    _systemctl(root, "enable", "systemd-networkd.service", "ssh.service")
    units = {path.name for path in root.glob("usr/lib/systemd/system/*")}
    _systemctl(root, "disable", *(unit for unit in _OFF if unit in units))
    _systemctl(root, "mask", *_NEVER)
    if recipe.module is Module.SELINUX:
        labels.label_files(root)


def _systemctl(root: Path, verb: str, *units: str) -> None:
    programs.run("chroot", str(root), "systemctl", "--quiet", verb, *units, seconds=60)
