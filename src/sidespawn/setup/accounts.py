"""Makes accounts for the users that systemd's side containers run as.

systemd cannot run a program as a user id that has no account. An account is created only if the id has none, as
sidespawn-ID, without home and login, and is removed with the last service that needs it.
"""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
from collections.abc import Callable

from sidespawn.errors import Reason, SidespawnError
from sidespawn.system.processes import last_line, run

SYSUSERS = "/usr/bin/systemd-sysusers"
USERDEL, GROUPDEL = "/usr/sbin/userdel", "/usr/sbin/groupdel"
TIMEOUT = 60.0


def account(number: int) -> str:
    return f"sidespawn-{number}"


def missing(uid: int, gid: int) -> list[str]:
    """Return the group and the user that this host lacks, in the syntax of sysusers.d(5)."""
    found = []
    if not has(grp.getgrgid, gid):
        found.append(f"g {account(gid)} {gid}")
    if not has(pwd.getpwuid, uid):
        found.append(f'u {account(uid)} {uid}:{gid} "sidespawn side containers" / -')
    return found


def has(look_up: Callable[[int], object], number: int) -> bool:
    try:
        look_up(number)
    except KeyError:
        return False
    return True


def make(uid: int, gid: int) -> None:
    """Make the accounts. Raises SidespawnError with systemd-sysusers' message."""
    lines = missing(uid, gid)
    if not lines:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".conf", prefix="sidespawn-") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        done = run((SYSUSERS, file.name), TIMEOUT)
    if done.code != 0 or missing(uid, gid):
        hint = f"make it by hand: {'; '.join(lines)} (sysusers.d)"
        raise SidespawnError(Reason.HOST_UNSUITABLE, f"no account can be made: {last_line(done.stderr)}", hint)


def remove(uid: int, gid: int) -> list[str]:
    """Remove accounts that `make` made, and return their names. A user is removed with its own group."""
    removed = []
    for command, database, number in ((USERDEL, pwd.getpwall, uid), (GROUPDEL, grp.getgrall, gid)):
        named = any(each[0] == account(number) and each[2] == number for each in database())
        if named and os.path.exists(command):
            run((command, account(number)), TIMEOUT)
            removed.append(account(number))
    return removed
