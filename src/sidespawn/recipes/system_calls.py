"""Lists the system calls of a contained agent; for the agent, others do not exist.

    python3 -m sidespawn.recipes.system_calls     writes contained-agent.json, which podman and docker read, and
                                                  contained-agent.oci.json for nodes of Kubernetes

The list is for an agent that makes network namespaces, with SYS_ADMIN and NET_ADMIN and without a security module. It
contains such an agent only together with the rest of the recipe: a user other than root, no_new_privs, no host pids.
docs/agents.md says what each part is for.

A filter sees numbers, but not the memory that they point to. Flags are compared for equality, since mount(2) ignores
0xC0ED0000 in the upper half of its flags, and a comparison under a mask can miss a bit that has a meaning. A call whose
arguments are in memory (clone3, openat2's flags aside) is allowed only if no argument of it can do harm.

A call is listed because Neutron's agents make it in this recipe, which tests/neutron/record_calls.py records, or for
the reason given with its group. A call that is not listed fails with ENOSYS, for which the C library has fallbacks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("contained-agent.json")
OCI_FILE = Path(__file__).with_name("contained-agent.oci.json")
ENOSYS, ENOTSUP = 38, 95
NEW_NAMESPACE, NEW_NETWORK = 0x20000, 0x40000000  # CLONE_NEWNS, CLONE_NEWNET
ANY_NAMESPACE = 0x7E020000  # each CLONE_NEW... that clone(2) takes
READ_ONLY, BIND, RECURSIVE, SLAVE, SHARED = 1, 1 << 12, 1 << 14, 1 << 19, 1 << 20  # MS_...
DETACH = 2  # MNT_DETACH
UNIX, INET, INET6, NETLINK, PACKET = 1, 2, 10, 16, 17
ROUTE, NETFILTER = 0, 12  # netlink protocols
ARCHITECTURES = ("X86_64", "AARCH64", "PPC64LE", "S390X")

# Calls that Neutron's agents were seen to make in this recipe (tests/data/contained-calls.json): on their own memory,
# threads and descriptors, and on files as their modes allow.
PLAIN: dict[str, str] = {
    "files, as their modes allow": """
        access openat close close_range read readlink pread64 write lseek fstat newfstatat statx getdents64 getcwd
        chdir rename link unlink unlinkat mkdir rmdir chmod umask flock fcntl dup2 pipe2""",
    "memory of its own": "brk mmap munmap madvise mprotect",
    "waiting": "poll epoll_create1 epoll_ctl epoll_wait pselect6 clock_nanosleep futex",
    "clocks, which it cannot set": "clock_gettime gettimeofday",
    "processes and threads of its own": """
        vfork execve exit_group exit wait4 getpid gettid set_tid_address set_robust_list rseq arch_prctl
        sched_getaffinity sysinfo uname prctl setsid""",
    "signals, to whom it sees: it has no share of the host's pids": "kill rt_sigaction rt_sigprocmask",
    "identity: what it is, and oslo.privsep's capabilities, which are never more than its container has": """
        getuid geteuid getgid getegid capget capset""",
    "sockets that it has": """
        bind connect listen accept4 getsockname getpeername getsockopt setsockopt sendto sendmsg recvfrom recvmsg""",
    "random numbers": "getrandom",
}
# Calls that they were not seen to make, but may for the reason given here. Calls without a reason were removed.
UNSEEN: dict[str, str] = {
    "other forms of what was seen: of other C libraries, languages and architectures": """
        accept clock_getres creat dup dup3 epoll_create epoll_pwait eventfd eventfd2 faccessat faccessat2 fork
        getcpu getdents getrlimit getrusage lstat mkdirat mremap msync nanosleep open openat2 pipe ppoll preadv
        pwrite64 pwritev readlinkat readv recvmmsg renameat renameat2 sched_yield select sendmmsg setrlimit
        shutdown stat tgkill time times tkill waitid writev""",
    "files: no more than modes allow, for programs that an agent may run": """
        chown copy_file_range fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fdatasync
        fgetxattr flistxattr fstatfs fsync ftruncate getxattr lchown lgetxattr linkat listxattr llistxattr sendfile
        statfs symlink symlinkat truncate utime utimensat utimes""",
    "signals and timers, where a program waits for them": """
        alarm getitimer pause restart_syscall rt_sigpending rt_sigreturn rt_sigsuspend rt_sigtimedwait setitimer
        sigaltstack""",
    "sessions and groups of its own processes, as shells and daemons make them": """
        get_robust_list getgroups getpgid getpgrp getppid getpriority getresgid getresuid getsid setpgid""",
    "the engine and setpriv, when they begin the agent; it has none of the capabilities for it": """
        setgid setgroups setresgid setresuid setuid""",
}


@dataclass(frozen=True)
class Rule:
    """Allow a call if each argument, by its number, has this value; `(mask, value)` compares under a mask."""

    name: str
    why: str
    arguments: tuple[tuple[int, int | tuple[int, int]], ...]
    error: int | None = None  # if the call is answered without being carried out


TERMINAL = {
    0x5401: "TCGETS", 0x5402: "TCSETS", 0x5403: "TCSETSW", 0x5404: "TCSETSF", 0x540B: "TCFLSH", 0x540E: "TIOCSCTTY",
    0x540F: "TIOCGPGRP", 0x5410: "TIOCSPGRP", 0x5413: "TIOCGWINSZ", 0x5414: "TIOCSWINSZ", 0x541B: "FIONREAD",
    0x5421: "FIONBIO", 0x5422: "TIOCNOTTY", 0x5429: "TIOCGSID", 0x5450: "FIONCLEX", 0x5451: "FIOCLEX",
    0x5452: "FIOASYNC",
}  # fmt: skip
PRETENDED = "`ip netns exec` mounts a fresh sysfs, without flags: it is told that it did, and continues without it"
ATTRIBUTES = "programs that copy files take this for an answer, and ENOSYS for an error"

RULES: tuple[Rule, ...] = (
    Rule("mount", "the name of a namespace; of which file system it is a bind, modes must say", ((3, BIND),)),
    Rule("mount", "`ip netns add`: /run/netns is shared", ((3, SHARED | RECURSIVE),)),
    Rule("mount", "`ip netns exec`: what it mounts stays with it", ((3, SLAVE | RECURSIVE),)),
    Rule("mount", PRETENDED, ((3, 0),), error=0),
    Rule("mount", PRETENDED, ((3, READ_ONLY),), error=0),
    Rule("umount2", "`ip netns delete` and `ip netns exec`; a filter cannot see what is unmounted", ((1, DETACH),)),
    Rule("unshare", "`ip netns add`", ((0, NEW_NETWORK),)),
    Rule("unshare", "`ip netns exec`", ((0, NEW_NAMESPACE),)),
    Rule("setns", "`ip netns exec` and pyroute2; no other kind of namespace", ((1, NEW_NETWORK),)),
    Rule("clone", "threads and children, but no namespace", ((0, (ANY_NAMESPACE, 0)),)),
    Rule("clone3", "its flags are in memory; the C library then uses clone", (), error=ENOSYS),
    *(Rule("socket", why, ((0, family),)) for family, why in (
        (UNIX, "oslo.privsep and Neutron's own"), (INET, "network"), (INET6, "network"), (PACKET, "arping"),
    )),
    # Not the generic one, through which SYS_ADMIN and NET_ADMIN command drivers, including those of block devices.
    *(Rule("socket", why, ((0, NETLINK), (2, protocol))) for protocol, why in (
        (ROUTE, "ip and pyroute2"), (NETFILTER, "iptables, conntrack"),
    )),
    Rule("socketpair", "between its own processes", ((0, UNIX),)),
    *(Rule("ioctl", f"{name}, of terminals and descriptors", ((1, number),)) for number, name in TERMINAL.items()),
    Rule("ioctl", "interfaces, by a socket: SIOC...", ((1, (0xFFFFFF00, 0x8900)),)),
    Rule("prlimit64", "its own limits", ((0, 0),)),
    *(Rule(f"{way}{verb}xattr", ATTRIBUTES, (), ENOTSUP)
      for verb in ("set", "remove") for way in ("", "l", "f")),
)  # fmt: skip


def profile() -> dict[str, Any]:
    """Return the profile in docker's and podman's form, which differs from the OCI's in `archMap` and `includes`."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "archMap": [{"architecture": f"SCMP_ARCH_{name}", "subArchitectures": []} for name in ARCHITECTURES],
        "syscalls": [
            *(
                {"names": sorted(names.split()), "action": "SCMP_ACT_ALLOW", "comment": why}
                for why, names in (*PLAIN.items(), *UNSEEN.items())
            ),
            *(entry for rule in RULES for entry in entries(rule)),
        ],
    }


