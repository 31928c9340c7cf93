"""podman's API and podman's command make the same container: what each passes to the runtime is compared."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sidespawn.core.plan import Plan
from sidespawn.engines import NameTaken
from sidespawn.engines.podman import Podman
from sidespawn.engines.podman_api import PodmanApi
from sidespawn.errors import LaunchError
from sidespawn.host import launch
from sidespawn.host_report.engines import look_at_podman
from sidespawn.system.processes import Process
from tests.lab import test_engines as engines
from tests.lab.lives import main_pid
from tests.lab.networks import SLOWNESS, command, wait_until

# In config.json: what only the command sets, and what differs in each container.
ANNOTATIONS = (
    "io.kubernetes.cri-o.Created",
    "io.kubernetes.cri-o.TTY",
    "io.podman.annotations.cid-file",
    "io.podman.annotations.seccomp",
    "io.podman.annotations.userns",  # for `podman kube generate`
)


@pytest.fixture(scope="module")
def ground() -> Iterator[engines.Ground]:
    with engines.API.ready(), engines.new_ground(engines.API) as made:
        yield made


def description(engine: Podman, ground: engines.Ground, plan: Plan) -> dict[str, Any]:
    """Return the config.json of a start by this engine, whose names are those of every other start."""
    request = "a" * 32
    with ground.pins(plan, request) as pins:
        container, _ = engine.start(plan, pins, request)
        inspected = json.loads(command("podman", "inspect", container).stdout)[0]
        text = Path(inspected["OCIConfigPath"]).read_text()
        engine.remove(plan.name)
    # As well as in its storage, which has another id.
    layer = inspected["GraphDriver"]["Data"]["MergedDir"].split("/")[-2]
    for name, own in (("ID", container), ("SHORT", container[:12]), ("LAYER", layer)):
        text = text.replace(own, name)
    described: dict[str, Any] = json.loads(text)
    for each in ANNOTATIONS:
        described["annotations"].pop(each, None)
    described["process"]["env"].sort()
    described["mounts"].sort(key=lambda mount: str(mount["destination"]))  # in random order within a depth
    return described


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"uid": 0, "gid": 0, "capabilities": ("NET_BIND_SERVICE",)},
        {"capabilities": (), "environment": (), "scratch": (), "mounts": (), "configuration": (), "scripts": ()},
        {"environment": (("HOME", "/told"), ("PATH", "/told/too"), ("A", "x=y z"), ("B", ""))},
        {"netns": "", "host_network": True},
    ],
    ids=["usual", "root", "nothing", "environment", "host-network"],
)
def test_the_runtime_is_given_the_same(ground: engines.Ground, changes: dict[str, Any]) -> None:
    plan = ground.plan(**changes)
    api = ground.engine
    assert isinstance(api, PodmanApi)
    assert description(api, ground, plan) == description(Podman(), ground, plan)


HOST = {
    "/etc/containers/containers.conf.d/99-tests.conf": """
