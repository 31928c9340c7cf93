"""A call of the real L3 agent is refused: whatever Neutron does then, working parts keep running."""

from __future__ import annotations

import time

import pytest

from sidespawn.system.processes import identify
from sidespawn.testing.network import has_namespace
from tests.lab.networks import kill_process, wait_until
from tests.neutron import routers
from tests.neutron.agents import MANAGER, WRAPPERS, Agent
from tests.neutron.releases import NEWEST, OLD
from tests.neutron.test_l3 import MONITOR, PATIENCE, Router, l3, made_router, old_image

__all__ = ["l3", "old_image"]
EVERY_WAY = pytest.mark.parametrize(
    "l3", [(NEWEST, WRAPPERS), (NEWEST, MANAGER), (OLD, WRAPPERS)], indirect=True, ids="-".join
)
# As if the release made a call that the policy does not allow.
STARTS = {
    "radvd": '\n[request]\nnetns = "another-{router}"\n',
    MONITOR: '\n[options]\nmonitor_interface = { value = "another", required = true }\n',
}
# As if an operator had made a typing error: nothing is allowed, not even HUP.
EVERYTHING = "\n[agnet]\n"


def refuse(agent: Agent, program: str, what: str) -> None:
    policy = agent.services[program].places.policy
    policy.write_text(policy.read_text() + what)


@EVERY_WAY
def test_a_working_router_keeps_working(l3: Agent) -> None:
    with made_router(l3) as router:
        l3.ask("put_router", router=router.described)
        router.wait_until("active")
        wait_until(router.is_complete, PATIENCE)
        pids = router.pids()
        allowed = {program: service.places.policy.read_text() for program, service in l3.services.items()}
        # radvd and the monitor are gone and must not start; keepalived runs, and gets no message.
        for program in ("radvd", MONITOR):
            refuse(l3, program, STARTS[program])
            kill_process(pids[program])
        refuse(l3, "keepalived", EVERYTHING)
        left = {program: pid for program, pid in pids.items() if program not in ("radvd", MONITOR)}

        # ProcessMonitor requests the two repeatedly.
        wait_until(lambda: all(refusals(l3, program) > 1 for program in ("radvd", MONITOR)), PATIENCE)
        expect_that_works(router, left)

        # The agent gets an update and is restarted: at this point Neutron removes a router's namespace.
        router.described["_ha_state"] = "active"
        router.described["_interfaces"].append(routers.interface("10.30.0.1/24"))
        finished, updates = f"Finished a router update for {router.id}", l3.log().count("Starting router update for")
        l3.ask("put_router", router=router.described)
        wait_until(lambda: refusals(l3, "keepalived") > 0, PATIENCE)
        # Otherwise its end may find the new interface half plugged.
        wait_until(lambda: finished in "".join(l3.log().split("Starting router update for")[updates + 1 :]), PATIENCE)
        expect_that_works(router, left)
        l3.kill()
        before = {program: refusals(l3, program) for program in ("keepalived", MONITOR)}
        l3.start("l3.py")
        wait_until(lambda: all(refusals(l3, program) > number for program, number in before.items()), PATIENCE)
        time.sleep(5)  # for its possible later actions
        expect_that_works(router, left)

        # Once allowed again, the two start by themselves, and the router can be deleted.
        for program, text in allowed.items():
            l3.services[program].places.policy.write_text(text)
        wait_until(router.is_complete, PATIENCE)
        l3.ask("delete_router", router_id=router.id)
        wait_until(lambda: not has_namespace(router.netns), PATIENCE)


def refusals(agent: Agent, program: str) -> int:
    return len(agent.services[program].journal(event="rejected"))


def expect_that_works(router: Router, pids: dict[str, int]) -> None:
    assert has_namespace(router.netns)
    assert all(router.has(each) for each in ("10.20.0.1", "203.0.113.10", "2001:db8:1::1"))
    assert all(identify(pid) is not None for pid in pids.values())
