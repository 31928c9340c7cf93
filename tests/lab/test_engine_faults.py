"""podman fails, prints rubbish, dies halfway, hangs, or finds its storage locked: what is answered, and what remains.

As a command, which a fake can replace to do all of that, and as a service, which is killed and stopped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidespawn.engines.podman import QUERY_TIMEOUT
from sidespawn.host.policies import load_policy
from sidespawn.setup import hardening
from sidespawn.setup.systemd import podman_units
from tests.attacks.catalogue import attack
from tests.lab import hurried
from tests.lab.hurried import PATIENCE
from tests.lab.lives import (
    RUNNING,
    Answers,
    Life,
    assert_in_order,
    drop_in,
    main_pid,
    restless_service,
    settle,
)
from tests.lab.networks import Network, Service, command, dnsmasqs, unit_state, wait_until

FAKES = Path(__file__).parent
HURRIED = (
    "ExecStart=",
    f"ExecStart={sys.executable} -I -S {Path(hurried.__file__)} sync %i",
    f"Environment=SIDESPAWN_PATIENCE={PATIENCE}",
)
SLACK = 20.0  # seconds that an answer may take, in addition to the timeout for podman
STORAGE = Path("/var/lib/containers/storage")


class Faulty:
    """A service with fakes in place of podman and its runtime, which usually call the real ones."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.faults, self.noted = service.state / "faults", service.state / "faults.hung"
        runtime = command("podman", "info", "--format={{.Host.OCIRuntime.Path}}").stdout.strip()
        # A copy, which conmon also calls when the program has ended; that call must not fail.
        podman = shutil.copy("/usr/bin/podman", service.state / "real-podman")
        binds = [
            self.fake("fake_podman", "/usr/bin/podman", podman),
            self.fake("fake_runtime", runtime, f"/proc/1/root{runtime}"),  # PID 1 still sees it there
        ]
        self.works()
        by_command(service)
        drop_in(service, *HURRIED, *binds, "MountFlags=shared")

    def fake(self, name: str, place: str, real: str | Path) -> str:
        """Return the option that puts it there."""
        made = self.service.state / name
        made.write_text((FAKES / name).read_text().replace("@FAULTS@", str(self.faults)).replace("@REAL@", str(real)))
        made.chmod(0o755)
        return f"BindReadOnlyPaths={made}:{place}"

    def will(self, *faults: str) -> None:
        self.faults.write_text("".join(f"{fault}\n" for fault in faults))

    def works(self) -> None:
        self.will()

    def hung(self) -> list[int]:
        """Return the pids of the commands that hang."""
        return [int(each) for each in self.noted.read_text().split()] if self.noted.exists() else []

    def await_hung(self, count: int) -> None:
        wait_until(lambda: len(self.hung()) >= count)


def by_command(service: Service) -> None:
    """Make a service as an earlier version enabled it: podman is its child, and there is no socket."""
    path = hardening.drop_in(service.name)
    text = hardening.text_of(load_policy(service.places), "podman-service")
    path.write_text(f"{text}\nCapabilityBoundingSet=CAP_SYS_PTRACE\n")  # needed by the service, not by podman
    command("systemctl", "daemon-reload")
    command("systemctl", "stop", *podman_units(service.name))
    assert not service.places.podman.exists()


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    with restless_service() as made:
        yield Faulty(made)


@pytest.fixture
def neighbour() -> Iterator[Service]:
    """Enable another agent's service."""
    with restless_service() as made:
        yield made


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the reason code of a wrapper's failure, or "" if it succeeded."""
    return done.stderr.partition("(")[2].partition(")")[0]


def assert_does_not_run(network: Network) -> None:
    assert not any(network.id in line for line in dnsmasqs())


# ---------------------------------------------------------------- it fails

FAULTS = ("fails", "locked", "rubbish", "silent", "crashes", "dies-after", "dies-0.03")
OF_STARTS = ("dies-created", "dies-prepared", "dies-started")


@pytest.mark.slow
def test_an_engine_failure_of_any_kind_is_reported_and_leaves_nothing(faulty: Faulty) -> None:
    """Fail each of its calls in each way, at a start and at a stop. The next request finds everything in order."""
    life = Life(faulty.service.network(), 0)
    network = life.network
    for fault in (*FAULTS, *OF_STARTS):
        faulty.will(f"run {fault}")
        done = network.start()
        assert (fault, done.returncode, reason(done)) == (fault, 70, "engine-failed")
        faulty.service.wait_until_idle()
        assert_in_order(faulty.service, [life])
        assert network.start().returncode == 0, f"after {fault} of run"
        if fault in OF_STARTS:
            assert network.kill("TERM").returncode == 0
            continue
        faulty.will(f"rm {fault}")
        pid = network.pid
        done = network.kill("TERM")
        assert (fault, done.returncode, reason(done)) in ((fault, 0, ""), (fault, 70, "engine-failed"))
        assert faulty.faults.read_text() == "", f"{fault} of rm never came"
        assert not Path(f"/proc/{pid}").exists()
        assert network.start().returncode == 0, f"after {fault} of rm"
        assert network.pid != pid
        assert network.kill("TERM").returncode == 0
    settle(faulty.service)
    assert_in_order(faulty.service, [life])


