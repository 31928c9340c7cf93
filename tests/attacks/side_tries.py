"""Attempts of an exploited program in its side container: as a user and as root, with each engine.

This runs inside containers, like `tests.host.tries`, and includes its attempts. Nothing is changed: where a call would
do harm, its argument is one that the kernel refuses only after the check of privileges.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.attacks import reach, recipe_tries
from tests.attacks.inside import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, checked, libc
from tests.attacks.recipe_tries import refused_with
from tests.host import tries
from tests.host.tries import attempt, call, expect, given, opens

SCRATCH = "/run/tool"
ADD_KEY, KEYCTL, REQUEST_KEY = 248, 250, 249
OF_THE_USER, OF_THE_SESSION = -4, -3
TIOCSTI = 0x5412
Works = dict[str, Callable[[], object]]


# ---------------------------------------------------------------- what it was given


def more_descriptors() -> None:
    """Look for descriptors that were open before anything was opened here."""
    expect(bool(given["open"]), "there is none")


def working_directory() -> None:
    """Look for one outside the root, from where `..` leads on."""
    here, root = os.stat("."), os.stat("/")
    expect((here.st_dev, here.st_ino) != (root.st_dev, root.st_ino), "it is the root")
    os.close(os.open("../" * 20 + given["secret"].lstrip("/"), os.O_RDONLY))


def program_of_the_engine() -> None:
    """Open the executable of the process that started it, and of one that would enter it."""
    for each in ("/proc/self/exe", "/proc/1/exe"):
        with suppress(OSError):
            opens(each)
            return
    raise OSError("neither can be written")


def output_of_others() -> None:
    """Read what others write to its output, which is possible unless that is a separate pipe."""
    for number in (1, 2):
        with suppress(OSError):
            os.listdir(f"/proc/self/fd/{number}")
            return
    raise OSError("it is no directory")


def variables() -> None:
    told = [
        each for each in os.environ if each.startswith(("NOTIFY_", "LISTEN_", "JOURNAL_", "_OCI_", "_LIBCONTAINER"))
    ]
    expect(bool(told), "there is none")


# ---------------------------------------------------------------- namespaces


def entered(path: str, kind: int) -> Callable[[], None]:
    def work() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        checked(libc.setns(descriptor, kind))

    return work


def apart(flag: int) -> Callable[[], None]:
    return lambda: checked(libc.unshare(flag))


def cloned(flag: int) -> Callable[[], None]:
    def work() -> None:
        if call(56, flag | signal.SIGCHLD, 0, 0, 0, 0) == 0:
            os._exit(0)

    return work


def host_by_output() -> None:
    """Use its output, a socket made in the host's network."""
    for number in (0, 1, 2):
        with suppress(OSError):
            reach.found(given["interface"], reach.named(reach.of_socket(number)))
            return
    raise OSError("none of them leads there")


def host_by_veth() -> None:
    reach.found(given["interface"], reach.own_link(given["veth"]))


def other_by_process() -> None:
    reach.found(given["other interface"], reach.named(reach.of_process(given["another"])))


def by_path(path: str) -> Callable[[], None]:
    def work() -> None:
        reach.found(given["interface"], reach.named(os.open(path, os.O_RDONLY)))

    return work


def by_pid(whose: str, interface: str) -> Callable[[], None]:
    """Use a pid instead of a descriptor: the kernel looks it up in the caller's pid namespace, without other checks."""

    def work() -> None:
        reach.found(given[interface], reach.named(given[whose], reach.NETNSA_PID))

    return work


# ---------------------------------------------------------------- devices, keys, control groups


def node(kind: int, major: int, minor: int) -> Callable[[], None]:
    def work() -> None:
        path = f"{SCRATCH}/node"
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
        os.unlink(path)

    return work


def device(*paths: str) -> Callable[[], None]:
    def work() -> None:
        for each in paths:
            with suppress(OSError):
                opens(each, os.O_RDWR)
                return
        raise OSError("none of them can be opened")

    return work


def typed() -> None:
    """Insert input into the user's terminal."""
    fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), TIOCSTI, b"\n")


def key_of_the_user() -> None:
    """Find a key of another process of the same user, such as the host's root."""
    call(KEYCTL, 8, OF_THE_USER, OF_THE_SESSION)  # KEYCTL_LINK
    key = call(KEYCTL, 10, OF_THE_SESSION, b"user", given["key"].encode(), 0)  # KEYCTL_SEARCH
    call(KEYCTL, 11, key, ctypes.create_string_buffer(64), 64)  # KEYCTL_READ


def key_made() -> None:
    """Use up the number of keys that the user may have in all processes together."""
    key = call(ADD_KEY, b"user", b"made", b"made", 4, OF_THE_USER)
    call(KEYCTL, 9, key, OF_THE_USER)  # KEYCTL_UNLINK


