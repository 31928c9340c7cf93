"""The contained agent's system call list: how the kernel would answer each call by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidespawn.recipes import system_calls
from sidespawn.recipes.system_calls import BIND, DETACH, ENOSYS, FILE, OCI_FILE, READ_ONLY, RECURSIVE, SHARED, SLAVE

ALLOWED = "allowed"
REMOUNT, PRIVATE, MOVE = 32, 1 << 18, 8192
LEGACY = 0xC0ED0000  # MS_MGC_VAL: the kernel removes it from the flags
PROFILE: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))


def answer(name: str, *arguments: int, architecture: str = "amd64", profile: dict[str, Any] = PROFILE) -> str | int:
    """Return "allowed", or the error that the call gets."""
    for rule in profile["syscalls"]:
        arches = rule.get("includes", {}).get("arches", [architecture])
        without = rule.get("excludes", {}).get("arches", [])
        if name not in rule["names"] or architecture not in arches or architecture in without:
            continue
        if all(fits(each, arguments) for each in rule.get("args", [])):
            return ALLOWED if rule["action"] == "SCMP_ACT_ALLOW" else int(rule["errnoRet"])
    return int(PROFILE["defaultErrnoRet"])


def fits(comparison: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    given = arguments[comparison["index"]]
    if comparison["op"] == "SCMP_CMP_EQ":
        return bool(given == comparison["value"])
    assert comparison["op"] == "SCMP_CMP_MASKED_EQ"
    return bool(given & comparison["value"] == comparison["valueTwo"])


def test_the_file_is_what_the_module_makes() -> None:
    assert FILE.read_text(encoding="utf-8") == system_calls.text(system_calls.profile())
    assert OCI_FILE.read_text(encoding="utf-8") == system_calls.text(system_calls.oci_profile())
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"


def test_the_list_for_kubernetes_has_no_field_that_containerd_ignores() -> None:
    """containerd reads the list as the OCI writes one (LinuxSeccomp in the runtime specification)."""
    profile = json.loads(OCI_FILE.read_text(encoding="utf-8"))
    assert profile.keys() <= {"defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls"}
    fields = {key for rule in profile["syscalls"] for key in rule} - {"comment"}  # for human readers
    assert fields == {"names", "action", "errnoRet", "args"}


@pytest.mark.parametrize("namespace", [1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30])
def test_clone_makes_no_namespace_whatever_its_other_arguments_are(namespace: int) -> None:
    """containerd reads the list without conditions on architectures."""
    profile = json.loads(OCI_FILE.read_text(encoding="utf-8"))
    for stack in (0, 1 << 17, 0x7F0000000000):
        assert answer("clone", namespace | 17, stack, 0, 0, 0, profile=profile) == ENOSYS
        assert answer("clone", 17, stack, 0, 0, 0, profile=profile) == ALLOWED


def test_every_entry_says_why() -> None:
    assert [rule["names"] for rule in PROFILE["syscalls"] if len(rule["comment"]) < 3] == []


SEEN: dict[str, list[str]] = json.loads((Path(__file__).parents[1] / "data/contained-calls.json").read_text())


def test_each_call_was_seen_or_has_another_reason() -> None:
    """tests/neutron/record_calls.py records the calls of real Neutron in this recipe."""
    plain = {name for names in system_calls.PLAIN.values() for name in names.split()}
    unseen = {name for names in system_calls.UNSEEN.values() for name in names.split()}
    made = {name for name in SEEN if "(" not in name}
    assert plain - made == set()
    assert unseen & made == set()
    by_argument = {rule.name for rule in system_calls.RULES if rule.error is None}
    assert by_argument - made == set()
    assert made - plain - by_argument == set()


@pytest.mark.parametrize(
    "seen",
    [
        *("mount(_, _, _, MS_BIND, _", "mount(_, _, _, MS_REC|MS_SHARED, _", "mount(_, _, _, MS_REC|MS_SLAVE, _"),
        *("umount2(_, MNT_DETACH", "unshare(CLONE_NEWNET", "unshare(CLONE_NEWNS", "setns(_, CLONE_NEWNET"),
    ],
)
def test_what_is_allowed_with_these_arguments_was_seen_with_them(seen: str) -> None:
    assert any(each.startswith(seen) for each in SEEN), sorted(each for each in SEEN if "(" in each)


def test_no_call_is_listed_twice_without_arguments() -> None:
    groups = (*system_calls.PLAIN.values(), *system_calls.UNSEEN.values())
    plain = [name for names in groups for name in names.split()]
    assert len(plain) == len(set(plain))
    assert set(plain) & {rule.name for rule in system_calls.RULES} == set()


@pytest.mark.parametrize("flags", [BIND, SHARED | RECURSIVE, SLAVE | RECURSIVE])
def test_a_mount_that_namespaces_need(flags: int) -> None:
    assert answer("mount", 0, 0, 0, flags, 0) == ALLOWED


@pytest.mark.parametrize("flags", [0, READ_ONLY])
def test_a_mount_is_reported_as_done_but_not_done(flags: int) -> None:
    assert answer("mount", 0, 0, 0, flags, 0) == 0


OTHERS = (2, 4, 8, 16, REMOUNT, 64, 128, MOVE, 1 << 15, 1 << 16, PRIVATE, 1 << 21, 1 << 22, 1 << 25, 1 << 31, 1 << 32)


@pytest.mark.parametrize("allowed", [0, READ_ONLY, BIND, SHARED | RECURSIVE, SLAVE | RECURSIVE])
@pytest.mark.parametrize("more", [*OTHERS, LEGACY, LEGACY | REMOUNT, REMOUNT | BIND], ids=hex)
def test_no_other_flag_comes_through(allowed: int, more: int) -> None:
    if allowed | more != allowed:
        assert answer("mount", 0, 0, 0, allowed | more, 0) == ENOSYS


@pytest.mark.parametrize("flags", [RECURSIVE, SHARED, SLAVE, BIND | RECURSIVE, SHARED | SLAVE | RECURSIVE])
def test_nor_a_mixture(flags: int) -> None:
    assert answer("mount", 0, 0, 0, flags, 0) == ENOSYS


@pytest.mark.parametrize(("flags", "said"), [(DETACH, ALLOWED), (0, ENOSYS), (1, ENOSYS), (DETACH | 1, ENOSYS)])
def test_unmounting(flags: int, said: str | int) -> None:
    """MNT_FORCE is 1. It aborts a network file system for all its users."""
    assert answer("umount2", 0, flags) == said


NAMESPACES = {
    "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
    "network": 0x40000000, "time": 0x80,
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMESPACES)
def test_namespaces(kind: str) -> None:
    flag = NAMESPACES[kind]
    assert answer("unshare", flag) == (ALLOWED if kind in ("mount", "network") else ENOSYS)
    assert answer("unshare", flag | 0x10000000) == ENOSYS
    assert answer("setns", 3, flag) == (ALLOWED if kind == "network" else ENOSYS)
    if kind != "time":  # which clone(2) cannot create: that bit belongs to the signal
        assert answer("clone", flag | 17, 0) == ENOSYS
        assert answer("clone", 0, flag | 17, architecture="s390x") == ENOSYS
    assert answer("setns", 3, 0) == ENOSYS  # whatever the descriptor is


def test_threads_and_children() -> None:
    assert answer("clone", 0x3D0F00, 0) == ALLOWED
    assert answer("clone", 0x40000000, 0x3D0F00, architecture="s390x") == ALLOWED
    assert answer("clone3") == ENOSYS


@pytest.mark.parametrize("family", [1, 2, 10, 17])
def test_a_socket_that_it_has(family: int) -> None:
    assert answer("socket", family, 3, 0) == ALLOWED


@pytest.mark.parametrize("protocol", range(32))
def test_netlink(protocol: int) -> None:
    """Family 15 carries kernel events, which other programs trust; 9 is audit; 16 controls drivers."""
    assert answer("socket", 16, 3, protocol) == (ALLOWED if protocol in (0, 12) else ENOSYS)


@pytest.mark.parametrize("family", [0, 3, 15, 31, 38, 40, 44])
def test_no_other_family(family: int) -> None:
    assert answer("socket", family, 3, 0) == ENOSYS
    assert answer("socketpair", family, 3, 0) == ENOSYS


IOCTLS = {
    "TCGETS": (0x5401, True), "SIOCETHTOOL": (0x8946, True), "SIOCGIFINDEX": (0x8933, True),
    "NS_GET_NSTYPE": (0xB703, False),
    "TIOCSTI, which types for others": (0x5412, False), "TIOCCONS, which takes the console": (0x541D, False),
    "TIOCSETD": (0x5423, False), "TIOCLINUX": (0x541C, False), "TUNSETIFF": (0x400454CA, False),
    "FIFREEZE, which stops a file system": (0xC0045877, False), "FITHAW": (0xC0045878, False),
    "FITRIM": (0xC0185879, False), "EXT4_IOC_SHUTDOWN, which ends one": (0x8004587D, False),
    "FS_IOC_SETFLAGS": (0x40086602, False), "LOOP_SET_FD": (0x4C00, False), "BLKROSET": (0x125D, False),
}  # fmt: skip


@pytest.mark.parametrize("name", IOCTLS)
def test_ioctl(name: str) -> None:
    number, is_allowed = IOCTLS[name]
    assert answer("ioctl", 3, number, 0) == (ALLOWED if is_allowed else ENOSYS)


def test_limits_are_its_own() -> None:
    assert answer("prlimit64", 0, 7, 0, 0) == ALLOWED
    assert answer("prlimit64", 1, 7, 0, 0) == ENOSYS


REACHES_OUT = """
    fanotify_init fanotify_mark open_by_handle_at name_to_handle_at quotactl quotactl_fd swapon swapoff acct
    fsopen fsconfig fsmount fspick open_tree open_tree_attr move_mount mount_setattr pivot_root chroot mknod mknodat
    bpf perf_event_open ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp
    keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register userfaultfd
    init_module finit_module delete_module kexec_load kexec_file_load reboot syslog sethostname setdomainname
    settimeofday clock_settime clock_adjtime adjtimex iopl ioperm modify_ldt lookup_dcookie vhangup
    sched_setattr sched_setparam ioprio_set migrate_pages move_pages mbind set_mempolicy
    splice tee vmsplice sync syncfs mlockall shmget semget msgget mq_open io_setup memfd_secret seccomp
    inotify_init inotify_init1 memfd_create execveat timer_create timerfd_create signalfd4 pidfd_open pidfd_send_signal
    rt_sigqueueinfo rt_tgsigqueueinfo mlock mlock2 sched_setaffinity sched_setscheduler setpriority personality
    landlock_create_ruleset statmount listmount listns uselib sysfs ustat nfsservctl socketcall ipc syscall
"""


@pytest.mark.parametrize("name", REACHES_OUT.split())
def test_what_reaches_others_is_not_there(name: str) -> None:
    assert answer(name, 0, 0, 0, 0, 0) == ENOSYS
    assert name not in system_calls.allowed()


@pytest.mark.parametrize("name", ["setxattr", "fsetxattr", "lremovexattr"])
def test_programs_that_copy_files_continue_without_attributes(name: str) -> None:
    assert answer(name) == 95


def test_one_architecture() -> None:
    """Call numbers mean something else on others, and socketcall passes its arguments in memory."""
    assert all(each["subArchitectures"] == [] for each in PROFILE["archMap"])
    assert "SCMP_ARCH_X86" not in {each["architecture"] for each in PROFILE["archMap"]}
