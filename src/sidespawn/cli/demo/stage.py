"""Knows everything that the demo makes on this host, under its own names, and removes it.

    service     demo-dnsmasq, made by `sidespawn enable`, removed by `sidespawn disable`
    containers  sidespawn-demo-agent, sidespawn-demo-today
    namespaces  qdhcp-NETWORK, made by the agent; sidespawn-demo (a switch) and sidespawn-demo-1, -2 (clients)
    directory   /var/lib/sidespawn-demo: the agent's state, the clients' script

The names are fixed, so the removal needs no memory and works at any point, in any later process.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidespawn.engines import get_engine
from sidespawn.errors import Reason, SidespawnError
from sidespawn.host import labels
from sidespawn.host.policies import load_policy
from sidespawn.host_report import suitability
from sidespawn.setup.systemd import is_booted
from sidespawn.system.places import Places
from sidespawn.system.processes import Output
from sidespawn.testing.agent import NEUTRON, AgentContainer
from sidespawn.testing.commands import ENVIRONMENT, Unexpected, run
from sidespawn.testing.network import Lan, Renewals, has_namespace, remove_namespace, udhcpc

IMAGE = "localhost/sidespawn-helpers:latest"
ENGINES = ("podman", "systemd", "docker")
AGENT_IMAGE = "localhost/sidespawn-agent:latest"
SERVICE = "demo-dnsmasq"
PRESET = "neutron-dhcp-dnsmasq"
NAME = "sidespawn-demo"
HOME = Path("/var/lib") / NAME
STATE = HOME / "state"
NETWORK = "b3f2b0a4-6c0e-4d9b-8f58-2f6c1d7e9a10"
MACS = ("fa:16:3e:5d:00:0a", "fa:16:3e:5d:00:0b")
CHECKOUT_HINT = "from a checkout, ./dev demo installs what it needs, in a disposable machine if necessary"
KEPT_HINT = f"""Everything is left running for inspection:
  sidespawn ps {SERVICE}; sidespawn logs {SERVICE}; podman exec -it {NAME}-agent bash
  ip netns exec {NAME}-1 udhcpc -f -n -q -i eth0 -s {HOME}/udhcpc-script
To remove it: sidespawn demo --remove"""


class Stage:
    def __init__(self, image: str = IMAGE, engine: str = ENGINES[0], agent_image: str = AGENT_IMAGE) -> None:
        self.image, self.engine = image, engine
        self.places = Places(SERVICE)
        self.netns = f"qdhcp-{NETWORK}"
        self.lan = Lan(NAME, MACS, HOME)
        self.agent = AgentContainer(name=f"{NAME}-agent", image=agent_image, state=STATE)
        self.today = AgentContainer(name=f"{NAME}-today", image=agent_image, state=STATE, privileged=True)
        self.renewals: Renewals | None = None
        self.side_container = ""  # its name
        self.pid = 0  # its program's
        self.began = int(time.time())
        self.result: dict[str, Any] = {
            "ok": False,
            "service": SERVICE,
            "network": NETWORK,
            "lease": None,
            "lease_after_reload": None,
            "pid_before_restart": None,
            "pid_after_restart": None,
            "renewals": None,
            "renewals_lost": None,
            "refused": None,
            "refusal": None,
            "agent_capabilities": None,
            "side_container_capabilities": None,
            "side_container_user": None,
            "attempts": [],
            "still_possible": [],
            "error": None,
            "stopped": None,
        }

    @property
    def look(self) -> str:
        """Return where to look if something went wrong."""
        return (
            f"journalctl -t sidespawn -u 'sidespawn*' --since=@{self.began}; sidespawn demo --keep leaves it to look at"
        )

    def remove(self) -> list[str]:
        """Remove everything, however far it got; return what could not be removed."""
        trouble = []
        for work in (
            self.stop_renewing,
            self.agent.remove,
            self.today.remove,
            self.disable,
            self.remove_network,
            purge,
        ):
            try:
                work()
            except (Unexpected, SidespawnError, OSError) as error:
                trouble.append(str(error))
        return trouble + [f"{what} is still there" for what in self.leftovers()]

    def stop_renewing(self) -> None:
        if self.renewals is not None:
            self.renewals.close()
            self.renewals = None

    def disable(self) -> None:
        sidespawn("disable", SERVICE, "--purge", code=0)

    def remove_network(self) -> None:
        remove_namespace(self.netns)
        self.lan.remove()

    def leftovers(self) -> list[str]:
        """Return everything that exists under the demo's names."""
        there = [str(path) for path in (self.places.policy, self.places.home, HOME) if os.path.lexists(path)]
        there += [f"namespace {name}" for name in (self.netns, *self.lan.namespaces) if has_namespace(name)]
        there += [f"container {each.name}" for each in (self.agent, self.today) if each.exists()]
        return there + [f"side container {each.name}" for each in get_engine(self.engine, SERVICE).list(SERVICE)]


