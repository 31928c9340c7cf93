"""What helpers outlive on a node with a real kubelet: the same process, and every lease renewed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.engines.kubernetes import STATIC_PODS
from tests.kubernetes.node.cluster import Cluster
from tests.kubernetes.node.pods import Helper, inside, namespace_of, served
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Service, command, wait_until, wait_until_gone


@pytest.fixture(scope="module")
def service(node: Cluster) -> Iterator[Service]:
    made = new_service(engine="kubernetes")
    made.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={made.state}")
    yield made
    made.clean()


@pytest.fixture(scope="module")
def helper(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helper]:
    """All tests here have the same, and each leaves it as it was."""
    with served(service, tmp_path_factory.mktemp("lan") / "scripts") as made:
        yield made


def test_the_program_runs_in_the_namespace_of_the_request(helper: Helper) -> None:
    assert inside(helper.network.netns) == [str(helper.process.pid)]
    assert namespace_of(helper.process.pid) == os.stat(f"/run/netns/{helper.network.netns}").st_ino
    helper.still_serves()


def test_hup_reaches_the_same_process(helper: Helper) -> None:
    assert helper.network.kill("HUP").returncode == 0
    helper.still_serves()


def test_a_restart_of_kubelet(node: Cluster, helper: Helper) -> None:
    node.kubelet.restart()
    helper.still_serves()
    node.wait_for_kubelet()
    helper.still_serves()
    assert len(node.running_pods()) == 1


def test_a_kubelet_that_is_away(node: Cluster, helper: Helper, tmp_path: Path) -> None:
    node.kubelet.kill()
    helper.still_serves()
    assert helper.network.kill("HUP").returncode == 0
    node.kubelet.start()
    node.wait_for_kubelet()
    helper.still_serves()


def test_containerd_that_is_killed(node: Cluster, helper: Helper) -> None:
    node.containerd.kill()
    helper.still_serves()
    assert helper.network.kill("HUP").returncode == 0
    node.containerd.start()
    helper.still_serves()
    node.wait_for_kubelet()
    assert len(node.running_pods()) == 1


def test_an_api_server_that_is_away(node: Cluster, helper: Helper, service: Service, tmp_path: Path) -> None:
    """What runs goes on, and what is asked for starts, is stopped and leaves nothing."""
    node.api.stop()
    try:
        helper.still_serves()
        with served(service, tmp_path / "scripts") as another:
            another.still_serves()
            assert another.network.kill("15").returncode == 0
            assert inside(another.network.netns) == []
    finally:
        node.start_api()
    node.wait_for_kubelet()
    helper.still_serves()


def test_a_kubelet_that_restarts_while_the_api_server_is_away(node: Cluster, helper: Helper, service: Service) -> None:
    """What runs goes on. A new start needs the RuntimeClass, which such a kubelet cannot look up: an error says so."""
    node.api.stop()
    try:
        node.kubelet.restart()
        helper.still_serves()
        another = service.network()
        done = another.start()
        assert done.returncode != 0
        assert "kubelet" in done.stderr
        assert inside(another.netns) == []
    finally:
        node.start_api()
    node.wait_for_kubelet()
    helper.still_serves()
    assert another.start().returncode == 0
    assert another.kill("15").returncode == 0


def test_stop_leaves_no_pod_anywhere(node: Cluster, service: Service, tmp_path: Path) -> None:
    with served(service, tmp_path / "scripts") as another:
        (ours,) = [each for each in STATIC_PODS.iterdir() if another.network.id in each.name]
        uid = ours.name.split(".")[-2]
        wait_until(lambda: any(uid == hash_of(each) for each in node.side_pods()), patience=30)
        command(*SIDESPAWN, "stop", service.name, another.network.netns)
        wait_until_gone(another.process.pid)
        assert not ours.exists()
        wait_until(lambda: not any(uid == hash_of(each) for each in node.side_pods()), patience=120)
        wait_until(lambda: not any(uid == each["metadata"]["uid"] for each in node.running_pods()), patience=120)


def test_a_program_that_died_is_not_started_again_by_kubelet(service: Service, tmp_path: Path) -> None:
    with served(service, tmp_path / "scripts") as another:
        os.kill(another.process.pid, 9)
        wait_until(lambda: inside(another.network.netns) == [])
        assert another.network.start().returncode == 0
        assert inside(another.network.netns) == [str(another.network.pid)]


def hash_of(mirror: dict[str, dict[str, dict[str, str]]]) -> str:
    """The uid in the static pod's file; the mirror itself has one of the API server's."""
    return mirror["metadata"]["annotations"]["kubernetes.io/config.hash"]
