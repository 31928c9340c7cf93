"""The recipe of `sidespawn agent-options` on a host with a security module: the same attempts as without one.

tests/attacks/test_recipes.py makes them without one. With AppArmor the recipe names the agents' profile, with SELinux
the domain; neither may deny what the agent needs.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidespawn.setup import hardening
from sidespawn.system.places import NAMESPACES
from sidespawn.testing.agent import NEUTRON, STATE, namespaces_of_a_group, podman
from tests.attacks import inside, recipe_tries
from tests.attacks.stage import AGENT_IMAGE
from tests.host import tries
from tests.host.containers import run_inside
from tests.host.victims import heard, victims
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, command

# docs/agents.md says so, and what to do. AppArmor's profile allows no bind of a file in /run/netns.
POSSIBLE = {"show a setuid program of its image to the host's users"}
UEVENT = "forge a uevent"
AS_STARTED = f"{NEUTRON}:{NEUTRON}"  # podman's other forms of a non-root user give no capabilities


@dataclass(frozen=True, kw_only=True)
class Agent:
    name: str
    state: Path
    options: list[str]
    given: dict[str, Any]

    def run(self, script: str) -> None:
        command("podman", "exec", f"--user={NEUTRON}:{NEUTRON}", self.name, "sh", "-c", script)


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    service = new_service()
    name = f"{service.name}-contained"
    try:
        service.enable_with(f"[agent]\nspool_uid = {NEUTRON}\n")
        enabled = json.loads(command(*SIDESPAWN, "enable", "--json", service.name).stdout)
        options = json.loads(command(*SIDESPAWN, "agent-options", "--json", service.name).stdout)["options"]
        # Including the wrapper, the target of some attempts.
        more = [each for each in enabled["podman_options"] if each.startswith("--volume=") and each not in options]
        state = f"--volume={service.state}:{STATE}:rw,rprivate"
        with victims(service) as given, namespaces_of_a_group():
            argv = ("run", "--detach", "--pull=never", f"--name={name}", *options, *more, state, AGENT_IMAGE)
            command(*podman(), *argv, "sleep", "infinity")
            yield Agent(name=name, state=service.state, options=options, given=given)
    finally:
        command("podman", "rm", "--force", "--time=0", "--ignore", name)
        service.clean()


def expect_contained(agent: Agent, possible: set[str]) -> None:
    with heard(agent.given["uevent"]) as uevents:
        made: dict[str, str] = run_inside(
            agent.name, inside, tries, recipe_tries, arguments=(json.dumps(agent.given),), user=AS_STARTED,
            output=(f"{STATE}/found", agent.state / "found"),
        )  # fmt: skip
    if not uevents:
        made.pop(UEVENT)
    for left in NAMESPACES.glob(f"{agent.given['key']}-*"):
        left.unlink()
    assert {name for name, said in made.items() if said == "worked"} == possible


def expect_works(agent: Agent) -> None:
    netns = f"test-{uuid.uuid4().hex[:8]}"
    try:
        agent.run(f"ip netns add {netns} && ip netns exec {netns} ip link set lo up")
        assert netns in command("ip", "netns", "list").stdout
    finally:
        agent.run(f"ip netns delete {netns}")


@pytest.mark.skipif(not hardening.has_apparmor(), reason="it has no AppArmor")
class TestApparmor:
    def test_the_recipe_names_the_profile(self, agent: Agent) -> None:
        assert "--security-opt=apparmor=sidespawn-agent" in agent.options

    def test_an_agent_works_in_it(self, agent: Agent) -> None:
        expect_works(agent)

    def test_it_reaches_nothing(self, agent: Agent) -> None:
        expect_contained(agent, set())


@pytest.mark.skipif(not hardening.has_selinux(), reason="it has no SELinux")
class TestSelinux:
    def test_the_recipe_names_the_domain(self, agent: Agent) -> None:
        assert "--security-opt=label=type:sidespawn_agent_t" in agent.options

    def test_an_agent_works_in_it(self, agent: Agent) -> None:
        expect_works(agent)

    def test_it_reaches_nothing(self, agent: Agent) -> None:
        expect_contained(agent, POSSIBLE)
