"""The duties of every engine, whatever it consists of: the same tests for each.

In most tests the program is a few lines of Python that run until they are ended. What it was given is read from /proc,
where neither the engine nor the program can falsify it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from sidespawn.authoring.start_command import start_command
from sidespawn.core.plan import ConfigurationFile, Limits, Mount, Plan, Readiness, ReadyWhen, Script
from sidespawn.engines import Engine, NameTaken, Pins, docker, get_engine
from sidespawn.engines.systemd import PRIVATE_PIDS
from sidespawn.engines.systemd_roots import release_all
from sidespawn.errors import LaunchError, Reason
from sidespawn.host import directories, labels, seccomp
from sidespawn.host.state import AgentState, pin_mounts
from sidespawn.host_report import service_manager
from sidespawn.setup import accounts
from sidespawn.setup.systemd import contents, forget_failed_scopes
from sidespawn.system import kernel
from sidespawn.system.namespaces import pinned_namespace
from sidespawn.system.places import Places
from sidespawn.system.processes import Process, end, identify, send
from tests.lab import dockers
from tests.lab.lives import DROP_INS
from tests.lab.networks import command, wait_until, wait_until_gone

IMAGE = "localhost/sidespawn-agent:latest"
UID = 42435
STATE = "/var/lib/neutron"
PYTHON = "/usr/bin/python3"
STAY = "import signal, time\nprint('it runs', flush=True)\nwhile True: signal.pause()\n"
# For a program that ends only once the test has looked at it.
UNTIL_TOLD = """\
import os, time
def until_told():
    while not os.path.exists("/run/tool/told"): time.sleep(0.02)
"""
HOSTILE = (
    *("", "-", "--", "--privileged", "-v=/:/host", "--entrypoint=/bin/sh", "$HOME", "${HOME}", "$$", "$UNSET", "`id`"),
    *("%h", "%%", "%n%i", "@/bin/sh", "+/bin/sh", "!x", ":x", ";", "; ExecStart=/bin/sh", "\\", "\\n", "a\\", '"', "'"),
    *("a b", " ", "\t", "a\nb", "\n", "[Service]\nExecStartPost=/bin/touch /run/owned", "\r", "\x01", "\x7f"),
    *("\x1b[31m", "#", "\u00e9\u4e2d", "\u2028", "x" * 60_000),
)  # fmt: skip


def output(plan: Plan) -> str:
    """Read the output by the program's name."""
    command("journalctl", "--sync", check=False)
    return command("journalctl", "--output=cat", "--quiet", f"CONTAINER_NAME={plan.name}").stdout


def execute(described: tuple[str, ...], plan: Plan, pins: Pins) -> None:
    done = subprocess.run(described, capture_output=True, timeout=60, check=False, cwd="/", env={})
    assert done.returncode == 0, done.stderr


def ask_docker(described: tuple[str, ...], plan: Plan, pins: Pins) -> None:
    record = pins.netns.with_suffix(".oci")
    record.write_text(json.dumps(docker.runtime_record(plan, pins)))
    method, path, body = described
    created = docker.ask(method, path, body, 60)
    assert docker.ask("POST", f"/containers/{created.body['Id']}/start", "", 60).status == 204
    record.unlink()


