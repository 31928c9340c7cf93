"""The stage that all attacks in this folder share, and the record of which succeeded."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.attacks.catalogue import RESULTS, results
from tests.attacks.stage import NEUTRON, Ours, Stage, Succeeded, Target, agent_of
from tests.attacks.tripleo import TripleO
from tests.lab.conftest import assert_nothing_is_left, traces

OURS, THEIRS = "ours", "theirs"
WRITE = "SIDESPAWN_WRITE_RESULTS"  # set to any value: results.json is rewritten instead of compared
found: dict[str, dict[str, Any]] = {}  # results against theirs, by test: see results.json
outcomes: dict[str, bool] = {}  # results against ours, by test: whether it held


@pytest.fixture(scope="package")
def stage() -> Iterator[Stage]:
    before = traces()
    made = Stage()
    yield made
    made.close()
    assert_nothing_is_left(before)


@pytest.fixture(scope="package")
def ours(stage: Stage) -> Ours:
    """Yield our service, attacked by an agent with the privileges of the demo's agent, and the directory of theirs."""
    served = stage.service("dnsmasq", "neutron-dhcp-dnsmasq", stage.state)
    other = stage.service("other", "neutron-dhcp-dnsmasq", stage.directory("other"))
    spool = stage.home / "theirs"
    spool.mkdir()
    theirs = (f"--volume={spool}:{spool}:rw,rshared",)
    agent = stage.agent(agent_of("agent", stage.state, served, more_options=theirs))
    attackers = (stage.attacker(agent.name), stage.attacker(agent.name, NEUTRON))
    return Ours(stage.files, served, *attackers, other.network())


@pytest.fixture
def theirs(stage: Stage, ours: Ours) -> Iterator[TripleO]:
    made = TripleO(stage.files, stage.home, stage.state, ours.attacker)
    made.install()
    yield made
    made.remove()
    stage.files.restore()


@pytest.fixture(params=[OURS, THEIRS])
def target(request: pytest.FixtureRequest) -> Target:
    """Yield each target in turn: the same attack is tried on both."""
    fixture: Target = request.getfixturevalue(request.param)
    return fixture


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Run the test. Attacks on theirs may succeed; the result is compared with the recorded one."""
    if not is_theirs(pyfuncitem):
        return (yield)
    verdict = "held"
    try:
        yield
    except Succeeded as succeeded:
        verdict = f"succeeded: {succeeded}"
    numbers = [number for mark in pyfuncitem.iter_markers("attack") for number in mark.args]
    found[pyfuncitem.name] = {"attacks": numbers, "found": verdict}
    if WRITE not in os.environ:
        known = results().get(pyfuncitem.name, {"found": "nothing"})["found"]
        assert verdict.split(":")[0] == known.split(":")[0], f"{verdict}; {RESULTS.name} says: {known}"
    return True


def is_theirs(item: pytest.Function) -> bool:
    callspec = getattr(item, "callspec", None)
    return "theirs" in item.fixturenames or (callspec is not None and callspec.params.get("target") == THEIRS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if isinstance(item, pytest.Function) and call.when == "call" and not is_theirs(item):
        outcomes[item.nodeid] = report.passed
    return report


def pytest_sessionfinish() -> None:
    if WRITE in os.environ and found:
        RESULTS.write_text(json.dumps(dict(sorted({**results(), **found}.items())), indent=4) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if outcomes or found:
        theirs = sum(each["found"].startswith("succeeded") for each in found.values())
        terminalreporter.write_line(
            f"attacks that succeeded: ours {list(outcomes.values()).count(False)} of {len(outcomes)}, "
            f"theirs {theirs} of {len(found)}"
        )
