"""The stage for the attacks: root's files, hostile agents, and the targets.

The same attack is tried on each `Target`: on `Ours`, and on the pattern as TripleO shipped it (tripleo.py). An attack
that succeeds raises `Succeeded`. On ours the test then fails; on theirs this is the expected proof.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sidespawn.testing.agent import NEUTRON, STATE, AgentContainer
from tests.attacks import inside
from tests.lab.networks import DNSMASQ_FILES, SIDESPAWN, Network, Service, command, unit_state, wait_until

AGENT_IMAGE = "localhost/sidespawn-agent:latest"
SOURCE = Path(inside.__file__).read_text()
SECRET = "root:$6$do-not-show-this-anywhere:19000::::::\n"
# A hostile program may take this long to answer, by which time stalling attacks are abandoned.
PATIENCE = 30.0
LIMITS = "[limits]\nburst = 100000\nrate = 10000\nbackoff = 0\nrecords = 100000\n"


class Succeeded(AssertionError):
    """An attack succeeded; the message says how."""


class Refused(Exception):
    """The kernel refused the attacker's call."""


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclass(frozen=True, kw_only=True)
class Hostile(AgentContainer):
    """Has `mounts` with rshared instead of rprivate, and more options, for the attacks that need them."""

    shared: bool = False
    more_options: tuple[str, ...] = ()

    def options(self) -> tuple[str, ...]:
        options = (*super().options(), *self.more_options)
        return tuple(each.replace("rprivate", "rshared") for each in options) if self.shared else options


