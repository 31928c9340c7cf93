"""The life of Debian's package on one host, in this order: a part of tests/machine/test_package.py, inside the machine.

    SIDESPAWN_DEBS=OLDER.deb:NEWER.deb pytest -x tests/machine/package_life.py

It installs, upgrades, removes and purges the package of the machine it runs on. `./dev lab` does as well as one of
QEMU's, and is quicker.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidespawn.setup.systemd import SHIPPED
from sidespawn.system.places import Places
from sidespawn.system.processes import identify
from tests.lab import networks
from tests.lab.conftest import new_service
from tests.lab.networks import Network, Service, command, unit_state, wait_until

COMMAND = "/usr/bin/sidespawn"
UNITS = Path("/usr/lib/systemd/system")
LOCAL_UNITS = Path("/etc/systemd/system")
PROFILES = ("sidespawn-agent", "sidespawn-side-container")
LOADED = Path("/sys/kernel/security/apparmor/profiles")
OLDER, NEWER = (Path(each) for each in os.environ["SIDESPAWN_DEBS"].split(":"))
UNAVAILABLE = 69


@dataclass
class Life:
    """What is handed from one test to the next."""

    services: dict[str, Service] = field(default_factory=dict)
    networks: list[Network] = field(default_factory=list)
    pids: dict[str, int] = field(default_factory=dict)  # by side container

    def start(self, engine: str) -> Network:
        network = self.services[engine].network()
        done = network.start()
        assert done.returncode == 0, done.stderr
        self.networks.append(network)
        self.pids[network.container] = network.pid
        return network

    def same_processes(self) -> bool:
        """Whether every side container that was ever started runs, as the process that it was."""
        now = {network.container: network.pid for network in self.networks}
        return now == self.pids and all(Path(f"/proc/{pid}").exists() for pid in now.values())


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    made = Life()
    yield made
    for network in made.networks:
        command("ip", "netns", "del", network.netns, check=False)


def apt(*arguments: str) -> str:
    environment = {"PATH": os.environ["PATH"], "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["apt-get", "--yes", "--no-install-recommends", "--allow-downgrades", *arguments],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def show(unit: str, property_name: str) -> str:
    return command("systemctl", "show", f"--property={property_name}", "--value", unit).stdout.strip()


def enabled_units(service: Service) -> list[str]:
    return [f"sidespawn@{service.name}.{kind}" for kind in ("socket", "timer")]


def templates_in_etc() -> list[str]:
    return sorted(path.name for path in LOCAL_UNITS.glob("sidespawn*@.*") if path.is_file())


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def shown_version() -> str:
    return command(COMMAND, "--version").stdout.split()[-1]


# ---------------------------------------------------------------- installed over what pip had installed


def test_a_service_of_an_installation_by_pip_runs(life: Life) -> None:
    """As a host has it before there is a package: the checkout's own command, units in /etc."""
    service = new_service(engine="podman")
    service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
    life.services["podman"] = service
    assert templates_in_etc() == sorted(path.name for path in SHIPPED.glob("sidespawn*@.*"))
    life.start("podman")