[containers]
annotations = ["of.the.host=1"]
cgroup_conf = ["memory.high=1073741824"]
cgroups = "no-conmon"
default_sysctls = ["net.ipv4.ip_default_ttl=33"]
default_ulimits = ["memlock=1000:1000"]
devices = ["/dev/full"]
env = ["OF_THE_HOST=1"]
mounts = ["type=bind,source=/srv,destination=/mount-of-the-host"]
oom_score_adj = 500
volumes = ["/srv:/volume-of-the-host"]
[engine]
hooks_dir = ["/etc/containers/hooks-of-tests"]
""",
    "/etc/containers/hooks-of-tests/hook.json": json.dumps(
        {"version": "1.0.0", "hook": {"path": "/usr/bin/true"}, "when": {"always": True}, "stages": ["prestart"]}
    ),
    "/etc/containers/mounts.conf": "/srv:/secret-of-the-host\n",
}


@pytest.fixture
def settings_of_the_host(ground: engines.Ground) -> Iterator[None]:
    """Configure podman to add something of every kind to each container."""
    assert isinstance(ground.engine, PodmanApi)
    made = [path for path in map(Path, HOST) if not path.parent.exists()]
    for path, text in HOST.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    ground.engine.end()  # it has read its configuration
    yield
    for each in map(Path, HOST):
        each.unlink()
    for each in made:
        each.parent.rmdir()
    ground.engine.end()


@pytest.mark.parametrize("through", [PodmanApi, Podman])
def test_settings_of_the_host_do_not_reach_side_containers(
    ground: engines.Ground, through: type[Podman], request: pytest.FixtureRequest
) -> None:
    engine, plan = ground.engine if through is PodmanApi else Podman(), ground.plan()
    assert isinstance(engine, Podman)
    before = description(engine, ground, plan)
    request.getfixturevalue("settings_of_the_host")
    after = description(engine, ground, plan)
    settings = look_at_podman().settings.settings
    named = {each.key.partition(".")[2] for each in settings if each.file.endswith("/99-tests.conf")}
    assert named == ({"annotations", "default_sysctls", "devices", "volumes"} if podman_version() < (4, 5) else set())
    if podman_version() < (4, 5):  # it cannot be told; `sidespawn check` names them
        assert after["annotations"].pop("of.the.host") == "1"
        assert after["linux"].pop("sysctl") == {"net.ipv4.ip_default_ttl": "33"}
        before["linux"].pop("sysctl", None)
        after["mounts"] = [each for each in after["mounts"] if each["destination"] != "/volume-of-the-host"]
        of_the_host = [each for each in after["linux"]["devices"] if each["path"] == "/dev/full"]
        assert of_the_host
        for described in (before, after):
            described["linux"].pop("devices", None)
            described["linux"]["resources"].pop("devices", None)
    assert after == before
    assert not [each for each in (after.get("hooks"), after["process"].get("oomScoreAdj")) if each]


def podman_version() -> tuple[int, ...]:
    return tuple(map(int, command("podman", "--version").stdout.split()[-1].split(".")[:2]))


def test_a_start_fails_if_the_unit_lacks_a_capability_of_the_plan(ground: engines.Ground) -> None:
    """Check this since the runtime would leave it out and report nothing."""
    assert isinstance(ground.engine, PodmanApi)
    plan = ground.plan(capabilities=("NET_RAW", "NET_ADMIN"))
    drop_in = Path(f"/run/systemd/system/{ground.engine.unit}.d/99-less.conf")
    drop_in.parent.mkdir(parents=True)
    try:
        drop_in.write_text("[Service]\nCapabilityBoundingSet=~CAP_NET_RAW\n")
        command("systemctl", "daemon-reload")
        ground.engine.end()
        with pytest.raises(LaunchError, match="cannot give the side container NET_RAW: "):
            ground.start(plan)
    finally:
        drop_in.unlink()
        drop_in.parent.rmdir()
        command("systemctl", "daemon-reload")
        ground.engine.end()
    assert ground.engine.find(plan.name) is None or ground.engine.list(ground.places.service)[0].pid is None
    ground.engine.remove(plan.name)
    ground.start(plan)
    ground.engine.remove(plan.name)


def test_no_descriptor_or_variable_of_systemd_is_passed_on(ground: engines.Ground) -> None:
    """Only conmon stays: it must neither hold the socket nor send anything to systemd."""
    plan = ground.plan()
    process = ground.start(plan)
    conmon = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
    said = Path(f"/proc/{conmon}/environ").read_bytes()
    assert not [each for each in (b"LISTEN_", b"NOTIFY_SOCKET", b"INVOCATION_ID") if each in said]
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    sockets = {f"socket:[{row[6]}]" for row in rows if row[-1] == str(ground.places.podman)}
    assert sockets
    for pid in (conmon, process.pid):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it was closed just now
                assert str(each.readlink()) not in sockets
    ground.engine.remove(plan.name)


def test_the_socket_is_roots_alone(ground: engines.Ground) -> None:
    socket = ground.places.podman
    assert (oct(socket.stat().st_mode & 0o777), oct(socket.parent.stat().st_mode & 0o777)) == ("0o600", "0o700")
    assert ground.places.run not in socket.parents  # below which agents' directories are mounted


def test_podman_ends_when_it_is_idle_and_comes_back(ground: engines.Ground) -> None:
    unit = f"sidespawn-podman@{ground.places.service}.service"
    for _ in range(2):
        assert ground.engine.list(ground.places.service) == ()
        assert main_pid(unit)
        wait_until(lambda: main_pid(unit) == 0, patience=20)


@pytest.mark.slow
def test_killed_in_the_middle_of_starts(ground: engines.Ground) -> None:
    """Check that each start works, and that exactly one program runs for it."""
    unit, moments, enough = f"sidespawn-podman@{ground.places.service}.service", random.Random(3), threading.Event()
    kills = 0

    def kill() -> None:
        nonlocal kills
        while not enough.wait(moments.uniform(0.1, 1.2) * SLOWNESS):
            if main_pid(unit):
                command("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit, check=False)
                kills += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        began, number = time.monotonic(), 0
        while kills < 20 and time.monotonic() - began < 120 * SLOWNESS:
            number += 1
            tag = uuid.uuid4().hex
            plan = ground.plan(engines.STAY, tag)
            process = start(ground, plan)
            assert programs(tag) == [process.pid]
            found = ground.engine.find(plan.name)
            assert found is not None
            assert found.pid == process.pid
            ground.engine.remove(plan.name)
            wait_for_the_end_of(tag)
    finally:
        enough.set()
        thread.join()
    print(f"{kills} kills, {number} starts")
    assert kills >= 20


def start(ground: engines.Ground, plan: Plan) -> Process:
    """Start it like host/launch.py: a killed podman may have taken the name without a record of the reason."""
    for _ in range(launch.TRIES):
        with suppress(NameTaken):
            return ground.start(plan)
        ground.engine.remove(plan.name)
    raise AssertionError


def wait_for_the_end_of(tag: str) -> None:
    """Wait until the killed process has ended."""
    wait_until(lambda: programs(tag) == [])


def programs(tag: str) -> list[int]:
    """Return the programs of a side container. The processes that create it, not children of conmon, are left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"/usr/bin/python3\0-I\0-S\0-c\0") and tag.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
