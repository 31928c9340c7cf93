"""The ways to start a program in a network namespace, each with the same few methods.

An engine is one row of `ENGINES`: its name, the reference that a user would use instead, how to check for it, and how
its own command is called for a plan.  Engines that the machine lacks are left out.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from benchmarks import older
from benchmarks.processes import Command, Ended, Usage, argv_of, one, parent_of, run, usage_of
from sidespawn.core.decide import decide
from sidespawn.core.plan import Plan, container_name
from sidespawn.core.policy import Policy
from sidespawn.core.wire import StartRequest
from sidespawn.engines import Pins
from sidespawn.engines.podman import Podman
from sidespawn.engines.systemd import unit_name
from sidespawn.engines.systemd_roots import root_path
from sidespawn.host.policies import load_policy
from sidespawn.loading.parse import ENGINES as KNOWN
from sidespawn.setup.systemd import INSTALLED
from sidespawn.testing.commands import run as run_command
from tests.lab import dockers
from tests.lab.before import Before
from tests.lab.networks import Network, Service, unit_state, wait_until

SIDE_BY_SIDE = 4  # bare commands at a time in a burst, as many as sidespawn starts side by side
PIN = Path("/run/sidespawn-bench")  # pid files of what is not started by sidespawn
AGENTS_STATE = "/var/lib/neutron"
REQUEST = "0" * 32
# A benchmark asks more than an agent may, and starts over at once.
UNLIMITED = "[agent]\ntimeout = 600\n[limits]\nburst = 100000\nrate = 10000\nrecords = 100000\nbackoff = 0\n"
NOWHERE = "999999"  # a pid that nothing has


@dataclass(frozen=True, kw_only=True)
class Burst:
    """Seconds from the first start to the last program running, and how many never ran."""

    seconds: float
    lost: int
    processor: float = 0.0  # per request, of what the agent runs
    usage: Usage | None = None  # of the service, for this burst


class Way(Protocol):
    name: str
    reference: str  # the name of the way that it is compared with
    is_older: bool  # a pattern that is there to be compared with, and slow

    def prepare(self, *, cold: bool) -> None:
        """Before a measurement: what it measures is awake, or has gone to sleep."""

    def start(self, networks: Sequence[Network], at_once: int | None = None) -> Burst:
        """Start all of them, as this way is used: all at once, or as many at a time as the agent asks for."""

    def stop(self, network: Network) -> Ended | None:
        """End one that runs, and everything of it; None when the way has no stop command."""

    def pid(self, network: Network) -> int | None:
        """Return the pid of the program."""

    def clear(self, networks: Sequence[Network]) -> None:
        """End and forget all."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An engine. `bare` makes its own command of a plan, `stop` and `remove` those that end containers by their names.

    `context` is what must run for it.
    """

    name: str
    check: tuple[str, ...]  # succeeds where the engine is installed and, unless `context` brings it, has the image
    command: str  # what it is called in tables
    reference: str
    bare: Callable[[Plan, Pins], tuple[str, ...]]
    stop: Callable[[str], tuple[str, ...]]
    remove: Callable[[Sequence[str]], tuple[tuple[str, ...], ...]]
    context: Callable[[], AbstractContextManager[None]] = nullcontext
    policy: str = ""  # more lines of the policy

    @property
    def is_there(self) -> bool:
        known = self.name in KNOWN and shutil.which(self.check[0]) is not None
        return known and one(Command(argv=self.check)).code == 0


def podman_run(plan: Plan, pins: Pins) -> tuple[str, ...]:
    """Make the same container as sidespawn's podman."""
    return Podman().describe(plan, pins, REQUEST)


def docker_run(plan: Plan, pins: Pins) -> tuple[str, ...]:
    """Return the same plan as far as docker's command can express it: without the namespace, with docker's runtime.

    docker 20.10 gives capabilities only to root (otherwise dnsmasq reports that NET_ADMIN is missing, and ends), so it
    runs as root. With three more capabilities, root can write the state, and dnsmasq can stay root, as requested.
    """
    return (
        "/usr/bin/docker", "run", "--detach", f"--name={plan.name}", "--pull=never", "--network=none",
        "--cap-drop=all", "--log-driver=journald",
        *(f"--cap-add={each}" for each in (*plan.capabilities, "DAC_OVERRIDE", "SETGID", "SETUID")),
        "--security-opt=no-new-privileges", "--read-only",
        *(f"--tmpfs={path}:rw,nosuid,nodev,noexec,size=64k,mode=1777" for path in plan.scratch),
        f"--ulimit=nofile={plan.limits.open_files}:{plan.limits.open_files}",
        *(f"--volume={pin}:{mount.path}" for mount, pin in zip(plan.mounts, pins.mounts, strict=True)),
        f"--entrypoint={plan.command}", plan.image, *plan.arguments, "--user=root",
    )  # fmt: skip


