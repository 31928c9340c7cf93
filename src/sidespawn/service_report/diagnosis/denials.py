"""Finds what AppArmor and SELinux have denied recently: to side containers and agents, or to a service's program.

The kernel reports a denial to the audit daemon if one runs, otherwise to its own log, and journald may store both. A
program's name and the names of files are the program's own, so they are only shown. Nothing is allowed automatically:
a program that was taken over could ask for anything this way.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidespawn.core.policy import Policy
from sidespawn.errors import SidespawnError
from sidespawn.host_report.findings import State
from sidespawn.service_report.diagnosis.ailments import Ailment, Sign
from sidespawn.service_report.journal import read_audit
from sidespawn.setup import hardening, security_modules
from sidespawn.setup.services import Service
from sidespawn.system.places import RUN

AUDIT_LOG = Path("/var/log/audit/audit.log")
LOG_BYTES = 4 * 2**20  # of its end
RECENTLY, RECENT_SECONDS = "1 hour ago", 3600.0
SERIAL = re.compile(r"audit\(([0-9]{1,12})\.[0-9]{1,3}:([0-9]{1,20})\)")
FIELD = re.compile(r'\b(\w+)=(?:"([^"]*)"|([^\s"]+))')
AVC = re.compile(r"avc:\s+denied\s+\{ ([^}]+) \}")
TYPE = re.compile(r"[^:]*:[^:]*:([^:\s]+)")
OURS = "sidespawn_"  # SELinux types
SHOWN = 3  # things that were denied


@dataclass(frozen=True, kw_only=True)
class Denial:
    sign: Sign
    subject: str  # an AppArmor profile, or an SELinux type
    command: str  # the process's name
    what: str
    target: str  # a path, or a type


def find_denials(services: Iterable[Service]) -> Iterator[Ailment]:
    """Yield an ailment for each profile or type, and program, that was denied something in the last hour."""
    if not (hardening.has_apparmor() or hardening.has_selinux()):
        return
    programs: dict[str, list[str]] = defaultdict(list)
    for each in services:
        if each.policy is not None and each.is_enabled:
            for name in names_of_program(each.policy):
                programs[name].append(each.name)
    if programs:
        yield from judge(denials(messages(time.time() - RECENT_SECONDS)), programs)


def names_of_program(policy: Policy) -> set[str]:
    """Return the program's name as the kernel has it: at most 15 characters."""
    return {name[:15] for name in (policy.table.program, os.path.basename(policy.side_container.command))}


def messages(since: float) -> Iterator[str]:
    """Yield messages of the kernel's audit, from the journal and from the audit daemon's log."""
    with suppress(SidespawnError):  # the host's report says what is wrong with the journal
        yield from read_audit(RECENTLY)
    with suppress(OSError), AUDIT_LOG.open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_BYTES))
        for line in log.read(LOG_BYTES).decode("utf-8", "replace").split("\n"):
            if (serial := SERIAL.search(line)) and int(serial[1]) >= since:
                yield line


def denials(lines: Iterable[str]) -> Iterator[Denial]:
    """Yield each denial once, without those that were only reported (complain mode, permissive)."""
    seen = set()
    for line in lines:
        denial = denial_in(line)
        serial = SERIAL.search(line)
        key = (serial.groups() if serial else line, denial)
        if denial is not None and key not in seen:
            seen.add(key)
            yield denial


def denial_in(line: str) -> Denial | None:
    fields = {name: quoted or plain for name, quoted, plain in FIELD.findall(line)}
    command = decoded(line, "comm", fields)
    if fields.get("apparmor") == "DENIED":
        target = decoded(line, "name", fields) or fields.get("peer", "") or fields.get("capname", "")
        what = " ".join(filter(None, (fields.get("operation", ""), fields.get("denied_mask", ""))))
        subject = decoded(line, "profile", fields)
        return Denial(sign=Sign.APPARMOR_DENIED, subject=subject, command=command, what=what, target=target)
    avc = AVC.search(line)
    source, target_type = (TYPE.match(fields.get(each, "")) for each in ("scontext", "tcontext"))
    if avc is None or source is None or target_type is None or fields.get("permissive") == "1":
        return None
    what = f"{avc[1].strip()} {fields.get('tclass', '')}".strip()
    return Denial(sign=Sign.SELINUX_DENIED, subject=source[1], command=command, what=what, target=target_type[1])


def decoded(line: str, name: str, fields: dict[str, str]) -> str:
    """Return a field that the kernel writes in hexadecimal if it has blanks or odd characters."""
    value = fields.get(name, "")
    if f'{name}="' not in line and re.fullmatch(r"(?:[0-9A-F]{2})+", value):
        value = bytes.fromhex(value).decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "?" for each in value)


def concerns_us(denial: Denial, programs: Iterable[str]) -> bool:
    if denial.command in programs or denial.target.startswith((f"{RUN}/", OURS)):
        return True
    if denial.sign is Sign.APPARMOR_DENIED:
        return bool(own_profile(denial.subject))
    return denial.subject.startswith(OURS)


def own_profile(label: str) -> str:
    """Return the shipped profile in a label, which may be stacked or a child; empty if it is another one."""
    parts = re.split(r"//&?", label)
    return next((name for name in security_modules.profiles() if name in parts), "")


def judge(found: Iterable[Denial], programs: dict[str, list[str]]) -> Iterator[Ailment]:
    groups: dict[tuple[Sign, str, str], list[Denial]] = defaultdict(list)
    for each in found:
        if concerns_us(each, programs):
            groups[each.sign, each.subject, each.command].append(each)
    for (sign, subject, command), those in sorted(groups.items()):
        services = programs.get(command, [])
        told = list(dict.fromkeys(" ".join(filter(None, (each.what, each.target))) for each in those))
        more = f", and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        module, kind = ("AppArmor", "profile") if sign is Sign.APPARMOR_DENIED else ("SELinux", "type")
        yield Ailment(
            id=sign,
            state=State.WARNING,
            found=f"{module} denied {command or 'a process'} ({kind} {subject}): {', '.join(told[:SHOWN])}{more}",
            message="if it needs this, it fails",
            advice=apparmor_advice(subject) if sign is Sign.APPARMOR_DENIED else selinux_advice(command),
            service=services[0] if len(services) == 1 else "",
        )


def apparmor_advice(label: str) -> str:
    log = f"journalctl --dmesg --since '{RECENTLY}' --grep {shlex.quote(f'apparmor.*DENIED.*{re.escape(label)}')}"
    profile = own_profile(label)
    if not profile:
        return (
            f"{log}; if it should be allowed, change that profile in {security_modules.APPARMOR_HOME} and load it again"
        )
    file = security_modules.APPARMOR_HOME / profile
    rules = security_modules.APPARMOR_HOME / "local" / profile
    return f"{log}; if it should be allowed, add a rule to {rules}, then: {security_modules.PARSER} -r {file}"


def selinux_advice(command: str) -> str:
    log = f"ausearch --message avc --start today --comm {shlex.quote(command)}"
    return (
        f"{log}; if a label is wrong there: restorecon -Rv PATH; if it should be allowed: "
        f"{log} | audit2allow -M sidespawn-local && semodule -i sidespawn-local.pp"
    )
