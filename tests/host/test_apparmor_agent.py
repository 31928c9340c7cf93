"""AppArmor's profile and the list of system calls for agents: what they deny root in an agent is tried.

Each attempt must first succeed in an agent with neither, as podman starts one with an unconfined profile. Then it is
repeated with one of the two and with both, which shows which denies it. docs/security.md has the tables, which are
compared here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidespawn.testing.agent import CAPABILITIES
from tests.attacks import inside
from tests.attacks.stage import AGENT_IMAGE, Hostile
from tests.host import tries
from tests.host.containers import run_inside
from tests.host.victims import heard, victims
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Service, command

DOCS = Path(__file__).parents[2] / "docs/security.md"
MORE: dict[str, Any] = {
    "capabilities": (*CAPABILITIES, "DAC_READ_SEARCH", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO"),
    "more_options": ("--security-opt=unmask=ALL", "--cgroupns=host", "--volume=/sys:/sys:rw,rslave"),
}
# podman's list in newer versions allows it only with CAP_PERFMON.
DENIED_ALREADY = {"perf_event_open"}
# From a Linux after 6.12 on, CAP_SYS_ADMIN suffices for this, which agents have; docs/security.md says so.
ALLOWED_LATER, IS_LATER = {"read its environment"}, tuple(map(int, os.uname().release.split(".")[:2])) > (6, 12)
# What confines the agent.
NEITHER, APPARMOR, SECCOMP, BOTH = (), ("apparmor",), ("seccomp",), ("apparmor", "seccomp")
UEVENT = "forge a uevent"
Found = dict[tuple[str, ...], dict[str, str]]  # result of each attempt


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A service with its agents' options, and the attempts' targets."""

    service: Service
    podman_options: tuple[str, ...]
    security_options: tuple[str, ...]
    given: dict[str, Any]

    def results(self, confined_by: tuple[str, ...]) -> dict[str, str]:
        return self.result_of(confined_by, "RECIPE", {}) | self.result_of(confined_by, "GIVEN_MORE", MORE)

    def result_of(self, confined_by: tuple[str, ...], section: str, more: dict[str, Any]) -> dict[str, str]:
        chosen = tuple(each for each in self.security_options if each.split("=")[1] in confined_by)
        agent = Hostile(
            name=f"{self.service.name}-agent", image=AGENT_IMAGE, state=self.service.state,
            service_options=self.podman_options, security_options=chosen, **more,
        )  # fmt: skip
        agent.start()
        try:
            with heard(self.given["uevent"]) as uevents:
                arguments = (section, json.dumps(self.given))
                found: dict[str, str] = run_inside(agent.name, inside, tries, arguments=arguments)
        finally:
            agent.remove()
        if found.get(UEVENT) == "worked" and not uevents:
            found[UEVENT] = "nobody heard it"
        return found


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    service = new_service()
    try:
        service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
        enabled = json.loads(command(*SIDESPAWN, "enable", "--json", service.name).stdout)
        with victims(service) as given:
            yield Ground(
                service=service, podman_options=tuple(enabled["podman_options"]),
                security_options=tuple(enabled["security_options"]), given=given,
            )  # fmt: skip
    finally:
        service.clean()


@pytest.fixture(scope="module")
def found(ground: Ground) -> Found:
    return {confined_by: ground.results(confined_by) for confined_by in (NEITHER, APPARMOR, SECCOMP, BOTH)}


@pytest.mark.parametrize("name", [*tries.RECIPE, *tries.GIVEN_MORE])
def test_it_works_without_and_is_denied_with_both(found: Found, name: str) -> None:
    became = {confined_by: each[name] for confined_by, each in found.items()}
    if IS_LATER and name in ALLOWED_LATER:
        assert set(became.values()) == {"worked"}, became
        return
    if name not in DENIED_ALREADY or became[NEITHER] == "worked":
        assert became[NEITHER] == "worked", became
        assert documented()[name] == [kind for kind in BOTH if became[(kind,)] != "worked"], became
    assert became[BOTH] != "worked", became


def documented() -> dict[str, list[str]]:
    """Return what denies each attempt, by the tables of the docs."""
    rows = re.findall(r"^\| ([^|]+) \| (AppArmor|) ?\| (seccomp|) ?\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: [kind.lower() for kind in kinds if kind] for name, *kinds in rows}


def test_the_docs_name_all_of_it() -> None:
    assert list(documented()) == [*tries.RECIPE, *tries.GIVEN_MORE]
