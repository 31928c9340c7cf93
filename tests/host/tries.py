"""Attempts of root in an agent against the host, each in a separate process and mount namespace.

This runs inside containers, in one process with `tests.attacks.inside`: see containers.py. Nothing is changed on the
host: writable files are opened and closed, and settings are set to their current value. The system call numbers are
those of x86-64; from 424 on they are the same on all architectures.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.attacks.inside import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MNT_DETACH,
    MS_BIND,
    MS_REMOUNT,
    checked,
    libc,
    mount,
)

MS_MOVE, MS_REC, MS_SLAVE = 8192, 16384, 1 << 19
AT_FDCWD = -100
ELSEWHERE = "/tmp/elsewhere"
CORE_PATTERN = "sys/kernel/core_pattern"
WRAPPER = "/usr/sbin/dnsmasq"
SECONDS = 300  # for each attempt: one looks at every file of sysfs
given: dict[str, Any] = {}  # from the test: what is in `main`


def call(number: int, *arguments: object) -> int:
    """Make a system call that the C library need not know. Raise OSError if it fails."""
    result = int(libc.syscall(number, *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)))
    checked(result)
    return result


def opens(path: str, flags: int = os.O_WRONLY, directory: int | None = None) -> None:
    os.close(os.open(path, flags | os.O_NONBLOCK, dir_fd=directory))


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise OSError(otherwise)


# ---------------------------------------------------------------- by mount(2)


def of_network(work: Callable[[], None]) -> Callable[[], None]:
    """Mount the sysfs of another network namespace."""

    def there() -> None:
        checked(libc.unshare(CLONE_NEWNET))
        work()

    return there


def fresh(kind: str, file: str = "", options: str = "") -> Callable[[], None]:
    """Mount a new file system of this kind, in which the file is then writable."""

    def work() -> None:
        mount("none", ELSEWHERE, kind, 0, options)
        expect(os.path.ismount(ELSEWHERE), "it was said to be mounted, and was not")
        if file:
            opens(f"{ELSEWHERE}/{file}")

    return work


def bound(source: str, target: str, file: str = "") -> Callable[[], None]:
    def work() -> None:
        mount(source, target, "", MS_BIND)
        if file:
            opens(f"{target}/{file}")

    return work


def remounted(target: str, file: str = "") -> Callable[[], None]:
    def work() -> None:
        mount("none", target, "", MS_REMOUNT | MS_BIND)
        opens(file or target)

    return work


def unmounted(target: str) -> None:
    checked(libc.umount2(target.encode(), MNT_DETACH))


def below_the_mask() -> None:
    unmounted("/proc/sys")
    opens(f"/proc/{CORE_PATTERN}")


def some_setting(of_sysfs: str) -> str:
    """Return a file that root could write if sysfs were mounted writable."""
    for directory, _, names in os.walk(f"{of_sysfs}/kernel"):
        for name in names:
            path = os.path.join(directory, name)
            if os.lstat(path).st_mode & 0o200:
                return path
    raise OSError("sysfs has no such file")


def fresh_sysfs(target: str) -> Callable[[], None]:
    def work() -> None:
        mount("none", target, "sysfs")
        opens(some_setting(target))

    return work


def unmounted_sysfs() -> None:
    """Mount it as `ip netns exec` does and unmount it again: the path is then no longer below /sys."""
    unmounted("/sys")
    mount("none", "/sys", "sysfs")
    setting = some_setting("/sys").removeprefix("/sys/")
    directory = os.open("/sys", os.O_PATH)
    unmounted("/sys")
    opens(setting, directory=directory)


def sysfs_remounted() -> None:
    mount("none", "/sys", "", MS_REMOUNT | MS_BIND)
    opens(some_setting("/sys"))


def replies_remounted() -> None:
    mount("none", given["replies"], "", MS_REMOUNT | MS_BIND)
    expect(not os.statvfs(given["replies"]).f_flag & os.ST_RDONLY, "still read-only")


def resized() -> None:
    mount("none", WRAPPER, "", MS_REMOUNT, "size=16m")  # unchanged


def moved() -> None:
    mount("/run/netns", ELSEWHERE, "", MS_MOVE)


def pivoted() -> None:
    """Pivot to an existing mount: the agent's names of namespaces, or the side container's shared memory."""
    os.chdir("/run/netns" if os.path.ismount("/run/netns") else "/dev/shm")
    checked(libc.syscall(155, b".", b"."))


def over_a_namespace() -> None:
    mount("/etc/passwd", f"/run/netns/{given['netns']}", "", MS_BIND)


# ---------------------------------------------------------------- by the new mount API


def fsopened() -> None:
    context = call(430, b"proc", 0)
    call(431, context, 6, None, None, 0)  # FSCONFIG_CMD_CREATE
    opens(CORE_PATTERN, directory=call(432, context, 0, 0))


def cloned() -> None:
    opens(CORE_PATTERN, directory=call(428, AT_FDCWD, b"/proc", 1))  # OPEN_TREE_CLONE


def mask_moved() -> None:
    call(429, AT_FDCWD, b"/proc/sys", AT_FDCWD, ELSEWHERE.encode(), 0)
    opens(f"/proc/{CORE_PATTERN}")


def by_attributes(path: str, file: str) -> Callable[[], None]:
    def work() -> None:
        attributes = struct.pack("4Q", 0, 1, 0, 0)  # clear MOUNT_ATTR_RDONLY
        call(442, AT_FDCWD, path.encode(), 0, attributes, len(attributes))
        opens(file)

    return work


def picked() -> None:
    context = call(433, AT_FDCWD, WRAPPER.encode(), 0)
    call(431, context, 1, b"size", b"16m", 0)  # FSCONFIG_SET_STRING
    call(431, context, 7, None, None, 0)  # FSCONFIG_CMD_RECONFIGURE


# ---------------------------------------------------------------- by a /proc without mounts on it


def of_an_ended_namespace(top: str, prepare: Callable[[], None]) -> int:
    """Return a mount whose mount namespace has ended. It has no name, and its parts have no mounts."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            checked(libc.unshare(CLONE_NEWNS))
            prepare()
            socket.send_fds(theirs, [b"x"], [os.open(top, os.O_PATH | os.O_DIRECTORY)])
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    failed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if failed:
        raise OSError(failed, os.strerror(failed))
    return int(socket.recv_fds(ours, 1, 1)[1][0])