def systemd_run(plan: Plan, pins: Pins) -> tuple[str, ...]:
    """Return the same program on the same root directory, with the plan's user, capabilities, namespace and mounts."""
    capabilities = " ".join(f"CAP_{each}" for each in plan.capabilities)
    mounts = zip(plan.mounts, pins.mounts, strict=True)
    properties = (
        "Type=exec", f"RootDirectory={root_path(plan.service, plan.image)}", f"NetworkNamespacePath={pins.netns}",
        f"User={plan.uid}", f"Group={plan.gid}", f"AmbientCapabilities={capabilities}",
        f"CapabilityBoundingSet={capabilities}", "NoNewPrivileges=yes", "PrivateIPC=yes", "MountAPIVFS=no",
        f"TemporaryFileSystem={plan.state} /dev {' '.join(f'{path}:mode=1777' for path in plan.scratch)}",
        f"BindPaths={' '.join(f'{pin}:{mount.path}' for mount, pin in mounts)}",
        "BindReadOnlyPaths=/dev/null /dev/urandom /proc/sys", f"LimitNOFILE={plan.limits.open_files}",
    )  # fmt: skip
    options = (f"--unit={unit_name(plan.name)}", "--quiet", "--remain-after-exit")
    given = (f"--property={each}" for each in properties)
    return ("/usr/bin/systemd-run", *options, *given, plan.command, *plan.arguments)


ENGINES = (
    Row(
        name="podman", check=("/usr/bin/podman", "image", "exists", older.IMAGE),
        command="podman run", reference="podman run", bare=podman_run,
        stop=lambda name: ("/usr/bin/podman", "rm", "--force", "--time=5", name),
        remove=lambda names: (("/usr/bin/podman", "rm", "--force", "--time=0", "--ignore", *names),),
    ),
    Row(
        name="systemd", check=("/usr/bin/systemd-run", "--version"),
        command="systemd-run", reference="podman run", bare=systemd_run,
        stop=lambda name: ("/usr/bin/systemctl", "stop", unit_name(name)),
        remove=lambda names: tuple(
            ("/usr/bin/systemctl", verb, *map(unit_name, names)) for verb in ("stop", "reset-failed")
        ),
    ),
    Row(
        name="docker", check=("/usr/sbin/dockerd", "--version"),
        command="docker run", reference="docker run", bare=docker_run,
        stop=lambda name: ("/usr/bin/docker", "stop", "--time=5", name),
        # One by one: when several leave docker's networks at once, 20.10 may wait for itself for good (moby#46661).
        remove=lambda names: tuple(("/usr/bin/docker", "rm", "--force", "--volumes", name) for name in names),
        context=lambda: dockers.running_docker(older.IMAGE),
    ),
)  # fmt: skip


