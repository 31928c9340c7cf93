"""Every helper of Neutron, started, changed, killed, kept and stopped by Neutron's own driver for it.

The results are the table in docs/neutron.md; SIDESPAWN_WRITE_TABLE=1 rewrites it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from sidespawn.testing.agent import effective_capabilities, process_status
from tests.lab.networks import kill_process
from tests.neutron import table
from tests.neutron.agents import MANAGER, WRAPPERS, Agent
from tests.neutron.helpers import Helper, all_of

CLASSES = {WRAPPERS: "neutron.agent.linux.external_process", MANAGER: "sidespawn.agent.neutron"}


@pytest.mark.parametrize(
    "agent", [(kind, way) for kind in ("dhcp", "l3", "ovn") for way in (WRAPPERS, MANAGER)], indirect=True, ids="-".join
)
def test_what_the_docs_say_of_each_helper_was_measured(agent: Agent) -> None:
    with all_of(agent) as helpers:
        measured = live(agent, helpers)
    if os.environ.get("SIDESPAWN_WRITE_TABLE"):
        table.write(measured)
    documented = table.read()
    differing = {preset: row for preset, row in measured.items() if row != documented[preset]}
    assert differing == {}, agent.trouble()


def live(agent: Agent, helpers: list[Helper]) -> dict[str, table.Row]:
    rows: dict[str, table.Row] = {}
    pids: dict[Helper, int] = {}
    for helper in helpers:
        helper.start()
        helper.settle()
        status = helper.status()
        assert status["manager"] == CLASSES[agent.way]
        pid = pids[helper] = int(status["pid"])
        rows[helper.preset] = {
            "start": said(status["active"] and helper.works()),
            "capabilities": " ".join(effective_capabilities(pid)) or "none",
            "uid": process_status(pid)["Uid"].split()[1],
        }
        assert os.stat(f"/proc/{pid}/ns/pid").st_ino != os.stat("/proc/self/ns/pid").st_ino

    for helper in helpers:
        helper.change()
        pid = int(helper.status()["pid"])
        how = "same process" if pid == pids[helper] else "new process"
        if not helper.has_reload:
            assert pid == pids[helper]
            how = "Neutron never asks"
        rows[helper.preset]["reload"] = how if helper.works() else "no"
        pids[helper] = pid

    before = {helper: identify(pids[helper]) for helper in helpers}
    agent.kill()
    agent.start()
    for helper in helpers:
        status = helper.status()
        is_same = before[helper] is not None and identify(pids[helper]) == before[helper]
        survived = is_same and status["active"] and status["pid"] == pids[helper] and helper.works()
        rows[helper.preset]["survives agent restart"] = said(survived)

    for helper in helpers:
        helper.start()  # as the agent does after its start; from then on ProcessMonitor knows it
        helper.settle()
        pids[helper] = int(helper.status()["pid"])
        kill_process(pids[helper])
        assert not helper.status()["active"]
    agent.ask("check_children")
    for helper in helpers:
        helper.settle()
        status = helper.status()
        respawned = status["active"] and status["pid"] != pids[helper] and helper.works()
        rows[helper.preset]["respawn"] = said(respawned)

    for helper in reversed(helpers):  # dnsmasq last: its driver removes the namespace
        status = helper.status()
        helper.stop()
        service = agent.services[helper.program]
        # conntrackd ends by its own command; what ended by itself stays a while for its log.
        containers = service.containers(every=helper.program != "conntrackd")
        gone = identify(int(status["pid"])) is None and containers == {} and not helper.status()["active"]
        rows[helper.preset]["stop"] = said(gone)
    left = [path for path in Path(agent.state).rglob("*pid*") if path.is_file() and path.name != "conntrackd.pid"]
    assert left == []
    return rows


@pytest.mark.parametrize("agent", [("ovn", way) for way in (WRAPPERS, MANAGER)], indirect=True, ids="-".join)
def test_a_refusal_reaches_neutron_as_a_failed_start(agent: Agent) -> None:
    with all_of(agent) as ours, all_of(agent) as others:
        of = {**ours[0].of, "owner": others[0].owner}  # one network's metadata proxy in another network's namespace
        agent.do("haproxy", "start", of)
        assert not agent.ask("status", helper="haproxy", of=of)["active"]
    assert "Encountered process execution error Exit code: 77" in agent.log()
    assert "(value-conflict)" in agent.log()
    assert agent.services["haproxy"].containers() == {}


def said(holds: object) -> str:
    return "yes" if holds else "no"