def purge() -> None:
    if os.path.lexists(HOME):
        shutil.rmtree(HOME)


def make_directories() -> None:
    STATE.mkdir(parents=True)
    os.chown(STATE, NEUTRON, NEUTRON)
    labels.label(STATE, labels.WRITABLE)


def sidespawn(*arguments: str, code: int | None = None) -> Output:
    """Run the command line of this installation, in its own process."""
    command = (sys.executable, "-m", "sidespawn.cli.main", *arguments)
    # A package may keep the command line's dependencies in its own directories.
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    return run(command, 180.0, code=code, environment=paths)


def sidespawn_json(*arguments: str, code: int = 0) -> Any:
    done = sidespawn(*arguments, code=code)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise Unexpected(f"`sidespawn {' '.join(arguments)}` prints JSON", done.stdout[:200] or "nothing") from None


def journal(*arguments: str) -> list[dict[str, str]]:
    """Return journal records through `sidespawn logs`, oldest first."""
    done = sidespawn("logs", SERVICE, *arguments, "--json", code=0)
    return [json.loads(line) for line in done.stdout.splitlines()]


def require_host(image: str, engine: str, agent_image: str) -> None:
    """Raise SidespawnError if the demo cannot run here, or something already has its names."""
    if os.geteuid() != 0:
        raise unsuitable("the demo needs root: it makes namespaces, a service and containers")
    if not is_booted():
        raise unsuitable("this host does not run systemd")
    for program in ("podman", "ip", "journalctl"):
        if shutil.which(program, path=ENVIRONMENT["PATH"]) is None:
            raise unsuitable(f"{program} is not installed")
    if udhcpc() is None:
        raise unsuitable("udhcpc is not installed, not even in busybox; it is the demo's DHCP client")
    if lacking := suitability.podman_image(agent_image) or suitability.IMAGES[engine](image):
        raise unsuitable("; ".join(lacking))
    require_ours()
    if there := Stage(engine=engine).leftovers():
        raise SidespawnError(
            Reason.USAGE,
            f"a demo is running, or was kept or killed: {', '.join(there)}",
            "sidespawn demo --remove",
        )


def unsuitable(message: str) -> SidespawnError:
    return SidespawnError(Reason.HOST_UNSUITABLE, message, CHECKOUT_HINT)


def require_ours() -> None:
    """Raise SidespawnError for a service of that name that no demo made."""
    policy = Places(SERVICE).policy
    if policy.exists() and f'"{STATE}"' not in policy.read_text(encoding="utf-8"):
        raise SidespawnError(Reason.USAGE, f"{policy} was not made by the demo", f"sidespawn disable {SERVICE}")


def engine_of_what_was_kept() -> str:
    """Return the engine of what was kept. Only this one is asked; others may not even run."""
    with suppress(SidespawnError):
        return load_policy(Places(SERVICE)).side_container.engine
    return ENGINES[0]


def remove_what_was_kept() -> None:
    """Remove what was kept. Raises SidespawnError if something remains, or is not the demo's."""
    if os.geteuid() != 0:
        raise unsuitable("--remove needs root")
    require_ours()
    trouble = Stage(engine=engine_of_what_was_kept()).remove()
    if trouble:
        raise SidespawnError(Reason.ENGINE_FAILED, "; ".join(trouble), "try again")
