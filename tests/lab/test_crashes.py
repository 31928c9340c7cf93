"""The service is killed, its engine fails, its disks are full: each request is answered once, each instance runs once.

What is counted is what an agent and an operator would see: exit codes of wrappers, names that appear in the directory
of replies (as the kernel tells them), processes, containers, mounts, and files that are left.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidespawn.engines.control_groups import slice_path
from sidespawn.host import kernel
from tests.lab import dying
from tests.lab.conftest import new_service
from tests.lab.networks import Network, Service, command, command_lines, unit_state

KILLS = int(os.environ.get("SIDESPAWN_KILLS", "30"))
EVERY = int(os.environ.get("SIDESPAWN_EVERY", "9"))  # step, of those that a run can be killed at; 1 takes five minutes
NETWORKS = 8
DROP_INS = Path("/run/systemd/system")
LIMITS = "[limits]\nburst = 100000\nbackoff = 0\nrecords = 100000\n\n[pace]\nlinger = 1\n"
RUNNING, STOPPED = True, False


def drop_in(service: Service, *lines: str) -> None:
    """Settings for this service's unit, in this lab only."""
    path = DROP_INS / f"{service.unit}.d" / "test.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[Service]\n" + "".join(f"{line}\n" for line in ("RestartSec=20ms", *lines)))
    command("systemctl", "daemon-reload")


@pytest.fixture
def crashing_service() -> Iterator[Service]:
    """One that comes back at once when it is killed."""
    made = new_service()
    made.enable_with(LIMITS)
    drop_in(made)
    yield made
    shutil.rmtree(DROP_INS / f"{made.unit}.d")
    command("systemctl", "daemon-reload")
    made.clean()


class Answers:
    """Counts how often each reply was put in place, as inotify(7) tells it."""

    def __init__(self, service: Service) -> None:
        self.names: Counter[str] = Counter()
        self.watch = kernel.watch_directories(str(service.places.replies))
        os.set_blocking(self.watch, True)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        self.directory = service.places.replies

    def read(self) -> None:
        while True:
            events = os.read(self.watch, 1 << 20)
            while events:
                _, mask, _, size = struct.unpack_from("iIII", events)
                name = events[16 : 16 + size].rstrip(b"\0").decode()
                events = events[16 + size :]
                if name == "end":
                    return
                if mask & kernel.IN_MOVED_TO:
                    self.names[name] += 1

    def count(self) -> Counter[str]:
        (self.directory / "end").touch()
        self.thread.join(timeout=60)
        (self.directory / "end").unlink()
        os.close(self.watch)
        return self.names


