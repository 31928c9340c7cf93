"""Lists changes that `sidespawn enable` makes on this host, for a dry run and for a real run.

Programs that manage hosts use the list to tell whether anything changed, and show it. Unreadable files count as
missing.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidespawn.core.policy import Policy
from sidespawn.host.directories import wrapper_texts
from sidespawn.setup import accounts, hardening, security_modules, selinux, systemd
from sidespawn.setup.services import is_wanted
from sidespawn.system.files import closing, directory, read_up_to
from sidespawn.system.places import Places


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a file's text, of a wrapper's digest, or of the state of anything else, in a word."""

    what: str  # a path, or `mode of PATH`, `unit NAME`, `account NAME`, `SELinux module sidespawn`
    before: str
    after: str


def pending(places: Places, policy: Policy, text: str | None) -> tuple[Change, ...]:
    """`text` is that of the policy's file; None if it is used unchanged."""
    every = (
        *(of_policy(places.policy, text) if text is not None else ()),
        *of_units(places, policy),
        *of_security_modules(),
        *of_accounts(policy),
        *of_wrappers(places, policy),
    )
    return tuple(each for each in every if each.before != each.after)


def of_policy(path: Path, text: str) -> Iterator[Change]:
    yield of_file(path, text)
    with suppress(FileNotFoundError):
        found = path.lstat()
        before = f"{stat.S_IMODE(found.st_mode):04o} {found.st_uid}:{found.st_gid}"
        yield Change(what=f"mode of {path}", before=before, after="0644 0:0")


def of_units(places: Places, policy: Policy) -> Iterator[Change]:
    yield from (of_file(path, text) for path, text in hardening.texts(policy).items())
    if systemd.is_packaged():
        yield from (Change(what=str(path), before=read(path), after="") for path in systemd.left_over())
    else:
        for name, content in systemd.contents(os.path.realpath(sys.executable), systemd.own_command()).items():
            yield of_file(systemd.INSTALLED / name, content)
    for unit in systemd.units(places.service):
        yield Change(what=f"unit {unit}", before="enabled" if is_wanted(unit) else "disabled", after="enabled")
    before, after = systemd.wakes_by_path(places.service), policy.agent.wakes_by_path
    state, wanted = ("enabled" if each else "disabled" for each in (before, after))
    yield Change(what=f"unit {systemd.path_unit(places.service)}", before=state, after=wanted)
    is_active = os.path.ismount(places.home)
    yield Change(
        what=f"unit sidespawn-spool@{places.service}.service",
        before="active" if is_active else "inactive",
        after="active",
    )


def of_security_modules() -> Iterator[Change]:
    if hardening.has_apparmor():
        for name in security_modules.profiles():
            if not security_modules.is_packaged(name):
                text = (security_modules.PROFILES / name).read_text(encoding="utf-8")
                yield of_file(security_modules.APPARMOR_HOME / name, text)
    if selinux.is_enabled():
        before = "current" if selinux.is_current() else "stale" if selinux.is_installed() else "missing"
        yield Change(what="SELinux module sidespawn", before=before, after="current")


def of_accounts(policy: Policy) -> Iterator[Change]:
    side = policy.side_container
    if side.engine == "systemd":
        for line in accounts.missing(side.uid, side.gid):
            kind, name = line.split()[:2]
            yield Change(what=f"{'group' if kind == 'g' else 'account'} {name}", before="missing", after="present")


def of_wrappers(places: Places, policy: Policy) -> Iterator[Change]:
    """Compare the wrappers. An agent with CAP_SYS_ADMIN may have put a link, a pipe or an endless file there."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for path, content in wrapper_texts(places, policy):
        before = ""
        with (
            suppress(OSError),
            directory(places.agent) as held,
            closing(os.open(path.name, flags, dir_fd=held)) as file,
        ):
            if stat.S_ISREG(os.fstat(file).st_mode):
                before = digest(read_up_to(file, len(content) + 1))
        yield Change(what=str(path), before=before, after=digest(content))


def of_file(path: Path, text: str) -> Change:
    return Change(what=str(path), before=read(path), after=text)


def read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}\n"