@contextmanager
def with_account(_: str) -> Iterator[None]:
    """Make the account that `sidespawn enable` makes for systemd."""
    accounts.make(UID, UID)
    try:
        yield
    finally:
        accounts.remove(UID, UID)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The differences between engines; docs/engines.md describes each of them."""

    name: str
    image: str = IMAGE
    namespaces: tuple[str, ...] = ("ipc", "mnt", "pid", "uts")  # private namespaces, besides the network
    adds: frozenset[str] = frozenset()  # variables that the engine gives every program
    allows: frozenset[str] = frozenset()  # what a hostile program tries
    restart: Callable[[], object] | None = None  # its daemon, if it has one
    ready: Callable[..., AbstractContextManager[None]] = nullcontext  # context around all tests, given the images
    journal: str = "_SYSTEMD_SLICE=sidespawn-{slice}.slice"  # finds the output of all programs of a service
    carry_out: Callable[[tuple[str, ...], Plan, Pins], None] = execute  # what the engine describes
    around: Callable[..., AbstractContextManager[None]] = nullcontext  # context around a service's objects, by its name
    said: Callable[[Plan], str] = output  # by a program
    has_slice: bool = True  # of the service, for its programs


PODMAN = Kind(
    name="podman",
    adds=frozenset({"HOSTNAME", "HOME", "container"}),
)


@contextmanager
def podmans(*_: str) -> Iterator[None]:
    """Install the units of `sidespawn-podman@` as `sidespawn enable` does."""
    written = {DROP_INS / name: text for name, text in contents("").items() if name.startswith("sidespawn-podman@")}
    for path, text in written.items():
        path.write_text(text)
    command("systemctl", "daemon-reload")
    try:
        yield
    finally:
        for path in written:
            path.unlink()
        command("systemctl", "daemon-reload")


@contextmanager
def podman_of(service: str) -> Iterator[None]:
    units = (f"sidespawn-podman@{service}.socket", f"sidespawn-podman@{service}.service")
    command("systemctl", "start", units[0])
    try:
        yield
    finally:
        command("systemctl", "stop", *units)


def kill_podmans() -> None:
    command("systemctl", "kill", "--signal=KILL", "sidespawn-podman@*.service")


API = replace(PODMAN, restart=kill_podmans, ready=podmans, around=podman_of)
DOCKER = Kind(
    name="docker",
    adds=frozenset({"HOME"}),  # by runc
    restart=dockers.restart,
    ready=dockers.running_docker,
    journal="IO_SIDESPAWN_SERVICE={service}",
    carry_out=ask_docker,
)
HAS_PRIVATE_PIDS = service_manager.look().number >= PRIVATE_PIDS
SYSTEMD = Kind(
    name="systemd",
    namespaces=("ipc", "mnt", "pid") if HAS_PRIVATE_PIDS else ("ipc", "mnt"),
    allows=frozenset() if HAS_PRIVATE_PIDS else frozenset({"another's signals"}),
    ready=with_account,
)
HOST = replace(SYSTEMD, image="host")
KINDS = (PODMAN, API, DOCKER, SYSTEMD, HOST)


@dataclass
class Ground:
    """A service on the host, without its units: places, a namespace, the agent's state."""

    kind: Kind
    engine: Engine
    places: Places
    state: Path
    netns: str
    names: list[str] = field(default_factory=list)

    def plan(self, code: str = STAY, *arguments: str, **changes: object) -> Plan:
        """Return a plan for its own instance, unless `changes` name another."""
        instance = uuid.uuid4().hex[:12]
        plan = Plan(
            service=self.places.service,
            instance=instance,
            engine=self.kind.name,
            image=self.kind.image,
            command=PYTHON,
            arguments=("-I", "-S", "-c", code, *arguments),
            environment=(("PROCESS_TAG", f"tool-{instance}"),),
            netns=self.netns,
            host_network=False,
            uid=UID,
            gid=UID,
            capabilities=("NET_ADMIN", "NET_RAW"),
            state=STATE,
            mounts=(
                tool(instance),
                Mount(path="/run/given", beneath="given", writable=False),
            ),
            configuration=(
                ConfigurationFile(path=f"{STATE}/conf/{instance}.conf", beneath="x.conf", rules="x", text="told = 1\n"),
            ),
            scripts=(Script(path="/run/scripts/say", text="#!/bin/sh\necho said >said\n"),),
            scratch=("/run/tool",),
            apparmor="",
            limits=Limits(memory=64 * 2**20, tasks=32, open_files=512),
            pid_file=None,
            child_pid_files=(),
            readiness=Readiness(when=ReadyWhen.ALIVE, what="1", within=10),
            grace=5,
        )
        plan = replace(plan, **changes)  # type: ignore[arg-type]
        for mount in plan.mounts:
            (self.state / mount.beneath).mkdir(parents=True, exist_ok=True)
            os.chown(self.state / mount.beneath, UID, UID)
        self.names.append(plan.name)
        return plan

    @contextmanager
    def pins(self, plan: Plan, request: str) -> Iterator[Pins]:
        """Make pins as host/keeper.py does."""
        pin = self.places.pins / request
        with ExitStack() as stack:
            name = None if plan.host_network else plan.netns
            netns = stack.enter_context(pinned_namespace(name, pin.with_suffix(".netns")))
            mounts = pin_mounts(plan, AgentState(str(self.state)), pin, stack)
            configuration, scripts = [], []
            for number, file in enumerate(plan.configuration):
                configuration.append(self.places.snapshots / f"{plan.instance}.{number}")
                configuration[-1].write_text(file.text or "")
                configuration[-1].chmod(0o444)
            for number, script in enumerate(plan.scripts, len(configuration)):
                scripts.append(self.places.snapshots / f"{plan.instance}.{number}")
                scripts[-1].write_text(script.text)
                scripts[-1].chmod(0o555)
            pid_file = pin.with_suffix(".pid")
            stack.callback(pid_file.unlink, missing_ok=True)
            yield Pins(
                netns=netns.path,
                pid_file=pid_file,
                mounts=mounts,
                configuration=tuple(configuration),
                scripts=tuple(scripts),
            )

    def start(self, plan: Plan, request: str = "") -> Process:
        """Start the plan, check the engine's answer against /proc, and return the running process."""
        request = request or uuid.uuid4().hex
        with self.pins(plan, request) as pins:
            container, pid = self.engine.start(plan, pins, request)
        assert container
        process = identify(pid)
        assert process is not None, "it ended at once"
        # podman returns just before the runtime executes the program.
        wait_until(lambda: Running(plan, process).arguments()[:1] == [plan.command])
        return process

    def clean(self) -> None:
        for name in self.names:
            self.engine.remove(name)
        assert self.engine.list(self.places.service) == ()


