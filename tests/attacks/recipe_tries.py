"""Attempts of an agent with SYS_ADMIN against the host, in addition to `tests.host.tries`.

This runs inside containers, as described in that module. Nothing is changed: where a call would do harm, its argument
is one that the kernel refuses only after the check of privileges.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.attacks.inside import MNT_DETACH, MS_BIND, MS_REMOUNT, checked, libc, mount
from tests.host import tries
from tests.host.tries import CORE_PATTERN, ELSEWHERE, attempt, call, expect, given, opens

LEGACY = 0xC0ED0000  # MS_MGC_VAL, which mount(2) removes from its flags
TIOCCONS, FITHAW = 0x541D, 0xC0045878
STATE, NETNS = "/var/lib/neutron", "/run/netns"


def refused_with(*accepted: int) -> Callable[[Callable[[], object]], Callable[[], None]]:
    """Return whether the call got one of these errors, which come after the check of privileges."""

    def decorate(work: Callable[[], object]) -> Callable[[], None]:
        def there() -> None:
            try:
                work()
            except OSError as error:
                if error.errno not in accepted:
                    raise

        return there

    return decorate


# ---------------------------------------------------------------- mount(2) in disguise


def legacy(flags: int, kind: str = "") -> Callable[[], None]:
    def work() -> None:
        if kind:
            mount("none", ELSEWHERE, kind, LEGACY | flags)
            opens(f"{ELSEWHERE}/{CORE_PATTERN}")
        else:
            mount("none", "/proc/sys", "", LEGACY | MS_REMOUNT | MS_BIND | flags)
            opens(f"/proc/{CORE_PATTERN}")

    return work


def with_more_flags() -> None:
    mount("none", ELSEWHERE, "proc", 2 | 4 | 8)  # nosuid, nodev, noexec
    opens(f"{ELSEWHERE}/{CORE_PATTERN}")


def by_another_thread() -> None:
    """Use a thread with a separate list of mounts, and a descriptor of the directory below."""
    directory = os.open("/proc", os.O_PATH)
    checked(libc.umount2(b"/proc/sys", MNT_DETACH))
    opens(CORE_PATTERN, directory=directory)


# ---------------------------------------------------------------- files and file systems


def setuid_in(directory: str) -> Callable[[], None]:
    """Make a program that runs as root for any user who executes it on the host."""

    def work() -> None:
        path = f"{directory}/{given['key']}-setuid"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o700))
            os.chmod(path, 0o4755)
            status = os.stat(path)
            expect(status.st_uid == 0 and bool(status.st_mode & 0o4000), f"it is uid {status.st_uid}'s")
        finally:
            if os.path.exists(path):
                os.unlink(path)

    return work


def shown_setuid() -> None:
    """Bind a program from the agent's image to where other users of the host can reach it."""
    programs = [f"/usr/bin/{each}" for each in ("su", "passwd", "chsh") if os.path.exists(f"/usr/bin/{each}")]
    programs = [path for path in programs if os.stat(path).st_mode & 0o4000]
    expect(bool(programs), "its image has none")
    path = f"{NETNS}/{given['key']}-shown"
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o600))  # as ip(8) does, which SELinux allows
    try:
        mount(programs[0], path, "", MS_BIND)
        status = os.stat(path)
        expect(status.st_uid == 0 and bool(status.st_mode & 0o4000), "it is not setuid")
        expect(not os.statvfs(path).f_flag & os.ST_NOSUID, "it is mounted nosuid")
    finally:
        libc.umount2(path.encode(), MNT_DETACH)
        with suppress(OSError):  # SELinux denies the unmount
            os.unlink(path)


def watching_as_root() -> None:
    """Use up root's inotify instances, of which there are 128 in all containers and on the host together."""
    descriptor = libc.inotify_init1(0)
    checked(descriptor)
    os.close(descriptor)
    expect(os.getuid() == 0, "it is one of another user's")


def file_of_roots() -> None:
    path = f"{STATE}/{Path(given['secret']).name}"
    expect(Path(path).read_text() == given["content"], "another file")


@refused_with(errno.EINVAL, errno.EOPNOTSUPP)
def thawed() -> None:
    fcntl.ioctl(os.open(STATE, os.O_RDONLY), FITHAW, 0)


