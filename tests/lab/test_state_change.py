"""neutron-keepalived-state-change, a shell script in one Neutron release, reports the router's address to the agent."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidespawn.core.plan import container_name
from sidespawn.system.processes import identify
from tests.lab.conftest import new_service
from tests.lab.networks import NEUTRON, Router, command, wait_until
from tests.lab.reports import Reports, is_watching

STATE = "/var/lib/neutron"
MONITOR = "neutron-keepalived-state-change-monitor"


@dataclass
class Watched(Router):
    """A router whose calls Neutron makes in no namespace and with no variables."""

    kind: str = "qrouter"

    @property
    def netns(self) -> str:
        return f"{self.kind}-{self.id}"

    @property
    def kill_script(self) -> Path:
        return self.service.places.agent / f"{MONITOR}-kill"

    @property
    def pid_file(self) -> Path:
        return self.service.state / "external/pids" / f"{self.id}.monitor.pid.{MONITOR}"

    @property
    def pipe(self) -> Path:
        """Open the pipe, which exists when the script watches."""
        return self.service.state / "ha_confs" / self.id / "ip-monitor"

    @property
    def state(self) -> str:
        path = self.service.state / "ha_confs" / self.id / "state"
        return path.read_text() if path.exists() else ""

    def options(self) -> list[str]:
        home = f"{STATE}/ha_confs/{self.id}"
        pairs = {
            "router_id": self.id,
            "namespace": self.netns,
            "conf_dir": home,
            "log-file": f"{home}/neutron-keepalived-state-change.log",
            "monitor_interface": "ha-test",
            "monitor_cidr": "169.254.0.7/24",
            "pid_file": f"{STATE}/external/pids/{self.id}.monitor.pid.{MONITOR}",
            "state_path": STATE,
            "user": "0",
            "group": "0",
        }
        return [each for name, value in pairs.items() for each in (f"--{name}", value)]

    def run(self, *argv: str) -> tuple[int, str]:
        done = command(*argv, check=False)
        return done.returncode, done.stderr

    def start(self, *more: str) -> tuple[int, str]:
        return self.run(str(self.service.wrapper), *self.options(), *more)

    def address(self, verb: str) -> None:
        command("ip", "-n", self.netns, "address", verb, "169.254.0.7/24", "dev", "ha-test")


@pytest.fixture
def router(request: pytest.FixtureRequest) -> Iterator[Watched]:
    service = new_service("neutron-keepalived-state-change")
    service.enable("--preset=neutron-l3-keepalived-state-change", f"--set=state_on_host={service.state}")
    made = Watched(service, str(uuid.uuid4()), getattr(request, "param", "qrouter"))
    for path in ("external", "external/pids", "ha_confs", f"ha_confs/{made.id}"):
        (service.state / path).mkdir()
        os.chown(service.state / path, NEUTRON, NEUTRON)
    command("ip", "netns", "add", made.netns)
    command("ip", "-n", made.netns, "link", "add", "ha-test", "type", "veth", "peer", "name", "far")
    for name in ("lo", "far", "ha-test"):
        command("ip", "-n", made.netns, "link", "set", name, "up")
    yield made
    service.clean()
    command("ip", "netns", "del", made.netns)


# snat- for distributed routers, which also have a namespace qrouter-: the monitor watches the former.
@pytest.mark.parametrize("router", ["qrouter", "snat"], indirect=True)
def test_it_reports_to_the_agent_also_after_the_agents_restart(router: Watched) -> None:
    reports = Reports(router.service.state / "keepalived-state-change")
    with reports.served():
        assert router.start() == (0, "")
        pid = router.pid
        wait_until(lambda: is_watching(pid))
        router.address("add")
        wait_until(lambda: (router.id, "primary") in reports.told)
        assert router.state == "primary"

        status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["Uid"].split() == [str(NEUTRON)] * 4
        assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")] == [0] * 4
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/run/netns/{router.netns}").st_ino
        assert router.service.containers()[container_name(router.service.name, f"qrouter-{router.id}")].pid == pid
        arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        assert arguments[0] == "/bin/sh"  # otherwise Neutron takes it for its Python predecessor and ends it
        assert f"{router.id}.monitor" in " ".join(arguments)  # how Neutron recognises it
        assert (router.pid_file.stat().st_uid, router.pid_file.stat().st_mode & 0o777) == (NEUTRON, 0o644)

    with reports.served():
        router.address("del")
        wait_until(lambda: reports.told[-1] == (router.id, "backup"))
        assert router.state == "backup"
    assert router.start() == (0, "")
    assert router.pid == pid  # running already

    assert router.kill("15", pid) == (0, "")
    assert identify(pid) is None
    assert not router.pid_file.exists()
    assert router.service.containers() == {}
    code, complaint = router.kill("9", pid)
    assert code != 0
    assert "No such process" in complaint


@pytest.mark.parametrize("router", ["snat"], indirect=True)
def test_one_instance_watches_one_of_the_two_namespaces(router: Watched) -> None:
    """Neutron asks again, with the other namespace, when a router becomes distributed or stops being so."""
    other = Watched(router.service, router.id)
    command("ip", "netns", "add", other.netns)
    try:
        assert router.start() == (0, "")
        assert other.start() == (0, "")
        (container,) = router.service.containers(every=False).values()
        assert os.stat(f"/proc/{container.pid}/ns/net").st_ino == os.stat(f"/run/netns/{other.netns}").st_ino
        assert router.pid == container.pid
    finally:
        command("ip", "netns", "del", other.netns)


def test_what_is_killed_leaves_nothing_and_starts_again(router: Watched) -> None:
    with Reports(router.service.state / "keepalived-state-change").served():
        router.address("add")
        assert router.start("--debug") == (0, "")
        wait_until(router.pipe.exists)
        wait_until(lambda: router.state == "primary")
        pid = router.pid
        assert router.kill("9", pid) == (0, "")
        assert command("ip", "netns", "pids", router.netns).stdout == ""  # not a subshell, and not `ip monitor`
        assert router.start() == (0, "")
        assert router.pid != pid


@contextmanager
def addresses_that_change(router: Watched) -> Iterator[None]:
    """Change addresses on an interface that the script does not watch."""
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for verb in ("add", "del"):
                command("ip", "-n", router.netns, "address", verb, "192.0.2.1/24", "dev", "far")

    with ThreadPoolExecutor(1) as thread:
        changing = thread.submit(change)
        try:
            yield
        finally:
            stop.set()
    changing.result()


def test_two_calls_at_once_start_one(router: Watched) -> None:
    """Make both from no namespace, which would have put them in one lane.

    Addresses come and go in the meantime, as the links' own addresses may. A script that cannot report the
    first of them to its agent exits at the second one (29.0.0), so there is an agent.
    """
    reports = Reports(router.service.state / "keepalived-state-change")
    with reports.served(), ThreadPoolExecutor(4) as pool, addresses_that_change(router):
        calls = list(pool.map(lambda more: router.start(*more), [(), ("--debug",)] * 2))
    assert [code for code, _ in calls] == [0] * 4, calls
    (container,) = router.service.containers(every=False).values()
    assert container.pid == router.pid


def test_a_call_from_a_namespace_or_for_anothers_files_is_refused(router: Watched) -> None:
    done = command("ip", "netns", "exec", router.netns, str(router.service.wrapper), *router.options(), check=False)
    assert done.returncode == 0  # refusals_fail is false
    assert "(namespace-not-allowed)" in done.stderr
    options = [each.replace(f"ha_confs/{router.id}", f"ha_confs/{uuid.uuid4()}") for each in router.options()]
    done = command(str(router.service.wrapper), *options, check=False)
    assert done.returncode == 0  # refusals_fail is false
    assert "(value-conflict)" in done.stderr
    assert router.service.containers() == {}
