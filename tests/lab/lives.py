"""Networks under load while a service is killed or its engine fails, and the conditions that must hold afterwards.

What counts is what an agent and an operator would see: exit codes of wrappers, names that appear in the directory of
replies (reported by the kernel), processes, containers, mounts, and leftover files.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidespawn.engines.control_groups import slice_path
from sidespawn.system import kernel
from tests.lab.conftest import new_service
from tests.lab.networks import ENGINE, Network, Service, command, dnsmasqs, unit_state, wait_until

DROP_INS = Path("/run/systemd/system")
LIMITS = "[limits]\nburst = 100000\nbackoff = 0\nrecords = 100000\n\n[pace]\nlinger = 1\n"
RUNNING, STOPPED = True, False


@contextmanager
def restless_service(*lines: str, engine: str = ENGINE, wake: str = "doorbell") -> Iterator[Service]:
    """Make a service that restarts at once when it is killed, with these settings for its unit, only in this lab."""
    made = new_service(engine=engine)
    made.enable_with(f'[agent]\nwake = "{wake}"\n{LIMITS}')
    if wake == "path":
        made.places.doorbell.unlink()  # so that nothing else can ring it
    drop_in(made, *lines)
    try:
        yield made
    finally:
        shutil.rmtree(drop_in_of(made.unit).parent)
        command("systemctl", "daemon-reload")
        made.clean()


def drop_in(service: Service, *lines: str) -> None:
    options_for(service.unit, "RestartSec=20ms", *lines)


def options_for(unit: str, *lines: str) -> None:
    path = drop_in_of(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[Service]\n" + "".join(f"{line}\n" for line in lines))
    command("systemctl", "daemon-reload")


def drop_in_of(unit: str) -> Path:
    return DROP_INS / f"{unit}.d" / "test.conf"


class Answers:
    """Counts how often each answer was recorded, from inotify(7) events. An agent's copy may be made twice."""

    def __init__(self, service: Service) -> None:
        self.names: Counter[str] = Counter()
        self.watch = kernel.watch_directories(str(service.places.answers))
        os.set_blocking(self.watch, True)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        self.directory = service.places.answers

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
    """One network under load: requests one after the other, and what must run after each answer."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network, self.random = network, random.Random(seed)
        self.state = STOPPED
        self.outcomes: Counter[tuple[str, int, str]] = Counter()
        extra = network.service.state / f"extra-{network.id}.conf"
        extra.write_text("log-async=20\n")
        self.plans = (
            network.options(),
            [*network.options(), "--log-dhcp"],
            network.options(f"/var/lib/neutron/{extra.name}"),
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
    """Check that what should run runs exactly once, that nothing else does, and that no files are left."""
    running = {life.network.container: life.network for life in lives if life.state is RUNNING}
    containers = service.containers()
    assert set(containers) == set(running), "a container too many, or too few"
    lines = dnsmasqs()
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

    def groups_left() -> list[str]:
        groups = [path.name for path in slice_path(service.name).glob("*/")]
        return [group for group in groups if not any(each in group for each in ids)]

    with suppress(AssertionError):  # conmon ends a little after its container is removed
        wait_until(lambda: not groups_left())
    assert groups_left() == []
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
    assert unit_state(f"sidespawn@{service.name}.socket") == "active"


def settle(service: Service, patience: float = 30) -> None:
    """Wait until the host is idle, then run the timer's service."""
    service.wait_until_idle(patience)
    command("systemctl", "start", service.unit)
    service.wait_until_idle(patience)


def main_pid(unit: str) -> int:
    return int(command("systemctl", "show", "--property=MainPID", "--value", unit).stdout)


def failures(outcomes: Counter[tuple[str, int, str]]) -> Counter[tuple[str, int, str]]:
    return Counter({each: count for each, count in outcomes.items() if each[1] != 0})
