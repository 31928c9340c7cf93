"""Finds remains of earlier versions and of removed services on the host."""

from __future__ import annotations

import pwd
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sidespawn.core.policy import is_service_name
from sidespawn.host_report.findings import Finding, Topic, ok, warning
from sidespawn.setup.accounts import account
from sidespawn.setup.services import Service
from sidespawn.setup.systemd import INSTALLED
from sidespawn.system.places import POLICIES, RUN

UNIT = re.compile(r"sidespawn(?:-spool)?@(?P<service>[^.]+)\.(?:service|socket|timer|path)(?:\.d)?")
ACCOUNT = re.compile(r"sidespawn-\d+")


@dataclass(frozen=True, kw_only=True)
class Facts:
    links: tuple[str, ...] = ()  # paths: units that systemd starts at boot
    drop_ins: tuple[str, ...] = ()  # directories
    homes: tuple[str, ...] = ()  # services with a directory in /run/sidespawn
    accounts: tuple[str, ...] = ()
    policies: frozenset[str] = frozenset()  # services with a policy
    enabled: frozenset[str] = frozenset()
    needed_accounts: frozenset[str] | None = frozenset()  # None if a policy is invalid: unknown


def look(services: Iterable[Service]) -> Facts:
    services = tuple(services)
    return Facts(
        links=tuple(sorted(map(str, INSTALLED.glob("*.wants/sidespawn*@*")))),
        drop_ins=tuple(sorted(str(each) for each in INSTALLED.glob("sidespawn*@*.d") if each.is_dir())),
        homes=tuple(sorted(each.name for each in RUN.iterdir() if each.is_dir())) if RUN.is_dir() else (),
        accounts=tuple(sorted(each.pw_name for each in pwd.getpwall() if ACCOUNT.fullmatch(each.pw_name))),
        policies=frozenset(each.name for each in services),
        enabled=frozenset(each.name for each in services if each.is_enabled),
        needed_accounts=needed_accounts(services),
    )


def needed_accounts(services: Iterable[Service]) -> frozenset[str] | None:
    policies = [each.policy for each in services]
    sides = [policy.side_container for policy in policies if policy is not None]
    needed = frozenset(account(each.uid) for each in sides if each.engine == "systemd")
    return None if None in policies else needed


def judge(facts: Facts) -> Iterator[Finding]:
    found = [*judge_links(facts), *judge_drop_ins(facts), *judge_homes(facts), *judge_accounts(facts)]
    yield from found or [ok(Topic.LEFTOVERS, "no leftovers of other services or versions")]


def judge_links(facts: Facts) -> Iterator[Finding]:
    for service, paths in without_policy(facts.links, facts.policies):
        found = f"{', '.join(paths)}: {service} has no policy {POLICIES}/{service}.toml"
        message = "its units fail at each boot"
        way = f"sidespawn disable {service}"
        yield warning(Topic.LEFTOVER_LINKS, found, message, way, service, way)


def judge_drop_ins(facts: Facts) -> Iterator[Finding]:
    for service, paths in without_policy(facts.drop_ins, facts.policies):
        found = f"{', '.join(paths)}: {service} has no policy"
        message = f"these options take effect as soon as a service is named {service}"
        way = f"rm -r {' '.join(paths)}; systemctl daemon-reload"
        yield warning(Topic.LEFTOVER_DROP_INS, found, message, way, service, way)


def judge_homes(facts: Facts) -> Iterator[Finding]:
    for service in facts.homes:
        if service not in facts.enabled and is_service_name(service):
            found = f"{RUN}/{service} is there, but {service} is not enabled"
            hint = f"sidespawn disable {service}, which removes it, or sidespawn enable {service}"
            yield warning(
                Topic.LEFTOVER_DIRECTORIES, found, "agents that mount it are served until the next boot", hint, service
            )


def judge_accounts(facts: Facts) -> Iterator[Finding]:
    if facts.needed_accounts is None:
        return
    for name in facts.accounts:
        if name not in facts.needed_accounts:
            found = f"account {name} belongs to no service on this host"
            way = f"userdel {name}"
            yield warning(Topic.LEFTOVER_ACCOUNTS, found, "nothing uses it", way, name, way)


def without_policy(paths: Iterable[str], policies: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    """Return the paths of units of services without a policy, by service."""
    found: dict[str, list[str]] = {}
    for path in paths:
        unit = UNIT.fullmatch(path.rpartition("/")[2])
        if unit and unit["service"] not in policies:
            found.setdefault(unit["service"], []).append(path)
    yield from found.items()
