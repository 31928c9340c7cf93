"""Networks like those of Neutron's DHCP agent, without the agent: a namespace, its files, and the calls for them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sidespawn.core.plan import container_name
from sidespawn.engines import Found, get_engine
from sidespawn.host.ledger import Ledger, Record
from sidespawn.system.places import Places

NEUTRON = 42435
ENGINE = os.environ.get("SIDESPAWN_ENGINE", "podman")  # the service of tests that name none
DNSMASQ_FILES = ("host", "addn_hosts", "opts", "leases")  # in a network's directory, before dnsmasq starts
# Directory with the package of another version to test: see tests/attacks/on_the_first_version.py.
OTHER_VERSION = os.environ.get("SIDESPAWN_SOURCE", "")
SIDESPAWN = (
    ("env", f"PYTHONPATH={OTHER_VERSION}", "PYTHONSAFEPATH=1", sys.executable, "-m", "sidespawn.cli.main")
    if OTHER_VERSION
    else (str(Path(__file__).parents[2] / ".venv/bin/sidespawn"),)
)
# How much slower this host is than the one for which timeouts are set; `./dev vm test` sets it for its machines.
SLOWNESS = float(os.environ.get("SIDESPAWN_SLOWNESS", "1"))


def command(*argv: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout * SLOWNESS, check=False)
    assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass
class Network:
    """A network of a service. `home` is its directory in the agent's state, on the host."""

    service: Service
    id: str
    home: Path

    @property
    def netns(self) -> str:
        return f"qdhcp-{self.id}"

    @property
    def container(self) -> str:
        return container_name(self.service.name, self.netns)

    @property
    def pid_file(self) -> Path:
        return self.home / "pid"

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    @property
    def record(self) -> Record | None:
        return Ledger(self.service.places.ledger).find(self.netns)

    def options(self, configuration: str = "/dev/null") -> list[str]:
        """Return the options that Neutron 29 gives dnsmasq for a network with one subnet, with the agent's paths."""
        home = f"/var/lib/neutron/dhcp/{self.id}"
        return [
            "--no-hosts",
            "--no-resolv",
            f"--pid-file={home}/pid",
            f"--dhcp-hostsfile={home}/host",
            f"--addn-hosts={home}/addn_hosts",
            f"--dhcp-optsfile={home}/opts",
            f"--dhcp-leasefile={home}/leases",
            "--dhcp-match=set:ipxe,175",
            "--dhcp-userclass=set:ipxe6,iPXE",
            "--local-service",
            "--bind-dynamic",
            f"--dhcp-range=set:subnet-{self.id},10.20.0.0,static,255.255.255.0,86400s",
            "--dhcp-option-force=option:mtu,1450",
            "--dhcp-lease-max=256",
            f"--conf-file={configuration}",
            "--domain=openstacklocal",
        ]

    def call(self, *options: str) -> list[str]:
        """Run the wrapper as Neutron does, with these options or the usual ones."""
        tag = f"PROCESS_TAG=dnsmasq-{self.id}"
        inside = ["ip", "netns", "exec", self.netns, "env", tag, str(self.service.wrapper)]
        return [*inside, *(options or self.options())]

    def start(self, *options: str) -> subprocess.CompletedProcess[str]:
        return command(*self.call(*options), check=False)

    def kill(self, name: str, pid: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run the kill script as Neutron does."""
        script = ["ip", "netns", "exec", self.netns, str(self.service.kill_script)]
        return command(*script, name, str(self.pid if pid is None else pid), check=False)

    def remake_netns(self) -> None:
        command("ip", "netns", "del", self.netns)
        command("ip", "netns", "add", self.netns)
        command("ip", "-n", self.netns, "link", "set", "lo", "up")


@dataclass
class Service:
    """An enabled service with a separate state directory."""

    name: str
    state: Path
    program: str = "dnsmasq"
    engine: str = ENGINE
    networks: list[Network] = field(default_factory=list)
    podman_options: tuple[str, ...] = ()  # for its agent's container, if a test has one

    @property
    def places(self) -> Places:
        return Places(self.name)

    @property
    def wrapper(self) -> Path:
        return self.places.agent / self.program

    @property
    def kill_script(self) -> Path:
        return self.places.agent / f"{self.program}-kill"

    @property
    def unit(self) -> str:
        return f"sidespawn@{self.name}.service"

    def enable(self, *options: str) -> None:
        # Without parameters a policy is used unchanged; without an engine the preset's is used.
        engine = (f"--engine={self.engine}",) if options and self.engine != "podman" else ()
        command(*SIDESPAWN, "enable", self.name, *engine, *options)

    def enable_with(self, tables: str, preset: str = "neutron-dhcp-dnsmasq") -> None:
        """Enable the service with a policy that adds these tables to the preset."""
        self.places.policy.parent.mkdir(exist_ok=True)
        parameters = f'[parameters]\nstate_on_host = "{self.state}"\n'
        table, engine = "[side_container]\n", f'engine = "{self.engine}"\n' if self.engine != "podman" else ""
        given, _, rest = tables.partition(table)
        policy = f'extends = "{preset}"\n\n{parameters}\n{given}\n{table}{engine}{rest}'
        self.places.policy.write_text(policy)
        self.enable()

    def disable(self) -> None:
        command(*SIDESPAWN, "disable", "--purge", self.name)

    def network(self) -> Network:
        network_id = str(uuid.uuid4())
        network = Network(self, network_id, self.state / "dhcp" / network_id)
        network.home.mkdir(parents=True)
        for name in DNSMASQ_FILES:
            (network.home / name).touch()
            os.chown(network.home / name, NEUTRON, NEUTRON)
        os.chown(network.home, NEUTRON, NEUTRON)
        command("ip", "netns", "add", network.netns)
        command("ip", "-n", network.netns, "link", "set", "lo", "up")
        self.networks.append(network)
        return network

    def network_that_is_never_ready(self) -> Network:
        """Make dnsmasq wait forever for the end of its leases, which it reads before it reports readiness."""
        network = self.network()
        (network.home / "leases").unlink()
        os.mkfifo(network.home / "leases")
        os.chown(network.home / "leases", NEUTRON, NEUTRON)
        return network

    def clean(self) -> None:
        """Disable the service if it is still enabled, and remove networks and state."""
        if self.places.home.exists() or self.places.policy.exists():
            self.disable()
        for network in self.networks:
            command("ip", "netns", "del", network.netns, check=False)
        shutil.rmtree(self.state, ignore_errors=True)

    def containers(self, *, every: bool = True) -> dict[str, Found]:
        """Return the service's containers by name, as the engine lists them; only running ones unless `every`."""
        return {each.name: each for each in get_engine(self.engine, self.name).list(self.name) if every or each.pid}

    def journal(self, **fields: str) -> list[dict[str, str]]:
        """Return the service's records, oldest first."""
        matches = [f"SIDESPAWN_{name.upper()}={value}" for name, value in {"service": self.name, **fields}.items()]
        command("journalctl", "--sync", check=False)
        done = command("journalctl", "--output=json", "--quiet", *matches)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def output(self, network: Network) -> str:
        """Return what the network's program wrote."""
        command("journalctl", "--sync", check=False)
        return command("journalctl", "--output=cat", "--quiet", f"CONTAINER_NAME={network.container}").stdout

    def wait_until_idle(self, patience: float = 30) -> None:
        """Wait until no run serves this service."""
        wait_until(lambda: unit_state(self.unit) in ("inactive", "failed"), patience)


@dataclass
class Router:
    """A router's namespace, and the calls that Neutron's L3 agent makes for its helper."""

    service: Service
    id: str

    @property
    def netns(self) -> str:
        return f"qrouter-{self.id}"

    @property
    def kill_script(self) -> Path:
        return self.service.kill_script

    @property
    def tag(self) -> str:
        return f"{self.service.program}-{self.id}"

    @property
    def pid_file(self) -> Path:
        return self.service.state / "external/pids" / f"{self.id}.pid.{self.service.program}"

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def run(self, *argv: str) -> tuple[int, str]:
        """Return the exit code and the text on standard error."""
        done = command("ip", "netns", "exec", self.netns, "env", f"PROCESS_TAG={self.tag}", *argv, check=False)
        return done.returncode, done.stderr

    def kill(self, name: str, pid: int | None = None) -> tuple[int, str]:
        return self.run(str(self.kill_script), name, str(self.pid if pid is None else pid))


def command_lines() -> dict[int, str]:
    """Return the command lines of running processes by pid, without kernel threads. Blanks separate the arguments."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return {pid: line for pid, line in found.items() if line}


def dnsmasqs() -> list[str]:
    """Return the command lines of all running instances of dnsmasq."""
    return [line for line in command_lines().values() if line.partition(" ")[0].rpartition("/")[2] == "dnsmasq"]


def unit_state(unit: str) -> str:
    return command("systemctl", "show", "--property=ActiveState", "--value", unit).stdout.strip()


def starts(service: Service, unit: str = "") -> int:
    """Return how often systemd started the service, or the given unit of it."""
    command("journalctl", "--sync", check=False)
    done = command("journalctl", "--quiet", "--output=cat", f"UNIT={unit or service.unit}", "JOB_TYPE=start")
    return done.stdout.count("Started ")


def wait_until(condition: Callable[[], bool], patience: float = 10) -> None:
    give_up = time.monotonic() + patience * SLOWNESS
    while not condition():
        assert time.monotonic() < give_up, "what the test waits for does not come"
        time.sleep(0.02)


def wait_until_gone(pid: int, patience: float = 10) -> None:
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), patience)


def kill_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
