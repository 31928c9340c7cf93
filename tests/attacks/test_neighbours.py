"""A second agent that shares /run/netns, file systems that never answer, and other users of the host."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from sidespawn.system.processes import ENVIRONMENT, identify
from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.stage import Attacker, Ours, Refused, Stage, agent_of
from tests.lab.networks import SIDESPAWN, command, unit_state

AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
VERBS = (("check",), ("check", "SERVICE"), ("ps", "SERVICE"), ("ps", "SERVICE", "--limits"), ("enable", "SERVICE"))


@pytest.fixture(scope="module")
def second(stage: Stage, ours: Ours) -> Attacker:
    """Root in the other service's agent."""
    service = ours.bystander.service
    return stage.attacker(stage.agent(agent_of("second", service.state, service)).name)


@attack(142)
def test_a_second_agent_cannot_signal_the_firsts_programs(ours: Ours, second: Attacker) -> None:
    """By a request to its own service: pids are looked up in that service's records only."""
    network = ours.new_network()
    assert network.start().returncode == 0
    before = identify(network.pid)
    service = ours.bystander.service
    for name in ("0", "HUP", "TERM", "KILL"):
        done = command(
            *("ip", "netns", "exec", ours.bystander.netns, str(service.kill_script), name, str(network.pid)),
            check=False,
        )
        assert done.returncode == 1, "no such process"
    assert identify(network.pid) == before
    seen = second(inside.listing, "/run/sidespawn")
    assert set(seen) == {"image", service.name}, "and it sees nothing of the first's service"
    ours.expect_held()


@contextmanager
def silent(attacker: Attacker, path: str) -> Iterator[None]:
    attacker(inside.mount_silent_autofs, path)
    try:
        yield
    finally:
        attacker(inside.answer_no_more)
        with suppress(Refused):
            attacker(inside.unmount, path)


def expect_answers(ours: Ours) -> None:
    for words in VERBS:
        argv = [ours.service.name if each == "SERVICE" else each for each in words]
        began = time.monotonic()
        done = subprocess.run((*SIDESPAWN, *argv), capture_output=True, text=True, timeout=90, check=False)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        assert time.monotonic() - began < 60


@attack(143)
def test_the_directory_of_names_hidden_by_what_never_answers(ours: Ours, second: Attacker) -> None:
    """All that share it share this, too. The operator's verbs answer, and say what it is."""
    with silent(second, "/run/netns"):
        assert os.path.ismount("/run/netns")
        expect_answers(ours)
        assert "is mounted over /run/netns" in command(*SIDESPAWN, "check").stdout
    ours.expect_held()


@attack(144)
def test_what_never_answers_where_a_verb_looks_into_the_agent(ours: Ours) -> None:
    """`check` and `enable` look for the image's own program in the agent's root."""
    with silent(ours.attacker, "/run/sidespawn/image"):
        expect_answers(ours)
    ours.expect_held()


@attack(146)
def test_another_user_reaches_nothing_of_a_service(ours: Ours) -> None:
    places = ours.service.places
    paths = [places.home, places.spool, places.replies, places.doorbell, places.operators_doorbell, places.agent]
    paths += [places.compiled, places.ledger, places.claims, places.lock, places.pins, places.snapshots]
    for path in paths:
        for operator in ("-r", "-w", "-x", "-e"):
            done = subprocess.run((*AS_NOBODY, "test", operator, str(path)), check=False, env=ENVIRONMENT)
            assert done.returncode == 1, (path, operator)
    ours.expect_held()


@attack(148)
@pytest.mark.parametrize("verb", ["stop", "restart", "kill", "mask", "reload"])
def test_another_user_has_no_power_over_the_units(ours: Ours, verb: str) -> None:
    for kind in ("socket", "service", "timer"):
        unit = f"sidespawn@{ours.service.name}.{kind}"
        argv = (*AS_NOBODY, "systemctl", "--no-ask-password", verb, unit)
        done = subprocess.run(argv, capture_output=True, check=False, timeout=60, env=ENVIRONMENT)
        assert done.returncode != 0
    assert unit_state(f"sidespawn@{ours.service.name}.socket") == "active"
    ours.expect_held()
