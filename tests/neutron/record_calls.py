"""Records the system calls of real Neutron in the contained recipe in tests/data/contained-calls.json.

    .venv/bin/python -m tests.neutron.record_calls [KIND]...     where systemd is PID 1, with strace(1) installed

strace runs the drivers for all helpers of each agent, and the DHCP agent's own main, in the agent's container. The
list of system calls is the shipped one with additions for strace. Refused calls are not seen, since the kernel answers
before it stops for strace. What the engine does before the agent's program starts is not seen either.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidespawn.recipes.system_calls import FILE
from sidespawn.testing.agent import namespaces_of_a_group
from tests.lab.networks import command
from tests.neutron import test_daemon, test_lives
from tests.neutron.agents import MANAGER, STATE, Agent
from tests.neutron.helpers import all_of

DATA = Path(__file__).parents[1] / "data/contained-calls.json"
KINDS = ("ovn", "dhcp", "l3", "daemon")
TOOL = "/opt/strace"  # in the container
OF_STRACE = ("process_vm_readv", "ptrace", "seccomp")
# Made constantly by each Python program, so by the agents; following them would take most of the time.
PLAIN = (
    *("access", "brk", "clock_gettime", "close", "epoll_ctl", "epoll_wait", "execve", "fstat", "futex", "getdents64"),
    *("getpid", "gettimeofday", "lseek", "mmap", "mprotect", "munmap", "newfstatat", "openat", "poll", "pread64"),
    *("read", "readlink", "recvfrom", "recvmsg", "rt_sigaction", "rt_sigprocmask", "sendmsg", "sendto", "wait4"),
    "write",
)
# The arguments of these matter: the names that strace prints for flags, without numbers and addresses.
WITH_ARGUMENTS = ("ioctl", "mount", "personality", "setns", "socket", "socketpair", "umount2", "unshare")
LINE = re.compile(r"(?:\d+ +)?(?:<\.\.\. )?(\w+)(?:\((.*?)\) +=| resumed>|\(.*<unfinished)")
NUMBERS = re.compile(r"0x[0-9a-f]+|\"[^\"]*\"|\[[^]]*\]|\{.*?\}|\b\d+\b|NULL")
Found = dict[str, set[str]]  # the kinds of agent, by call


@contextmanager
def tool() -> Iterator[Path]:
    """Make a host directory with strace, its libraries and a list of system calls that allows it."""
    with tempfile.TemporaryDirectory(dir="/var/lib") as name:
        made = Path(name)
        made.chmod(0o755)
        told = subprocess.run(("ldd", "/usr/bin/strace"), capture_output=True, text=True, check=True).stdout
        for path in ("/usr/bin/strace", *(word for word in told.split() if word.startswith("/"))):
            shutil.copy(path, made)
        profile = json.loads(FILE.read_text(encoding="utf-8"))
        profile["syscalls"].append({"names": [*OF_STRACE], "action": "SCMP_ACT_ALLOW"})
        (made / "profile.json").write_text(json.dumps(profile))
        yield made


def run(kind: str, place: Path) -> list[str]:
    """Return strace's lines for all processes of the agent."""
    is_daemon = kind == "daemon"
    agent = Agent("dhcp" if is_daemon else kind, MANAGER, interval=int(is_daemon), contained=True)
    agent.more_options = (f"--volume={place}:{TOOL}:ro", f"--security-opt=seccomp={place}/profile.json")
    followed = f"trace=!{','.join(PLAIN)}"
    agent.before = (
        *(f"{TOOL}/ld-linux-x86-64.so.2", "--library-path", TOOL, f"{TOOL}/strace"),
        *("-f", "-qq", "--seccomp-bpf", "-A", "-o", f"{STATE}/calls", "-e", followed, "-e", "signal=none"),
    )
    lines: list[str] = []
    try:
        agent.enable()
        agent.start("daemon.py" if is_daemon else "drivers.py")
        if is_daemon:
            test_daemon.test_networks_and_ports_come_and_go_and_everything_is_killed_once(agent)
        else:
            with all_of(agent) as helpers:
                test_lives.live(agent, helpers)
    except Exception as error:  # noqa: BLE001 - what was seen until then counts
        print(f"{kind} was not seen to its end: {type(error).__name__}: {str(error)[:2000]}", file=sys.stderr)
    finally:
        path = agent.state / "calls"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        agent.clean()
    return lines


def read(lines: list[str], kind: str, made: Found) -> None:
    for line in lines:
        if found := LINE.match(line):
            made[found[1]].add(kind)
            if found[1] in WITH_ARGUMENTS and found[2]:
                made[f"{found[1]}({NUMBERS.sub('_', found[2])})"].add(kind)


def main(kinds: list[str]) -> None:
    command("ip", "netns", "add", "sidespawn-first")  # so that the directory exists, and is a mount
    command("ip", "netns", "delete", "sidespawn-first")
    made: Found = defaultdict(set, {name: set(kinds) for name in PLAIN})
    with tool() as place, namespaces_of_a_group():
        for kind in kinds:
            lines = run(kind, place)
            print(f"{kind}: {len(lines)} calls", file=sys.stderr)
            read(lines, kind, made)
    DATA.write_text(json.dumps({name: sorted(kinds) for name, kinds in sorted(made.items())}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(KINDS))