def tool(instance: str) -> Mount:
    """Return the directory of the instance."""
    return Mount(path=f"{STATE}/tool/{instance}", beneath=f"tool/{instance}", writable=True)


@contextmanager
def new_ground(kind: Kind, suffix: str = "") -> Iterator[Ground]:
    name = f"test-{uuid.uuid4().hex[:8]}{suffix}"
    with kind.around(name), ground_of(kind, name) as made:
        yield made


@contextmanager
def ground_of(kind: Kind, name: str) -> Iterator[Ground]:
    places = Places(name)
    state = Path("/var/lib") / f"sidespawn-{name}"
    ground = Ground(kind, get_engine(kind.name, name), places, state, f"q-{name}")
    state.mkdir()
    (state / "given").mkdir()
    (state / "given" / "file").write_text("given")
    places.home.mkdir(mode=0o700, parents=True)
    directories.mount_tmpfs(places.home, kernel.MS_NOSUID | kernel.MS_NODEV, "size=64m,mode=0700", labels.HOST)
    for path in (places.pins, places.snapshots):
        path.mkdir(mode=0o700)
    places.syscalls.write_text(seccomp.of_side_containers(as_root=False) or "")
    command("ip", "netns", "add", ground.netns)
    try:
        yield ground
    finally:
        ground.clean()
        command("ip", "netns", "del", ground.netns)
        slice_ = f"sidespawn-{name.replace('-', '_')}.slice"
        command("systemctl", "stop", slice_, "sidespawn.slice")
        forget_failed_scopes(slice_)
        release_all(name)
        directories.remove(places)
        shutil.rmtree(state)


