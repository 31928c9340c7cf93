"""A service with docker as its engine, from its set-up to its end. test_engines.py has what any engine must do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from tests.lab import dockers
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Service, command, wait_until, wait_until_gone
from tests.lab.test_adoption import OldWrapper

# Why the old wrapper needs --privileged; labs lack some of what docker gives with that.
CAPABLE = ("--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--security-opt=seccomp=unconfined")


@pytest.fixture(scope="module", autouse=True)
def docker() -> Iterator[None]:
    with dockers.running_docker(dockers.HELPERS):
        yield


@pytest.fixture
def service() -> Iterator[Service]:
    made = new_service()
    made.enable("--preset=neutron-dhcp-dnsmasq", "--engine=docker", f"--set=state_on_host={made.state}")
    yield made
    made.clean()


def warnings(service: Service) -> list[str]:
    found: list[str] = json.loads(command(*SIDESPAWN, "check", service.name, "--json").stdout)[0]["warnings"]
    return [each for each in found if "docker" in each or "image" in each]


def test_start_reload_stop(service: Service) -> None:
    network = service.network()
    assert network.start().returncode == 0
    pid = network.pid
    assert "--no-hosts" in Path(f"/proc/{pid}/cmdline").read_text()
    assert command("ip", "netns", "identify", str(pid)).stdout.strip() == network.netns
    assert network.kill("HUP").returncode == 0
    assert network.start().returncode == 0
    assert network.pid == pid

    def logs() -> str:
        command("journalctl", "--sync", check=False)
        return command(*SIDESPAWN, "logs", service.name).stdout

    wait_until(lambda: "dnsmasq-dhcp[1]: read" in logs())
    assert "is running, pid" in logs()
    assert network.container in command(*SIDESPAWN, "ps", service.name).stdout
    assert network.kill("15").returncode == 0
    wait_until_gone(pid)
    assert network.container not in command("docker", "ps", "--all").stdout
    assert not network.pid_file.exists()


def test_it_survives_a_restart_of_docker(service: Service) -> None:
    network = service.network()
    assert network.start().returncode == 0
    before = identify(network.pid)
    dockers.restart()
    assert identify(network.pid) == before
    assert network.kill("15").returncode == 0
    assert network.start().returncode == 0


def test_docker_keeps_no_separate_network_for_a_side_container(service: Service) -> None:
    network = service.network()
    assert network.start().returncode == 0
    found = json.loads(command("docker", "inspect", network.container).stdout)[0]["NetworkSettings"]
    assert found["SandboxKey"] == ""
    assert found["Networks"] == {}


def test_a_container_that_is_started_again_by_hand_gets_no_namespace(service: Service) -> None:
    network = service.network()
    assert network.start().returncode == 0
    command("docker", "kill", network.container)
    assert command("docker", "start", network.container, check=False).returncode != 0


def test_the_runtime_is_for_side_containers_only() -> None:
    done = command(
        "docker", "run", "--rm", "--runtime=sidespawn", "--network=none", dockers.HELPERS, "true", check=False
    )
    assert done.returncode != 0
    assert "only sidespawn uses this runtime" in done.stderr


def test_an_operator_learns_what_docker_lacks(service: Service) -> None:
    assert warnings(service) == []
    before = dockers.SETTINGS.read_text()
    try:
        dockers.SETTINGS.write_text(json.dumps(json.loads(before) | {"live-restore": False, "runtimes": {}}))
        command("systemctl", "restart", "docker.service")
        said = warnings(service)
        assert len(said) == 2
        assert '{"runtimes": {"sidespawn": {"path": "' in said[0]
        assert '{"live-restore": true}' in said[1]
        refused = service.network().start()
        assert refused.returncode == 70
        assert "sidespawn" in refused.stderr
    finally:
        dockers.SETTINGS.write_text(before)
        command("systemctl", "restart", "docker.service")


def test_without_docker_a_start_fails_with_what_to_look_at(service: Service) -> None:
    command("systemctl", "stop", "docker.socket", "docker.service")
    try:
        done = service.network().start()
        assert done.returncode == 70
        assert "systemctl status docker" in done.stderr
    finally:
        command("systemctl", "start", "docker.service")


def test_what_another_wrapper_started_in_docker_is_adopted_for_another_engine(service: Service) -> None:
    """Kolla-Ansible's wrapper starts such containers; the service itself moves to podman."""
    agent, image = "localhost/sidespawn-agent:latest", "localhost/sidespawn-test/neutron-dhcp-agent:1"
    network = service.network()
    name = f"neutron_dhcp_agent_dnsmasq_{network.netns}"
    with service.places.policy.open("a") as policy:
        policy.write('\n[adopt]\nengine = "docker"\n')
    text = service.places.policy.read_text()
    service.places.policy.write_text(text.replace('engine = "docker"', 'engine = "podman"', 1))
    command(*SIDESPAWN, "enable", service.name)
    dockers.load(agent)
    try:
        command("docker", "tag", agent, image)
        command(
            "docker", "run", "--rm", "--detach", "--net=host", "--pid=host", "--cgroupns=host", *CAPABLE,
            "--user=root", "--volume=/run/netns:/run/netns:shared", f"--volume={service.state}:/var/lib/neutron",
            f"--name={name}", image,
            "ip", "netns", "exec", network.netns, "/usr/sbin/dnsmasq", "-k", "--port=0", *network.options(),
        )  # fmt: skip
        wait_until(lambda: network.pid_file.exists() and network.pid_file.read_text().endswith("\n"))
        old = network.pid
        (row,) = json.loads(command(*SIDESPAWN, "ps", service.name, "--json").stdout)
        assert (row["name"], row["adopted"], row["pid"]) == (name, True, old)
        assert network.kill("HUP").returncode == 0
        assert network.start().returncode == 0
        assert identify(old) is None
        assert command("docker", "ps", "--all", "--quiet", f"--filter=name={name}").stdout == ""
        assert network.container in service.containers()
        assert network.kill("TERM").returncode == 0
    finally:
        command("docker", "rm", "--force", name, check=False)
        command("docker", "image", "rm", image, agent, check=False)


def test_what_another_wrapper_started_in_podman_is_adopted_and_replaced_in_docker(service: Service) -> None:
    image = "localhost/sidespawn-test/neutron-dhcp-agent:2"
    with service.places.policy.open("a") as policy:
        policy.write('\n[adopt]\nengine = "podman"\n')
    command(*SIDESPAWN, "enable", service.name)  # its unit may use podman from now on
    old, started = OldWrapper(service.network(), "edpm", []), []
    command("podman", "tag", "localhost/sidespawn-agent", image)
    try:
        started.append(old.start(image=image))
        pid = old.network.pid
        assert old.network.kill("HUP").returncode == 0
        assert old.network.start().returncode == 0
        assert identify(pid) is None
        assert command("podman", "container", "exists", *started, check=False).returncode == 1
        assert old.network.container in command("docker", "ps").stdout
    finally:
        command("podman", "rm", "--force", "--time=0", "--ignore", *started)
        command("podman", "untag", "localhost/sidespawn-agent", image)