class Sidespawn:
    """A service with the shipped preset for dnsmasq, its wrapper called as an agent calls it, without the agent."""

    is_older = False

    def __init__(self, row: Row, service: Service, linger: int) -> None:
        self.row, self.service, self.linger = row, service, linger
        self.name, self.reference = f"sidespawn, {row.name}", row.reference

    def enable(self) -> None:
        self.write_policy()
        self.service.enable()

    def write_policy(self) -> None:
        places = self.service.places
        places.policy.parent.mkdir(exist_ok=True)
        places.policy.write_text(
            f'extends = "neutron-dhcp-dnsmasq"\n[parameters]\nstate_on_host = "{self.service.state}"\n'
            f'[pace]\nlinger = {self.linger}\n[side_container]\nengine = "{self.row.name}"\n'
            f"{self.row.policy}{UNLIMITED}"
        )

    def command(self, network: Network) -> Command:
        argv = (str(self.service.wrapper), *network.options())
        return Command(argv=argv, netns=network.netns, environment=(("PROCESS_TAG", f"dnsmasq-{network.id}"),))

    def kill(self, network: Network, name: str, pid: str) -> Ended:
        return one(Command(argv=(str(self.service.kill_script), name, pid), netns=network.netns))

    def prepare(self, *, cold: bool) -> None:
        if cold:
            self.service.wait_until_idle()
            wait_until(lambda: not self.is_resident(), patience=30)
        else:
            one(Command(argv=(str(self.service.kill_script), "0", NOWHERE)))  # answered, and the service stays a while

    def start(self, networks: Sequence[Network], at_once: int | None = None) -> Burst:
        before = self.usage()
        seconds, ended = run([self.command(each) for each in networks], at_once=at_once)
        after = self.usage()
        usage = after
        if before is not None and after is not None:
            usage = Usage(
                processor=after.processor - before.processor, commands=after.commands - before.commands, peak=after.peak
            )
        lost = sum(each.code != 0 for each in ended)
        return Burst(
            seconds=seconds, lost=lost, processor=sum(each.processor for each in ended) / len(ended), usage=usage
        )

    def usage(self) -> Usage | None:
        """Return the usage of the current run, if any; the service's podman counts as a command of it."""
        try:
            found = usage_of(self.main_pid(self.service.unit))
            if pid := self.main_pid(self.podman):
                by_podman = usage_of(pid)
                return replace(found, commands=found.commands + by_podman.processor + by_podman.commands)
        except (OSError, ValueError, LookupError):  # it has ended, or is about to
            return None
        return found

    @property
    def podman(self) -> str:
        return f"sidespawn-podman@{self.service.name}.service"

    def main_pid(self, unit: str) -> int:
        return int(run_command(("systemctl", "show", "--property=MainPID", "--value", unit)).stdout)

    def is_resident(self) -> bool:
        """Return whether anything of it runs; its podman ends a few seconds after it."""
        return any(unit_state(each) not in ("inactive", "failed") for each in (self.service.unit, self.podman))

    def stop(self, network: Network) -> Ended | None:
        return self.kill(network, "TERM", network.pid_file.read_text().strip())

    def pid(self, network: Network) -> int | None:
        return read_pid(network.pid_file)

    def clear(self, networks: Sequence[Network]) -> None:
        """Stop them without asking the service, which would take as long as starting them."""
        remove_containers(
            self.row, {container_name(self.service.name, each.netns): self.pid(each) for each in networks}
        )
        for record in self.service.places.ledger.iterdir():  # an index only, which may be lost
            if record.is_file():
                record.unlink()
        for network in networks:
            network.pid_file.unlink(missing_ok=True)


class Earlier(Sidespawn):
    """The same by an earlier commit, which has units of this service alone; the others' are the checkout's.

    It is enabled before the others, since its `enable` writes the units of all services.
    """

    def __init__(self, row: Row, service: Service, linger: int, before: Before, name: str) -> None:
        super().__init__(row, service, linger)
        self.before, self.name = before, f"{name}, {row.name}"

    def enable(self) -> None:
        self.write_policy()
        self.before.enable(self.service.name)
        for unit in self.units():
            unit.write_text((INSTALLED / unit.name.replace(f"@{self.service.name}.", "@.")).read_text())
        run_command(("systemctl", "daemon-reload"), code=0)

    def units(self) -> list[Path]:
        """systemd prefers them to the templates."""
        names = (each.name for each in self.before.units if "@." in each.name)
        return [INSTALLED / each.replace("@.", f"@{self.service.name}.") for each in names]

    def remove_units(self) -> None:
        for unit in self.units():
            unit.unlink(missing_ok=True)
        run_command(("systemctl", "daemon-reload"), code=0)


