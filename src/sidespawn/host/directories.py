"""Makes a service's directories under /run when its units start, and removes them when they stop.

They are small file systems in memory.  No container gets a mount of the service's own.  Containers get mounts of one
for each purpose: spool, replies, wrappers, and checked copies of configuration files.  A mount of one file is enough to
reach its whole file system with fanotify(7), and to change its options by remounting, so the host keeps nothing that it
trusts in these.  Each is a private mount, so an agent's mounts over it never appear on the host, whatever propagation
its container has.  Each has a limited size and number of files, so an agent can fill only its own.
"""

from __future__ import annotations

import base64
import errno
import json
import marshal
import os
import pprint
import stat
import sys
from contextlib import suppress
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from sidespawn.core.policy import Policy
from sidespawn.errors import Reason, SidespawnError
from sidespawn.host import file_systems, labels, seccomp, spool
from sidespawn.host.policies import load_policy
from sidespawn.system import kernel
from sidespawn.system.files import HARMLESS, directory
from sidespawn.system.places import NAMESPACES, Places

WRAPPER = Path(__file__).parent.parent / "agent/wrapper.py"
SETTINGS_LINE = "SETTINGS = {}  # type: Dict[str, Any]  # filled in by host/directories.py\n"
DIVISION = "# In an agent the lines from here on are a text, beside the code for it; see host/directories.py.\n"
IN_AGENT = """\
TEXT = r'''{text}'''

CODE = '''{code}'''

import binascii
import marshal

is_for_this_python = getattr(sys.modules.get("_frozen_importlib_external"), "MAGIC_NUMBER", None) == {magic}
exec(marshal.loads(binascii.a2b_base64(CODE)) if CODE and is_for_this_python else compile(TEXT, __file__, "exec"))
"""
IMAGE_IN_AGENT = "/run/sidespawn/image"


def main(verb: str, service: str) -> int:
    places = Places(service)
    try:
        if verb == "directories":
            make(places, load_policy(places))
            load_policy(places)  # now that its place exists: compile the policy for the first request
        else:
            remove(places)
    except SidespawnError as error:
        sys.stderr.write(f"{error.reason}: {error.message}\n")
        return 1
    return 0


def make(places: Places, policy: Policy) -> None:
    make_namespaces_directory()
    places.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    labels.label(places.run, labels.HOST)
    given = file_systems.given_to_containers(places, policy)
    of_spool, replies, agent, snapshots = given  # root's own record of the answers is as large as the replies
    of_home = f"size={(64 << 20) + replies.size},nr_inodes={32768 + replies.names},mode=0700"
    mount_tmpfs(places.home, HARMLESS, of_home, labels.HOST)
    for path in (places.answers, places.operator, places.claims, places.ledger, places.pins):
        path.mkdir(mode=0o700, exist_ok=True)
    labels.label(places.pins, labels.PINS)
    for path in given_to_containers(places):
        path.mkdir(exist_ok=True)
    mount_tmpfs(of_spool.path, of_spool.flags, of_spool.options, labels.WRITABLE)
    mount_tmpfs(replies.path, replies.flags, replies.options, labels.READABLE)
    # The first version had its copies here. Running programs have mounted them, and are reloaded by writing into them.
    has_copies_of_the_first = not os.path.ismount(places.snapshots) and any(places.snapshots.iterdir())
    for each in (agent,) if has_copies_of_the_first else (agent, snapshots):
        mount_tmpfs(each.path, each.flags, each.options, labels.READABLE)
    for each in given:
        try:
            file_systems.put_right(each)
        except OSError as error:  # the service tries again
            sys.stderr.write(f"{each.path} cannot be made as the policy says: {error}\n")
    if policy.agent.wakes_by_path and not os.statvfs(places.spool).f_flag & file_systems.NO_LINKS:
        message = 'wake = "path" needs Linux 5.10, which keeps PID 1 from following links that an agent makes'
        raise SidespawnError(Reason.HOST_UNSUITABLE, message, 'take wake = "doorbell", or boot a later Linux')
    spool.clear(places.spool)  # a link in it would have kept the path unit from starting
    write_wrappers(places, policy)
    write_system_calls(places, policy)
    places.adoption.unlink(missing_ok=True)  # check again: the agent may have had its legacy wrappers until now


def write_system_calls(places: Places, policy: Policy) -> None:
    for path, text in (
        (places.syscalls, seccomp.of_side_containers(as_root=policy.side_container.uid == 0)),
        (seccomp.place_of_agents(places.run), seccomp.of_agents()),
    ):
        if text is not None:
            # Each starting service writes the agents' list, and another one may be starting now.
            written = path.with_suffix(f".{os.getpid()}")
            written.write_text(text, encoding="utf-8")
            written.rename(path)


def given_to_containers(places: Places) -> tuple[Path, ...]:
    """Return the directories that agents and side containers get mounts of, each its own file system."""
    return (places.spool, places.replies, places.agent, places.snapshots)


def make_namespaces_directory() -> None:
    """Create it after boot, so that agents can mount it; readable for everyone, as with ip(8)."""
    with suppress(FileExistsError):
        NAMESPACES.mkdir()
        NAMESPACES.chmod(0o755)  # the unit's umask made it readable only by root