def entries(rule: Rule) -> list[dict[str, Any]]:
    made: dict[str, Any] = {"names": [rule.name], "action": "SCMP_ACT_ALLOW", "comment": rule.why}
    if rule.error is not None:
        made |= {"action": "SCMP_ACT_ERRNO", "errnoRet": rule.error}
    if rule.arguments:
        made["args"] = [comparison(*each) for each in rule.arguments]
    if rule.name != "clone":
        return [made]
    # On s390x the flags are clone's second argument.
    elsewhere = made | {"args": [comparison(index + 1, wanted) for index, wanted in rule.arguments]}
    s390 = {"arches": ["s390x"]}
    return [made | {"excludes": s390}, elsewhere | {"includes": s390}]


def comparison(index: int, wanted: int | tuple[int, int]) -> dict[str, Any]:
    if isinstance(wanted, int):
        return {"index": index, "value": wanted, "op": "SCMP_CMP_EQ"}
    mask, value = wanted
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def oci_profile() -> dict[str, Any]:
    """Return the profile in the OCI's form, not for s390x.

    containerd reads a pod's list in this form, and ignores docker's and podman's extensions. It would then apply both
    entries for clone on every architecture, and one of them does not compare the flags but another argument.
    """
    found = {key: value for key, value in profile().items() if key != "archMap"}
    calls = [{key: value for key, value in each.items() if key != "excludes"} for each in found["syscalls"]]
    return found | {"syscalls": [each for each in calls if "includes" not in each]}


def text(made: dict[str, Any]) -> str:
    return json.dumps(made, indent=1) + "\n"


def allowed() -> frozenset[str]:
    """Return the calls that an agent has, in some form."""
    plain = (name for names in (*PLAIN.values(), *UNSEEN.values()) for name in names.split())
    return frozenset((*plain, *(rule.name for rule in RULES if rule.error in (None, 0))))


if __name__ == "__main__":
    FILE.write_text(text(profile()), encoding="utf-8")
    OCI_FILE.write_text(text(oci_profile()), encoding="utf-8")