class Attacker:
    """A process in a container that can call `inside`: as root, or as the user who owns the agent's state.

    This root has no DAC_OVERRIDE, so each of the two can do what the other cannot.
    """

    def __init__(self, container: str, user: int = 0) -> None:
        who = f"--user={user}:{user}"
        self.process = subprocess.Popen(
            ("podman", "exec", "--interactive", who, container, "/usr/bin/python3", "-I", "-S", "-c", SOURCE),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def __call__(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call the function. Raise Refused with the error that it ended with."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(60, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps([function.__name__, *map(plain, arguments)]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        assert line, f"{function.__name__} hangs in the attacker, or its container is gone"
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["value"]

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait(10)


def plain(argument: object) -> object:
    if isinstance(argument, bytes):
        return encoded(argument)
    return str(argument) if isinstance(argument, Path) else argument


class Files:
    """Root's files on the host, which no attack may touch."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.victim = home / "secrets/shadow"
        self.trace = home / "secrets/executed"  # created by whatever manages to run on the host
        self.victim.parent.mkdir(mode=0o700)
        self.victim.write_text(SECRET)
        self.before = self.seen()

    def seen(self) -> tuple[object, ...]:
        status = os.stat(self.victim)
        digest = hashlib.sha256(self.victim.read_bytes()).hexdigest()
        times = (status.st_mtime_ns, status.st_ctime_ns)
        return (digest, status.st_ino, *times, status.st_nlink, status.st_mode, status.st_uid)

    def expect_untouched(self) -> None:
        if self.seen() != self.before:
            was, self.before = self.before, self.seen()
            raise Succeeded(f"a root-owned file was {'changed' if was[0] != self.before[0] else 'touched'}")
        if self.trace.exists():
            said = self.trace.read_text().strip()
            self.trace.unlink()
            raise Succeeded(f"a program ran on the host{said and f' as {said}'}")

    def restore(self) -> None:
        self.victim.write_text(SECRET)
        self.trace.unlink(missing_ok=True)
        self.before = self.seen()


class Target(Protocol):
    """The system under attack."""

    name: str
    files: Files
    attacker: Attacker  # root in the agent
    spool: str  # the shared directory, as host and agent see it
    requests: str  # the request file in it

    def put(self, untrusted_content: bytes) -> None:
        """Have the attacker replace the request file with one with this content, and wake the host."""

    def wake(self) -> None:
        """Have the attacker do what makes the host look at the spool."""

    def expect_held(self) -> None:
        """Raise Succeeded unless everything is unchanged, and a valid request is served."""


def expect_pid_1_answers() -> None:
    try:
        command("systemctl", "show", "--property=Version", timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Succeeded("PID 1 does not answer") from None


def boottime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Ours:
    """Our service, attacked by its own agent; `bystander` is a network of another agent's service."""

    name = "ours"

    def __init__(
        self, files: Files, service: Service, attacker: Attacker, neutron: Attacker, bystander: Network
    ) -> None:
        self.files, self.service, self.attacker, self.bystander = files, service, attacker, bystander
        self.neutron = neutron  # the owner of the state, in the same container
        self.network = self.new_network()
        self.spool = str(service.places.spool)
        self.requests = f"{self.spool}/processes"
        self.expect_held()

    def new_network(self) -> Network:
        """Create another network of the agent."""
        network = self.service.network()
        os.chown(network.home.parent, NEUTRON, NEUTRON)
        return network

    def make_home(self, home: str) -> None:
        """Make the files that dnsmasq expects there, as the agent."""
        self.neutron(inside.run, ["mkdir", "-p", home])
        for name in DNSMASQ_FILES:
            self.neutron(inside.write, f"{home}/{name}", b"")

    # ------------------------------------------------------------ asking

    def request(self, **changes: object) -> dict[str, Any]:
        """Return a valid start of the agent's own network, with these changes."""
        proper = {
            "v": 1,
            "id": uuid.uuid4().hex,
            "op": "start",
            "deadline": boottime_ms() + 120_000,
            "argv": ["dnsmasq", *self.network.options()],
            "netns": self.network.netns,
            "env": {"PROCESS_TAG": f"dnsmasq-{self.network.id}"},
        }
        return proper | changes

    def signal(self, name: str, pid: object, **changes: object) -> dict[str, Any]:
        common = {key: value for key, value in self.request().items() if key in ("v", "id", "deadline")}
        return common | {"op": "signal", "signal": name, "pid": pid} | changes

    def ask(self, *requests: dict[str, Any]) -> list[dict[str, Any]]:
        """Have the attacker write all of them at once, and return the answers."""
        self.put(b"".join(json.dumps(each).encode() + b"\n" for each in requests))
        return [self.answer(each["id"]) for each in requests]

    def reason(self, **changes: object) -> str:
        """Return the reason code of the answer to `request(**changes)`."""
        return str(self.ask(self.request(**changes))[0]["reason"])

    def answer(self, request_id: str) -> dict[str, Any]:
        path = self.service.places.replies / f"{request_id}.json"
        wait_until(path.exists, patience=60)
        answer: dict[str, Any] = json.loads(path.read_text())
        return answer

    def has_answer(self, request_id: str) -> bool:
        return (self.service.places.replies / f"{request_id}.json").exists()

    def put(self, untrusted_content: bytes) -> None:
        self.attacker(inside.write, self.requests, untrusted_content)
        self.wake()

    def wake(self) -> None:
        self.attacker(inside.ring, str(self.service.places.doorbell))

    # ------------------------------------------------------------ what must hold afterwards

    def expect_held(self) -> None:
        self.files.expect_untouched()
        expect_pid_1_answers()
        for network in (self.network, self.bystander):
            done = network.start()
            if (done.returncode, done.stderr) != (0, ""):
                raise Succeeded(f"{network.service.name} is not served any more: {done.stderr or done.returncode}")
            for kind in ("socket", "timer"):
                state = unit_state(f"sidespawn@{network.service.name}.{kind}")
                if state != "active":
                    raise Succeeded(f"sidespawn@{network.service.name}.{kind} is {state}")
        self.files.expect_untouched()

    def expect_idle(self) -> None:
        """Wait until the run that may have done harm is over, and check that it did not crash."""
        self.service.wait_until_idle()
        crashes = command("systemctl", "show", "--property=NRestarts", "--value", self.service.unit).stdout.strip()
        if crashes != "0":
            raise Succeeded(f"the service crashed {crashes} times")


class Stage:
    """The objects that this folder's tests share: made once, removed by `close`, even if only partly made."""

    def __init__(self) -> None:
        self.key = uuid.uuid4().hex[:6]
        self.home = Path("/var/lib") / f"sidespawn-attacks-{self.key}"
        self.home.mkdir()
        self.files = Files(self.home)
        self.services: list[Service] = []
        self.agents: list[AgentContainer] = []
        self.attackers: list[Attacker] = []
        self.state = self.directory("state")

    def directory(self, name: str) -> Path:
        path = self.home / name
        path.mkdir()
        os.chown(path, NEUTRON, NEUTRON)
        return path

    def device(self, name: str, major: int, minor: int) -> Path:
        """Make a device node for a container; it is not opened here."""
        path = self.home / name
        os.mknod(path, 0o20600, os.makedev(major, minor))
        return path

    def service(self, what: str, preset: str, state: Path, parameters: str = "") -> Service:
        """Enable a service with limits that do not interfere: those have separate tests."""
        program = preset.rpartition("-")[2]
        made = Service(name=f"attacks-{self.key}-{what}", state=state, program=program)
        self.services.append(made)
        made.places.policy.parent.mkdir(exist_ok=True)
        made.places.policy.write_text(
            f'extends = "{preset}"\n\n[parameters]\nstate_on_host = "{state}"\n{parameters}\n{LIMITS}'
        )
        done = command(*SIDESPAWN, "enable", "--json", made.name)
        made.podman_options = tuple(json.loads(done.stdout)["podman_options"])
        return made

    def agent(self, agent: AgentContainer) -> AgentContainer:
        agent = replace(agent, name=f"attacks-{self.key}-{agent.name}")
        self.agents.append(agent)
        agent.start()
        return agent

    def attacker(self, container: str, user: int = 0) -> Attacker:
        made = Attacker(container, user)
        self.attackers.append(made)
        return made

    def close(self) -> None:
        for attacker in self.attackers:
            attacker.close()
        for agent in self.agents:
            agent.remove()
        for service in self.services:
            service.clean()
        policies = Path("/etc/sidespawn")
        if policies.exists() and not any(policies.iterdir()):
            policies.rmdir()
        shutil.rmtree(self.home)


def agent_of(name: str, state: Path, *services: Service, **more: Any) -> Hostile:
    """Run the agent of these services, like the demo."""
    options = dict.fromkeys(option for service in services for option in service.podman_options)
    return Hostile(name=name, image=AGENT_IMAGE, state=state, service_options=tuple(options), **more)


__all__ = [
    "NEUTRON", "STATE", "Attacker", "Files", "Hostile", "Ours", "Refused", "Stage", "Succeeded", "Target", "agent_of",
    "boottime_ms", "encoded",
]  # fmt: skip