def proc_of_an_ended_namespace(file: str) -> Callable[[], None]:
    return lambda: opens(file, directory=of_an_ended_namespace("/proc", lambda: None))


def sysfs_of_an_ended_namespace() -> None:
    def prepare() -> None:
        unmounted("/sys")
        mount("none", "/sys", "sysfs")

    setting = some_setting("/sys").removeprefix("/sys/")
    opens(setting, directory=of_an_ended_namespace("/sys", prepare))


# ---------------------------------------------------------------- other processes


def root_of_a_process() -> None:
    secret = Path(f"/proc/{given['victim']}/root{given['secret']}").read_text()
    expect(secret == given["content"], "another file")


def root_of_pid_1() -> None:
    expect(Path(f"/proc/1/root{given['secret']}").read_text() == given["content"], "another file")


def environment() -> None:
    expect(bool(Path(f"/proc/{given['victim']}/environ").read_bytes()), "empty")


def signalled() -> None:
    os.kill(given["victim"], signal.SIGCONT)


def limited() -> None:
    limits = struct.pack("2Q", 1024, 4096)
    checked(libc.prlimit(given["victim"], 7, limits, None))  # RLIMIT_NOFILE


def bound_to_a_processor() -> None:
    os.sched_setaffinity(given["victim"], os.sched_getaffinity(given["victim"]))


def made_idle() -> None:
    os.sched_setscheduler(given["victim"], os.SCHED_IDLE, os.sched_param(0))


def made_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, given["victim"], 10)


def made_slow() -> None:
    call(251, 1, given["victim"], 3 << 13)  # ioprio_set: IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE


def traced() -> None:
    call(101, 0x4206, given["victim"], 0, 0)  # PTRACE_SEIZE