def mount_tmpfs(path: Path, flags: int, options: str, label: str) -> None:
    if not os.path.ismount(path):
        kernel.mount("sidespawn", str(path), "tmpfs", flags, options)
        kernel.mount("none", str(path), None, kernel.MS_PRIVATE)
    labels.label(path, label)


def remove(places: Places) -> None:
    for path in (*given_to_containers(places), places.home):
        while os.path.ismount(path):
            kernel.unmount(str(path))
    # Made by systemd's socket unit and runs while the directories were not mounted: in another mount namespace.
    for file in (places.lock, places.compiled, places.syscalls, places.adoption, places.bucket, places.tally):
        file.unlink(missing_ok=True)
    for doorbell in (places.doorbell, places.operators_doorbell):
        doorbell.unlink(missing_ok=True)
        if doorbell.parent.exists():
            doorbell.parent.rmdir()
    if places.home.exists():
        places.home.rmdir()
    if places.run.exists() and not any(path.is_dir() for path in places.run.iterdir()):
        seccomp.place_of_agents(places.run).unlink(missing_ok=True)
        with suppress(OSError):  # another service is just starting
            places.run.rmdir()


def wrapper_settings(places: Places, policy: Policy) -> dict[str, object]:
    """Return the settings of this service's wrappers; see agent/wrapper.py."""
    return {
        "service": places.service,
        "program": policy.table.program,
        "spool": str(places.spool),
        "replies": str(places.replies),
        "timeout": policy.agent.timeout,
        "line": policy.limits.line,
        "environment": sorted(policy.environment),
        "local": [list(argv) for argv in policy.agent.local],
        "stop": [list(argv) for argv in policy.agent.stop],
        "refusals_fail": policy.agent.refusals_fail,
        "real": [IMAGE_IN_AGENT + policy.agent.wrapper, policy.agent.wrapper + ".real"],
        "kill": False,
        "shared": False,
    }


def wrapper_files(places: Places, policy: Policy) -> dict[Path, str]:
    """Return wrapper and kill scripts on the host, each with the path that it is mounted over in the agent."""
    paths = (policy.agent.wrapper, *policy.agent.kill_scripts, *policy.agent.shared_kill_scripts)
    return {places.agent / path.rpartition("/")[2]: path for path in paths}


def write_wrappers(places: Places, policy: Policy) -> None:
    with directory(places.agent) as held:
        for path, content in wrapper_texts(places, policy):
            write_in_place(held, path.name, content)


def wrapper_texts(places: Places, policy: Policy) -> list[tuple[Path, bytes]]:
    """Return the text of wrapper.py with its settings, and what this Python compiles it to.

    Most of it becomes a string, so that the first lines run before all the others are read. What it is compiled to is
    for agents with the same Python: to compile takes 3 ms of processor time, a quarter of what a wrapper costs.
    """
    source = WRAPPER.read_text(encoding="utf-8")
    first, division, text = source.partition(DIVISION)
    if SETTINGS_LINE not in first or not division or "'''" in text:
        raise AssertionError("wrapper.py has no line for its settings, or cannot be divided")
    found = []
    for path, target in wrapper_files(places, policy).items():
        is_shared = target in policy.agent.shared_kill_scripts
        settings = wrapper_settings(places, policy) | {"kill": target != policy.agent.wrapper, "shared": is_shared}
        literal = pprint.pformat(json.loads(json.dumps(settings)), width=110)
        later = IN_AGENT.format(text=text, code=encoded_code(text, target), magic=MAGIC_NUMBER)
        content = first.replace(SETTINGS_LINE, f"SETTINGS = {literal}  # type: Dict[str, Any]\n") + division + later
        found.append((path, content.encode()))  # bytes: an agent may have written binary data to its wrapper
    return found


def write_in_place(held: int, name: str, content: bytes) -> None:
    """Replace the content but keep the inode, which agents have mounted, and never leave it empty.

    An agent may run the wrapper at any time. An empty script would succeed without requesting anything; a mixture of
    the old and new text fails. An agent that got a descriptor of the directory through fanotify(7) may have put a link
    there, so links are not followed, and anything but a file is removed.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(name, dir_fd=held, follow_symlinks=False).st_mode):
            spool.remove(held, name, iter(range(file_systems.REMOVED)))
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, 0o700, dir_fd=held), "r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != len(content) or file.read(len(content)) != content:
            if os.pwrite(file.fileno(), content, 0) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            file.truncate(len(content))
        os.fchown(file.fileno(), 0, 0)
        os.fchmod(file.fileno(), 0o755)


def encoded_code(text: str, target: str) -> str:
    """Return the compiled text in Base64; empty if this Python has no stable form, and agents compile the text."""
    try:
        # 2: the same text always gives the same bytes. Code of Python 3.14 cannot be written in this version.
        code = marshal.dumps(compile(text, target, "exec"), 2)
    except ValueError:
        return ""
    return "\n" + base64.encodebytes(code).decode()