def node() -> None:
    path = f"{STATE}/{given['key']}-node"
    os.mknod(path, 0o20600, os.makedev(1, 1))
    os.unlink(path)


@refused_with(errno.ENOENT)
def swapped() -> None:
    call(167, b"/no/such/file", 0)


# ---------------------------------------------------------------- other processes


def named() -> None:
    command = Path(f"/proc/{given['victim']}/cmdline").read_bytes()
    expect(command.startswith((b"/usr/bin/sleep", b"sleep")), "another process")


def signalled_by_descriptor() -> None:
    call(424, call(434, given["victim"], 0), 18, None, 0)  # SIGCONT


def mapped() -> None:
    expect(bool(Path(f"/proc/{given['victim']}/maps").read_text()), "empty")


def descriptors() -> None:
    os.listdir(f"/proc/{given['victim']}/fd")


def entered(kind: str, flag: int) -> Callable[[], None]:
    def work() -> None:
        descriptor = os.open(f"/proc/{given['victim']}/ns/{kind}", os.O_RDONLY)
        checked(libc.setns(descriptor, flag))

    return work


@refused_with(errno.EINVAL)
def moved_to_a_node() -> None:
    nodes = ctypes.c_ulong(1)
    call(256, given["victim"], 64, ctypes.byref(nodes), ctypes.byref(nodes))


def in_its_group() -> None:
    path = Path(f"/proc/{given['victim']}/cgroup").read_text().strip().partition("::")[2]
    mount("none", ELSEWHERE, "cgroup2")
    opens(f"{ELSEWHERE}{path}/cgroup.freeze")


def in_session() -> None:
    opens(f"/proc/{given['victim']}/timerslack_ns")


# ---------------------------------------------------------------- the kernel


def kernel_log() -> None:
    buffer = ctypes.create_string_buffer(4096)
    expect(call(103, 3, buffer, 4096) > 0, "empty")  # SYSLOG_ACTION_READ_ALL


def console() -> None:
    """Redirect the console's messages, from the kernel and its services, here."""
    _, slave = os.openpty()
    fcntl.ioctl(slave, TIOCCONS)


def ring() -> None:
    call(425, 1, ctypes.create_string_buffer(120))


def faults() -> None:
    call(323, 0)


def socket_of(family: int, kind: int, protocol: int = 0) -> Callable[[], None]:
    return lambda: socket.socket(family, kind, protocol).close()


def audit() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as netlink:
        netlink.send(struct.pack("IHHII", 16, 1000, 1, 0, 0))  # AUDIT_GET


