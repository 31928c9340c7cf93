"""Side containers of legacy wrappers are recognised, signalled, stopped and replaced; no other container is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidespawn.system.processes import identify
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Network, Service, command, kill_process, wait_until

REJECTED = 77
IMAGE = "localhost/sidespawn-test/neutron-dhcp-agent:1"
OTHER_IMAGE = "localhost/sidespawn-test/something-else:1"
DATE = "2026-01-31-235959-123456789"
STYLES = ("tripleo", "kolla", "edpm")


@pytest.fixture(scope="module", autouse=True)
def images() -> Iterator[None]:
    for name in (IMAGE, OTHER_IMAGE):
        command("podman", "tag", "localhost/sidespawn-agent", name)
    yield
    command("podman", "untag", "localhost/sidespawn-agent", IMAGE, OTHER_IMAGE)


@pytest.fixture(scope="module")
def hasty_service() -> Iterator[Service]:
    """Make a service whose runs end immediately, so that a test need not wait for the next one."""
    made = new_service()
    made.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={made.state}")
    with made.places.policy.open("a") as policy:
        policy.write("\n[pace]\nlinger = 0\n")
    yield made
    made.clean()


@dataclass
class OldWrapper:
    """Starts a network's dnsmasq like one of three legacy wrappers: on the host, privileged, with the host's pids."""

    network: Network
    style: str
    started: list[str]

    def name(self, netns: str) -> str:
        return {
            "tripleo": f"neutron-dnsmasq-{netns}",
            "kolla": f"neutron_dhcp_agent_dnsmasq_{netns}_{DATE}",
            "edpm": f"neutron-dnsmasq-{netns}-{DATE}",
        }[self.style]

    def program(self, options: list[str]) -> list[str]:
        """Return the command that runs the program directly, under a shell that stays, or with `ip netns exec`."""
        if self.style == "tripleo":
            return ["/bin/bash", "-c", f"/usr/sbin/dnsmasq -k {' '.join(options)}; exit 0"]
        inside = ["ip", "netns", "exec", self.network.netns] if self.style == "kolla" else []
        return [*inside, "/usr/sbin/dnsmasq", "-k", *options]

    def start(self, *options: str, netns: str = "", name: str = "", image: str = IMAGE, ready: bool = True) -> str:
        """Start it, in the namespace `netns` or under another name or image if given, and return its name."""
        network, called = self.network, name or self.name(self.network.netns)
        self.started.append(called)
        enter = [] if self.style == "kolla" else ["nsenter", f"--net=/run/netns/{netns or network.netns}"]
        command(
            *enter, "podman", "run", "--detach", *(["--rm"] if self.style == "kolla" else []),
            "--volume=/run/netns:/run/netns:shared", f"--volume={network.service.state}:/var/lib/neutron:shared",
            "--net=host", "--pid=host", "--cgroupns=host", "--privileged", "--user=root", f"--name={called}", image,
            *self.program(list(options) or [*network.options(), "--port=0"]),
        )  # fmt: skip
        if ready:
            wait_until(lambda: network.pid_file.exists() and network.pid_file.read_text().endswith("\n"))
        return called


@pytest.fixture
def started() -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    if names:
        command("podman", "rm", "--force", "--time=0", "--ignore", *names)


@pytest.fixture(params=STYLES)
def old(request: pytest.FixtureRequest, hasty_service: Service, started: list[str]) -> OldWrapper:
    return OldWrapper(hasty_service.network(), request.param, started)


@pytest.fixture
def edpm(hasty_service: Service, started: list[str]) -> OldWrapper:
    return OldWrapper(hasty_service.network(), "edpm", started)


def rows(network: Network) -> list[dict[str, Any]]:
    """Return the rows of `sidespawn ps` for the network's instance."""
    every: list[dict[str, Any]] = json.loads(command(*SIDESPAWN, "ps", network.service.name, "--json").stdout)
    return [each for each in every if each["instance"] == network.netns]


def events(network: Network) -> list[str]:
    return [each["SIDESPAWN_EVENT"] for each in network.service.journal(instance=network.netns)]


def refusals(*containers: str, service: Service) -> list[str]:
    """Return why containers with these names were not adopted."""
    records = service.journal(event="not_adopted")
    return [each["SIDESPAWN_REASON"] for each in records if any(name in each["MESSAGE"] for name in containers)]


def exists(container: str) -> bool:
    return command("podman", "container", "exists", container, check=False).returncode == 0


def test_an_old_one_is_shown_signalled_and_stopped(old: OldWrapper) -> None:
    network, name = old.network, old.start()
    pid = network.pid
    (row,) = rows(network)
    assert (row["name"], row["adopted"], row["pid"], row["instance"]) == (name, True, pid, network.netns)
    assert row["netns"] == network.netns
    assert (network.kill("0").returncode, network.kill("HUP").returncode) == (0, 0)
    assert network.pid == pid
    assert identify(pid) is not None
    assert network.kill("TERM").returncode == 0
    assert identify(pid) is None
    assert not exists(name)
    assert not network.pid_file.exists()
    assert events(network) == ["adopted", "signalled", "stopped"]
    assert rows(network) == []


def test_the_next_start_replaces_it(old: OldWrapper) -> None:
    network, name = old.network, old.start()
    pid = network.pid
    network.service.wait_until_idle()
    network.service.enable()  # the agent gets the new wrapper; the first run looks for old containers
    assert network.start().returncode == 0
    assert identify(pid) is None
    assert not exists(name)
    assert network.container in network.service.containers()
    assert Path(f"/proc/{network.pid}/cmdline").read_bytes().startswith(b"/usr/sbin/dnsmasq\0")
    assert [row["adopted"] for row in rows(network)] == [False]
    assert events(network) == ["adopted", "replaced", "started"]


