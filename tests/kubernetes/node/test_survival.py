"""What the helpers of a DaemonSet's agent outlive: the same process, and every lease renewed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines import LABEL
from sidespawn.engines.kubernetes import STATIC_PODS
from sidespawn.testing.agent import NEUTRON
from tests.kubernetes.node.agents import Agent, listed
from tests.kubernetes.node.cluster import Cluster
from tests.kubernetes.node.pods import Helper, inside, namespace_of, ordinary, served
from tests.kubernetes.pods import NODE
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Service, command, wait_until, wait_until_gone
from tests.lab.test_engines import NET_ADMIN, mask

SYS_ADMIN = 21


@pytest.fixture(scope="module")
def service(node: Cluster) -> Iterator[Service]:
    made = new_service(engine="kubernetes")
    made.enable_with(f"[agent]\nspool_uid = {NEUTRON}\n")
    yield made
    made.clean()


@pytest.fixture(scope="module")
def agent(node: Cluster, service: Service) -> Iterator[Agent]:
    with listed("default/agent\n"):
        made = Agent(node, service)
        made.roll_out("1")
        yield made
        made.remove()


@pytest.fixture(scope="module")
def helper(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helper]:
    """All tests here have the same, and each leaves it as it was."""
    with served(agent, tmp_path_factory.mktemp("lan") / "scripts") as made:
        yield made


def test_the_program_runs_in_the_namespace_that_the_agent_made(helper: Helper) -> None:
    assert inside(helper.network.netns) == [str(helper.process.pid)]
    assert namespace_of(helper.process.pid) == os.stat(f"/run/netns/{helper.network.netns}").st_ino
    helper.still_serves()


def test_it_is_a_pod_that_kubectl_shows(node: Cluster, helper: Helper) -> None:
    """By its mirror, whose name ends with the node's."""
    (pod,) = mirrors(node, helper)
    name = pod["metadata"]["name"]
    assert name.endswith(f"-{NODE}")
    assert pod["metadata"]["annotations"]["kubernetes.io/config.source"] == "file"
    assert pod["metadata"]["labels"]["io.sidespawn.service"] == helper.network.service.name
    wait_until(lambda: mirrors(node, helper)[0]["status"]["phase"] == "Running", patience=60)
    assert "started" in node.kubectl("logs", "--namespace=sidespawn", name)


def test_the_agent_has_what_its_class_gives_and_no_more(agent: Agent, helper: Helper) -> None:
    lines = agent.run("cat", "/proc/self/status").splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert status["Uid"] == [str(NEUTRON)] * 4
    assert {status[f"Cap{each}"][0] for each in ("Eff", "Bnd", "Amb")} == {mask(NET_ADMIN, SYS_ADMIN)}
    assert status["NoNewPrivs"] == ["1"]


def test_hup_reaches_the_same_process(agent: Agent, helper: Helper) -> None:
    agent.kill(helper.network, "HUP")
    helper.still_serves()


def test_a_rollout_of_the_agent(agent: Agent, helper: Helper) -> None:
    before = agent.pods()
    agent.roll_out("2")
    assert agent.pods() != before
    helper.still_serves()
    # The new one sees the namespace that the old one made, requests its helper again, and gets what runs.
    assert helper.network.netns in agent.run("ip", "netns", "list")
    helper.network.pid_file.unlink()
    agent.start(helper.network)
    helper.still_serves()


def test_a_deleted_pod_of_the_agent(node: Cluster, agent: Agent, helper: Helper) -> None:
    before = agent.pods()
    node.kubectl("delete", "pod", f"--selector=app={agent.name}")
    wait_until(lambda: bool(agent.pods()) and agent.pods() != before, patience=60)
    helper.still_serves()
    agent.wait()


def test_a_deleted_mirror_pod(node: Cluster, helper: Helper) -> None:
    """It ends nothing: the kubelet makes the mirror again."""
    (pod,) = mirrors(node, helper)
    uid = pod["metadata"]["uid"]
    node.kubectl("delete", "pod", "--namespace=sidespawn", pod["metadata"]["name"], "--wait=false")
    wait_until(lambda: [each["metadata"]["uid"] for each in mirrors(node, helper)] not in ([], [uid]), patience=120)
    helper.still_serves()


def test_a_drain(node: Cluster, helper: Helper) -> None:
    node.apply(ordinary("bystander"))
    wait_until(lambda: "bystander" in running(node), patience=60)
    node.kubectl("drain", NODE, "--ignore-daemonsets", "--force", "--timeout=60s")
    try:
        assert "bystander" not in running(node)
        helper.still_serves()
    finally:
        node.kubectl("uncordon", NODE)


def test_a_restart_of_kubelet(node: Cluster, helper: Helper) -> None:
    node.kubelet.restart()
    helper.still_serves()
    node.wait_for_kubelet()
    helper.still_serves()
    assert len(node.running_pods()) == 1