def user_namespace_by_clone3() -> None:
    arguments = struct.pack("11Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
    if call(435, arguments, len(arguments)) == 0:
        os._exit(0)


# By number in the catalog: first those of tests.host.tries, then the others.
KINDS: dict[int, dict[str, Callable[[], None]]] = {
    150: {name: tries.RECIPE[name] for name in (
        "mount a fresh /proc", "mount a fresh sysfs", "mount the control groups", "mount binfmt_misc", "mount debugfs",
        "mount tracefs", "mount securityfs", "mount devtmpfs", "mount a tmpfs", "mount an overlay",
        "mount it on /sys, as `ip netns exec` does, and write there",
    )},
    151: {name: tries.RECIPE[name] for name in (
        "the same by fsopen", "the same by open_tree", "move it elsewhere by move_mount", "the same by mount_setattr",
        "the same by fspick", "remount it by mount_setattr",
    )},
    152: {name: tries.RECIPE[name] for name in (
        "bind /proc to another place", "bind /proc to /proc/sys/net", "bind /proc to /run/netns",
        "unmount /proc/sys, which is a read-only mount", "remount it", "remount /sys",
        "write there after unmounting it",
    )},
    153: {name: tries.RECIPE[name] for name in (
        "write core_pattern in the /proc of an ended mount namespace", "write sysrq-trigger there",
        "write there when its mount namespace has ended",
    )},
    154: {name: tries.RECIPE[name] for name in (
        "remount the wrapper", "remount the replies", "change the size of a service's file system",
    )},
    155: {"watch a whole file system by fanotify": tries.RECIPE["watch a whole file system by fanotify"],
          "quotactl": tries.RECIPE["quotactl"],
          "open a file by its handle": tries.GIVEN_MORE["open a file by its handle"]},
    156: {name: tries.RECIPE[name] for name in (
        "read a file by /proc/PID/root of a process of the host", "read its environment",
    )},
    157: {name: tries.RECIPE[name] for name in (
        "signal it", "change its limits", "bind it to processors", "make it idle", "make it nice",
        "make its input and output idle", "write its oom_score_adj",
    )},
    158: {name: tries.RECIPE[name] for name in ("trace it", "read its memory", "take a descriptor from it")},
    159: {"forge a uevent": tries.RECIPE["forge a uevent"]},
    160: {name: tries.RECIPE[name] for name in (
        "bpf", "perf_event_open", "read root's keyring", "make a user namespace",
        "open a socket of another family, such as AF_ALG", "make a system call of another architecture",
    )},
    161: {name: tries.RECIPE[name] for name in ("move a mount", "pivot_root")},
    162: {"remount /proc/sys with the legacy magic in the flags": legacy(0),
          "mount a fresh /proc with it": legacy(0, "proc")},
    163: {"mount a fresh /proc with harmless flags": with_more_flags},
    164: {"write core_pattern below an unmounted mask by a descriptor": by_another_thread},
    165: {"leave a setuid file owned by root in the state directory": setuid_in(STATE),
          "leave one among the names of namespaces": setuid_in(NETNS)},
    166: {"read a file owned by root in its own state directory": file_of_roots, "make a device node there": node},
    167: {"freeze or thaw the state's file system": thawed, "have the host swap to a file": swapped},
    168: {"read the command line of a process of the host": named, "read its map of memory": mapped,
          "list its descriptors": descriptors},
    169: {"signal it by a descriptor": signalled_by_descriptor},
    170: {"enter its mount namespace": entered("mnt", 0x20000),
          "enter its network namespace": entered("net", 0x40000000),
          "enter its pid namespace": entered("pid", 0x20000000)},
    171: {"move its memory to another node": moved_to_a_node, "freeze its control group": in_its_group,
          "delay its timers": in_session},
    172: {"read the kernel's log": kernel_log, "ask the audit": audit},
    173: {"take the console's output": console},
    174: {"io_uring": ring, "userfaultfd": faults, "make a user namespace by clone3": user_namespace_by_clone3},
    175: {"open a socket of AF_VSOCK": socket_of(40, socket.SOCK_STREAM),
          "open one of AF_KEY": socket_of(15, socket.SOCK_RAW, 2),
          "open one of AF_TIPC": socket_of(30, socket.SOCK_RAW)},
    251: {"use up root's inotify instances": watching_as_root},
    252: {"show a setuid program of its image to the host's users": shown_setuid},
    253: {"command drivers by generic netlink": socket_of(socket.AF_NETLINK, socket.SOCK_RAW, 16)},
}  # fmt: skip

# For a table, where the name alone is not clear without the previous line.
SHOWN = {
    "the same by fsopen": "mount a fresh /proc by fsopen",
    "the same by open_tree": "clone /proc by open_tree",
    "move it elsewhere by move_mount": "move the read-only /proc/sys away by move_mount",
    "the same by mount_setattr": "make it writable by mount_setattr",
    "the same by fspick": "change the size of a service's file system by fspick",
    "remount it by mount_setattr": "make the wrapper writable by mount_setattr",
    "mount it on /sys, as `ip netns exec` does, and write there": "mount a fresh sysfs on /sys, and write there",
    "remount it": "remount /proc/sys",
    "write there after unmounting it": "write in a fresh sysfs that is unmounted",
    "write sysrq-trigger there": "write sysrq-trigger in such a /proc",
    "write there when its mount namespace has ended": "write in such a sysfs",
    "read its environment": "read the process's environment",
    "signal it": "signal a process that root runs",
    "change its limits": "change its limits by prlimit(2)",
    "leave one among the names of namespaces": "leave a setuid file owned by root among the names of namespaces",
    "make a device node there": "make a device node in the state directory",
    "read its map of memory": "read its map of memory in /proc",
    "mount a fresh /proc with it": "mount a fresh /proc with the legacy magic",
}


def main() -> None:
    """Print the result of each attempt as JSON. The test's input is JSON, too."""
    given.update(json.loads(sys.argv[1]))
    os.makedirs(ELSEWHERE, exist_ok=True)
    print(json.dumps({name: attempt(work) for works in KINDS.values() for name, work in works.items()}))
