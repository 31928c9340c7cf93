"""An exploited program tries everything, in a side container of each engine, as a user and as root.

What remains possible with an engine is listed here and in docs/security.md.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.attacks import inside, reach, recipe_tries, side_tries
from tests.attacks.catalogue import attack
from tests.attacks.inside import checked, libc
from tests.attacks.stage import Succeeded
from tests.attacks.tripleo import TripleO
from tests.host import tries
from tests.host.containers import IMPORT, run_inside
from tests.host.victims import heard
from tests.lab.networks import command, wait_until
from tests.lab.test_engines import (
    DOCKER,
    HAS_PRIVATE_PIDS,
    HOST,
    PODMAN,
    SYSTEMD,
    UID,
    Ground,
    Kind,
    new_ground,
    output,
)

MODULES = (inside, tries, recipe_tries, reach, side_tries)
# In another tenant's network, and in the host's.
OTHER_INTERFACE, VETH = "side-of-other", "side-veth"
ADD_KEY, KEYCTL, UNLINK = 248, 250, 9  # of x86-64
OF_THE_USER = -4
SEGMENT = 0x51DE
# systemd, as the engine, opens a program's output in the host's network: docs/security.md.
BY_OUTPUT = {"the host's interfaces, by the socket of its output"}
# Before version 257 it also has no pid namespace.
BY_PID = {
    "another tenant's interfaces, by a pid", "the host's interfaces, by a pid",
    *(f"{what}: another's" for what in ("signal it", "bind it to processors", "make it idle", "make it nice",
                                        "make its input and output idle")),
}  # fmt: skip
BY_PID_OF_ROOT = {"signal it: the host's", "change its limits: the host's"}
BY_VETH = {"the host's interfaces, by the other end of a veth"}


def source() -> str:
    """Join the modules into one program. What they try elsewhere is tried where this program may write."""
    texts = [(each.__name__, Path(str(each.__file__)).read_text()) for each in MODULES]
    return IMPORT.format(sources=[(name, of_a_side_container(text)) for name, text in texts])


def of_a_side_container(text: str) -> str:
    return text.replace('"/tmp/elsewhere"', f'"{side_tries.SCRATCH}/elsewhere"').replace(
        'WRAPPER = "/usr/sbin/dnsmasq"', 'WRAPPER = "/usr/bin/python3"'
    )


@dataclass(frozen=True)
class Tried:
    kind: Kind
    uid: int
    found: dict[str, dict[str, str]]

    def worked(self, number: int) -> set[str]:
        return {name for name, said in self.found[str(number)].items() if said == "worked"}


@contextmanager
def things_to_reach(key: str) -> Iterator[dict[str, Any]]:
    """Make an interface of the host, a process of root, a file, a key of root's and of the user's, and sockets."""
    with ExitStack() as stack:
        command("ip", "link", "add", key, "type", "bridge")
        stack.callback(command, "ip", "link", "del", key)
        victim = stack.enter_context(subprocess.Popen(["/bin/sleep", "600"]))
        stack.callback(victim.kill)
        secret = Path("/var/lib") / f"secret-{key}"
        secret.write_text(key)
        secret.chmod(0o600)
        stack.callback(secret.unlink)
        for uid in (0, UID):
            stack.callback(as_user, uid, lambda: forget_key(key))
            as_user(uid, lambda: keep_key(key))
        listening = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listening.bind(f"\0{key}")
        listening.listen()
        yield {
            "interface": key, "other interface": OTHER_INTERFACE, "veth": VETH, "key": key, "content": key,
            "secret": str(secret), "victim": victim.pid, "host's": victim.pid, "abstract": f"\0{key}", "uevent": key,
            "replies": "/run", "netns": "none", "other abstract": f"\0other-{key}", "segment": SEGMENT, "stay": True,
            "streams": ["/run/systemd/private", "/run/dbus/system_bus_socket", "/run/systemd/journal/stdout",
                        "/run/podman/podman.sock", "/run/docker.sock", "/run/containerd/containerd.sock"],
            "datagrams": ["/run/systemd/notify", "/run/systemd/journal/socket", "/run/systemd/journal/dev-log"],
            "attach": [],
        }  # fmt: skip


def as_user(uid: int, work: Any) -> None:
    """Run it in a child, since keys belong to a user id."""
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            os.setresuid(uid, uid, uid)
            work()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def keep_key(key: str) -> None:
    checked(libc.syscall(ADD_KEY, b"user", key.encode(), key.encode(), len(key), ctypes.c_long(OF_THE_USER)))


def forget_key(key: str) -> None:
    number = libc.syscall(KEYCTL, 10, ctypes.c_long(OF_THE_USER), b"user", key.encode(), 0)
    checked(libc.syscall(KEYCTL, UNLINK, number, ctypes.c_long(OF_THE_USER)))


# The program of another side container listens at an abstract name, and has a segment of shared memory.
ANOTHER = """
import ctypes, signal, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind("\\0" + sys.argv[1])
listening.listen()
segment = ctypes.CDLL(None).shmget(int(sys.argv[2]), 4096, 0o1666)
print("it runs", flush=True)
while True: signal.pause()
"""


@contextmanager
def tried_with(kind: Kind, uid: int) -> Iterator[Tried]:
    key = f"side-{uuid.uuid4().hex[:8]}"
    with kind.ready(kind.image), new_ground(kind) as ground, things_to_reach(key) as given, ExitStack() as stack:
        other = f"other-{key}"
        command("ip", "netns", "add", other)
        stack.callback(command, "ip", "netns", "del", other)
        command("ip", "-n", other, "link", "add", OTHER_INTERFACE, "type", "bridge")
        command("ip", "link", "add", f"{VETH}-0", "type", "veth", "peer", "name", VETH, "netns", ground.netns)
        neighbour = ground.plan(ANOTHER, f"other-{key}", str(SEGMENT), netns=other, uid=uid, gid=uid)
        another = ground.start(neighbour)
        wait_until(lambda: "it runs" in output(neighbour))
        given |= {"another": another.pid, "victims": {"the host's": given["victim"], "another's": another.pid}}
        given["attach"] = [str(each) for each in Path("/").glob("var/lib/containers/storage/*/*/userdata/attach")]
        yield Tried(kind, uid, run(ground, given, uid))
        ground.engine.remove(neighbour.name)


def run(ground: Ground, given: dict[str, Any], uid: int) -> dict[str, dict[str, str]]:
    plan = ground.plan(source(), json.dumps(given), uid=uid, gid=uid)
    os.chown(ground.state / plan.mounts[0].beneath, uid, uid)
    with heard(given["uevent"]) as uevents:
        ground.start(plan)
        wait_until(lambda: "attempts " in output(plan), patience=120)
    found: dict[str, dict[str, str]] = json.loads(output(plan).partition("attempts ")[2].splitlines()[0])
    if not uevents:
        found["216"]["forge a uevent"] = "nobody heard it"
    ground.engine.remove(plan.name)
    return found


@pytest.fixture(
    scope="module", params=(PODMAN, DOCKER, SYSTEMD, HOST), ids=["podman", "docker", "systemd", "systemd-host"]
)
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


@pytest.fixture(scope="module", params=[0, UID], ids=["root", "user"])
def tried(kind: Kind, request: pytest.FixtureRequest) -> Iterator[Tried]:
    with tried_with(kind, request.param) as made:
        yield made


def stays_possible(tried: Tried) -> set[str]:
    if tried.kind.name != SYSTEMD.name:
        return BY_VETH
    if HAS_PRIVATE_PIDS:
        return BY_VETH | BY_OUTPUT
    return BY_VETH | BY_OUTPUT | BY_PID | (BY_PID_OF_ROOT if tried.uid == 0 else set())


@attack(199, 200, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 216, 217)
def test_an_exploited_program_reaches_nothing(tried: Tried) -> None:
    worked = {name for number in tried.found for name in tried.worked(int(number))}
    assert worked == stays_possible(tried)


found_in_theirs: dict[str, dict[str, str]] = {}  # once for all numbers


@pytest.mark.parametrize("number", [pytest.param(each, marks=attack(each)) for each in sorted(side_tries.ALL)])
def test_an_exploited_program_reaches_it_theirs(theirs: TripleO, number: int) -> None:
    """Check which of these attempts succeed in a privileged container with the host's pids and network."""
    if not found_in_theirs:
        netns = theirs.new_namespace()
        theirs.ask(netns)
        assert theirs.runs(netns)
        with things_to_reach(key := f"side-{uuid.uuid4().hex[:8]}") as given:
            given |= {"another": given["victim"], "victims": {"the host's": given["victim"]}, "stay": False}
            with heard(key) as uevents:
                container = f"{theirs.unit}-{netns}"
                found_in_theirs.update(run_inside(container, *MODULES, arguments=(json.dumps(given),)))
        if not uevents:
            found_in_theirs["216"]["forge a uevent"] = "nobody heard it"
    worked = sorted(name for name, said in found_in_theirs[str(number)].items() if said == "worked")
    if worked:
        raise Succeeded(", ".join(worked[:3]) + (f" and {len(worked) - 3} more" if len(worked) > 3 else ""))
