"""Limits on what a service may cost the host: they work, explain themselves, and lose no request."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sidespawn.agent import wrapper
from sidespawn.host.spool import LINES
from tests.attacks.catalogue import attack
from tests.lab import dockers
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Network, Service, command, kill_process, wait_until

FAILED, REJECTED = 70, 77


@pytest.fixture
def limited_service() -> Iterator[Service]:
    made = new_service()
    made.enable_with("[limits]\nburst = 5\nrate = 2\ninstances = 2\nrecords = 50\n\n[pace]\nlinger = 0\n")
    yield made
    made.clean()


def limits_of(service: Service) -> dict[str, object]:
    (found,) = json.loads(command(*SIDESPAWN, "ps", service.name, "--limits", "--json").stdout)
    return dict(found)


def probe(network: Network) -> subprocess.Popen[str]:
    call = ["ip", "netns", "exec", network.netns, str(network.service.kill_script), "0", str(network.pid)]
    return subprocess.Popen(call, stderr=subprocess.PIPE, text=True)


@attack(102)
def test_requests_beyond_the_rate_wait_and_none_is_refused(limited_service: Service) -> None:
    network = limited_service.network()
    began = time.monotonic()
    network.start()
    probes = [probe(network) for _ in range(15)]
    ps = (*SIDESPAWN, "ps", limited_service.name)
    wait_until(lambda: "rate limit reached (2 requests/s)" in command(*ps).stdout)
    outcomes = Counter((each.communicate(timeout=60)[1], each.returncode) for each in probes)
    assert outcomes == {("", 0): 15}
    # A claim may hold more than is left in the bucket; the next request then waits longer.
    assert probe(network).communicate(timeout=60)[1] == ""
    assert time.monotonic() - began > (17 - 5) / 2, "17 requests were served, of which 5 at once and 2 a second"
    assert len(limited_service.journal(event="limited")) >= 1


@attack(102)
def test_an_operator_does_not_wait_for_an_agents_flood(limited_service: Service) -> None:
    network = limited_service.network()
    network.start()
    probes = [probe(network) for _ in range(100)]
    wait_until(lambda: bool(limits_of(limited_service)["held_back"]))
    began = time.monotonic()
    command(*SIDESPAWN, "stop", limited_service.name, network.netns)
    assert time.monotonic() - began < 20, "100 requests at 2 a second take 47"
    for each in probes:
        each.terminate()
        each.communicate()


def ranges(network: Network, number: int) -> list[str]:
    """Return options for a network with that many more subnets."""
    value = f"set:subnet-{network.id},10.{{}}.{{}}.0,static,255.255.255.0,86400s"
    return [f"--dhcp-range={value.format(50 + each // 256, each % 256)}" for each in range(number)]


def test_a_network_of_many_subnets_needs_a_policy_that_allows_long_requests(service: Service) -> None:
    network = service.network()
    many = (*network.options(), *ranges(network, 1500))
    done = network.start(*many)
    assert done.returncode == 64
    assert "longer than a request can be (65536 bytes)" in done.stderr
    service.enable_with('[limits]\nline = "256K"\n')
    assert network.start(*many).returncode == 0
    passed_on = Path(f"/proc/{network.pid}/cmdline").read_bytes().decode()
    assert all(each in passed_on for each in ranges(network, 1500))
    done = network.start(*network.options(), *ranges(network, 2047), *(f"--server=/{'a' * 250}/10.0.0.1",) * 200)
    assert "longer than a request can be (262144 bytes)" in done.stderr
    service.enable_with('[limits]\nline = "64K"\n')
    assert network.start(*many).returncode == 64


@pytest.mark.parametrize("engine", ["podman", "docker", "systemd"])
def test_a_request_as_long_as_a_policy_can_allow_passes_each_engine(engine: str) -> None:
    """Check that the program gets all arguments; with systemd also after it has read its units again."""
    with ExitStack() as stack:
        if engine == "docker":
            stack.enter_context(dockers.running_docker(dockers.HELPERS))
        service = new_service(engine=engine)
        stack.callback(service.clean)
        tables = '[limits]\nline = "512K"\n\n[options]\ndhcp-range = { most = 4096 }\n\n[side_container]\n'
        service.enable_with(tables)
        network = service.network()
        command("ip", "-n", network.netns, "link", "add", "tap0", "type", "bridge")  # for a DHCPv6 client identifier
        tag, prefix = "s" * 64, "fdca:3ba5:a17a:4ba3:ffff:ffff"
        more = [f"--dhcp-range=set:{tag},{prefix}:{each:04x}:1,static,64,86400s" for each in range(1, 3600)]
        assert 440 * 1024 < sum(len(each) + 3 for each in more) < 512 * 1024
        done = network.start(*network.options(), *more)
        assert done.returncode == 0, done.stderr
        assert set(more) <= set(Path(f"/proc/{network.pid}/cmdline").read_text().split("\0"))
        if engine == "systemd":
            command("systemctl", "daemon-reload")
        pid = network.pid
        assert network.start(*network.options(), *more).returncode == 0
        assert network.pid == pid, "it runs already"
        assert network.kill("TERM").returncode == 0
        assert service.containers() == {}


@attack(109, answer="instance-limit")
def test_one_side_container_too_many_is_refused(limited_service: Service) -> None:
    networks = [limited_service.network() for _ in range(3)]
    assert [network.start().returncode for network in networks] == [0, 0, REJECTED]
    done = networks[2].start()
    assert "(instance-limit)" in done.stderr
    assert "instance limit reached" in done.stderr
    assert networks[0].start(*networks[0].options(), "--log-dhcp").returncode == 0, "one that is there may be replaced"
    assert set(limited_service.containers()) == {network.container for network in networks[:2]}
    time.sleep(1)  # the rate limit
    networks[1].kill("TERM")
    assert networks[2].start().returncode == 0


@attack(108, answer="backing-off")
def test_a_program_that_keeps_ending_is_not_started_at_the_agents_pace(service: Service) -> None:
    network, other = service.network(), service.network()
    (network.home / "leases").unlink()
    (network.home / "leases").mkdir()  # dnsmasq cannot open it
    assert ["(exited)" in network.start().stderr for _ in range(2)] == [True] * 2
    # The first pause is a second, which a busy host may miss. Each one is four times as long as the one before.
    falls = 2
    while "(exited)" in (done := network.start()).stderr and falls < 4:
        falls += 1
    assert (done.returncode, "(backing-off)" in done.stderr) == (FAILED, True)
    assert f"ended right after its start {falls} times" in done.stderr
    assert other.start().returncode == 0, "another instance is not held back"
    wait_until(lambda: not limits_of(service)["backing_off"], patience=30)
    network.start()  # it fails again, and the pause is four times as long
    (held,) = limits_of(service)["backing_off"].items()  # type: ignore[attr-defined]
    assert held[0] == network.netns
    assert f"{network.netns} keeps exiting" in command(*SIDESPAWN, "ps", service.name).stdout
    (network.home / "leases").rmdir()
    wait_until(lambda: not limits_of(service)["backing_off"], patience=90)
    assert network.start().returncode == 0, "nothing but the pause had to be waited for"


def test_one_that_started_well_and_ended_soon_counts_as_well(service: Service) -> None:
    network = service.network()
    outcomes = []
    for _ in range(3):
        outcomes.append(network.start().returncode)
        if outcomes[-1] == 0:
            kill_process(network.pid)
    assert outcomes == [0, 0, FAILED]


def test_being_stopped_on_request_does_not_count(service: Service) -> None:
    network = service.network()
    for _ in range(6):
        assert network.start().returncode == 0
        assert network.kill("KILL").returncode == 0


@attack(110)
def test_a_flood_of_rubbish_is_a_few_records(limited_service: Service) -> None:
    limited_service.wait_until_idle()
    processes = limited_service.places.spool / "processes"
    processes.write_bytes(b"x\n" * 500_000)
    wrapper.ring(str(limited_service.places.doorbell))
    wait_until(lambda: not processes.exists())
    limited_service.wait_until_idle()
    assert len(limited_service.journal(event="unreadable")) == 50
    (said,) = (each["MESSAGE"] for each in limited_service.journal(event="limited") if "unreadable" in each["MESSAGE"])
    assert said.startswith(f"{LINES - 50} more ")
