"""Finds faults of one service that `sidespawn check` does not look for: in its policy, and in its requests."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sidespawn.core.policy import Policy
from sidespawn.engines.systemd_roots import HOST
from sidespawn.errors import PolicyError
from sidespawn.host.ledger import Ledger
from sidespawn.host.limits import FREE_FALLS, SUFFIX, Falls
from sidespawn.host.policies import policy_of
from sidespawn.host_report.findings import State
from sidespawn.host_report.suitability import IMAGES
from sidespawn.service_report.diagnosis.ailments import Ailment, Sign
from sidespawn.service_report.diagnosis.requests import of_requests
from sidespawn.service_report.figures import ages
from sidespawn.service_report.side_containers import side_containers
from sidespawn.service_report.usage import usage
from sidespawn.setup import changes
from sidespawn.setup.services import is_enabled
from sidespawn.system.files import read_trusted
from sidespawn.system.places import Places

STUCK_SECONDS = 120.0


def problem(
    places: Places, sign: Sign, found: str, message: str, command: str = "", advice: str = "", instance: str = ""
) -> Ailment:
    return Ailment(
        id=sign, state=State.PROBLEM, found=found, message=message, command=command, advice=advice,
        service=places.service, instance=instance,
    )  # fmt: skip


def examine(service: str) -> Iterator[Ailment]:
    """Yield problems of a service that has a policy; most are checked only if the service is enabled."""
    places, policy = Places(service), None
    try:
        # From its text: an older compiled policy may still be in use, although the current text is invalid.
        policy = policy_of(places, read_trusted(places.policy))
    except PolicyError as error:
        yield invalid(places, error)
    if is_enabled(service):
        yield from of_claims(places)
        yield from of_requests(places, policy)
        if policy is not None:
            yield from of_policy(places, policy)
            if places.ledger.is_dir():
                yield from of_side_containers(places, policy)  # last: the engine that it asks may be what is wrong
    elif os.path.ismount(places.home):
        found = f"{service} has a policy and directories, but systemd does not start it at boot"
        message = "after the next boot at the latest, its agents' requests are not served"
        advice = f"or remove it: sidespawn disable {service}"
        yield problem(places, Sign.NOT_ENABLED, found, message, f"sidespawn enable {service}", advice)


def invalid(places: Places, error: PolicyError) -> Ailment:
    refused = f"every request for {places.service} is refused, or will be once the policy is read again"
    unsafe = re.search(r" is not used: (/\S+) can be changed by others than root$", error.message)
    if unsafe:
        path = shlex.quote(unsafe[1])
        command = f"chown root {path}; chmod go-w {path}"
        return problem(
            places, Sign.POLICY_UNSAFE, error.message, refused, command, "first check that the text is what you wrote"
        )
    advice = f"{error.hint}; " if error.hint else ""
    advice += f"correct it until `sidespawn check {places.service}` reports no error"
    return problem(places, Sign.POLICY_INVALID, error.message, refused, advice=advice)


def of_policy(places: Places, policy: Policy) -> Iterator[Ailment]:
    told, side, is_there = partial(problem, places), policy.side_container, os.path.ismount(places.home)
    state = policy.agent.state_on_host
    if not Path(state).is_dir():
        found = f"{state}, where {places.service} expects the agent's state, does not exist"
        command = f"install --directory --mode=755 --owner={side.uid} --group={side.gid} {shlex.quote(state)}"
        advice = "if the agent's state is elsewhere, set state_on_host in the policy instead"
        yield told(Sign.STATE_MISSING, found, "every start fails", command, advice)
    for found in IMAGES[side.engine](side.image):
        pull = f"{side.engine} pull {shlex.quote(side.image)}"
        can_be_pulled = side.engine in ("podman", "docker") and not side.image.startswith(("localhost/", "/"))
        advice = "load it, or set another image in the policy's [parameters]"
        missing = "every start fails"
        if side.image != HOST:
            yield told(Sign.IMAGE_MISSING, found, missing, pull if can_be_pulled else "", advice)
    pending = [
        each for each in changes.pending(places, policy, None) if is_there or not is_of_directories(places, each)
    ]
    if pending:
        which = ", ".join(each.what for each in pending)
        found = f"{places.service} does not match its policy and this version: {which}"
        message = "it still runs as it was last enabled"
        yield told(Sign.POLICY_NOT_APPLIED, found, message, f"sidespawn enable {places.service}")


def is_of_directories(places: Places, change: changes.Change) -> bool:
    """Return whether it comes with the service's directories: without them their unit is what is wrong."""
    return change.what.startswith((f"{places.home}/", f"unit sidespawn-spool@{places.service}.service"))


def of_side_containers(places: Places, policy: Policy) -> Iterator[Ailment]:
    told = partial(problem, places)
    used = usage(places)
    for instance, count in falling(places, policy.limits.backoff).items():
        found = f"{instance} of {places.service} ended right after each of its last {count} starts and is not running"
        advice = f"see its output: sidespawn logs {places.service} {instance}"
        yield told(Sign.KEEPS_ENDING, found, "requests for it fail", advice=advice, instance=instance)
    if used.instances >= used.most_instances:
        found = f"{places.service} has {used.instances} side containers, the most that its policy allows"
        advice = "if they are wanted, raise `instances` in the policy's [limits], then run sidespawn enable"
        yield told(Sign.INSTANCE_LIMIT, found, "further starts are refused", advice=advice)
    orphans = [str(row["name"]) for row in side_containers(places) if row["orphan"]]
    if orphans:
        found = f"{', '.join(orphans)}: the network namespace has lost its name"
        command = f"sidespawn stop {places.service} {' '.join(orphans)}"
        yield told(Sign.ORPHAN, found, "nothing can reach it, and no agent asks for it again", command)


def falling(places: Places, longest: int) -> dict[str, int]:
    """Return what is started only after a pause by now, whether or not that pause is over."""
    falls, ledger = Falls(places.ledger, longest), Ledger(places.ledger)
    counts = {path.stem: falls.pause(path.stem)[0] for path in places.ledger.glob(f"*{SUFFIX}")}
    return {
        instance: count
        for instance, count in sorted(counts.items())
        if count >= FREE_FALLS and not ((record := ledger.find(instance)) and record.is_running)
    }


def of_claims(places: Places) -> Iterator[Ailment]:
    waits = ages(places)
    if max(waits, default=0.0) > STUCK_SECONDS:
        found = f"{places.service} has {len(waits)} unanswered claims, the oldest {max(waits):.0f} s old"
        command = f"systemctl restart sidespawn@{places.service}.service"
        advice = f"see what it is doing: systemctl status sidespawn@{places.service}.service"
        yield problem(places, Sign.REQUESTS_STUCK, found, "agents time out", command, advice)
