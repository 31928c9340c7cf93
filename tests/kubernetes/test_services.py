"""Services with this engine, by `sidespawn enable`: the life of their side containers, and runs that are killed.

The tests are those of other engines, with a service of this one, on one version of containerd.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.engines import kubernetes, systemd_roots
from sidespawn.setup import hardening
from sidespawn.system.oci import RUNS
from sidespawn.system.processes import identify
from tests.attacks.catalogue import attack
from tests.kubernetes import standin
from tests.kubernetes.containerds import Containerd
from tests.lab import dying
from tests.lab.conftest import *  # noqa: F403 - fixtures
from tests.lab.conftest import new_service
from tests.lab.lives import restless_service
from tests.lab.networks import SIDESPAWN, Service, command, dnsmasqs, wait_until
from tests.lab.test_crashes import (
    live_through_kills,
    test_killed_at_every_step_of_a_start_a_reload_a_replacement_and_a_stop,  # noqa: F401
)
from tests.lab.test_lifecycle import *  # noqa: F403
from tests.lab.test_lifecycle import FAILED

HELPERS = "localhost/sidespawn-helpers:latest"
ADDRESS = Path("/run/containerd/containerd.sock")  # the engine asks there for images
KILLS = max(1, int(os.environ.get("SIDESPAWN_KILLS", "30")) // 3)

# Of other engines.
del test_what_an_earlier_version_named_is_kept_until_it_ends  # noqa: F821
del test_a_container_whose_store_is_torn_is_replaced  # noqa: F821


@pytest.fixture(scope="module", autouse=True)
def node() -> Iterator[Containerd]:
    with standin.node("1.7", HELPERS, address=ADDRESS) as containerd:
        yield containerd


@pytest.fixture(scope="module")  # type: ignore[no-redef]
def engine() -> str:
    return "kubernetes"


@pytest.fixture(autouse=True)
def output_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Service, "output", lambda service, network: standin.said(f"{service.name}-{network.netns}"[:80])
    )


@pytest.fixture
def dying_service() -> Iterator[Service]:
    program = f"{sys.executable} -I -S {Path(dying.__file__)} sync %i"
    dying.CONTROL.mkdir(exist_ok=True)
    with restless_service("ExecStart=", f"ExecStart={program}", engine="kubernetes") as made:
        yield made
    shutil.rmtree(dying.CONTROL)


def manifests(service: Service) -> list[Path]:
    return sorted(kubernetes.STATIC_PODS.glob(f"sidespawn.{service.name}_*"))


def sandboxes(containerd: Containerd, service: Service) -> list[str]:
    found = containerd.call("ListPodSandbox").get("items", ())
    return [each["id"] for each in found if each["labels"]["io.sidespawn.service"] == service.name]


def runs(service: Service) -> list[str]:
    return [each.uid for each in kubernetes.runs() if each.labels["io.sidespawn.service"] == service.name]


def test_it_outlives_the_service_that_started_it(service: Service) -> None:  # type: ignore[no-redef]
    network = service.network()
    network.start()
    command("systemctl", "stop", service.unit)
    time.sleep(0.3)
    assert identify(network.pid) is not None
    assert "/testpods.slice/" in Path(f"/proc/{network.pid}/cgroup").read_text()


def test_a_stopped_one_leaves_no_manifest_no_pod_and_no_note(node: Containerd, shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    (manifest,) = [each for each in manifests(shared_service) if network.netns in each.name]
    uid = manifest.stem.rpartition(".")[2]
    assert network.kill("TERM").returncode == 0
    assert not manifest.exists()
    assert not (Path(RUNS) / uid).exists()
    wait_until(lambda: uid not in str(node.call("ListPodSandbox")))


def test_disable_leaves_no_manifest_no_pod_and_no_note(node: Containerd, service: Service) -> None:
    """Not even of one that is being started."""
    networks = [service.network() for _ in range(3)]
    for network in networks:
        assert network.start().returncode == 0
    pids = [network.pid for network in networks]
    assert len(manifests(service)) == len(runs(service)) == 3
    starting = service.network_that_is_never_ready()
    with subprocess.Popen(starting.call(), stderr=subprocess.PIPE) as wrapper:
        wait_until(lambda: len(runs(service)) == 4)
        service.disable()
        wrapper.kill()  # it waits for an answer
    assert (manifests(service), runs(service)) == ([], [])
    assert not any(identify(pid) for pid in pids)
    assert not any(starting.id in line for line in dnsmasqs())
    wait_until(lambda: sandboxes(node, service) == [])


def test_disable_while_pods_are_being_made(node: Containerd, service: Service) -> None:
    networks = [service.network() for _ in range(4)]
    wrappers = [subprocess.Popen(network.call(), stderr=subprocess.PIPE) for network in networks]
    wait_until(lambda: manifests(service) != [])
    service.disable()
    for wrapper in wrappers:
        wrapper.kill()
        wrapper.communicate()
    assert (manifests(service), runs(service)) == ([], [])
    wait_until(lambda: sandboxes(node, service) == [])
    time.sleep(1)  # is one late?
    assert runs(service) == []
    assert not any(network.id in line for network in networks for line in dnsmasqs())


def test_an_image_that_the_node_lacks_is_said_by_the_confined_service(node: Containerd, service: Service) -> None:
    network = service.network()
    node.ctr("images", "tag", HELPERS, "localhost/kept:latest")
    node.ctr("images", "rm", "--sync", HELPERS)
    try:
        done = network.start()
    finally:
        node.ctr("images", "tag", "localhost/kept:latest", HELPERS)
        node.ctr("images", "rm", "localhost/kept:latest")
    assert done.returncode == FAILED
    assert "(image-missing)" in done.stderr
    service.wait_until_idle()
    assert (manifests(service), runs(service)) == ([], [])


def test_the_engine_systemd_takes_an_image_that_only_containerd_has(node: Containerd) -> None:
    """Also after a reboot, when a request finds no root; what is mounted stays when kubelet removes the image."""
    node.ctr("images", "tag", HELPERS, "localhost/only-here:latest")
    made = new_service(engine="systemd")
    root = systemd_roots.root_path(made.name, "localhost/only-here")
    try:
        made.enable_with('[side_container]\nimage = "localhost/only-here"\n')
        assert "is not on this host" not in command(*SIDESPAWN, "check", made.name).stdout
        network = made.network()
        assert network.start().returncode == 0
        network.kill("TERM")
        made.wait_until_idle()
        for each in (root, root.parent / "mount"):
            command("umount", str(each))
        network.start()
        assert network.pid_file.exists()
        assert os.path.ismount(root)
        node.ctr("images", "rm", "--sync", "localhost/only-here:latest")
        assert (root / "usr/sbin/dnsmasq").stat().st_size > 0
        assert str(root.parent / "mount") in node.ctr("snapshots", "list").stdout
    finally:
        node.ctr("images", "rm", "--sync", "localhost/only-here:latest", check=False)
        made.clean()
    assert str(root.parent) not in node.ctr("snapshots", "list").stdout
    assert str(root.parent) not in Path("/proc/self/mountinfo").read_text()


def test_verbs_of_the_operator(service: Service) -> None:
    network = service.network()
    network.start()
    (row,) = json.loads(command(*SIDESPAWN, "ps", service.name, "--json").stdout)
    assert (row["pid"], row["netns"], row["orphan"]) == (network.pid, network.netns, False)
    command(*SIDESPAWN, "signal", service.name, network.netns, "HUP")
    command("journalctl", "--sync", check=False)
    told = command(*SIDESPAWN, "logs", service.name)
    assert "/var/log/pods" in told.stderr
    assert "was sent HUP" in told.stdout
    command(*SIDESPAWN, "stop", service.name, network.netns)
    assert (manifests(service), runs(service)) == ([], [])


@attack(239)
def test_a_pod_of_the_time_before_a_reboot(service: Service) -> None:
    """It never runs. At boot it is removed before kubelet starts; otherwise by the next start or sweep."""
    network = service.network()
    network.start()
    (manifest,) = manifests(service)
    text = manifest.read_text()
    network.kill("TERM")
    line = hardening.at_boot(service.name)
    for remove in (
        ("systemd-tmpfiles", "--boot", "--remove", str(line)),
        ("systemctl", "start", service.unit),
    ):
        manifest.write_text(text)
        time.sleep(1)  # a kubelet tries to start it
        assert (runs(service), service.containers(every=False)) == ([], {})
        command("systemd-tmpfiles", "--remove", str(line))  # as when a package is installed
        assert manifest.exists()
        command(*remove)
        service.wait_until_idle()
        assert not manifest.exists(), remove
    manifest.write_text(text)
    assert network.start().returncode == 0
    assert manifests(service) != [manifest]
    assert len(manifests(service)) == len(runs(service)) == 1


@pytest.mark.slow
def test_killed_at_random_moments_under_load(capsys: pytest.CaptureFixture[str]) -> None:
    with restless_service(engine="kubernetes") as service:
        live_through_kills(service, (service.unit,), KILLS, capsys)
        assert len(manifests(service)) == len(runs(service)) == len(service.containers(every=False))
