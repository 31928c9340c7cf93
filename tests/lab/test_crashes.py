"""The service is killed, and its spool is full: each request is answered once, each instance runs once."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from sidespawn.setup.systemd import podman_units
from tests.lab import dockers, dying
from tests.lab.lives import (
    RUNNING,
    Answers,
    Life,
    assert_in_order,
    failures,
    main_pid,
    restless_service,
    settle,
)
from tests.lab.networks import Service, command, wait_until

KILLS = int(os.environ.get("SIDESPAWN_KILLS", "30"))  # with podman; a third of it with each other engine
EVERY = int(os.environ.get("SIDESPAWN_EVERY", "9"))  # every how manyth step a run is killed at; 1 takes five minutes
NETWORKS = 8


@pytest.fixture
def crashing_service() -> Iterator[Service]:
    with restless_service() as made:
        yield made


def docker_for_helpers() -> AbstractContextManager[None]:
    return dockers.running_docker(dockers.HELPERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "wake", "kills", "ready"),
    [
        ("podman", "doorbell", KILLS, nullcontext),
        ("podman", "path", max(1, KILLS // 3), nullcontext),
        ("docker", "doorbell", max(1, KILLS // 3), docker_for_helpers),
        ("systemd", "doorbell", max(1, KILLS // 3), nullcontext),
    ],
    ids=["podman", "podman, woken by a path unit", "docker", "systemd"],
)
def test_killed_at_random_moments_under_load(
    engine: str,
    wake: str,
    kills: int,
    ready: Callable[[], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ready(), restless_service(engine=engine, wake=wake) as service:
        units = (service.unit, *podman_units(service.name)[1:]) if engine == "podman" else (service.unit,)
        live_through_kills(service, units, kills, capsys)


def live_through_kills(
    service: Service, units: tuple[str, ...], kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that each request is answered once and none fails, and that what should run does so once."""
    lives = [Life(service.network(), seed) for seed in range(NETWORKS)]
    answers = Answers(service)
    done = live_and_kill(units, lives, kills)
    settle(service)
    counted = answers.count()
    outcomes = sum((life.outcomes for life in lives), Counter[tuple[str, int, str]]())
    sent = sum(outcomes.values())
    twice = sum(count > 1 for count in counted.values())
    with capsys.disabled():
        print(f"\n{service.engine}, {done} kills: {sent} requests sent, {len(counted) - twice} answered once,", end=" ")
        print(f"{twice} twice, {sent - len(counted)} lost; {sum(life.state for life in lives)} should run,", end=" ")
        print(f"{len(service.containers(every=False))} do; failed: {dict(failures(outcomes)) or 'none'}")
    assert (len(counted), twice) == (sent, 0)
    assert failures(outcomes) == Counter()
    assert_in_order(service, lives)


def live_and_kill(units: tuple[str, ...], lives: list[Life], wanted: int) -> int:
    """Run each life in a thread until one of the units was killed that often, and return the number of kills."""
    enough, moments, kills = threading.Event(), random.Random(4), 0

    def live(life: Life) -> None:
        while not enough.is_set():
            life.step()

    with ThreadPoolExecutor(len(lives)) as threads:
        work = [threads.submit(live, life) for life in lives]
        while kills < wanted and not any(each.done() for each in work):
            time.sleep(moments.uniform(0.0, moments.choice((0.4, 4.0))))
            if pid := main_pid(moments.choice(units)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        enough.set()
        for each in work:
            each.result()
    return kills


# ---------------------------------------------------------------- at every step


@pytest.fixture
def dying_service() -> Iterator[Service]:
    """Make a service whose runs die at the step that `die_at` sets."""
    program = f"{sys.executable} -I -S {Path(dying.__file__)} sync %i"
    dying.CONTROL.mkdir(exist_ok=True)
    with restless_service("ExecStart=", f"ExecStart={program}") as made:
        yield made
    shutil.rmtree(dying.CONTROL)


def steps_of(service: Service) -> list[str]:
    return (dying.CONTROL / f"{service.name}.steps").read_text().splitlines()


def die_at(service: Service, step: int) -> None:
    """Have the next run count its steps and die before this one; 0 for never."""
    service.wait_until_idle()
    (dying.CONTROL / f"{service.name}.steps").unlink(missing_ok=True)
    (dying.CONTROL / service.name).write_text(str(step))


@pytest.mark.slow
def test_killed_at_every_step_of_a_start_a_reload_a_replacement_and_a_stop(
    dying_service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """Count the steps of each request in one life of a network, then kill a run at each of these steps."""
    service = dying_service
    life = Life(service.network(), 0)
    network = life.network

    def request(what: str) -> subprocess.CompletedProcess[str]:
        if what in ("start", "replace"):
            return network.start(*life.plans[2 if what == "start" else 1])
        return network.kill(what)

    order = ("start", "HUP", "replace", "TERM")
    steps = {}
    for what in order:
        die_at(service, 0)
        life.note(what, request(what))
        service.wait_until_idle()
        steps[what] = len(steps_of(service))
    answers, sent = Answers(service), 0
    for number in range(1, max(steps.values()) + 1, EVERY):
        for what in order:
            if number <= steps[what]:
                die_at(service, number)
            life.note(what, request(what))
            sent += 1
            assert network.pid_file.exists() == (what != "TERM")
    settle(service)
    counted = answers.count()
    with capsys.disabled():
        print(f"\nkilled at every step: {steps}; {sent} requests, {len(counted)} answered", end=" ")
    assert (len(counted), set(counted.values())) == (sent, {1})
    assert_in_order(service, [life])


# ---------------------------------------------------------------- no room


@pytest.mark.parametrize("what", ["bytes", "files"])
def test_a_full_spool_delays_a_request_and_loses_none(crashing_service: Service, what: str) -> None:
    service, life = crashing_service, Life(crashing_service.network(), 0)
    spool, socket_unit = service.places.spool, f"sidespawn@{service.name}.socket"
    command("systemctl", "stop", socket_unit)  # otherwise what fills it might be removed before the request comes
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        fill(spool, what)
    with ThreadPoolExecutor(1) as thread:
        start = thread.submit(life.network.start)
        time.sleep(0.5)
        assert not start.done()
        assert not any(each.stat().st_size for each in spool.glob("processes*"))
        command("systemctl", "start", socket_unit)
        life.note("start", start.result())
    life.state = RUNNING
    wait_until(lambda: not list(spool.iterdir()))  # each run removes some of it
    settle(service)
    assert_in_order(service, [life])


def fill(spool: Path, what: str) -> None:
    """Write until OSError is raised because the file system is full."""
    if what == "bytes":
        (spool / "large").write_bytes(bytes(8 * 2**20))
    for number in range(1000):
        (spool / f"file{number}").touch()
