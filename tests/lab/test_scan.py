"""`sidespawn scan` on real containers of podman and docker: what it must find, and what it must not report."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import dockers
from tests.lab.networks import SIDESPAWN, Service, command

IMAGE = "localhost/sidespawn-agent:latest"
PODMAN_SOCKET = Path("/run/podman/podman.sock")
HOME = Path("/srv/sidespawn-scan")
SOCKET, STORAGE = "engine-socket", "engine-storage"

# Each: engine, options, and the kinds of findings. HOME has what `home` makes.
FOUND = {
    "neutron_dhcp_agent": ("podman", ["-v/run/podman/podman.sock:/run/podman/podman.sock"], {SOCKET}),
    "neutron_l3_agent": ("podman", ["-v/var/run/podman/podman.sock:/x:ro"], {SOCKET}),
    "ovn_metadata_agent": ("podman", ["-v/var/lib/containers:/var/lib/containers"], {STORAGE}),
    "storage-read-only": ("podman", ["-v/var/lib/containers/storage:/s:ro"], {STORAGE}),
    "around-storage": ("podman", ["-v/var/lib:/host/lib:ro"], {STORAGE}),
    "link": ("podman", [f"-v{HOME}/link.sock:/x"], {SOCKET}),
    "link-of-link": ("podman", [f"-v{HOME}/second.sock:/x"], {SOCKET}),
    "link-to-directory": ("podman", [f"-v{HOME}/directory:/x"], {SOCKET}),
    "parent": ("podman", ["-v/run/podman:/run/podman:ro"], {SOCKET}),
    "run-whole": ("podman", ["-v/run:/run"], {SOCKET}),
    "run-elsewhere": ("podman", ["-v/run:/host/run:ro,rslave"], {SOCKET}),
    "root-whole": ("podman", ["-v/:/host:ro,rslave"], {SOCKET, STORAGE}),
    "bound-socket": ("podman", [f"-v{HOME}/bound:/x"], {SOCKET}),
    "by-mount": ("podman", ["--mount=type=bind,src=/run/podman/podman.sock,dst=/x"], {SOCKET}),
    "volume-of-directory": ("podman", ["-vsidespawn-scan-run:/x"], {SOCKET}),
    "volume-of-socket": ("podman", ["--mount=type=volume,src=sidespawn-scan-socket,dst=/x"], {SOCKET}),
    "dockers-in-podman": ("podman", ["-v/run/docker.sock:/var/run/docker.sock"], {SOCKET}),
    "cri": ("podman", [f"-v{HOME}/k8s/containerd.sock:/x"], {SOCKET}),
    "neutron_ovn_metadata_agent": ("podman", ["--privileged"], {"privileged"}),
    "edpm_neutron_dhcp_agent": ("podman", ["--privileged", "--pid=host"], {"privileged", "host-pids"}),
    "neutron_dhcp": ("podman", ["--cap-add=all"], {"privileged"}),
    "edpm_neutron_ovn_agent": ("podman", ["--pid=host", "--cap-add=SYS_PTRACE"], {"host-pids"}),
    "kolla_dhcp_agent": ("podman", ["-eKOLLA_NEUTRON_WRAPPERS=true"], {"image-wrappers"}),
    "remote": ("podman", ["-eCONTAINER_HOST=tcp://127.0.0.1:2375"], {"engine-address"}),
    "neutron-dnsmasq-qdhcp-11111111-2222-3333-4444-555555555555": ("podman", [], {"old-side-container"}),
    "neutron_dhcp_agent_dnsmasq_qdhcp-11111111-2222-3333-4444-555555555555": (
        "podman",
        ["--privileged"],
        {"old-side-container"},
    ),
    "docker-socket": ("docker", ["-v/run/docker.sock:/var/run/docker.sock:ro"], {SOCKET}),
    "docker-old-path": ("docker", ["-v/var/run/docker.sock:/x"], {SOCKET}),
    "docker-run": ("docker", ["-v/run:/host/run:ro"], {SOCKET}),
    "docker-root": ("docker", ["--mount=type=bind,source=/,target=/host,readonly"], {SOCKET, STORAGE}),
    "docker-link": ("docker", [f"-v{HOME}/link.sock:/x"], {SOCKET}),
    "docker-volume-of-directory": ("docker", ["-vsidespawn-scan-run:/x"], {SOCKET}),
    "docker-storage": ("docker", ["-v/var/lib/docker:/var/lib/docker"], {STORAGE}),
    "neutron-l3-agent": ("docker", ["--privileged", "--pid=host"], {"privileged", "host-pids"}),
    "neutron_openvswitch_agent": ("docker", ["--cap-add=ALL"], {"privileged"}),
    "holder": ("docker", ["-v/run/docker.sock:/d.sock", "--privileged"], {SOCKET, "privileged"}),
}
QUIET = {
    "plain": ("podman", []),
    "nova_libvirt": ("podman", ["--privileged", "--pid=host"]),
    "openvswitch_vswitchd": ("podman", ["--privileged"]),
    "node_exporter": ("podman", ["--pid=host"]),
    "run-netns": ("podman", ["-v/run/netns:/run/netns:rshared"]),
    "run-openvswitch": ("podman", [f"-v{HOME}/other:/run/openvswitch"]),
    "another-socket": ("podman", [f"-v{HOME}/other/api.sock:/api.sock"]),
    "name-only": ("podman", [f"-v{HOME}/other/podman.sock.d:/podman.sock.d"]),
    "sibling-of-storage": ("podman", [f"-v{HOME}/containers:/var/lib/containers"]),
    "a-volume": ("podman", ["-vsidespawn-scan:/data"]),
    "link-inside-directory": ("podman", [f"-v{HOME}/links:/links"]),  # the link leads into the container's own /run
    "without-what-is-below": ("podman", ["--mount=type=bind,src=/,dst=/host,ro=true,bind-nonrecursive=true"]),
    "users-socket": ("podman", [f"-v{HOME}/user:/run/user/1000/podman"]),
    "engines-name-in-environment": ("podman", ["-eDOCKER_HOST=", "-eENGINE=podman"]),
    "neutron-metadata-agent": ("podman", ["--cap-add=NET_ADMIN"]),
    "volume-of-another-directory": ("podman", ["-vsidespawn-scan-other:/x"]),
    "docker-plain": ("docker", []),
    "docker-volume": ("docker", ["-vsidespawn-scan:/data"]),
    "docker-privileged": ("docker", ["--privileged"]),
    "docker-netns": ("docker", ["-v/run/netns:/run/netns:ro"]),
}
CREATED = [(name, engine, options) for name, (engine, options, _) in FOUND.items()]
CREATED += [(name, engine, options) for name, (engine, options) in QUIET.items()]
# Names of volumes that are backed by something on the host.
VOLUMES = {
    "sidespawn-scan-run": "/run/podman",
    "sidespawn-scan-socket": str(PODMAN_SOCKET),
    "sidespawn-scan-other": str(HOME / "other"),
}
LABELS = {
    "neutron_dhcp_agent": ["--label=kolla_version=22.2.0", "-eKOLLA_NAME=neutron_dhcp_agent"],
    "neutron_l3_agent": ["--label=managed_by=tripleo_ansible"],
    "edpm_neutron_dhcp_agent": ["--label=managed_by=edpm_ansible"],
    "cri": ["--label=io.kubernetes.pod.name=x"],
    "docker-socket": ["--label=com.docker.compose.project=x"],
}


def scan(*, code: int) -> dict[str, Any]:
    done = subprocess.run([*SIDESPAWN, "scan", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture(scope="module")
def home() -> Iterator[None]:
    """Make sockets, and paths that lead to one or look as if they did."""
    made = [PODMAN_SOCKET, Path("/run/containerd-scan/containerd.sock"), HOME / "other/api.sock"]
    listeners = []
    HOME.mkdir()
    for name in ("other/podman.sock.d", "containers", "links", "k8s", "user"):
        (HOME / name).mkdir(parents=True)
    for path in made:
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # systemd leaves it when podman.socket is stopped, as other tests do
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listeners.append(listener)
    (HOME / "link.sock").symlink_to("/run/docker.sock")
    (HOME / "second.sock").symlink_to("link.sock")
    (HOME / "directory").symlink_to("/run/podman")
    (HOME / "links/podman.sock").symlink_to(PODMAN_SOCKET)
    (HOME / "k8s/containerd.sock").symlink_to(made[1])
    (HOME / "bound").touch()
    command("mount", "--bind", str(PODMAN_SOCKET), str(HOME / "bound"))
    os.makedirs("/run/netns", exist_ok=True)
    yield
    command("umount", str(HOME / "bound"))
    for each in (*listeners,):
        each.close()
    for path in made:
        path.unlink()
    PODMAN_SOCKET.parent.rmdir()
    made[1].parent.rmdir()
    shutil.rmtree(HOME)


@pytest.fixture(scope="module")
def told(home: None) -> dict[str, Any]:
    """Scan all of them at once, while only one runs: engines describe containers before they run."""
    with dockers.running_docker(IMAGE):
        try:
            for engine in ("podman", "docker"):
                for name, device in VOLUMES.items():
                    bound = ("--opt=type=none", "--opt=o=bind", f"--opt=device={device}")
                    command(engine, "volume", "create", *bound, name)
            for name, engine, options in CREATED:
                command(engine, "create", f"--name={name}", *LABELS.get(name, ()), *options, IMAGE, "sleep", "600")
            command("docker", "start", "docker-socket")
            return scan(code=1)
        finally:
            for engine in ("podman", "docker"):
                names = [name for name, of, _ in CREATED if of == engine]
                command(engine, "rm", "--force", *names, check=False)
                command(engine, "volume", "rm", "sidespawn-scan", *VOLUMES, check=False)


def kinds(told: dict[str, Any], name: str) -> set[str]:
    return {each["kind"] for each in told["findings"] if each["where"].partition(":")[2] == name}


def test_the_corpus_is_large_enough() -> None:
    assert len(FOUND) >= 25
    assert len(QUIET) >= 15


@pytest.mark.parametrize("name", FOUND)
def test_it_is_found(told: dict[str, Any], name: str) -> None:
    assert kinds(told, name) == FOUND[name][2]


@pytest.mark.parametrize("name", QUIET)
def test_it_does_not_alarm(told: dict[str, Any], name: str) -> None:
    assert kinds(told, name) == set()


def test_everything_was_looked_at(told: dict[str, Any]) -> None:
    assert told["not_looked_at"] == []
    assert told["containers"] >= len(FOUND) + len(QUIET)
    assert any("nova_libvirt" in each for each in told["notes"])


@pytest.mark.parametrize(
    ("name", "deployment", "word"),
    [
        ("neutron_dhcp_agent", "kolla-ansible", "neutron_dhcp_agent_default_volumes"),
        ("neutron_l3_agent", "tripleo", "DockerAdditionalSockets"),
        ("edpm_neutron_dhcp_agent", "edpm", "PodmanArgs="),
        ("cri", "kubernetes", "hostPath"),
        ("docker-socket", "compose", "--print=compose"),
        ("neutron-l3-agent", "none", "docs/agents.md"),
    ],
)
def test_the_hint_is_for_the_deployment(told: dict[str, Any], name: str, deployment: str, word: str) -> None:
    rows = [each for each in told["findings"] if each["where"].partition(":")[2] == name]
    assert {each["deployment"] for each in rows} == {deployment}
    assert all(each["meaning"] and each["hint"] for each in rows)
    assert any(word in each["hint"] for each in rows)


def test_a_containers_mount_over_a_socket_hides_it(home: None) -> None:
    command("podman", "create", "--name=uncovered", "-v/run:/run", IMAGE, "true")
    command("podman", "create", "--name=covered", "-v/run:/run", f"-v{HOME}/other:/run/podman", IMAGE, "true")
    try:
        found = {each["where"]: each["found"] for each in scan(code=1)["findings"]}
        assert str(PODMAN_SOCKET) in found["podman:uncovered"]
        assert str(PODMAN_SOCKET) not in found["podman:covered"]
        assert "/run is mounted at /run" in found["podman:covered"]  # for the others, which exist or may be created
    finally:
        command("podman", "rm", "--force", "uncovered", "covered")


def test_an_agent_and_side_container_of_sidespawn_do_not_alarm(service: Service) -> None:
    network = service.network()
    assert network.start().returncode == 0
    printed = command(*SIDESPAWN, "options", service.name).stdout.splitlines()
    name = "neutron_dhcp_agent"
    capabilities = ("--cap-drop=all", "--cap-add=NET_ADMIN", "--cap-add=SYS_ADMIN")
    command("podman", "create", f"--name={name}", "--pid=host", *capabilities, *printed, IMAGE, "true")
    try:
        told = scan(code=0)
        assert told["findings"] == []
        assert told["containers"] >= 2
    finally:
        command("podman", "rm", "--force", name)


def test_an_engine_failure_is_reported() -> None:
    script = (
        "import sys; from sidespawn.host_scan import engines; engines.PODMAN = '/usr/bin/false';"
        "from sidespawn.cli.main import main; sys.argv = ['sidespawn', 'scan', '--json']; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "podman ps" in json.loads(done.stdout)["not_looked_at"][0]