class Life:
    """One network under load: requests one after the other, and what must run once each is answered."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network, self.random = network, random.Random(seed)
        self.state = STOPPED
        self.outcomes: Counter[tuple[str, int, str]] = Counter()
        extra = network.service.state / f"extra-{network.id}.conf"
        extra.write_text("log-async=20\n")
        plain = [each for each in network.options() if not each.startswith("--conf-file")]
        self.plans = (
            network.options(),
            [*network.options(), "--log-dhcp"],
            [*plain, f"--conf-file=/var/lib/neutron/{extra.name}"],
        )

    def step(self) -> None:
        what = self.random.choice(("start", "start", "replace", "HUP", "HUP", "HUP", "TERM", "KILL"))
        if what in ("start", "replace"):
            plan = self.plans[0] if what == "start" else self.random.choice(self.plans)
            self.note(what, self.network.start(*plan))
            self.state = RUNNING
        elif self.state is RUNNING:
            self.note(what, self.network.kill(what))
            self.state = RUNNING if what == "HUP" else STOPPED

    def note(self, what: str, done: subprocess.CompletedProcess[str]) -> None:
        self.outcomes[what, done.returncode, done.stderr] += 1
        assert done.returncode == 0, f"{what}: {done.stderr}"


def assert_in_order(service: Service, lives: list[Life]) -> None:
    """After everything: what should run does so once, nothing else does, and nothing lies about."""
    running = {life.network.container: life.network for life in lives if life.state is RUNNING}
    containers = service.containers()
    assert set(containers) == set(running), "a container too many, or too few"
    lines = [line for line in command_lines().values() if line.startswith("/usr/sbin/dnsmasq")]
    for name, network in running.items():
        assert containers[name].state == "running"
        assert sum(network.id in line for line in lines) == 1, "it runs once"
        assert containers[name].pid == network.pid
        assert network.record is not None
    for life in lives:
        if life.state is STOPPED:
            assert not any(life.network.id in line for line in lines)
            assert not life.network.pid_file.exists()
    ids = {each.id for each in containers.values()}
    scopes = {path.name for path in slice_path(service.name).glob("libpod-*.scope")}
    assert {scope.removesuffix(".scope").rpartition("-")[2] for scope in scopes} <= ids, "a scope is left"
    places = service.places
    assert list(places.pins.iterdir()) == []
    assert list(places.claims.iterdir()) == []
    assert f"{places.pins}" not in Path("/proc/self/mounts").read_text()
    names = {path.name for path in places.ledger.iterdir() if path.suffix != ".falls"}  # which expire
    assert names == {f"{network.netns}.json" for network in running.values()}
    with_copies = [life.network.netns for life in lives if list(places.snapshots.glob(f"{life.network.netns}.*"))]
    recorded = [life.network.netns for life in lives if life.network.record and life.network.record.configuration]
    assert with_copies == recorded
    assert len(list(places.snapshots.iterdir())) == len(recorded)
    assert unit_state(f"sidespawn@{service.name}.path") == "active"


def settle(service: Service) -> None:
    """Let it come to rest, and then let the timer's run have been."""
    service.wait_until_idle()
    command("systemctl", "start", service.unit)
    service.wait_until_idle()


def main_pid(service: Service) -> int:
    return int(command("systemctl", "show", "--property=MainPID", "--value", service.unit).stdout)


