"""The second layer: a disk with the packages, adapted to be a machine, and the kernel to boot it with."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from sidespawn.testing import images
from vm import contents, labels, programs, wheels
from vm.cache import Cache, digest, say
from vm.keys import Keys
from vm.packages import Packages
from vm.recipes import Module, Recipe

_VERSION = 1  # raise it to make a new disk of the same parts
_FILL_SECONDS = 900
_SIZE = "10G"  # sparse
_HOST_NAME = "vm"

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
    "etc/hostname": f"{_HOST_NAME}\n",
    "etc/hosts": f"127.0.0.1 localhost {_HOST_NAME}\n::1 localhost\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/resolv.conf": "",
    "etc/systemd/network/10-ethernet.network": "[Match]\nName=en*\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n",
    # Emulated on a busy machine, devices come and units start late.
    "etc/systemd/system.conf.d/vm.conf": "[Manager]\nDefaultTimeoutStartSec=15min\nDefaultDeviceTimeoutSec=15min\n",
    "etc/ssh/sshd_config.d/vm.conf": "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\nMaxSessions 100\n",
}


@dataclass(frozen=True, kw_only=True)
class Disk:
    """`identity` names what it was made from."""

    identity: str
    directory: Path

    @property
    def image(self) -> Path:
        return self.directory / "disk.img"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initial_root(self) -> Path:
        return self.directory / "initrd.img"


def ensure_disk(cache: Cache, recipe: Recipe, keys: Keys, packages: Packages) -> Disk:
    """Makes the layer unless it is there. Nothing boots for it."""
    pictured = [each.digest(str(recipe.release)) for each in images.USUAL]
    identity = digest(_VERSION, packages.identity, keys.public, pictured, wheels.environment())
    layer = cache.layer("disk", f"{recipe.disk}-{identity}", lambda draft: _build(draft, cache, recipe, keys, packages))
    return Disk(identity=identity, directory=layer)


def _build(draft: Path, cache: Cache, recipe: Recipe, keys: Keys, packages: Packages) -> None:
    say(f"making the disk of {recipe.disk}, with images and Python packages (once)")
    root = draft / "root"
    packages.unpack(root)
    _adapt(root, keys)
    contents.install(root, cache, recipe)
    disk = Disk(identity="", directory=draft)
    (kernel,) = root.glob("boot/vmlinuz-*")
    shutil.copy(kernel, disk.kernel)
    (initial_root,) = root.glob("boot/initrd.img-*")
    shutil.copy(initial_root, disk.initial_root)
    if recipe.module is Module.SELINUX:
        labels.label_files(root)
    programs.run("truncate", f"--size={_SIZE}", str(disk.image), seconds=60)
    # Fills the file system without mounting it: that needs no loop device.
    programs.run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk.image), seconds=_FILL_SECONDS)
    if recipe.module is Module.SELINUX:
        labels.label_disk(disk.image)
    shutil.rmtree(root)


def _adapt(root: Path, keys: Keys) -> None:
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


def _systemctl(root: Path, verb: str, *units: str) -> None:
    programs.run("chroot", str(root), "systemctl", "--quiet", verb, *units, seconds=60)
