"""The program is the attacker's from its first line: what the host reads, writes, waits for and stops holds."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from sidespawn.system.processes import identify
from tests.attacks.catalogue import attack
from tests.attacks.hostile import BEGINNING, HostileProgram, hostile_program
from tests.attacks.stage import AGENT_IMAGE, SECRET
from tests.lab import dockers
from tests.lab.networks import SIDESPAWN, command, command_lines, unit_state, wait_until

CHILD = 'write("/run/tool/child.pid", f"{forked(rest)}\\n")\n'
PROPER = CHILD + "ready()\nrest()\n"


@pytest.fixture(scope="module")
def hostile(request: pytest.FixtureRequest) -> Iterator[HostileProgram]:
    daemon = dockers.running_docker(AGENT_IMAGE) if request.param == "docker" else nullcontext()
    with daemon, hostile_program(request.param) as made:
        yield made


# What the host does is the same with all engines, but programs run and end differently.
ON_ONE = pytest.mark.parametrize("hostile", ["podman"], indirect=True)
ON_EACH = pytest.mark.parametrize("hostile", ["podman", "docker", "systemd"], indirect=True)


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "shadow"
    path.write_text(SECRET)
    before = os.stat(path)
    yield path
    assert path.read_text() == SECRET
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns


def expect_served(hostile: HostileProgram) -> None:
    """Check that an honest program of the same service starts and stops, and that nothing of the service crashed."""
    name = hostile.new(PROPER)
    code, said = hostile.start(name)
    assert code == 0, (
        said + command("journalctl", "--output=cat", f"CONTAINER_NAME={hostile.service.name}_hostile-{name}").stdout
    )
    stop(hostile, name)
    assert unit_state(f"sidespawn@{hostile.service.name}.socket") == "active"


def stop(hostile: HostileProgram, name: str) -> float:
    """Stop it like an operator, and return the seconds that it took."""
    pid, began = hostile.pid(name), time.monotonic()
    command(*SIDESPAWN, "stop", hostile.service.name, f"hostile-{name}")
    assert identify(pid) is None
    return time.monotonic() - began


@ON_EACH
def test_an_honest_program_is_served(hostile: HostileProgram) -> None:
    """Otherwise the other tests would prove nothing."""
    expect_served(hostile)


READY = {
    "a link to a file of the host's": 'os.symlink("/etc/hostname", "/run/tool/ready")',
    "a link upwards": 'os.symlink("../" * 20 + "etc/hostname", "/run/tool/ready")',
    "a link into nowhere": 'os.symlink("/nowhere", "/run/tool/ready")',
    "a link by /proc": 'os.symlink("/proc/1/root/etc/hostname", "/run/tool/ready")',
    "a pipe": 'os.mkfifo("/run/tool/ready")',
    "a directory": 'os.mkdir("/run/tool/ready")',
    "a socket": 'socket.socket(socket.AF_UNIX).bind("/run/tool/ready")',
}


@ON_ONE
@attack(222)
@pytest.mark.parametrize("what", READY)
def test_the_file_that_it_is_ready_by(hostile: HostileProgram, what: str) -> None:
    """Only its name counts; the host does not follow or open it. No answer depends on a host file, and none waits."""
    name = hostile.new(CHILD + READY[what] + "\nrest()\n")
    began = time.monotonic()
    assert hostile.start(name) == (0, "")
    assert time.monotonic() - began < 15
    stop(hostile, name)
    expect_served(hostile)


CHILDREN = {
    "a link to a file of the host's": 'os.symlink("/etc/hostname", "/run/tool/child.pid")',
    "a link to the true one": 'write("/run/tool/true", f"{forked(rest)}"); os.symlink("true", "/run/tool/child.pid")',
    "a pipe": 'os.mkfifo("/run/tool/child.pid")',
    "a directory": 'os.mkdir("/run/tool/child.pid")',
    "its own pid": 'write("/run/tool/child.pid", str(os.getpid()))',
    "PID 1": 'write("/run/tool/child.pid", "1")',
    "no number": 'write("/run/tool/child.pid", "-1")',
    "too long": 'write("/run/tool/child.pid", "1" * 60000)',
    "a lease on it": """write("/run/tool/child.pid", "1")