def key_requested() -> None:
    """Have the kernel run /sbin/request-key as root on the host."""
    try:
        call(REQUEST_KEY, b"user", b"sidespawn:none", None, 0)
    except OSError as error:
        expect(error.errno in (errno.ENOKEY, errno.ENOENT), os.strerror(error.errno or 0))


def group_made() -> None:
    os.mkdir("/sys/fs/cgroup/made")
    os.rmdir("/sys/fs/cgroup/made")


def of_its_group(*names: str) -> Callable[[], None]:
    def work() -> None:
        for each in names:
            with suppress(OSError):
                opens(f"/sys/fs/cgroup/{each}")
                return
        raise OSError("none of them can be written")

    return work


# ---------------------------------------------------------------- sockets


def connected(paths: list[str], kind: int) -> None:
    for each in paths:
        with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as attacker:
            attacker.connect(each)
            return
    raise OSError("none of them can be reached")


def told_to_the_manager() -> None:
    """Tell systemd that another process is the unit's main one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as attacker:
        attacker.sendto(f"READY=1\nMAINPID={given['victim']}\n".encode(), "/run/systemd/notify")


def told_by_an_abstract_name() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as attacker:
        for each in ("\0/org/freedesktop/systemd1/notify", "\0systemd/notify"):
            with suppress(OSError):
                attacker.sendto(b"READY=1\n", each)
                return
    raise OSError("nobody is there")


def forged_record() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as attacker:
        for each in ("/run/systemd/journal/socket", "/dev/log"):
            with suppress(OSError):
                attacker.sendto(b"MESSAGE=forged\nSIDESPAWN_SERVICE=forged\n", each)
                return
    raise OSError("neither can be reached")


# ---------------------------------------------------------------- limits, shared memory


def limit_raised(which: int) -> Callable[[], None]:
    def work() -> None:
        _, hard = resource.getrlimit(which)
        expect(hard != resource.RLIM_INFINITY, "there is no limit, and none is needed")
        resource.setrlimit(which, (hard + 1, hard + 1))

    return work


def oom_protected() -> None:
    path = Path("/proc/self/oom_score_adj")
    path.write_text(str(max(int(path.read_text()) - 100, -1000)))


def segment_of_others() -> None:
    """Attach a segment by a key that another side container used."""
    expect(libc.shmget(given["segment"], 4096, 0) >= 0, "there is none")


# ---------------------------------------------------------------- the kernel


def clock() -> None:
    checked(libc.settimeofday(None, bytes(8)))  # the time zone, unchanged


def host_name() -> None:
    name = socket.gethostname().encode()
    checked(libc.sethostname(name, len(name)))


@refused_with(errno.EINVAL)
def restarted() -> None:
    call(169, 0, 0, 0, None)  # without the magic numbers


@refused_with(errno.EINVAL, errno.EADDRNOTAVAIL, errno.EBUSY)
def another_kernel() -> None:
    call(246, 0, 0, None, 0xFFFF)


@refused_with(errno.ENOENT)
def accounting() -> None:
    checked(libc.acct(b"/no/such/file"))


def audited() -> None:
    """Check for any answer of the kernel, even a refusal."""
    reach.asked(1000, b"", protocol=9)  # AUDIT_GET


def inodes_watched() -> None:
    """Watch without privileges: files only, and no descriptors."""
    group = libc.fanotify_init(0x200, os.O_RDONLY)  # FAN_REPORT_FID
    checked(group)
    checked(libc.fanotify_mark(group, 0x101, ctypes.c_uint64(0x20), -100, b"/"))  # the whole file system


def of(*numbers: int) -> Works:
    """Return an agent's attempts, without those that only an agent can make."""
    found: Works = {}
    for number in numbers:
        found |= recipe_tries.KINDS[number]
    return {name: work for name, work in found.items() if "netns" not in name and "names of" not in name}