def test_rubbish_in_place_of_what_runs_is_the_engines_failure(faulty: Faulty) -> None:
    service, life = faulty.service, Life(faulty.service.network(), 0)
    network = life.network
    record = service.places.ledger / f"{network.netns}.json"
    life.note("start", network.start())
    record.unlink()
    faulty.will("container rubbish")
    assert reason(network.start()) == "engine-failed"
    service.wait_until_idle()
    assert_does_not_run(network)
    life.note("start", network.start())
    record.unlink()
    faulty.will("ps rubbish")
    assert reason(network.kill("TERM")) == "engine-failed"
    life.note("TERM", network.kill("TERM"))
    faulty.will("ps rubbish")
    settle(service)
    assert any("cleanup deferred" in each["MESSAGE"] for each in service.journal(reason="engine-failed"))
    life.note("start", network.start())
    life.state = RUNNING
    settle(service)
    assert_in_order(service, [life])


# ---------------------------------------------------------------- it hangs


@attack(107, answer="engine-timeout")
@pytest.mark.slow
def test_a_call_that_hangs_holds_up_its_request_and_no_other(faulty: Faulty, neighbour: Service) -> None:
    service, stuck = faulty.service, Life(faulty.service.network(), 0)
    lives = [Life(service.network(), 1), Life(service.network(), 2)]
    theirs = Life(neighbour.network(), 3)
    answers = Answers(service)
    faulty.will(f"run hangs {stuck.network.id}")
    with ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        start = thread.submit(stuck.network.start)
        faulty.await_hung(1)
        while not start.done():
            for life in (*lives, theirs):
                life.step()
        assert reason(start.result()) == "engine-timeout"
        assert PATIENCE <= time.monotonic() - began < PATIENCE + SLACK
    sent = sum(sum(life.outcomes.values()) for life in lives)
    assert min(sum(life.outcomes.values()) for life in (*lives, theirs)) >= 2, "the others' requests go on"
    assert not any(Path(f"/proc/{pid}").exists() for pid in faulty.hung())
    service.wait_until_idle()
    assert stuck.network.container not in service.containers()
    stuck.note("start", stuck.network.start())
    stuck.state = RUNNING
    settle(service)
    counted = answers.count()
    assert (len(counted), set(counted.values())) == (sent + 2, {1})
    assert_in_order(service, [stuck, *lives])
    assert_in_order(neighbour, [theirs])


@pytest.mark.slow
def test_a_podman_that_hangs_half_way_leaves_no_half_container(faulty: Faulty) -> None:
    """Stop it for good after it created the container, had the runtime prepare it, or started the program."""
    service, moments = faulty.service, ("created", "prepared", "started")
    lives = [Life(service.network(), seed) for seed in range(len(moments))]
    networks = [life.network for life in lives]
    faulty.will(*(f"run hangs-{moment} {each.id}" for moment, each in zip(moments, networks, strict=True)))
    with ThreadPoolExecutor(len(lives)) as threads:
        starts = []
        for number, network in enumerate(networks, 1):
            starts.append(threads.submit(network.start))
            faulty.await_hung(number)
        reasons = [reason(each.result()) for each in starts]
    assert reasons == ["engine-timeout"] * len(moments)
    assert not any(Path(f"/proc/{pid}").exists() for pid in faulty.hung())
    service.wait_until_idle()
    assert_in_order(service, lives)
    for life in lives:
        life.note("start", life.network.start())
        life.state = RUNNING
    settle(service)
    assert_in_order(service, lives)


@pytest.mark.slow
def test_an_engine_that_hangs_whatever_it_is_asked(faulty: Faulty, neighbour: Service) -> None:
    """Kill the run while it waits, too: the next one's engine does not say what was begun."""
    service, lives = faulty.service, [Life(faulty.service.network(), seed) for seed in range(2)]
    running, starting = lives
    theirs = Life(neighbour.network(), 2)
    answers = Answers(service)
    running.note("start", running.network.start())
    faulty.will("* hangs")
    with ThreadPoolExecutor(1) as thread:
        start = thread.submit(starting.network.start)
        faulty.await_hung(1)
        running.note("HUP", running.network.kill("HUP"))  # needs no engine
        theirs.note("start", theirs.network.start())
        theirs.state = RUNNING
        os.kill(main_pid(service.unit), signal.SIGKILL)
        assert reason(start.result()) == "engine-timeout"
    pid = running.network.pid
    assert reason(running.network.kill("TERM")) == "engine-timeout"
    assert not Path(f"/proc/{pid}").exists()
    settle(service, 30 + 3 * PATIENCE)  # each run's cleanup hangs, too
    assert any("cleanup deferred" in each["MESSAGE"] for each in service.journal(reason="engine-timeout"))
    assert not any(Path(f"/proc/{pid}").exists() for pid in faulty.hung())
    assert_does_not_run(starting.network)
    faulty.works()
    for life in lives:
        life.note("start", life.network.start())
        life.state = RUNNING
    settle(service)
    counted = answers.count()
    assert (len(counted), set(counted.values())) == (6, {1})
    assert_in_order(service, lives)
    assert_in_order(neighbour, [theirs])


