"""The recipe of a machine: its Debian release, its security module, and the packages for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Release(StrEnum):
    BOOKWORM = "bookworm"
    TRIXIE = "trixie"
    SID = "sid"


class Module(StrEnum):
    """The security module that is enforcing; `none` for a kernel without."""

    APPARMOR = "apparmor"
    SELINUX = "selinux"
    NONE = "none"


_SYSTEM = (
    *("dbus", "initramfs-tools", "kmod", "linux-image-cloud-amd64", "openssh-server"),
    *("systemd", "systemd-sysv", "udev"),
)
# What `./dev` installs on a machine, so that it has nothing to install in this one.
_DEVELOPMENT = (
    *("apparmor", "checkpolicy", "dnsmasq-base", "docker.io", "iproute2", "iptables", "mmdebstrap", "netavark"),
    *("podman", "python3", "python3-venv", "runc", "secilc", "semodule-utils", "udhcpc"),
)
# What tests look with, and programs that run on hosts as services.
_TESTS = (
    *("apparmor-utils", "conntrack", "crun", "git", "haproxy", "keepalived", "man-db", "procps", "python3-pip"),
    # What the Debian package depends on: the machine has no network.
    *("python3-click", "python3-prometheus-client", "python3-rich", "python3-yaml"),
    *("radvd", "strace"),
)
_SELINUX = ("auditd", "policycoreutils", "selinux-basics", "selinux-policy-default")
_OF_RELEASE = {
    Release.BOOKWORM: ("isc-dhcp-client",),
    Release.TRIXIE: ("docker-cli", "isc-dhcp-client", "openssl-provider-fips"),
    # What no package there brings along any more.
    Release.SID: ("docker-cli", "e2fsprogs", "fdisk", "login", "mount", "openssl-provider-fips", "passwd"),
}

# The kernel's own default is AppArmor.
_KERNEL_OPTIONS = {
    Module.APPARMOR: "apparmor=1 security=apparmor",
    Module.NONE: "apparmor=0 selinux=0",
    Module.SELINUX: "security=selinux selinux=1",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One kind of machine. AppArmor and none differ in the kernel's command line only, and share their disks."""

    release: Release
    module: Module

    @property
    def packages(self) -> tuple[str, ...]:
        of_module = _SELINUX if self.module is Module.SELINUX else ()
        return tuple(sorted((*_SYSTEM, *_DEVELOPMENT, *_TESTS, *_OF_RELEASE[self.release], *of_module)))

    @property
    def disk(self) -> str:
        """Names what is the same on all machines that share their disks."""
        return f"{self.release}-selinux" if self.module is Module.SELINUX else str(self.release)

    @property
    def kernel_options(self) -> str:
        return f"root=/dev/vda rw console=ttyS0 panic=-1 quiet nowatchdog {_KERNEL_OPTIONS[self.module]}"

    def __str__(self) -> str:
        return f"{self.release} with {self.module}"
