"""Examines AppArmor: does the kernel have it, and are the shipped profiles loaded, enforced and unchanged?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sidespawn.host_report.agents import OPTION
from sidespawn.host_report.findings import Finding, Topic, ok, warning
from sidespawn.setup import hardening, security_modules

NOT_THERE = "the kernel does not have AppArmor"


@dataclass(frozen=True, kw_only=True)
class Facts:
    is_enabled: bool
    has_parser: bool = True
    loaded: Mapping[str, str] = field(default_factory=dict)  # mode by profile
    shipped: tuple[str, ...] = ()
    installed: Mapping[str, bool] = field(default_factory=dict)  # whether the file is as shipped, by profile


def look() -> Facts:
    if not hardening.has_apparmor():
        return Facts(is_enabled=False)
    shipped = {name: (security_modules.PROFILES / name).read_bytes() for name in security_modules.profiles()}
    files = {name: security_modules.APPARMOR_HOME / name for name in shipped}
    text = security_modules.LOADED.read_text(encoding="utf-8")
    return Facts(
        is_enabled=True,
        has_parser=os.path.exists(security_modules.PARSER),
        loaded=parse(text),
        shipped=tuple(shipped),
        installed={name: path.read_bytes() == shipped[name] for name, path in files.items() if path.exists()},
    )


def parse(text: str) -> dict[str, str]:
    """Parse `NAME (MODE)` in each line; a name may contain blanks."""
    rows = (line.rpartition(" (") for line in text.splitlines())
    return {name: mode.rstrip(")") for name, _, mode in rows if name}


def judge(facts: Facts, services: tuple[str, ...]) -> Iterator[Finding]:
    if not facts.is_enabled:
        yield ok(Topic.APPARMOR, NOT_THERE)
        return
    found = f"AppArmor is enabled; an agent that makes namespaces needs {OPTION}"
    if not facts.has_parser:
        hint = f"install apparmor, then: sidespawn enable {services[0] if services else 'SERVICE'}"
        message = "no profile can be loaded"
        yield warning(Topic.APPARMOR, f"AppArmor is enabled, but there is no {security_modules.PARSER}", message, hint)
    else:
        yield ok(Topic.APPARMOR, found)
    if services:
        for name in facts.shipped:
            yield judge_profile(facts, name, services[0])


def judge_profile(facts: Facts, name: str, service: str) -> Finding:
    path, topic = security_modules.APPARMOR_HOME / name, Topic.APPARMOR_PROFILE
    load = f"{security_modules.PARSER} -r {path}"
    if name not in facts.installed:
        renew = f"sidespawn enable {service}"
        return warning(topic, f"{path} is missing", "the profile will be gone after a reboot", renew, name, renew)
    if name not in facts.loaded:
        return warning(topic, f"profile {name} is not loaded", "containers that name it do not start", load, name, load)
    if facts.loaded[name] != "enforce":
        found = f"profile {name} is in mode {facts.loaded[name]}"
        return warning(topic, found, "it denies nothing", f"aa-enforce {path}, or {load}", name, load)
    if not facts.installed[name]:
        hint = f"sidespawn enable {service}, which installs the shipped profile"
        return warning(
            topic,
            f"{path} differs from the shipped file",
            "from another version, or changed by hand",
            hint,
            name,
            f"sidespawn enable {service}",
        )
    return ok(topic, f"profile {name} is loaded and enforced", name)
