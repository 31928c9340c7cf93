"""Finds problems on this host, in the order to fix them, for `sidespawn doctor`. Changes nothing.

It starts with the findings of `sidespawn check`, adds problems with each service's requests, and tells causes from
consequences.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidespawn import host_report
from sidespawn.core.policy import Policy
from sidespawn.errors import PolicyError
from sidespawn.host.policies import load_policy
from sidespawn.host_report.findings import State, Topic
from sidespawn.service_report.diagnosis.ailments import Ailment, ailment_of, in_order
from sidespawn.service_report.diagnosis.services import examine
from sidespawn.setup.services import Service, is_enabled, services_with_policy
from sidespawn.system.places import Places

BLIND = (Topic.ROOT, Topic.NOT_LOOKED_AT)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    causes: tuple[Ailment, ...]
    not_looked_at: tuple[str, ...] = ()  # why, in a sentence each


def diagnose() -> Diagnosis:
    names = services_with_policy()
    found, blind = [], []
    for finding in host_report.report([Service(name=n, policy=policy_of(n), is_enabled=is_enabled(n)) for n in names]):
        if finding.id in BLIND:
            blind.append(finding.sentence)
        elif finding.state is not State.OK:
            found.append(ailment_of(finding, names))
    for name in names:
        try:
            for each in examine(name):
                found.append(each)  # those before an error count
        except Exception as error:  # noqa: BLE001 - whatever it is, an operator needs the others
            blind.append(f"{name}: {error}")
    return Diagnosis(causes=in_order(found), not_looked_at=tuple(blind))


def policy_of(service: str) -> Policy | None:
    try:
        return load_policy(Places(service))
    except PolicyError:
        return None