def memory() -> None:
    buffer = ctypes.create_string_buffer(8)
    here = struct.pack("PN", ctypes.addressof(buffer), 8)
    with_permission = struct.pack("PN", 8, 8)  # unmapped: fails only after the check of privileges
    try:
        call(310, given["victim"], here, 1, with_permission, 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise


def descriptor() -> None:
    call(438, call(434, given["victim"], 0), 0, 0)  # pidfd_getfd of its standard input


def oom_score() -> None:
    opens(f"/proc/{given['victim']}/oom_score_adj")


# ---------------------------------------------------------------- the kernel


def watched() -> None:
    group = libc.fanotify_init(2, os.O_RDWR)
    checked(group)
    checked(libc.fanotify_mark(group, 0x101, ctypes.c_uint64(0x20), AT_FDCWD, WRAPPER.encode()))  # FILESYSTEM, OPEN


def by_handle() -> None:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount_id = ctypes.c_int()
    call(303, AT_FDCWD, WRAPPER.encode(), handle, ctypes.byref(mount_id), 0)
    call(304, os.open(WRAPPER, os.O_RDONLY), handle, os.O_RDONLY)


def quota() -> None:
    call(179, 0x800001 << 8, None, 0, None)  # Q_SYNC on all file systems


def bpf() -> None:
    array = struct.pack("5I", 2, 4, 8, 1, 0)
    call(321, 0, array, len(array))  # BPF_MAP_CREATE


def performance() -> None:
    attributes = struct.pack("2IQ", 1, 64, 0).ljust(64, b"\0")  # PERF_TYPE_SOFTWARE, the processor's clock
    call(298, attributes, -1, 0, -1, 0)


def key_of_root() -> None:
    key = call(250, 10, -4, b"user", given["key"].encode(), 0)  # KEYCTL_SEARCH in the user's keyring
    buffer = ctypes.create_string_buffer(64)
    call(250, 11, key, buffer, 64)  # KEYCTL_READ
    expect(buffer.value.decode() == given["content"], "another key")


def uevent() -> None:
    body = f"add@/devices/{given['uevent']}\0ACTION=add\0DEVPATH=/devices/{given['uevent']}\0SUBSYSTEM=none\0".encode()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as netlink:
        # A request of the first type that is not a control message; the kernel then sends it to all listeners.
        netlink.sendto(struct.pack("IHHII", 16 + len(body), 16, 1, 0, 0) + body, (0, 0))


def user_namespace() -> None:
    checked(libc.unshare(CLONE_NEWUSER))


def algorithm_socket() -> None:
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0).close()


def call_of_i386() -> None:
    """Call getpid(2) by int 0x80, where a filter for x86-64 sees numbers with another meaning."""
    code = bytes.fromhex("b814000000 cd80 c3")  # mov eax, 20; int 0x80; ret
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    expect(function() == os.getpid(), "another number")


# ---------------------------------------------------------------- with more privileges than the recipe


def writable_below(top: str, but: str = "") -> Iterator[str]:
    """Return the files that have write permission for root, and that it can open for writing."""
    for directory, directories, names in os.walk(top):
        directories[:] = [each for each in directories if os.path.join(directory, each) != but]
        for name in names:
            path = os.path.join(directory, name)
            with suppress(OSError):
                if os.lstat(path).st_mode & 0o100200 == 0o100200:
                    opens(path)
                    yield path


def settings() -> None:
    found = next(writable_below("/proc/sys", but="/proc/sys/net"), "")
    expect(bool(found), "not one of them")


def sysfs() -> None:
    found = next(writable_below("/sys"), "")
    expect(bool(found), "not one of them")


def module() -> None:
    try:
        call(176, b"sidespawn_no_such_module", os.O_NONBLOCK)  # delete_module
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def ports() -> None:
    checked(libc.ioperm(0x80, 1, 1))