@pytest.fixture(scope="module", params=KINDS, ids=["podman", "podman-api", "docker", "systemd", "systemd-host"])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with request.param.ready(request.param.image), new_ground(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def runs(ground: Ground) -> Running:
    """Run one side container for the tests that only look at it."""
    plan = ground.plan(STAY, *HOSTILE)
    return Running(plan, ground.start(plan, request="a" * 32))


@dataclass(frozen=True)
class Running:
    plan: Plan
    process: Process

    @property
    def proc(self) -> Path:
        return Path(f"/proc/{self.process.pid}")

    def arguments(self) -> list[str]:
        return (self.proc / "cmdline").read_bytes().decode().split("\0")[:-1]

    def environment(self) -> dict[str, str]:
        pairs = (each.partition("=") for each in (self.proc / "environ").read_bytes().decode().split("\0") if each)
        return {name: value for name, _, value in pairs}

    def status(self) -> dict[str, str]:
        lines = (self.proc / "status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def limits(self) -> dict[str, list[str]]:
        lines = (self.proc / "limits").read_text().splitlines()[1:]
        return {line[:26].strip(): line[26:].split()[:2] for line in lines}

    def mounts(self) -> dict[str, set[str]]:
        """Return each mount point's own options; those of the top mount where several are stacked."""
        return {row[4]: set(row[5].split(",")) for row in self.rows()}

    def rows(self) -> list[list[str]]:
        return [line.split() for line in (self.proc / "mountinfo").read_text().splitlines()]

    def namespace(self, kind: str) -> int:
        return os.stat(self.proc / "ns" / kind).st_ino


def tell(process: Process) -> None:
    Path(f"/proc/{process.pid}/root/run/tool/told").touch()


def mask(*capabilities: int) -> str:
    return f"{sum(1 << each for each in capabilities):016x}"


NET_BIND_SERVICE, NET_ADMIN, NET_RAW = 10, 12, 13

# ---------------------------------------------------------------- what the program gets


def test_the_arguments_are_the_plans_and_reach_the_program_as_they_are(runs: Running) -> None:
    assert runs.arguments() == [runs.plan.command, *runs.plan.arguments]


def test_it_is_in_the_namespace_of_the_plan(ground: Ground, runs: Running) -> None:
    assert runs.namespace("net") == os.stat(f"/run/netns/{ground.netns}").st_ino


def test_every_other_namespace_is_its_own(ground: Ground, runs: Running) -> None:
    shared = {
        kind for kind in ("ipc", "mnt", "pid", "uts") if runs.namespace(kind) == os.stat(f"/proc/1/ns/{kind}").st_ino
    }
    assert shared == {"ipc", "mnt", "pid", "uts"} - set(ground.kind.namespaces)
    assert runs.namespace("user") == os.stat("/proc/1/ns/user").st_ino  # the one that owns the agent's namespaces


def test_it_runs_as_the_plans_user_and_in_no_other_group(runs: Running) -> None:
    status = runs.status()
    assert (status["Uid"].split(), status["Gid"].split()) == ([str(UID)] * 4, [str(UID)] * 4)
    assert status["Groups"] in ("", str(UID))


def test_its_capabilities_are_exactly_the_plans(runs: Running) -> None:
    status = runs.status()
    assert {status[f"Cap{each}"] for each in ("Prm", "Eff", "Bnd", "Amb")} == {mask(NET_ADMIN, NET_RAW)}
    assert status["CapInh"] in (mask(), mask(NET_ADMIN, NET_RAW))


@pytest.mark.parametrize("uid", [0, UID])
def test_a_plan_without_capabilities_gives_none(ground: Ground, uid: int) -> None:
    plan = ground.plan(capabilities=(), uid=uid, gid=uid)
    status = Running(plan, ground.start(plan)).status()
    assert {status[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {mask()}
    assert status["Uid"].split() == [str(uid)] * 4
    ground.engine.remove(plan.name)


def test_root_has_the_plans_capabilities_and_no_more(ground: Ground) -> None:
    plan = ground.plan(capabilities=("NET_BIND_SERVICE",), uid=0, gid=0)
    status = Running(plan, ground.start(plan)).status()
    assert {status[f"Cap{each}"] for each in ("Prm", "Eff", "Bnd")} == {mask(NET_BIND_SERVICE)}
    ground.engine.remove(plan.name)


def test_it_cannot_gain_privileges_and_system_calls_are_filtered(runs: Running) -> None:
    assert (runs.status()["NoNewPrivs"], runs.status()["Seccomp"]) == ("1", "2")


def test_limits_are_in_force(runs: Running) -> None:
    limits = runs.limits()
    assert limits["Max open files"] == ["512", "512"]
    assert limits["Max core file size"] == ["0", "0"]
    assert runs.status()["Umask"] == "0022"


def test_the_environment_is_the_plans(ground: Ground, runs: Running) -> None:
    found = runs.environment()
    given = {name: found.pop(name) for name, _ in runs.plan.environment}
    assert given == dict(runs.plan.environment)
    assert set(found) <= ground.kind.adds


def test_values_of_the_environment_reach_the_program_as_they_are(ground: Ground) -> None:
    hostile = tuple((f"V{number}", value) for number, value in enumerate(HOSTILE) if len(value) < 100)
    plan = ground.plan(environment=(*hostile, ("HOME", "/told"), ("PATH", "/told/too")))
    found = Running(plan, ground.start(plan)).environment()
    assert {name: found[name] for name, _ in plan.environment} == dict(plan.environment)
    ground.engine.remove(plan.name)


# ---------------------------------------------------------------- its files


def test_nothing_is_writable_but_its_own_directories(ground: Ground, runs: Running) -> None:
    own = runs.plan.mounts[0].path
    writable = {path for path, options in runs.mounts().items() if "rw" in options}
    # test_what_a_hostile_program_gets tries what the kernel shows there.
    assert {path for path in writable if path.split("/")[1] not in ("dev", "proc", "sys")} == {own, "/run/tool"}
    for path in (own, "/run/tool"):
        assert {"nosuid", "nodev", "noexec"} <= runs.mounts()[path]


def test_what_it_writes_is_in_the_agents_state(ground: Ground, runs: Running) -> None:
    own = ground.state / runs.plan.mounts[0].beneath
    (own / "from-the-host").write_text("x")
    inside = Path(f"{runs.proc}/root{runs.plan.mounts[0].path}")
    assert (inside / "from-the-host").read_text() == "x"
    assert os.stat(inside).st_ino == os.stat(own).st_ino


def test_what_it_may_read_it_cannot_write(runs: Running) -> None:
    options = runs.mounts()["/run/given"]
    assert {"ro", "nosuid", "nodev", "noexec"} <= options
    assert Path(f"{runs.proc}/root/run/given/file").read_text() == "given"


def test_the_configuration_is_the_checked_copy(runs: Running) -> None:
    path = runs.plan.configuration[0].path
    assert Path(f"{runs.proc}/root{path}").read_text() == "told = 1\n"
    assert {"ro", "nosuid", "nodev", "noexec"} <= runs.mounts()[path]


def test_a_script_is_executed_and_cannot_be_changed(ground: Ground) -> None:
    code = "import os, sys\nos.chdir(sys.argv[1])\nos.spawnv(os.P_WAIT, '/run/scripts/say', ['say'])\n"
    instance = uuid.uuid4().hex[:12]
    runs = Running(
        plan := ground.plan(code + STAY, f"{STATE}/tool/{instance}", instance=instance, mounts=(tool(instance),)),
        ground.start(plan),
    )
    said = ground.state / "tool" / instance / "said"
    wait_until(lambda: said.exists() and said.read_text() == "said\n")
    options = runs.mounts()["/run/scripts/say"]
    assert {"ro", "nosuid", "nodev"} <= options
    assert "noexec" not in options


def test_the_hosts_own_network_where_the_plan_says_so(ground: Ground) -> None:
    plan = ground.plan(netns="", host_network=True, capabilities=())
    process = ground.start(plan)
    assert os.stat(f"/proc/{process.pid}/ns/net").st_ino == os.stat("/proc/1/ns/net").st_ino


def test_mounts_come_and_go_for_each_side_alone(ground: Ground, runs: Running) -> None:
    """Mounts of the agent do not appear in the side container, and mounts of the side container not on the host."""
    assert not [row for row in runs.rows() if any(each.startswith("shared:") for each in row)]
    assert str(ground.places.pins) not in Path("/proc/self/mounts").read_text()


def test_scratch_is_small(runs: Running) -> None:
    inside = os.statvfs(f"{runs.proc}/root/run/tool")
    assert inside.f_blocks * inside.f_frsize == 64 * 1024
    assert stat.S_IMODE(os.stat(f"{runs.proc}/root/run/tool").st_mode) == 0o1777


def test_only_its_own_instance_of_the_agents_state_is_there(ground: Ground, runs: Running) -> None:
    other = ground.plan()
    assert not Path(f"{runs.proc}/root{other.mounts[0].path}").exists()
    assert os.listdir(f"{runs.proc}/root{STATE}/tool") == [runs.plan.instance]


ATTEMPTS = """
import ctypes, errno, json, os, socket, sys
C = ctypes.CDLL(None, use_errno=True)
def attempt(do):
    try:
        return not (do() or 0) < 0
    except OSError:
        return False
class Piece(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("length", ctypes.c_size_t))
def read_of(pid):  # that the address is not mapped there is what only those learn who may read
    piece = ctypes.byref(Piece(0x1000, 8))
    done = C.process_vm_readv(pid, piece, ctypes.c_ulong(1), piece, ctypes.c_ulong(1), ctypes.c_ulong(0))
    return 0 if ctypes.get_errno() == errno.EFAULT else done
print("attempts", json.dumps({
    "write /": attempt(lambda: os.mkdir("/made")),
    "write /etc": attempt(lambda: os.mkdir("/etc/made")),
    "write what is read": attempt(lambda: open("/run/given/made", "w").close()),
    "mount": attempt(lambda: C.mount(b"none", b"/run/tool", b"tmpfs", 0, None)),
    "namespace": attempt(lambda: C.unshare(0x40000000)),
    "user namespace": attempt(lambda: os.fork() == 0 and os._exit(C.unshare(0x10000000) != 0) or -os.wait()[1]),
    "mknod": attempt(lambda: os.mknod("/run/tool/null", 0o20666, os.makedev(1, 3))),
    "sysctl": attempt(lambda: open("/proc/sys/kernel/core_pattern", "w").close()),
    "cgroup": attempt(lambda: os.mkdir("/sys/fs/cgroup/made")),
    "kernel log": attempt(lambda: open("/dev/kmsg").close()),
    "ptrace": attempt(lambda: C.ptrace(16, 1, 0, 0)),
    "host's sockets": attempt(lambda: socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket")),
    "another's memory": attempt(lambda: read_of(int(sys.argv[2]))),
    "another's files": attempt(lambda: os.stat(f"/proc/{sys.argv[2]}/root/")),
    "another's signals": attempt(lambda: os.kill(int(sys.argv[2]), 0)),
    "key rings": attempt(lambda: C.syscall(250, 0, -3, 1)),
    "its own directory": attempt(lambda: open(sys.argv[1] + "/made", "w").close()),
    "its scratch": attempt(lambda: open("/run/tool/made", "w").close()),
}), flush=True)
import signal
while True: signal.pause()
"""


@pytest.mark.parametrize("uid", [0, UID])
def test_what_a_hostile_program_gets(ground: Ground, uid: int) -> None:
    other, plan = ground.plan(uid=uid, gid=uid), ground.plan(ATTEMPTS, uid=uid, gid=uid)
    os.chown(ground.state / plan.mounts[0].beneath, uid, uid)
    another = ground.start(other)
    plan = replace(plan, arguments=(*plan.arguments, plan.mounts[0].path, str(another.pid)))
    ground.start(plan)
    wait_until(lambda: "attempts" in ground.kind.said(plan), patience=20)
    found = json.loads(ground.kind.said(plan).partition("attempts ")[2].splitlines()[0])
    succeeded = {what for what, done in found.items() if done}
    assert succeeded == {"its own directory", "its scratch"} | ground.kind.allows
    for name in (plan.name, other.name):
        ground.engine.remove(name)


def test_what_it_says_is_in_the_journal_by_its_name_and_its_slice(ground: Ground, runs: Running) -> None:
    wait_until(lambda: "it runs" in ground.kind.said(runs.plan))
    if not ground.kind.journal:
        return
    service = ground.places.service
    of_service = ground.kind.journal.format(service=service, slice=service.replace("-", "_"))
    assert "it runs" in command("journalctl", "--output=cat", "--quiet", of_service).stdout


def test_it_is_in_its_services_slice(ground: Ground, runs: Running) -> None:
    slices = f"/sidespawn-{ground.places.service.replace('-', '_')}.slice/" in (runs.proc / "cgroup").read_text()
    assert slices is ground.kind.has_slice


# ---------------------------------------------------------------- finding it


def test_it_is_found_with_what_it_was_started_for(ground: Ground, runs: Running) -> None:
    found = ground.engine.find(runs.plan.name)
    assert found is not None
    assert (found.name, found.pid) == (runs.plan.name, runs.process.pid)
    assert (found.instance, found.digest, found.request, found.netns) == (
        runs.plan.instance, runs.plan.digest, "a" * 32, ground.netns,
    )  # fmt: skip
    assert found.state == "running"
    assert found in ground.engine.list(ground.places.service)


def test_a_name_that_nothing_has_is_not_found(ground: Ground) -> None:
    assert ground.engine.find(f"{ground.places.service}-nothing") is None
    assert ground.engine.find("sidespawn-nothing.*") is None


def test_services_do_not_see_each_others(ground: Ground, runs: Running) -> None:
    service = ground.places.service
    for other in (service[:-1], f"{service}-x", service[:-2] + "*", "test"):
        assert ground.engine.list(other) == ()


def test_what_an_earlier_version_named_is_listed_and_removed(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidespawn.core.plan.container_name", lambda service, instance: f"{service}-{instance}")
    plan = ground.plan()
    process = ground.start(plan)
    (found,) = (each for each in ground.engine.list(ground.places.service) if each.instance == plan.instance)
    assert (found.name, found.pid) == (f"{plan.service}-{plan.instance}", process.pid)
    ground.engine.remove(found.name)
    assert identify(process.pid) is None


def test_a_program_that_ended_is_found_as_exited_and_keeps_its_name(ground: Ground) -> None:
    for code in ("", "raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"):
        plan = ground.plan(f"{UNTIL_TOLD}until_told()\n{code}")
        process = ground.start(plan, request="b" * 32)
        tell(process)
        wait_until_gone(process.pid)
        wait_until(lambda name=plan.name: state_of(ground, name) == "exited")  # type: ignore[misc]
        found = ground.engine.find(plan.name)
        assert found is not None
        assert (found.pid, found.request, found.digest) == (None, "b" * 32, plan.digest)
        with pytest.raises(NameTaken):
            ground.start(plan)
        ground.engine.remove(plan.name)
        assert ground.engine.find(plan.name) is None


def state_of(ground: Ground, name: str) -> str | None:
    found = ground.engine.find(name)
    return None if found is None else found.state


# ---------------------------------------------------------------- a name is unique


def test_a_second_start_of_one_name_is_refused_and_harms_nothing(ground: Ground, runs: Running) -> None:
    with pytest.raises(NameTaken):
        ground.start(runs.plan)
    with pytest.raises(NameTaken):
        ground.start(replace(runs.plan, arguments=("-I", "-S", "-c", STAY, "another")))
    assert identify(runs.process.pid) == runs.process


def test_one_of_two_starts_at_once_has_the_name(ground: Ground) -> None:
    plan = ground.plan()

    def start(_: int) -> Process | None:
        try:
            return ground.start(plan)
        except NameTaken:
            return None

    with ThreadPoolExecutor(3) as threads:
        started = [each for each in threads.map(start, range(3)) if each is not None]
    assert len(started) == 1
    found = ground.engine.find(plan.name)
    assert found is not None
    assert found.pid == started[0].pid
    ground.engine.remove(plan.name)


def test_removing_ends_it_and_frees_its_name_at_once(ground: Ground) -> None:
    plan = ground.plan()
    for _ in range(3):
        process = ground.start(plan)
        ground.engine.remove(plan.name)
        assert identify(process.pid) is None
        assert ground.engine.find(plan.name) is None
    ground.engine.remove(plan.name)  # there is nothing to remove: no error


def test_what_does_not_want_to_end_is_ended_with_its_children(ground: Ground) -> None:
    code = (
        "import os, signal\nfor each in (1, 2, 15): signal.signal(each, signal.SIG_IGN)\n"
        "os.fork()\nos.fork()\nopen('/run/tool/ready', 'w').close()\nwhile True: signal.pause()\n"
    )
    plan = ground.plan(code)
    process = ground.start(plan)
    wait_until(lambda: len(family(process.pid)) == 3)
    children = family(process.pid)
    ground.engine.remove(plan.name)
    assert [identify(pid) for pid in (process.pid, *children)] == [None] * 4


def family(pid: int) -> list[int]:
    found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [below for each in found for below in family(each)]


# ---------------------------------------------------------------- signals


def test_signals_reach_the_program(ground: Ground) -> None:
    code = (
        "import signal\ndef told(*_): print('told', flush=True)\nsignal.signal(1, told)\n"
        "open('/run/tool/ready', 'w').close()\nwhile True: signal.pause()\n"
    )
    plan = ground.plan(code)
    process = ground.start(plan)
    wait_until(Path(f"/proc/{process.pid}/root/run/tool/ready").exists)
    assert send(process, "HUP")
    wait_until(lambda: "told" in ground.kind.said(plan))
    assert identify(process.pid) == process
    end(process, "KILL", 5)
    wait_until(lambda: state_of(ground, plan.name) == "exited")
    ground.engine.remove(plan.name)


# ---------------------------------------------------------------- what cannot be started


def test_a_missing_image_is_reported(ground: Ground) -> None:
    plan = ground.plan(image="localhost/no-such-image:1")
    with pytest.raises(LaunchError) as raised:
        ground.start(plan)
    assert raised.value.reason is Reason.IMAGE_MISSING
    assert "localhost/no-such-image:1" in raised.value.message


def test_a_program_that_is_not_there_is_an_engines_failure(ground: Ground) -> None:
    plan = ground.plan(command="/usr/bin/no-such-program")
    with pytest.raises(LaunchError) as raised:
        ground.start(plan)
    assert raised.value.reason is Reason.ENGINE_FAILED
    found = ground.engine.find(plan.name)
    assert found is None or found.pid is None
    ground.engine.remove(plan.name)
    assert ground.engine.find(plan.name) is None


# ---------------------------------------------------------------- changes around it


def test_it_keeps_running_when_systemd_and_the_engine_restart(ground: Ground, runs: Running) -> None:
    for verb in ("daemon-reload", "daemon-reexec"):
        command("systemctl", verb)
        assert_untouched(ground, runs)
    if ground.kind.restart is not None:
        ground.kind.restart()
        assert_untouched(ground, runs)


def assert_untouched(ground: Ground, runs: Running) -> None:
    assert identify(runs.process.pid) == runs.process
    found = ground.engine.find(runs.plan.name)
    assert found is not None
    assert (found.pid, found.state, found.digest) == (runs.process.pid, "running", runs.plan.digest)
    with pytest.raises(NameTaken):
        ground.start(runs.plan)
    assert runs.arguments() == [runs.plan.command, *runs.plan.arguments]
    assert not Path("/run/owned").exists()


def test_recovering_spares_what_runs(ground: Ground, runs: Running) -> None:
    ground.engine.reap(ground.places.service)
    assert identify(runs.process.pid) == runs.process


def test_no_pin_is_needed_once_it_runs(ground: Ground) -> None:
    """After its namespace was deleted and the name reused, the program is still in the old one."""
    plan = ground.plan()
    process = ground.start(plan)
    before = os.stat(f"/proc/{process.pid}/ns/net").st_ino
    command("ip", "netns", "del", ground.netns)
    command("ip", "netns", "add", ground.netns)
    assert os.stat(f"/proc/{process.pid}/ns/net").st_ino == before
    ground.engine.remove(plan.name)


# ---------------------------------------------------------------- description and result agree


def test_the_command_that_is_described_does_the_same(ground: Ground) -> None:
    plan, request = ground.plan(STAY, *HOSTILE), uuid.uuid4().hex
    started = views(Running(plan, ground.start(plan, request)))
    ground.engine.remove(plan.name)
    with ground.pins(plan, request) as pins:
        ground.kind.carry_out(start_command(plan, pins, request), plan, pins)
        wait_until(lambda: state_of(ground, plan.name) == "running")
        found = ground.engine.find(plan.name)
        assert found is not None
        process = identify(found.pid or 0)
        assert process is not None
        # The pid exists before the program is executed.
        wait_until(lambda: Running(plan, process).arguments() == started["arguments"])
    assert (found.digest, found.request) == (plan.digest, request)
    assert views(Running(plan, process)) == started
    ground.engine.remove(plan.name)


def views(runs: Running) -> dict[str, object]:
    """Return what /proc says of a program, without what changes from start to start."""
    status = runs.status()
    changing = ("HOSTNAME", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID")
    return {
        "arguments": runs.arguments(),
        "environment": {name: value for name, value in runs.environment().items() if name not in changing},
        "limits": runs.limits(),
        "mounts": {(row[4], row[5], row[row.index("-") + 1]) for row in runs.rows()},
        "status": {
            name: status[name] for name in ("Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
        },
        "netns": runs.namespace("net"),
    }