KINDS: dict[int, Works] = {
    199: {"a descriptor that the engine left": more_descriptors, "a working directory outside": working_directory,
          "the program of the engine": program_of_the_engine, "a directory as its output": output_of_others,
          "variables of the engine": variables},
    200: {"enter its own mount namespace again": entered("/proc/self/ns/mnt", CLONE_NEWNS),
          "enter the host's network": entered("/proc/1/ns/net", CLONE_NEWNET),
          "unshare a mount namespace": apart(CLONE_NEWNS), "unshare a network namespace": apart(CLONE_NEWNET),
          "unshare a user namespace": apart(CLONE_NEWUSER), "unshare a control group namespace": apart(0x02000000),
          "clone with a user namespace": cloned(CLONE_NEWUSER), "clone with a pid namespace": cloned(0x20000000),
          "clone3 with a user namespace": recipe_tries.user_namespace_by_clone3},
    201: {"the host's interfaces, by the socket of its output": host_by_output},
    202: {"another tenant's interfaces, by a pidfd": other_by_process,
          "another tenant's interfaces, by a pid": by_pid("another", "other interface"),
          "the host's interfaces, by /proc/1": by_path("/proc/1/ns/net"),
          "the host's interfaces, by a pid": by_pid("host's", "interface")},
    203: {"the host's interfaces, by the other end of a veth": host_by_veth},
    204: of(150, 151, 152, 153, 161, 162, 163, 164) | {
        "make its root writable": tries.remounted("/", "/usr/bin/env"),
        "unmount something": tries.SIDE_CONTAINER["unmount something"]},
    205: {"write a setting of the kernel's": tries.settings, "write anything in /sys": tries.sysfs,
          "write sysrq-trigger": lambda: opens("/proc/sysrq-trigger"),
          "write core_pattern": lambda: opens("/proc/sys/kernel/core_pattern"),
          "register a binary format": lambda: opens("/proc/sys/fs/binfmt_misc/register")},
    206: {"make a node of a disk": node(0o060000, 8, 0), "make a node of the memory": node(0o020000, 1, 1),
          "make a harmless node": node(0o020000, 1, 3), "type into a terminal": typed,
          "take the console's output": recipe_tries.console,
          "open the kernel's memory": device("/dev/mem", "/dev/kmem", "/proc/kcore", "/dev/port"),
          "open another device": device("/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/console",
                                        "/dev/sda", "/dev/vda", "/dev/loop-control", "/dev/vhost-net")},
    210: {"read a key of its user's": key_of_the_user, "make one": key_made,
          "have the host ask for one": key_requested},
    211: {"make a control group": group_made, "write one": of_its_group("cgroup.procs", "cgroup.subtree_control"),
          "raise its limits": of_its_group("memory.max", "pids.max", "cpu.max", "cgroup.kill", "cgroup.freeze"),
          "mount them": tries.RECIPE["mount the control groups"]},
    212: {"connect to a service of the host": lambda: connected(given["streams"], socket.SOCK_STREAM),
          "send something to one": lambda: connected(given["datagrams"], socket.SOCK_DGRAM),
          "connect to what has its terminal": lambda: connected(given["attach"], socket.SOCK_SEQPACKET)},
    213: {"connect to an abstract socket of the host": lambda: connected([given["abstract"]], socket.SOCK_STREAM),
          "connect to another tenant's": lambda: connected([given["other abstract"]], socket.SOCK_STREAM)},
    214: {"raise the limit of files": limit_raised(resource.RLIMIT_NOFILE),
          "raise that of core files": limit_raised(resource.RLIMIT_CORE),
          "be spared when memory is short": oom_protected,
          "another's segment of memory": segment_of_others},
    215: of(155, 160, 167, 174) | {
        "read the kernel's log": recipe_tries.kernel_log, "ask the audit": audited,
        "set the clock": clock, "set the host's name": host_name, "restart the host": restarted,
        "load another kernel": another_kernel, "write accounts": accounting, "load a module": tries.module,
        "watch a file system without descriptors": inodes_watched, "use ports of devices": tries.ports},
    216: of(159, 175),
    217: {"tell systemd of another main process": told_to_the_manager,
          "tell it by an abstract name": told_by_an_abstract_name, "write a record of the journal": forged_record},
}  # fmt: skip
# Tried separately for the process of the host's root and of another side container of the same user.
OF_A_PROCESS: dict[int, Works] = {
    207: of(156, 158) | {name: recipe_tries.KINDS[168][name] for name in (
        "read its map of memory", "list its descriptors",
    )} | of(170),
    208: {"signal it": tries.signalled, "signal it by a descriptor": recipe_tries.signalled_by_descriptor},
    209: {name: tries.RECIPE[name] for name in (
        "change its limits", "bind it to processors", "make it idle", "make it nice", "make its input and output idle",
        "write its oom_score_adj",
    )},
}  # fmt: skip
ALL = KINDS | OF_A_PROCESS


def is_open(number: int) -> bool:
    with suppress(OSError):
        os.fstat(number)
        return True
    return False


def main() -> None:
    """Print the result of each attempt as JSON, by number and name. The test's input is JSON, too."""
    given.update(json.loads(sys.argv[1]))
    for each in (SCRATCH, tries.ELSEWHERE):
        os.makedirs(each, exist_ok=True)
    given["open"] = [number for number in range(3, 256) if is_open(number)]
    found = {str(number): {name: attempt(work) for name, work in works.items()} for number, works in KINDS.items()}
    for number, works in OF_A_PROCESS.items():
        found[str(number)] = {}
        for whose, pid in given["victims"].items():
            given["victim"] = pid
            found[str(number)] |= {f"{name}: {whose}": attempt(work) for name, work in works.items()}
    if not given["stay"]:
        print(json.dumps(found))
        return
    print("attempts", json.dumps(found), flush=True)
    while True:
        signal.pause()
