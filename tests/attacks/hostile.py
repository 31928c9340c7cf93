"""A service whose program belongs to the attacker: a few lines of Python from the test."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.attacks.stage import AGENT_IMAGE
from tests.lab.conftest import new_service
from tests.lab.networks import NEUTRON, Service, command

PROGRAM = "hostile-program"
TABLE = f'program = "{PROGRAM}"\nversion = "1"\n\n[value]\nname = ""\n'
PROGRAMS = Path("/etc/sidespawn/programs")
POLICY = """\
version = 1
description = "whatever a test writes"
program = "hostile-program"

[agent]
state = "/var/lib/neutron"
state_on_host = "@STATE@"
wrapper = "/usr/sbin/hostile-program"

[names]
name = "<uuid>"

[request]
netns = "hostile-{name}"
instance = "hostile-{name}"
signals = ["HUP", "TERM", "KILL"]

[options]
name = { value = "{name}", required = true, pass = false }

[arguments]
always = ["-I", "-S", "-c", "exec(open('/run/given/program.py').read())"]

[side_container]
engine = "@ENGINE@"
image = "@IMAGE@"
command = "/usr/bin/python3"
uid = @USER@
gid = @USER@
mounts = ["/var/lib/neutron/hostile/{name}"]
reads = { "/run/given" = "/var/lib/neutron/given" }
scratch = ["/run/tool"]
pid_file = "/var/lib/neutron/hostile/{name}/pid"
child_pid_files = { "/var/lib/neutron/hostile/{name}/child" = "/run/tool/child.pid" }
memory = "64M"
tasks = 16

[side_container.ready]
file = "/run/tool/ready"
within = 5

[side_container.stop]
grace = 1
"""
# The start of each program: it changes to its directory and has a child, whose pid it writes as expected.
BEGINNING = """
import os, signal, socket, subprocess, sys, time
(name,) = os.listdir("/var/lib/neutron/hostile")
own = f"/var/lib/neutron/hostile/{name}"
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
def forked(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid
def rest():
    while True: time.sleep(60)
def ready():
    write("/run/tool/ready", "")
"""


@dataclass
class HostileProgram:
    service: Service
    names: list[str] = field(default_factory=list)

    def new(self, code: str) -> str:
        """Create an instance whose program is that, and return its name."""
        name = str(uuid.uuid4())
        self.names.append(name)
        command("ip", "netns", "add", f"hostile-{name}")
        self.home(name).mkdir(parents=True)
        os.chown(self.home(name), NEUTRON, NEUTRON)
        (self.service.state / "given/program.py").write_text(BEGINNING + code)
        return name

    def home(self, name: str) -> Path:
        return self.service.state / "hostile" / name

    def start(self, name: str) -> tuple[int, str]:
        """Return the wrapper's exit code and output."""
        done = command(
            "ip", "netns", "exec", f"hostile-{name}", str(self.service.wrapper), f"--name={name}", check=False
        )
        return done.returncode, done.stderr

    def pid(self, name: str) -> int:
        return int((self.home(name) / "pid").read_text())

    def close(self) -> None:
        for name in self.names:
            command("ip", "netns", "del", f"hostile-{name}", check=False)


@contextmanager
def hostile_program(engine: str, user: int = NEUTRON, small: str = "") -> Iterator[HostileProgram]:
    """Enable the service. With `small`, the state is a separate file system with these options."""
    service = new_service(PROGRAM, engine)
    made = HostileProgram(service)
    if small:
        command("mount", "-t", "tmpfs", "-o", f"{small},uid={NEUTRON},gid={NEUTRON}", "none", str(service.state))
    (service.state / "given").mkdir()
    is_first = not PROGRAMS.exists()
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    (PROGRAMS / f"{PROGRAM}.toml").write_text(TABLE)
    policy = POLICY
    given = {"STATE": str(service.state), "ENGINE": engine, "IMAGE": AGENT_IMAGE, "USER": str(user)}
    for key, value in given.items():
        policy = policy.replace(f"@{key}@", value)
    service.places.policy.write_text(policy)
    try:
        service.enable()
        yield made
    finally:
        if small:
            command("umount", "--lazy", str(service.state))
        service.clean()
        made.close()
        if is_first:
            shutil.rmtree(PROGRAMS)
        if is_first and not any(PROGRAMS.parent.iterdir()):
            PROGRAMS.parent.rmdir()