import fcntl
kept = os.open("/run/tool/child.pid", os.O_RDWR)
fcntl.fcntl(kept, fcntl.F_SETLEASE, fcntl.F_WRLCK)
signal.signal(signal.SIGIO, signal.SIG_IGN)""",
}


@ON_ONE
@attack(223)
@pytest.mark.parametrize("what", CHILDREN)
def test_the_file_that_names_its_child(hostile: HostileProgram, what: str) -> None:
    """If none is a child of the program, the start fails in time, and no process of it keeps running."""
    name = hostile.new(CHILDREN[what] + "\nready()\nrest()\n")
    began = time.monotonic()
    code, said = hostile.start(name)
    assert time.monotonic() - began < 15
    assert (code, "not-ready" in said) == (70, True), said
    assert not (hostile.home(name) / "child").exists()
    expect_served(hostile)


PLACES = {
    "a link to a file of the host's": 'os.symlink("@VICTIM@", f"{own}/{each}")',
    "a link upwards": 'os.symlink("../" * 20 + "@VICTIM@", f"{own}/{each}")',
    "a hard link": 'write(f"{own}/mine", "mine"); os.link(f"{own}/mine", f"{own}/{each}")',
    "a pipe": 'os.mkfifo(f"{own}/{each}")',
    "a file that it keeps open": 'kept = open(f"{own}/{each}", "w")',
}


@ON_ONE
@attack(224)
@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("each", ["pid", ".pid.new"])
def test_an_object_in_place_of_the_pid_file(hostile: HostileProgram, victim: Path, what: str, each: str) -> None:
    """It is replaced, and its target is not written."""
    code = PLACES[what].replace("@VICTIM@", str(victim)).replace("{each}", each)
    name = hostile.new(code + "\n" + PROPER)
    assert hostile.start(name) == (0, "")
    status = os.lstat(hostile.home(name) / "pid")
    assert (status.st_nlink, status.st_mode) == (1, 0o100644)
    assert identify(hostile.pid(name)) is not None
    stop(hostile, name)
    expect_served(hostile)


@ON_ONE
@attack(224)
@pytest.mark.parametrize("each", ["pid", ".pid.new"])
def test_a_directory_in_place_of_the_pid_file(hostile: HostileProgram, each: str) -> None:
    """It is not removed, or anything in it. The start fails, and nothing runs."""
    name = hostile.new(f'os.mkdir(f"{{own}}/{each}"); write(f"{{own}}/{each}/x", "")\n' + PROPER)
    code, said = hostile.start(name)
    assert (code, "state-unusable" in said) == (70, True), said
    assert hostile.service.containers(every=False) == {}
    expect_served(hostile)


@ON_EACH
@attack(224)
def test_the_pid_file_rewritten_while_it_runs(hostile: HostileProgram) -> None:
    """Hosts do not read it, whatever pid it contains: no other process is stopped."""
    with subprocess.Popen(["/bin/sleep", "600"]) as passer_by, ExitStack() as stack:
        stack.callback(passer_by.kill)
        rewritten = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        rewritten += f'ready()\nwhile True:\n    write(f"{{own}}/pid", "{passer_by.pid}")\n    time.sleep(0.05)\n'
        name = hostile.new(CHILD + rewritten)
        code, said = hostile.start(name)
        assert code == 0, said
        wait_until(lambda: (hostile.home(name) / "pid").read_text() == str(passer_by.pid))
        pids = [each.pid for each in hostile.service.containers(every=False).values()]
        command(*SIDESPAWN, "signal", hostile.service.name, f"hostile-{name}", "HUP", check=False)
        command(*SIDESPAWN, "stop", hostile.service.name, f"hostile-{name}")
        assert [identify(pid) for pid in pids if pid] == [None]
        assert passer_by.poll() is None
    expect_served(hostile)


STUBBORN = {
    "it ignores TERM": """
for each in range(1, 65):
    try: signal.signal(each, signal.SIG_IGN)
    except (OSError, ValueError): pass
""",
    "it is stopped": "forked(lambda: (time.sleep(1), os.kill(os.getppid(), signal.SIGSTOP)))\n",
    "it has daemons": "forked(lambda: (os.setsid(), forked(rest), forked(rest)))\n",
    "it has as many as it may": "for _ in range(10): forked(rest)\n",
    "it forks without end": """
def forks():
    os.setsid()
    while True:
        try: os.fork() and os._exit(0)
        except OSError: pass
        time.sleep(0.001)
forked(forks)
""",
}


@ON_EACH
@attack(226)
@pytest.mark.parametrize("what", STUBBORN)
def test_a_program_that_will_not_go(hostile: HostileProgram, what: str) -> None:
    """After an operator's stop, it and all its children are gone within the grace period and a little more."""
    name = hostile.new(CHILD + STUBBORN[what] + "ready()\nrest()\n")
    assert hostile.start(name) == (0, "")
    time.sleep(1.2)  # until it has done so
    took = stop(hostile, name)
    assert took < 10  # the grace of an engine that is told none
    wait_until(lambda: not any("/run/given/program.py" in line for line in command_lines().values()))
    expect_served(hostile)