@pytest.mark.slow
def test_killed_at_random_moments_under_load(crashing_service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service = crashing_service
    lives = [Life(service.network(), seed) for seed in range(NETWORKS)]
    answers, enough = Answers(service), threading.Event()

    def live(life: Life) -> None:
        while not enough.is_set():
            life.step()

    moments, kills = random.Random(4), 0
    with ThreadPoolExecutor(NETWORKS) as threads:
        work = [threads.submit(live, life) for life in lives]
        while kills < KILLS and not any(each.done() for each in work):
            time.sleep(moments.uniform(0.0, moments.choice((0.4, 4.0))))
            if pid := main_pid(service):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        enough.set()
        for each in work:
            each.result()
    settle(service)
    counted = answers.count()
    outcomes = sum((life.outcomes for life in lives), Counter[tuple[str, int, str]]())
    sent = sum(outcomes.values())
    twice = sum(count > 1 for count in counted.values())
    with capsys.disabled():
        print(f"\n{kills} kills: {sent} requests sent, {len(counted) - twice} answered once, {twice} twice,", end=" ")
        print(f"{sent - len(counted)} lost; {sum(life.state for life in lives)} should run,", end=" ")
        print(f"{len(service.containers(every=False))} do; failed: {dict(failures(outcomes)) or 'none'}")
    assert (len(counted), twice) == (sent, 0)
    assert failures(outcomes) == Counter()
    assert_in_order(service, lives)


def failures(outcomes: Counter[tuple[str, int, str]]) -> Counter[tuple[str, int, str]]:
    return Counter({each: count for each, count in outcomes.items() if each[1] != 0})


# ---------------------------------------------------------------- at every step


@pytest.fixture
def dying_service() -> Iterator[Service]:
    """One whose runs die at the step that `die_at` says."""
    made = new_service()
    made.enable_with(LIMITS)
    program = f"{sys.executable} -I -S {Path(dying.__file__)} sync {made.name}"
    drop_in(made, "ExecStart=", f"ExecStart={program}")
    dying.CONTROL.mkdir(exist_ok=True)
    yield made
    shutil.rmtree(dying.CONTROL)
    shutil.rmtree(DROP_INS / f"{made.unit}.d")
    command("systemctl", "daemon-reload")
    made.clean()


def steps_of(service: Service) -> list[str]:
    return (dying.CONTROL / f"{service.name}.steps").read_text().splitlines()


def die_at(service: Service, step: int) -> None:
    """The next run counts its steps and dies before this one; 0 for never."""
    service.wait_until_idle()
    (dying.CONTROL / f"{service.name}.steps").unlink(missing_ok=True)
    (dying.CONTROL / service.name).write_text(str(step))


@pytest.mark.slow
def test_killed_at_every_step_of_a_start_a_reload_a_replacement_and_a_stop(
    dying_service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """A first life of a network counts the steps of each request; then each of them is the last of a run, once."""
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


# ---------------------------------------------------------------- an engine that does not work

FAKE = Path(__file__).parent / "fake_podman"


@pytest.fixture
def faulty_service() -> Iterator[Service]:
    """One that finds another command in the place of podman, which sometimes is the real one."""
    made = new_service()
    made.enable_with(LIMITS)
    engine, real = made.state / "podman", made.state / "real-podman"
    shutil.copy("/usr/bin/podman", real)
    engine.write_text(FAKE.read_text().replace("@FAULTS@", f"{made.state}/faults").replace("@REAL@", str(real)))
    engine.chmod(0o755)
    (made.state / "faults").touch()
    # Shorter than an engine is given, so that the test need not wait as long.
    drop_in(made, f"BindReadOnlyPaths={engine}:/usr/bin/podman", "MountFlags=shared")
    yield made
    shutil.rmtree(DROP_INS / f"{made.unit}.d")
    command("systemctl", "daemon-reload")
    made.clean()


FAULTS = ("fails", "locked", "rubbish", "silent", "crashes", "dies-after", "dies-0.03", "dies-0.1", "dies-0.2")


@pytest.mark.slow
def test_an_engine_that_fails_in_any_way_is_said_and_leaves_nothing(faulty_service: Service) -> None:
    """Each call of it fails in each way, at a start and at a stop. The next request finds everything in order."""
    service, life = faulty_service, Life(faulty_service.network(), 0)
    network, faults = life.network, faulty_service.state / "faults"
    reasons: Counter[str] = Counter()
    for fault in FAULTS:
        faults.write_text(f"run {fault}\n")
        done = network.start()
        assert done.returncode in (0, 70), done.stderr
        reasons[done.stderr.partition("(")[2].partition(")")[0]] += 1
        service.wait_until_idle()
        if done.returncode:
            programs = [line for line in command_lines().values() if line.startswith("/usr/sbin/dnsmasq")]
            assert not any(network.id in line for line in programs), f"{fault} of run"
        assert network.start().returncode == 0, f"after {fault} of run"
        faults.write_text(f"rm {fault}\n")
        pid = network.pid
        done = network.kill("TERM")
        assert done.returncode in (0, 70), done.stderr
        assert not Path(f"/proc/{pid}").exists()
        assert network.start().returncode == 0, f"after {fault} of rm"
        assert network.pid != pid
    faults.write_text("")
    life.state = RUNNING
    settle(service)
    assert_in_order(service, [life])
    print(reasons)


@pytest.mark.parametrize("what", ["bytes", "files"])
def test_a_full_spool_delays_a_request_and_loses_none(crashing_service: Service, what: str) -> None:
    service, life = crashing_service, Life(crashing_service.network(), 0)
    spool = service.places.spool
    with contextlib.suppress(OSError):
        if what == "bytes":
            (spool / "large").write_bytes(bytes(8 * 2**20))
        for number in range(1000 if what == "files" else 0):
            (spool / f"file{number}").touch()
    life.note("start", life.network.start())
    life.state = RUNNING
    service.wait_until_idle()
    assert list(spool.iterdir()) == []
    settle(service)
    assert_in_order(service, [life])