# Order and words are those of docs/security.md.
RECIPE: dict[str, Callable[[], None]] = {
    "mount a fresh /proc": fresh("proc", CORE_PATTERN),
    "the same by fsopen": fsopened,
    "bind /proc to another place": bound("/proc", ELSEWHERE, CORE_PATTERN),
    "the same by open_tree": cloned,
    "bind /proc to /proc/sys/net": bound("/proc", "/proc/sys/net", CORE_PATTERN),
    "bind /proc to /run/netns": bound("/proc", "/run/netns", CORE_PATTERN),
    "unmount /proc/sys, which is a read-only mount": below_the_mask,
    "move it elsewhere by move_mount": mask_moved,
    "remount it": remounted("/proc/sys", f"/proc/{CORE_PATTERN}"),
    "the same by mount_setattr": by_attributes("/proc/sys", f"/proc/{CORE_PATTERN}"),
    "write core_pattern in the /proc of an ended mount namespace": proc_of_an_ended_namespace(CORE_PATTERN),
    "write sysrq-trigger there": proc_of_an_ended_namespace("sysrq-trigger"),
    "remount the wrapper": remounted(WRAPPER),
    "remount it by mount_setattr": by_attributes(WRAPPER, WRAPPER),
    "remount the replies": replies_remounted,
    "change the size of a service's file system": resized,
    "the same by fspick": picked,
    "mount a fresh sysfs": fresh_sysfs(ELSEWHERE),
    "mount it on /sys, as `ip netns exec` does, and write there": of_network(fresh_sysfs("/sys")),
    "write there after unmounting it": unmounted_sysfs,
    "write there when its mount namespace has ended": sysfs_of_an_ended_namespace,
    "remount /sys": sysfs_remounted,
    "mount the control groups": fresh("cgroup2", "cgroup.procs"),
    "mount binfmt_misc": fresh("binfmt_misc", "register"),
    "mount debugfs": fresh("debugfs"),
    "mount tracefs": fresh("tracefs"),
    "mount securityfs": fresh("securityfs"),
    "mount devtmpfs": fresh("devtmpfs"),
    "mount a tmpfs": fresh("tmpfs"),
    "mount an overlay": fresh("overlay", options="lowerdir=/etc:/tmp"),
    "move a mount": moved,
    "bind a file to the name of a namespace": over_a_namespace,
    "pivot_root": pivoted,
    "read a file by /proc/PID/root of a process of the host": root_of_a_process,
    "read its environment": environment,
    "signal it": signalled,
    "change its limits": limited,
    "bind it to processors": bound_to_a_processor,
    "make it idle": made_idle,
    "make it nice": made_nice,
    "make its input and output idle": made_slow,
    "write its oom_score_adj": oom_score,
    "trace it": traced,
    "read its memory": memory,
    "take a descriptor from it": descriptor,
    "watch a whole file system by fanotify": watched,
    "quotactl": quota,
    "bpf": bpf,
    "perf_event_open": performance,
    "read root's keyring": key_of_root,
    "forge a uevent": uevent,
    "make a user namespace": user_namespace,
    "open a socket of another family, such as AF_ALG": algorithm_socket,
    "make a system call of another architecture": call_of_i386,
}
GIVEN_MORE: dict[str, Callable[[], None]] = {
    "write any setting in /proc/sys but net": settings,
    "write sysrq-trigger": lambda: opens("/proc/sysrq-trigger"),
    "write anything in /sys": sysfs,
    "mount a version 1 hierarchy of control groups": fresh("cgroup", "release_agent", "none,name=sidespawn"),
    "load or remove a module": module,
    "read a file by /proc/1/root": root_of_pid_1,
    "open the kernel's memory": lambda: opens("/proc/kcore", os.O_RDONLY),
    "use ports of devices": ports,
    "open a file by its handle": by_handle,
}
# In a side container with all capabilities, the host's pids, no seccomp, and writable /proc and /sys.
SIDE_CONTAINER: dict[str, Callable[[], None]] = {
    "mount a tmpfs": fresh("tmpfs"),
    "mount a fresh /proc": fresh("proc", CORE_PATTERN),
    "mount the control groups": fresh("cgroup2", "cgroup.procs"),
    "bind /proc to another place": bound("/proc", ELSEWHERE, CORE_PATTERN),
    "make its root writable": remounted("/", "/etc/passwd"),
    "unmount something": lambda: unmounted("/dev/shm"),
    "make a mount namespace": lambda: checked(libc.unshare(CLONE_NEWNS)),
    "pivot_root": pivoted,
    "trace a process of the host": traced,
    "read its memory": memory,
    "take a descriptor from it": descriptor,
    "read a file by its root": root_of_a_process,
    "read its environment": environment,
    "signal it": signalled,
    "write any setting in /proc/sys but net": settings,
    "write sysrq-trigger": lambda: opens("/proc/sysrq-trigger"),
    "write anything in /sys": sysfs,
    "load or remove a module": module,
    "open the kernel's memory": lambda: opens("/proc/kcore", os.O_RDONLY),
    "use ports of devices": ports,
}


def attempt(work: Callable[[], object]) -> str:
    """Return "worked", or the reason why it did not."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(SECONDS)
            with suppress(OSError):  # side containers cannot, and have nothing that is shared
                checked(libc.unshare(CLONE_NEWNS))
                mount("none", "/", "", MS_REC | MS_SLAVE)
            work()
            said = "worked"
        except OSError as error:
            said = errno.errorcode[error.errno] if error.errno else str(error)
        except BaseException as error:  # noqa: BLE001 - the test is told
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    return said or f"ended by {signal.Signals(os.WTERMSIG(status)).name}"


def main() -> None:
    """Print the result of each attempt as JSON. SECTION and the test's JSON are the arguments."""
    given.update(json.loads(sys.argv[2]))
    os.makedirs(ELSEWHERE, exist_ok=True)
    print(json.dumps({name: attempt(work) for name, work in globals()[sys.argv[1]].items()}))
