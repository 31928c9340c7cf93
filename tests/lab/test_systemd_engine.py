"""Features of the systemd engine alone: its units as an operator sees them, and the root directories below them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.engines.systemd import unit_name
from sidespawn.engines.systemd_roots import DEVICES, HOST, given_path, prepare, release_all, root_path
from sidespawn.errors import LaunchError, Reason
from sidespawn.host import directories, labels
from sidespawn.system.files import directory
from sidespawn.system.processes import identify
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Network, Service, command, unit_state, wait_until, wait_until_gone
from tests.lab.test_engines import (
    HAS_PRIVATE_PIDS,
    HOSTILE,
    IMAGE,
    STAY,
    SYSTEMD,
    UNTIL_TOLD,
    Ground,
    new_ground,
    output,
    tell,
)

PARTS = ("dev", "etc", "proc", "run", "usr", "var")  # in a root that is the host's


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with SYSTEMD.ready(IMAGE), new_ground(SYSTEMD) as made:
        yield made


@pytest.fixture(scope="module")
def engine() -> str:
    return "systemd"


def shown(unit: str, name: str) -> str:
    return command("systemctl", "show", f"--property={name}", "--value", unit).stdout.strip()


def test_there_is_no_process_beside_the_program(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    assert processes_of(unit_of(network)) == [network.pid]
    assert identify(int(shown(unit_of(network), "MainPID"))) == identify(network.pid)


def processes_of(unit: str) -> list[int]:
    """Return the processes in its control group, or none if that is gone."""
    group = shown(unit, "ControlGroup")
    path = Path(f"/sys/fs/cgroup{group}/cgroup.procs")
    return [int(each) for each in path.read_text().split()] if group and path.exists() else []


def unit_of(network: Network) -> str:
    return unit_name(network.container)


def test_status_and_journal_show_it_by_its_name(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    status = command("systemctl", "status", unit_of(network).removesuffix(".service")).stdout
    assert f"Side container {network.container}" in status
    assert "active (running)" in status
    assert "/usr/sbin/dnsmasq" in status

    def said() -> str:
        command("journalctl", "--sync", check=False)
        return command("journalctl", f"--unit={unit_of(network)}", "--output=cat").stdout

    wait_until(lambda: "started, version" in said())
    logs = command(*SIDESPAWN, "logs", shared_service.name, network.container).stdout
    assert "started, version" in logs


def test_limits_stand_in_the_unit(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    found = [shown(unit_of(network), name) for name in ("MemoryMax", "MemorySwapMax", "TasksMax", "LogRateLimitBurst")]
    assert found == [str(128 * 2**20), "0", "16", "10000"]


def test_after_a_reload_the_unit_is_whole_and_nothing_was_injected(ground: Ground) -> None:
    plan = ground.plan(STAY, *HOSTILE)
    ground.start(plan)
    command("systemctl", "daemon-reload")
    unit = unit_name(plan.name)
    assert [shown(unit, name) for name in ("LoadState", "ActiveState")] == ["loaded", "active"]
    for name in ("ExecStartPre", "ExecStartPost", "ExecStop", "ExecStopPost", "ExecReload", "OnFailure", "DropInPaths"):
        assert shown(unit, name) == ""
    assert shown(unit, "Restart") == "no"
    ground.engine.remove(plan.name)


def test_an_operators_restart_fails_and_the_agents_next_start_works(shared_service: Service) -> None:
    """Restarts fail because the pinned namespace is gone; no text that was read back from a unit is ever executed."""
    network = shared_service.network()
    network.start()
    pid = network.pid
    assert command("systemctl", "restart", unit_of(network), check=False).returncode != 0
    assert identify(pid) is None
    assert unit_state(unit_of(network)) == "failed"
    assert network.start().returncode == 0
    assert identify(network.pid) is not None


def test_a_foreign_unit_is_left_alone(ground: Ground) -> None:
    plan = ground.plan()
    command("systemd-run", f"--unit={unit_name(plan.name)}", "sleep", "100")
    assert ground.engine.find(plan.name) is None
    ground.engine.remove(plan.name)
    ground.engine.reap(ground.places.service)
    assert ground.engine.list(ground.places.service) == ()
    assert unit_state(unit_name(plan.name)) == "active"
    command("systemctl", "stop", unit_name(plan.name))


def test_a_program_that_ends_well_takes_nothing_along_until_it_is_removed(ground: Ground) -> None:
    """Check that the unit stays, and so does what the program left running outside a pid namespace."""
    code = "if os.fork() == 0:\n    print('child', flush=True)\n    time.sleep(99)"
    plan = ground.plan(f"{UNTIL_TOLD}{code}\nuntil_told()")
    process = ground.start(plan)
    wait_until(lambda: output(plan) != "")
    tell(process)
    wait_until_gone(process.pid)
    wait_until(lambda: getattr(ground.engine.find(plan.name), "state", "") == "exited")
    children = processes_of(unit_name(plan.name))
    assert len(children) == (0 if HAS_PRIVATE_PIDS else 1)
    ground.engine.remove(plan.name)
    assert not any(identify(each) for each in children)


# ---------------------------------------------------------------- roots


def test_the_hosts_own_program_needs_no_image() -> None:
    service = new_service(engine="systemd")
    try:
        service.enable("--preset=neutron-dhcp-dnsmasq", "--image=host", f"--set=state_on_host={service.state}")
        network = service.network()
        assert network.start().returncode == 0
        root = Path(f"/proc/{network.pid}/root")
        assert os.path.samefile(root / "usr/sbin/dnsmasq", "/usr/sbin/dnsmasq")
        # systemd makes the directories that it expects in a root; they are empty.
        for path in (each for each in root.iterdir() if each.name not in PARTS and not each.is_symlink()):
            assert os.listdir(path) == [], path
        assert not (root / "etc/shadow").exists()
        assert os.listdir(root / "var/lib") == ["neutron"]
        assert network.kill("HUP").returncode == 0
        assert network.kill("TERM").returncode == 0
        release_all(service.name)  # as after a reboot: the service, confined as usual, makes all of it
        assert network.start().returncode == 0
    finally:
        service.clean()


def test_devices_are_the_harmless_ones_and_no_more_can_be_made(shared_service: Service) -> None:
    network = shared_service.network()
    network.start()
    devices = Path(f"/proc/{network.pid}/root/dev")
    assert {each.name for each in devices.iterdir()} == {*DEVICES, "mqueue", "shm"}
    assert all(os.stat(devices / name).st_rdev == os.stat(f"/dev/{name}").st_rdev for name in DEVICES)
    with (devices / "zero").open("rb") as zero:
        assert zero.read(3) == b"\0\0\0"
    for path in (devices, devices / "null", devices.parent / "proc/sys"):
        assert os.statvfs(path).f_flag & os.ST_RDONLY, path
    other = shared_service.network()
    other.start()
    (devices / "shm" / "own").touch()
    assert not Path(f"/proc/{other.pid}/root/dev/shm/own").exists()


def test_what_is_given_from_the_host_is_read_only_there(ground: Ground) -> None:
    """It has the same flags in a side container. Anything that a killed run left half-made is recreated."""
    release_all(ground.places.service)
    for image in (IMAGE, HOST):
        given, root = given_path(ground.places.service, image), root_path(ground.places.service, image)
        given.mkdir(parents=True, exist_ok=True)
        directories.mount_tmpfs(given, 0, "size=64k", labels.HOST)
        prepare(ground.places.service, image)
        options = {path: each for path, each in mounts_below(root.parent).items() if path != str(root)}
        assert {f"{given}/{each}" for each in ("proc/sys", "texts", "scripts", "dev/null")} < set(options)
        assert all({"ro", "nosuid"} <= each for each in options.values())
        assert not [each for each in options.values() if any(one.startswith("shared:") for one in each)]
        assert {path for path, each in options.items() if path.startswith(str(given)) and "noexec" not in each} == {
            f"{given}/scripts", *(f"{given}/dev/{name}" for name in DEVICES),
        }  # fmt: skip
        release_all(ground.places.service)
        assert mounts_below(root.parent) == {}


def mounts_below(path: Path) -> dict[str, set[str]]:
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {row[4]: {*row[5].split(","), *row[6 : row.index("-")]} for row in rows if row[4].startswith(f"{path}/")}


def test_what_the_host_replaces_is_seen_by_the_next(ground: Ground) -> None:
    """Tools replace /etc/passwd like this: what was mounted remains the old file."""
    root, path = root_path(ground.places.service, HOST), Path("/etc/protocols")
    prepare(ground.places.service, HOST)
    before = mounts_below(root)
    shutil.copy2(path, f"{path}.sidespawn")
    os.replace(f"{path}.sidespawn", path)
    assert not os.path.samefile(root / "etc/protocols", path)
    prepare(ground.places.service, HOST)
    assert os.path.samefile(root / "etc/protocols", path)
    assert mounts_below(root) == before
    release_all(ground.places.service)


def test_a_second_enable_leaves_what_runs(service: Service) -> None:
    network = service.network()
    network.start()
    pid = network.pid
    service.enable()
    assert network.kill("HUP").returncode == 0
    assert network.start().returncode == 0
    assert network.pid == pid
    assert service.network().start().returncode == 0


def test_a_directory_can_be_the_image_and_nothing_is_written_there(ground: Ground) -> None:
    home = Path("/var/lib") / f"sidespawn-{uuid.uuid4().hex}"
    mounted = command("podman", "image", "mount", IMAGE).stdout.strip()
    try:
        home.mkdir()
        for each in Path(mounted).iterdir():
            if each.is_symlink():
                (home / each.name).symlink_to(each.readlink())
            else:
                (home / each.name).mkdir()
        shutil.copytree(f"{mounted}/usr", home / "usr", symlinks=True, dirs_exist_ok=True)
        before = sorted(home.rglob("*"))
        plan = ground.plan(image=str(home))
        ground.start(plan)
        ground.engine.remove(plan.name)
        assert sorted(home.rglob("*")) == before
    finally:
        command("podman", "image", "unmount", IMAGE)
        release_all(ground.places.service)
        shutil.rmtree(home)
    with pytest.raises(LaunchError) as raised:
        ground.start(plan)
    assert raised.value.reason is Reason.IMAGE_MISSING


def test_an_image_is_mounted_once_and_released(ground: Ground) -> None:
    prepare(ground.places.service, IMAGE)
    root = root_path(ground.places.service, IMAGE)
    with directory(root) as held:  # so that its device number is not used again
        prepare(ground.places.service, IMAGE)
        assert os.stat(root).st_dev == os.fstat(held).st_dev
        prepare(ground.places.service, IMAGE, refresh=True)
        assert os.stat(root).st_dev != os.fstat(held).st_dev
    release_all(ground.places.service)
    assert not os.path.ismount(root)
    assert str(root.parent) not in Path("/proc/self/mounts").read_text()
    assert IMAGE.partition(":")[0] not in command("podman", "image", "mount").stdout