LINES = (
    "\x1b[2J\x1b]0;owned\x07", "\r2026-01-01 00:00:00 sidespawn[1]: started, all is well", "<0>an emergency",
    "\u202eforged\u2028line", "a\0b", "x" * 300_000, '{"MESSAGE": "x", "SIDESPAWN_EVENT": "started"}',
)  # fmt: skip


@ON_EACH
@attack(221)
def test_lines_that_read_like_others(hostile: HostileProgram) -> None:
    name = hostile.new(PROPER.replace("rest()\n", f"for line in {LINES!r}: print(line, flush=True)\nrest()\n"))
    assert hostile.start(name) == (0, "")
    container = f"{hostile.service.name}_hostile-{name}"

    def said() -> str:
        command("journalctl", "--sync", check=False)
        return command(*SIDESPAWN, "logs", hostile.service.name, container).stdout

    wait_until(lambda: "SIDESPAWN_EVENT" in said())
    shown = said()
    assert not {each for each in shown if each != "\n" and not each.isprintable()}
    for line in shown.splitlines():
        assert not line.startswith(("2026-01-01", "sidespawn[1]"))
    command("journalctl", "--sync", check=False)
    assert not [each for each in hostile.service.journal(event="started") if each.get("_UID") != "0"]
    records = command("journalctl", "--output=json", "--quiet", f"CONTAINER_NAME={container}").stdout.split("\n")[:-1]
    assert all(int(json.loads(each).get("PRIORITY", 6)) >= 3 for each in records), "no emergency for all terminals"
    stop(hostile, name)
    expect_served(hostile)


MOVED = """
os.mkdir(f"{own}/inner")
os.mkdir(f"{own}/inner/most")
os.chdir(f"{own}/inner/most")
held = os.open(".", os.O_PATH)
ready()
while not os.path.exists(f"{own}/go"): time.sleep(0.05)
found = []
for up in range(1, 12):
    for path, flags in (("../" * up + "@VICTIM@", os.O_RDONLY), ("../" * up + "@OTHER@", os.O_RDONLY)):
        for at in (None, held):
            try: found.append(f"{path}: {os.open(path, flags, dir_fd=at)}")
            except OSError: pass
    try: found += [f"{up}: {each}" for each in os.listdir("../" * up) if each in ("shadow", "given", "etc")]
    except OSError: pass
write(f"{own}/tried", repr(found))
rest()
"""


@ON_EACH
@attack(220)
def test_a_directory_moved_out_from_under_it(hostile: HostileProgram, victim: Path) -> None:
    """Move the directory to where the program has no mount of it. From there, `..` leads nowhere."""
    code = MOVED.replace("@VICTIM@", str(victim).lstrip("/")).replace("@OTHER@", "given/program.py")
    name = hostile.new(CHILD + code)
    assert hostile.start(name) == (0, "")
    elsewhere = hostile.service.state / "elsewhere"
    os.rename(hostile.home(name) / "inner", elsewhere)
    (hostile.home(name) / "go").touch()
    tried = hostile.home(name) / "tried"
    wait_until(tried.exists)
    wait_until(lambda: tried.read_text() != "")
    assert tried.read_text() == "[]"
    stop(hostile, name)
    expect_served(hostile)


FILLS = {
    "size=1m": """
with open(f"{own}/full", "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)): pass
    except OSError: pass
""",
    "nr_inodes=100": """
try:
    for each in range(1000): open(f"{own}/{each}", "w").close()
except OSError: pass
""",
}


@attack(225)
@pytest.mark.parametrize("small", FILLS)
def test_its_agents_disk_filled(small: str) -> None:
    """Agent and programs may fill their own disk. The host reports the error, and stopping programs still works."""
    with hostile_program("podman", small=small) as hostile:
        name = hostile.new(CHILD + "ready()\n" + FILLS[small] + "rest()\n")
        waiting = hostile.new(PROPER)
        (hostile.service.state / "given/program.py").write_text(
            BEGINNING + CHILD + "ready()\n" + FILLS[small] + "rest()\n"
        )
        assert hostile.start(name)[0] in (0, 70)
        wait_until(lambda: full(hostile.service.state))
        code, said = hostile.start(waiting)
        assert (code, "state-unusable" in said) == (70, True), said
        assert f"{hostile.service.name}_hostile-{waiting}" not in hostile.service.containers(every=False)
        command(*SIDESPAWN, "stop", hostile.service.name, f"hostile-{name}", check=False)
        assert hostile.service.containers(every=False) == {}
        for each in hostile.home(name).iterdir():
            each.unlink()
        expect_served(hostile)


def full(path: Path) -> bool:
    found = os.statvfs(path)
    return 0 in (found.f_bavail, found.f_favail)