def test_the_operator_sees_its_log_and_stops_it(edpm: OldWrapper) -> None:
    network, name = edpm.network, edpm.start()
    service = network.service
    assert f"{name} " in command(*SIDESPAWN, "ps", service.name).stdout
    assert "adopted" in command(*SIDESPAWN, "ps", service.name).stdout
    stopped = command(*SIDESPAWN, "stop", service.name, name).stdout
    assert f"{name} was stopped" in stopped
    assert not exists(name)
    command("journalctl", "--sync", check=False)
    for which in (name, network.netns):
        assert "was stopped" in command(*SIDESPAWN, "logs", service.name, which).stdout


def test_configuration_is_checked_before_an_old_one_reads_it_again(edpm: OldWrapper) -> None:
    network, extra = edpm.network, edpm.network.service.state / "extra.conf"
    extra.write_text("log-async=20\n")
    edpm.start(*network.options("/var/lib/neutron/extra.conf"))
    assert network.kill("HUP").returncode == 0
    extra.write_text("dhcp-script=/tmp/evil\n")
    done = network.kill("HUP")
    assert done.returncode == REJECTED
    assert "(configuration-not-allowed)" in done.stderr
    assert network.kill("TERM").returncode == 0


def test_what_could_read_a_file_without_rules_is_not_told_to_read(edpm: OldWrapper) -> None:
    network = edpm.network
    edpm.start(*network.options(), "--servers-file=/dev/null")
    assert network.kill("HUP").returncode == REJECTED
    assert network.kill("TERM").returncode == 0


def test_a_container_that_is_not_what_it_claims_is_left_alone(edpm: OldWrapper) -> None:
    """Containers with another image, namespace, arguments or program stay alive; their pids are never used."""
    network, service = edpm.network, edpm.network.service
    elsewhere, third, fourth = service.network(), service.network(), service.network()
    names = [edpm.start(image=OTHER_IMAGE)]
    away = OldWrapper(elsewhere, "edpm", edpm.started)
    names.append(away.start(netns=network.netns))
    foreign = OldWrapper(third, "edpm", edpm.started)
    names.append(foreign.start(*fourth.options(), "--port=0", ready=False))
    wait_until(lambda: fourth.pid_file.exists() and fourth.pid_file.read_text().endswith("\n"))
    names.append(edpm.name(fourth.netns))
    edpm.started.append(names[-1])
    command("podman", "run", "--detach", f"--name={names[-1]}", "--pid=host", IMAGE, "sleep", "1000")
    asleep = int(command("podman", "inspect", "--format={{.State.Pid}}", names[-1]).stdout)

    pids = [network.pid, elsewhere.pid, fourth.pid, asleep]
    for pid in pids:
        done = network.kill("TERM", pid)
        assert (done.returncode, "No such process" in done.stderr) == (1, True)
    assert all(identify(pid) for pid in pids)
    assert [row for each in (network, elsewhere, third, fourth) for row in rows(each)] == []
    # Each is reported once, though every signal looked at it.
    reasons = sorted(["image-not-allowed", "namespace-mismatch", "value-conflict", "program-not-allowed"])
    assert sorted(refusals(*names, service=service)) == reasons


def test_one_whose_name_is_not_of_the_old_wrappers_is_not_even_looked_at(edpm: OldWrapper) -> None:
    network = edpm.network
    name = edpm.start(name=f"neutron-dnsmasq-{network.netns}-2026")
    assert network.kill("TERM").returncode == 1
    assert refusals(name, service=network.service) == []


def test_one_that_ended_by_itself_is_removed_by_the_backstop(edpm: OldWrapper) -> None:
    network, name = edpm.network, edpm.start()
    assert network.kill("HUP").returncode == 0
    kill_process(network.pid)
    wait_until(lambda: command("podman", "ps", "--quiet", f"--filter=name=^{name}$").stdout == "")
    network.service.wait_until_idle()
    command("systemctl", "start", network.service.unit)
    network.service.wait_until_idle()
    assert not exists(name)
    assert events(network) == ["adopted", "signalled", "exited"]


def test_the_backstop_adopts_what_an_old_wrapper_starts_later(edpm: OldWrapper) -> None:
    network, service = edpm.network, edpm.network.service
    service.network().start()  # so that there was a run without anything to adopt
    service.wait_until_idle()
    edpm.start()
    command("systemctl", "start", service.unit)
    service.wait_until_idle()
    assert events(network) == ["adopted"]
    pid = network.pid
    assert network.start().returncode == 0
    assert identify(pid) is None


def test_it_works_again_and_again_although_the_engine_removes_it_too(
    hasty_service: Service, started: list[str]
) -> None:
    wrapper = OldWrapper(hasty_service.network(), "kolla", started)
    for _ in range(3):
        name = wrapper.start()
        assert wrapper.network.kill("TERM").returncode == 0
        assert not exists(name)


def test_a_service_whose_engine_is_systemd_adopts_from_podman(started: list[str]) -> None:
    service = new_service(engine="systemd")
    try:
        service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
        with service.places.policy.open("a") as policy:
            policy.write('\n[adopt]\nengine = "podman"\n')
        service.enable()  # its unit may use podman from now on
        wrapper = OldWrapper(service.network(), "edpm", started)
        name, network = wrapper.start(), wrapper.network
        pid = network.pid
        assert network.kill("HUP").returncode == 0
        assert network.start().returncode == 0
        assert identify(pid) is None
        assert not exists(name)
        assert [row["adopted"] for row in rows(network)] == [False]
    finally:
        service.clean()
