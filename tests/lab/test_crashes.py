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
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidespawn.engines.control_groups import slice_path
from sidespawn.host import kernel
from tests.lab.conftest import new_service
from tests.lab.networks import Network, Service, command, command_lines, unit_state

KILLS = int(os.environ.get("SIDESPAWN_KILLS", "60"))
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
    assert sorted(path.name for path in places.ledger.iterdir()) == sorted(
        f"{network.netns}.json" for network in running.values()
    )
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