@pytest.mark.slow
def test_a_podman_of_the_service_that_hangs_is_ended_and_another_takes_over() -> None:
    with restless_service(*HURRIED) as service:
        unit = podman_units(service.name)[1]
        lives = [Life(service.network(), seed) for seed in range(2)]
        running, starting = lives
        running.note("start", running.network.start())
        running.state = RUNNING
        answers = Answers(service)
        pid = main_pid(unit)
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        assert reason(starting.network.start()) == "engine-timeout"
        assert PATIENCE <= time.monotonic() - began < PATIENCE + SLACK
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        assert_does_not_run(starting.network)
        starting.note("start", starting.network.start())
        starting.state = RUNNING
        settle(service)
        counted = answers.count()
        assert (len(counted), set(counted.values())) == (2, {1})
        assert_in_order(service, lives)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command_line", ["/usr/bin/false", "/usr/bin/podman --root=/proc/none system service --time=6"]
)
def test_a_podman_that_cannot_start_is_an_engine_failure_and_not_tried_forever(command_line: str) -> None:
    """It ends each time that it is asked; without requests, systemd does not start it."""
    with restless_service() as service:
        unit = podman_units(service.name)[1]
        life = Life(service.network(), 0)
        options = Path(f"/run/systemd/system/{unit}.d/test.conf")
        options.parent.mkdir(parents=True)
        try:
            options.write_text(f"[Service]\nExecStart=\nExecStart={command_line}\n")
            command("systemctl", "daemon-reload")
            began = time.monotonic()
            assert reason(done := life.network.start()) == "engine-failed", done.stderr
            assert f"journalctl --unit={unit}" in done.stderr
            assert time.monotonic() - began < QUERY_TIMEOUT / 2
            service.wait_until_idle()
            wait_until(lambda: unit_state(unit) in ("inactive", "failed"))
            last = starts(unit)
            time.sleep(3)
            assert starts(unit) == last
            print(f"{last} starts")
        finally:
            shutil.rmtree(options.parent)
            command("systemctl", "daemon-reload")
        life.note("start", life.network.start())
        life.state = RUNNING
        settle(service)
        assert_in_order(service, [life])


def starts(unit: str) -> int:
    """Return how often systemd has started the unit, from its journal."""
    command("journalctl", "--sync", check=False)
    return command("journalctl", f"--unit={unit}", "--output=cat").stdout.count("Main process exited")


# ---------------------------------------------------------------- its storage is locked


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold its locks as podman does: flock(2) on its database, fcntl(2) on its storage's lists."""
    with path.open("r+b") as file:
        (fcntl.flock if path.suffix == ".db" else fcntl.lockf)(file, fcntl.LOCK_EX)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", ["overlay-containers/containers.lock", "libpod/bolt_state.db"])
@pytest.mark.parametrize("is_command", [False, True], ids=["service", "command"])
def test_waiting_for_podmans_lock_times_out_and_leaves_nothing(name: str, is_command: bool) -> None:
    with restless_service(*HURRIED) as service:
        if is_command:
            by_command(service)
        lives = [Life(service.network(), seed) for seed in range(3)]
        starting, stopping, replacing = lives
        for life in (stopping, replacing):
            life.note("start", life.network.start())
        answers = Answers(service)
        with locked(STORAGE / name), ThreadPoolExecutor(3) as threads:
            asked = (
                threads.submit(starting.network.start),
                threads.submit(stopping.network.kill, "TERM"),
                threads.submit(replacing.network.start, *replacing.plans[1]),
            )
            assert [reason(each.result()) for each in asked] == ["engine-timeout"] * 3
        service.wait_until_idle()
        for life in lives:
            assert_does_not_run(life.network)
        with ThreadPoolExecutor(3) as threads:
            with locked(STORAGE / name):  # shorter than podman's timeout
                starts = [threads.submit(life.network.start) for life in lives]
                time.sleep(PATIENCE / 4)
                assert not any(start.done() for start in starts)
            for life, start in zip(lives, starts, strict=True):
                life.note("start", start.result())
                life.state = RUNNING
        settle(service)
        counted = answers.count()
        assert (len(counted), set(counted.values())) == (6, {1})
        assert_in_order(service, lives)