def test_the_package_takes_it_over(life: Life) -> None:
    service = life.services["podman"]
    before = identity(service.places.spool), identity(service.wrapper)
    apt("install", str(OLDER))
    networks.SIDESPAWN = (COMMAND,)
    assert templates_in_etc() == []
    for unit in (*enabled_units(service), service.unit, f"sidespawn-spool@{service.name}.service"):
        # systemd 252 calls the same directory /lib/systemd/system.
        assert Path(show(unit, "FragmentPath")).resolve().parent == UNITS
    for unit in enabled_units(service):
        assert unit_state(unit) == "active"
        assert command("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
    assert (identity(service.places.spool), identity(service.wrapper)) == before
    assert life.same_processes()
    assert "/usr/share/sidespawn/" in show(service.unit, "ExecStart")
    life.start("podman")


def test_what_was_installed_is_whole(life: Life) -> None:
    assert command("dpkg", "--verify", "sidespawn").stdout == ""
    assert command("man", "--where", "sidespawn").stdout.strip().endswith("sidespawn.1.gz")
    completion = ". /usr/share/bash-completion/completions/sidespawn; complete -p sidespawn"
    assert "_sidespawn_completion" in command("bash", "-c", completion).stdout
    for profile in PROFILES if LOADED.exists() else ():
        assert f"{profile} (" in LOADED.read_text()


# ---------------------------------------------------------------- enable, as an operator does


def test_enable_writes_nothing_that_the_package_has(life: Life) -> None:
    service = new_service(engine="systemd")
    service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
    life.services["systemd"] = service
    assert templates_in_etc() == []
    assert command("dpkg", "--verify", "sidespawn").stdout == ""
    life.start("systemd")


def test_check_has_nothing_to_say_about_the_trusted_base(life: Life) -> None:
    said = command(COMMAND, "check", life.services["podman"].name).stdout
    assert "others than root" not in said
    assert "/etc/systemd/system" not in said


# ---------------------------------------------------------------- upgrade under load


def test_an_upgrade_under_load_loses_nothing_and_ends_nothing(life: Life) -> None:
    service = life.services["podman"]
    broken = new_service()
    broken.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={broken.state}")
    broken.places.policy.write_text("this is not a policy\n")
    # As an earlier version had it, so that it shows whether it was renewed.
    drop_in = LOCAL_UNITS / f"{service.unit}.d/engine.conf"
    current = drop_in.read_text()
    drop_in.write_text("[Service]\n")
    wrapper = service.wrapper.read_bytes()
    with service.wrapper.open("ab") as file:  # the file that agents have mounted
        file.write(b"# of an earlier version\n")
    before = identity(service.places.spool), identity(service.wrapper)
    upgraded = threading.Event()
    failures: list[str] = []
    started: list[Network] = []

    def ask() -> None:
        while not (upgraded.is_set() and len(started) >= 20):
            network = service.network()
            done = network.start()
            if done.returncode != 0:
                failures.append(f"{done.returncode}: {done.stderr}")
                return
            started.append(network)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for each in askers:
        each.start()
    wait_until(lambda: bool(started) or bool(failures), 120)
    began = len(started)
    said = apt("install", str(NEWER))
    during = len(started) - began
    upgraded.set()
    for each in askers:
        each.join()
    print(f"{began} requests before, {during} during the upgrade, {len(started)} in all")
    assert failures == []
    assert shown_version() != ""
    assert life.same_processes()
    for network in started:
        life.networks.append(network)
        life.pids[network.container] = network.pid
    assert {name for name, found in service.containers(every=False).items()} == {
        network.container for network in life.networks if network.service is service
    }
    assert life.same_processes()
    assert drop_in.read_text() == current
    assert service.wrapper.read_bytes() == wrapper
    assert (identity(service.places.spool), identity(service.wrapper)) == before
    # The one that could not be renewed was said, held nobody up, and answers.
    assert f"service {broken.name} was not renewed" in said
    assert unit_state(f"sidespawn@{broken.name}.socket") == "active"
    command(COMMAND, "disable", "--purge", broken.name)
    broken.clean()


def test_it_is_the_newer_version(life: Life) -> None:
    assert shown_version() == NEWER.name.split("_")[1]
    for engine in life.services:
        life.start(engine)


# ---------------------------------------------------------------- remove, and install again


def test_removal_ends_no_side_container(life: Life) -> None:
    service = life.services["podman"]
    apt("remove", "sidespawn")
    assert not Path(COMMAND).exists()
    assert not Path("/usr/share/sidespawn").exists()
    assert life.same_processes()
    for each in life.services.values():
        assert each.places.policy.exists()
        assert each.places.spool.is_mount()
        for unit in (*enabled_units(each), each.unit):
            assert unit_state(unit) == "inactive"
    refused = service.network().start()
    assert refused.returncode == UNAVAILABLE
    assert "is the service" in refused.stderr
    assert life.same_processes()


def test_a_reinstallation_goes_on_from_there(life: Life) -> None:
    service = life.services["podman"]
    before = identity(service.places.spool), identity(service.wrapper)
    options = command("findmnt", "--noheadings", "--output=OPTIONS", str(service.places.spool)).stdout
    assert options.startswith("ro,nosuid,nodev,noexec")
    apt("install", str(NEWER))
    again = command("findmnt", "--noheadings", "--output=OPTIONS", str(service.places.spool)).stdout
    assert again == options.replace("ro,", "rw,", 1)
    assert life.same_processes()
    assert (identity(service.places.spool), identity(service.wrapper)) == before
    shown = command(COMMAND, "ps", "--json").stdout
    assert all(name in shown for name in life.pids)
    for engine in life.services:
        network = life.start(engine)
        assert network.kill("HUP").returncode == 0
    assert life.same_processes()


def test_it_goes_on_as_well_when_the_last_one_of_a_kind_is_stopped(life: Life) -> None:
    network = life.networks.pop(0)
    pid = life.pids.pop(network.container)
    assert network.kill("TERM").returncode == 0
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    command("ip", "netns", "del", network.netns)


# ---------------------------------------------------------------- purge

PODS, RUNS = Path("/etc/kubernetes/manifests"), Path("/run/sidespawn-runc/runs")


@pytest.fixture
def static_pod() -> Iterator[subprocess.Popen[bytes]]:
    """Leave what the engine kubernetes leaves, without a kubelet: a pod, its program, and what the runtime noted."""
    uid, other = "a" * 32, PODS / "of-others.json"
    with subprocess.Popen(["sleep", "1000"]) as program:
        started = identify(program.pid)
        assert started is not None
        PODS.mkdir(parents=True, exist_ok=True)
        RUNS.mkdir(parents=True, exist_ok=True)
        for path in (PODS / f"sidespawn.test_1.{uid}.json", other, Path("/etc/tmpfiles.d/sidespawn@test.conf")):
            path.write_text("{}")
        note = {"container": "c", "pid": program.pid, "started": started.started, "annotations": {}, "group": ""}
        (RUNS / uid).write_text(json.dumps(note))
        (RUNS / ("b" * 32)).write_text(json.dumps(note | {"pid": os.getpid()}))  # the pid is another process's now
        yield program
        program.kill()
        assert list(PODS.iterdir()) == [other]
        other.unlink()
        PODS.rmdir()
        RUNS.parent.rmdir()


def test_purge_leaves_nothing(life: Life, static_pod: subprocess.Popen[bytes]) -> None:
    assert life.same_processes()
    assert "containerd cannot end the pod" in apt("purge", "sidespawn")
    assert static_pod.wait(timeout=10) == -signal.SIGKILL
    assert not RUNS.exists()
    assert not Path("/etc/tmpfiles.d/sidespawn@test.conf").exists()
    for pid in life.pids.values():
        assert not Path(f"/proc/{pid}").exists()
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert not [place for place in mounted if place.startswith("/run/sidespawn/")]
    assert not Path("/run/sidespawn").exists()
    assert not Path("/etc/sidespawn").exists()
    assert [str(path) for path in LOCAL_UNITS.rglob("*sidespawn*")] == []
    assert command("systemctl", "list-units", "--all", "--plain", "--no-legend", "sidespawn*").stdout == ""
    assert not [each.pw_name for each in pwd.getpwall() if each.pw_name.startswith("sidespawn")]
    assert command("podman", "ps", "--all", "--quiet").stdout == ""
    assert command("podman", "image", "mount").stdout == ""
    assert list(Path("/etc/apparmor.d").rglob("sidespawn*")) == []
    for profile in PROFILES if LOADED.exists() else ():
        assert f"{profile} (" not in LOADED.read_text()
    assert command("dpkg-query", "--show", "sidespawn", check=False).returncode != 0
    for service in life.services.values():
        service.clean()


def test_purge_after_a_removal_ends_what_ran_on(life: Life) -> None:
    """The code is gone by then."""
    apt("install", str(NEWER))
    service = new_service(engine="podman")
    service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
    network = service.network()
    assert network.start().returncode == 0
    pid = network.pid
    apt("remove", "sidespawn")
    time.sleep(1)
    assert Path(f"/proc/{pid}").exists()
    apt("purge", "sidespawn")
    assert not Path(f"/proc/{pid}").exists()
    assert not Places(service.name).run.exists()
    assert command("podman", "ps", "--all", "--quiet").stdout == ""
    command("ip", "netns", "del", network.netns)
    service.clean()