class Bare:
    """The engine's own command for the same plan: the arguments that sidespawn would call it with."""

    is_older = False

    def __init__(self, row: Row, service: Service, policy: Policy | None = None) -> None:
        self.row, self.service, self.policy = row, service, policy
        self.name, self.reference = row.command, row.reference
        self.commands: dict[str, Command] = {}

    def command(self, network: Network) -> Command:
        if network.id not in self.commands:
            self.policy = self.policy or load_policy(self.service.places)
            request = StartRequest(
                id=REQUEST, deadline=0, untrusted_argv=("dnsmasq", *network.options()), untrusted_netns=network.netns,
                untrusted_environment=(("PROCESS_TAG", f"dnsmasq-{network.id}"),),
            )  # fmt: skip
            plan = decide(self.policy, request, lambda _: None).plan
            pins = Pins(
                netns=Path("/run/netns") / network.netns,
                pid_file=pin(network),
                mounts=tuple(self.service.state / mount.beneath for mount in plan.mounts),
                configuration=(),
            )
            self.commands[network.id] = Command(argv=self.row.bare(plan, pins))
        return self.commands[network.id]

    def prepare(self, *, cold: bool) -> None:
        pass

    def start(self, networks: Sequence[Network], at_once: int | None = None) -> Burst:
        seconds, ended = run([self.command(each) for each in networks], at_once=at_once or SIDE_BY_SIDE)
        return Burst(
            seconds=seconds,
            lost=sum(each.code != 0 for each in ended),
            processor=sum(each.processor for each in ended) / len(ended),
        )

    def stop(self, network: Network) -> Ended | None:
        return one(Command(argv=self.row.stop(container_name(self.service.name, network.netns))))

    def pid(self, network: Network) -> int | None:
        return read_pid(pin(network))

    def clear(self, networks: Sequence[Network]) -> None:
        remove_containers(
            self.row, {container_name(self.service.name, each.netns): self.pid(each) for each in networks}
        )
        clear_pins()


class Older:
    """A pattern that is in use elsewhere; see older.py. A program runs when its pid file is there."""

    is_older = True
    reference = "podman run"

    def __init__(self, pattern: older.Pattern) -> None:
        self.pattern, self.name = pattern, pattern.name
        PIN.mkdir(exist_ok=True)

    def prepare(self, *, cold: bool) -> None:
        self.pattern.wait_until_idle()

    def start(self, networks: Sequence[Network], at_once: int | None = None) -> Burst:
        commands = []
        for network in networks:
            # What the agent calls /var/lib/neutron is elsewhere on this host, and in these containers.
            options = [each.replace(AGENTS_STATE, str(network.service.state)) for each in network.options()]
            arguments = (*options, "--keep-in-foreground")
            argv = self.pattern.call(self.container(network), network.netns, str(pin(network)), arguments)
            commands.append(Command(argv=argv, netns=network.netns))
        began = time.perf_counter()
        _, ended = run(commands, at_once=at_once)
        patience = time.monotonic() + older.PATIENCE
        missing, last = {pin(each) for each in networks}, time.perf_counter()
        while missing and time.monotonic() < patience:
            gone = {path for path in missing if path.exists()}
            if gone:
                missing -= gone
                last, patience = time.perf_counter(), time.monotonic() + older.PATIENCE
            time.sleep(0.001)
        processor = sum(each.processor for each in ended) / len(ended)
        return Burst(seconds=last - began, lost=len(missing), processor=processor)

    def container(self, network: Network) -> str:
        return f"bench-older-{network.netns}"

    def stop(self, network: Network) -> Ended | None:
        return None

    def pid(self, network: Network) -> int | None:
        return read_pid(pin(network))

    def clear(self, networks: Sequence[Network]) -> None:
        self.pattern.wait_until_idle()
        remove_containers(ENGINES[0], {self.container(each): self.pid(each) for each in networks})
        clear_pins()
        for network in networks:
            network.pid_file.unlink(missing_ok=True)


def compared(ways: Sequence[Way]) -> list[Way]:
    """Return the ways in ratios: sidespawn's, and what each of them is compared with."""
    references = {way.reference for way in ways}
    return [way for way in ways if isinstance(way, Sidespawn) or way.name in references]


def pin(network: Network) -> Path:
    return PIN / f"{network.id}.pid"


def clear_pins() -> None:
    """Remove the files that the engines' commands were told to write."""
    for path in PIN.iterdir():
        path.unlink()


def read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def remove_containers(row: Row, programs: Mapping[str, int | None]) -> None:
    """Remove existing containers by name, with the pids of their programs if they have one."""
    for name, pid in programs.items():
        kill_with_conmon(name, pid)
    names = tuple(programs)
    for first in range(0, len(names), 100):  # a command line has an end
        for argv in row.remove(names[first : first + 100]):
            one(Command(argv=argv), timeout=300)


def kill_with_conmon(name: str, pid: int | None) -> None:
    """Kill conmon, then the program of this podman container.

    conmon would run `podman container cleanup` beside `podman rm`, which does the same: removing 200 containers takes
    8 s with it and 1.5 without. The process is asked for its container, since a pid file outlives its program.
    """
    if pid is not None:
        with suppress(OSError):  # ended
            parent = parent_of(pid)
            if name in argv_of(parent):
                os.kill(parent, signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)
