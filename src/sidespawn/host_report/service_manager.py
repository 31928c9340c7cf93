"""Examines systemd: is it PID 1, and what does its version lack?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidespawn.errors import LaunchError
from sidespawn.host_report.findings import Finding, Topic, ok, problem, warning
from sidespawn.setup.systemd import SYSTEMCTL, is_booted
from sidespawn.system.processes import last_line, run

NEEDED = 247
# By the first version that has it (systemd's NEWS): what older ones lack, the consequence, and for which engine.
LACKS = (
    (249, "RestrictAddressFamilies=none", warning, "sidespawn-spool@.service may open sockets", ""),
    (248, "PrivateIPC=", problem, "the engine systemd cannot start a side container", "systemd"),
)
TIMEOUT = 30.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    pid_1: str  # its name
    is_booted: bool = True
    version: str = ""  # as the running manager reports it, with the distribution's suffix
    error: str = ""  # why there is no version

    @property
    def number(self) -> int:
        found = re.match(r"\d+", self.version)
        return int(found[0]) if found else 0


def look() -> Facts:
    pid_1 = Path("/proc/1/comm").read_text().strip()
    if not is_booted():
        return Facts(pid_1=pid_1, is_booted=False)
    try:
        done = run((SYSTEMCTL, "show", "--property=Version", "--value"), TIMEOUT)
    except LaunchError as error:
        return Facts(pid_1=pid_1, error=error.message)
    said = "" if done.code == 0 else last_line(done.stderr)
    return Facts(pid_1=pid_1, version=done.stdout.strip(), error=said)


def judge(facts: Facts, engines: frozenset[str]) -> Iterator[Finding]:
    if not facts.is_booted:
        hint = "use a host booted with systemd; ./dev lab in a checkout starts one"
        yield problem(Topic.SYSTEMD, f"PID 1 is {facts.pid_1}, not systemd", "no service can be enabled", hint)
        return
    if facts.error or not facts.number:
        found = f"systemd does not answer: {facts.error or 'it gives no version'}"
        yield problem(Topic.SYSTEMD, found, "units cannot be started", "see: systemctl status; journalctl --boot")
        return
    if facts.number < NEEDED:
        hint = f"upgrade to a release with systemd {NEEDED} or later"
        yield problem(Topic.SYSTEMD, f"systemd {facts.version}", f"the units need systemd {NEEDED}", hint)
        return
    lacks = [each for each in LACKS if facts.number < each[0] and (not each[-1] or each[-1] in engines)]
    if not lacks:
        yield ok(Topic.SYSTEMD, f"systemd {facts.version}, PID 1")
    for since, option, judged, message, _ in lacks:
        hint = f"upgrade to a release with systemd {since} or later"
        yield judged(Topic.SYSTEMD, f"systemd {facts.version} has no {option}", message, hint, option)