def test_a_kubelet_that_is_away(node: Cluster, agent: Agent, helper: Helper) -> None:
    node.kubelet.kill()
    helper.still_serves()
    agent.kill(helper.network, "HUP")
    node.kubelet.start()
    node.wait_for_kubelet()
    helper.still_serves()


def test_containerd_that_is_killed(node: Cluster, agent: Agent, helper: Helper) -> None:
    node.containerd.kill()
    helper.still_serves()
    agent.kill(helper.network, "HUP")
    node.containerd.start()
    helper.still_serves()
    node.wait_for_kubelet()
    assert len(node.running_pods()) == 1


def test_an_api_server_that_is_away(node: Cluster, helper: Helper, agent: Agent, tmp_path: Path) -> None:
    """What runs goes on, and what is asked for starts, is stopped and leaves nothing."""
    node.api.stop()
    try:
        helper.still_serves()
        with served(agent, tmp_path / "scripts") as another:
            another.still_serves()
            agent.kill(another.network, "15")
            assert inside(another.network.netns) == []
    finally:
        node.start_api()
    node.wait_for_kubelet()
    helper.still_serves()


def test_a_kubelet_that_restarts_while_the_api_server_is_away(node: Cluster, agent: Agent, helper: Helper) -> None:
    """What runs goes on. A new start needs the RuntimeClass, which such a kubelet cannot look up: an error says so."""
    node.api.stop()
    try:
        node.kubelet.restart()
        helper.still_serves()
        another = agent.service.network()
        code, said = agent.ask(*another.call())
        assert code != 0
        assert "kubelet" in said
        assert inside(another.netns) == []
    finally:
        node.start_api()
    node.wait_for_kubelet()
    helper.still_serves()
    agent.start(another)
    agent.kill(another, "15")


def test_stop_leaves_no_pod_anywhere(node: Cluster, agent: Agent, tmp_path: Path) -> None:
    restart_kubelet(node)
    with served(agent, tmp_path / "scripts") as another:
        wait_until(lambda: [each["status"]["phase"] for each in mirrors(node, another)] == ["Running"], patience=30)
        uid = stop(agent, another)
        wait_until(lambda: not mirrors(node, another), patience=120)
        wait_until(lambda: not any(uid == each["metadata"]["uid"] for each in node.running_pods()), patience=120)


def test_a_stop_before_kubelet_knows_that_it_runs(node: Cluster, agent: Agent, tmp_path: Path) -> None:
    """Kubelet may forget such a pod's mirror; it then removes it when it is restarted."""
    restart_kubelet(node)
    with served(agent, tmp_path / "scripts") as another:
        wait_until(lambda: len(mirrors(node, another)) == 1, patience=30)
        uid = stop(agent, another)
        wait_until(lambda: not any(uid == each["metadata"]["uid"] for each in node.running_pods()), patience=120)
        restart_kubelet(node)
        wait_until(lambda: not mirrors(node, another), patience=120)


def test_a_program_that_died_is_not_started_again_by_kubelet(agent: Agent, tmp_path: Path) -> None:
    with served(agent, tmp_path / "scripts") as another:
        os.kill(another.process.pid, 9)
        wait_until(lambda: inside(another.network.netns) == [])
        agent.start(another.network)
        assert inside(another.network.netns) == [str(another.network.pid)]


def test_an_agent_that_is_privileged_as_openstack_helm_has_it(node: Cluster, agent: Agent, tmp_path: Path) -> None:
    service = new_service(engine="kubernetes")
    service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
    other = Agent(node, service, is_contained=False)
    try:
        other.roll_out("1")
        with served(other, tmp_path / "scripts") as another:
            other.run("test", "-d", f"/proc/{another.network.pid}")
            other.roll_out("2")
            another.still_serves()
    finally:
        other.remove()
        service.clean()


def running(node: Cluster) -> list[str]:
    return [each["metadata"]["name"] for each in node.pods("default") if each["status"]["phase"] == "Running"]


def mirrors(node: Cluster, helper: Helper) -> list[dict[str, Any]]:
    """Those of one side container. kubelet takes up to minutes to remove those of others that have ended."""
    found = node.side_pods(helper.network.service.name)
    return [each for each in found if each["metadata"]["annotations"][f"{LABEL}instance"] == helper.network.netns]


def restart_kubelet(node: Cluster) -> None:
    """One that could not reach the API server waits for up to a minute before it asks again, and makes no mirrors."""
    node.kubelet.restart()
    node.wait_for_kubelet()


def stop(agent: Agent, helper: Helper) -> str:
    """Stop the side container as an operator does; return the uid in its static pod's file."""
    (file,) = [each for each in STATIC_PODS.iterdir() if helper.network.id in each.name]
    command(*SIDESPAWN, "stop", agent.service.name, helper.network.netns)
    wait_until_gone(helper.process.pid)
    assert not file.exists()
    return file.name.split(".")[-2]
