"""Finds failing requests of one service in its journal: of the whole service, and of single instances.

A success of one network says nothing about another, and a few failures among many requests are normal. So a service or
an instance is reported if all of its requests failed, or at least three of the last ten minutes, and more than a tenth.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sidespawn.core.pattern import Conflict, Pattern, match, render_first
from sidespawn.core.policy import Policy
from sidespawn.errors import Reason
from sidespawn.host_report.findings import State
from sidespawn.service_report.diagnosis.ailments import Ailment, Sign
from sidespawn.service_report.journal import read_journal
from sidespawn.system.places import Places

RECENTLY, RECENT_SECONDS = "1 hour ago", 3600.0
LATELY = 600.0  # seconds
LEAST, SHARE = 3, 0.1  # failures, and their share of the requests
SUCCESSES, FAILURES = ("started", "answered", "signalled", "stopped"), ("failed", "internal", "expired")
EXPECTED = (Reason.NO_SUCH_PROCESS, Reason.BACKING_OFF)  # normal for well-behaved agents, or reported separately
LONGEST_NAME = 100  # characters of arguments that stand for an instance
MOST_SINGLE = 10  # instances, each with its own row; more get one row together


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a request ended. `reason` is empty for a success."""

    time: float
    event: str
    reason: str
    names: tuple[str, ...]  # a failure: its instance, or what comes closest; a success: that and its namespace

    @property
    def failed(self) -> bool:
        return bool(self.reason)


def of_requests(places: Places, policy: Policy | None) -> Iterator[Ailment]:
    """Yield one ailment for the service, or one for each instance that fails."""
    now = time.time()
    since = now - RECENT_SECONDS
    with suppress(OSError):
        since = max(since, os.stat(places.policy).st_ctime)
    records = read_journal(places, (*SUCCESSES, *FAILURES), RECENTLY)
    yield from judge(places.service, [each for each in outcomes(records, policy) if each.time > since], now)


def outcomes(records: Iterable[Mapping[str, Any]], policy: Policy | None) -> list[Outcome]:
    """Return what the records say of requests."""
    known = list(records)
    instances: dict[str, set[str]] = defaultdict(set)  # by namespace
    for record in known:
        where = text(record, "NETNS") or namespace_in(text(record, "LANE"), policy)
        if where and (instance := text(record, "INSTANCE")):
            instances[where].add(instance)
    found = []
    for record in known:
        event, reason = text(record, "EVENT"), text(record, "REASON")
        if event in FAILURES:
            reason = reason or Reason.INTERNAL
        elif reason:  # such as a signal to what has already ended
            continue
        if reason in EXPECTED or not text(record, "REQUEST"):  # without a request it was a cleanup
            continue
        where, instance = text(record, "NETNS") or namespace_in(text(record, "LANE"), policy), text(record, "INSTANCE")
        if not instance and len(instances[where]) == 1:
            instance = next(iter(instances[where]))
        names = (instance or where,) if reason else tuple(dict.fromkeys((instance, where)))
        moment = int(record["__REALTIME_TIMESTAMP"]) / 1e6
        found.append(Outcome(time=moment, event=event, reason=reason, names=tuple(filter(None, names))))
    return found


def text(record: Mapping[str, Any], name: str) -> str:
    """Return a field; one that is given twice, or that is no text, counts as missing."""
    value = record.get(f"SIDESPAWN_{name}", "")
    return value if isinstance(value, str) else ""


def namespace_in(lane: str, policy: Policy | None) -> str:
    """Return the namespace that a request is for, from where it came or from its arguments; else a name for it."""
    words = lane.split(" ")
    if not lane or lane.isdecimal():  # a pid that no side container has
        return ""
    if len(words) == 1:
        return lane
    if policy is not None and policy.netns is not None:
        values = (value for word in words for value in (word, word.rpartition("=")[2]))
        if found := next((each for each in values if is_match(policy.netns, each, policy)), ""):
            return found
    constant = render_first(policy.instance, {}) if policy is not None else None
    return constant or (lane if len(lane) <= LONGEST_NAME else f"{lane[: LONGEST_NAME - 1]}…")


def is_match(pattern: Pattern, value: str, policy: Policy) -> bool:
    with suppress(Conflict):
        return match(pattern, value, policy.names, {}) is not None
    return False


def judge(service: str, found: list[Outcome], now: float) -> Iterator[Ailment]:
    by_instance: dict[str, list[Outcome]] = defaultdict(list)
    for each in sorted(found, key=lambda each: each.time):
        for name in each.names:
            by_instance[name].append(each)
    bad = {name: reasons for name, those in sorted(by_instance.items()) if (reasons := why(those, now))}
    if whole := why_service(found, now):
        names = f"; of {', '.join(bad)}" if bad else ""
        yield ailment(service, f"requests for {service} {whole}{names}", found)
    elif len(bad) > MOST_SINGLE:
        told = "; ".join(f"{name} {reasons}" for name, reasons in bad.items())
        yield ailment(service, f"requests for {service} fail in {len(bad)} instances: {told}", found)
    else:
        for name, reasons in bad.items():
            yield ailment(service, f"requests for {name} of {service} {reasons}", by_instance[name], name)


def ailment(service: str, found: str, those: list[Outcome], instance: str = "") -> Ailment:
    """Return the ailment; it is only a warning if the last request succeeded."""
    last = max(those, key=lambda each: each.time)
    advice = f"sidespawn logs {service} --refused --since '{RECENTLY}'; docs/reasons.md has each reason"
    return Ailment(
        id=Sign.REQUESTS_FAIL,
        state=State.PROBLEM if last.failed or not instance else State.WARNING,
        found=found,
        message="agents do not get what they asked for",
        advice=advice,
        service=service,
        instance=instance,
    )


def why_service(found: list[Outcome], now: float) -> str:
    started = max((each.time for each in found if each.event == "started"), default=0.0)
    after = [each for each in found if each.failed and each.time > started]
    if after:
        return f"have failed since the last success: {counted(after)}"
    return too_many(found, now)


def why(found: list[Outcome], now: float) -> str:
    """Return why the requests of one instance count as failing; empty if they do not."""
    stopped = max((each.time for each in found if each.event == "stopped"), default=0.0)
    after = [each for each in found if each.time > stopped]  # a program that was ended is to be started again
    if after and all(each.failed for each in after):
        return f"have all failed{' since it was stopped' if stopped else ''}: {counted(after)}"
    return too_many(found, now)


def too_many(found: list[Outcome], now: float) -> str:
    lately = [each for each in found if each.time > now - LATELY]
    failed = [each for each in lately if each.failed]
    if len(failed) < LEAST or len(failed) <= SHARE * len(lately):
        return ""
    share = f"{len(failed)} of {len(lately)} in the last {LATELY / 60:.0f} minutes"
    return f"failed, {share}: {counted(failed)}"


def counted(failed: Iterable[Outcome]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(each.reason for each in failed).most_common())
