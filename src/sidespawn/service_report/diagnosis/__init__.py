"""Finds problems on this host, in the order to fix them, for `sidespawn doctor`. Changes nothing.

It starts with the findings of `sidespawn check`, adds problems with each service's requests, and tells causes from
consequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sidespawn import host_report
from sidespawn.host_report.findings import State, Topic
from sidespawn.service_report.diagnosis.ailments import Ailment, ailment_of, in_order
from sidespawn.service_report.diagnosis.denials import find_denials
from sidespawn.service_report.diagnosis.services import examine
from sidespawn.setup.services import Service, is_enabled, policy_or_none, services_with_policy
from sidespawn.system.places import Places

BLIND = (Topic.ROOT, Topic.NOT_LOOKED_AT)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    causes: tuple[Ailment, ...]
    not_looked_at: tuple[str, ...] = ()  # why, in a sentence each


def diagnose() -> Diagnosis:
    names = services_with_policy()
    found, blind = [], []
    services = [Service(name=n, policy=policy_or_none(Places(n)), is_enabled=is_enabled(n)) for n in names]
    for finding in host_report.report(services):
        if finding.id in BLIND:
            blind.append(finding.sentence)
        elif finding.state is not State.OK:
            found.append(ailment_of(finding, names))
    looks = [(name, partial(examine, name)) for name in names]
    for name, look in (*looks, ("denials of AppArmor and SELinux", partial(find_denials, services))):
        try:
            for each in look():
                found.append(each)  # those before an error count
        except Exception as error:  # noqa: BLE001 - whatever it is, an operator needs the others
            blind.append(f"{name}: {error}")
    return Diagnosis(causes=in_order(found), not_looked_at=tuple(blind))
