"""The kernel enforces a policy's memory and task limits: what exceeds them ends or fails alone.

The program is dnsmasq, whose agent makes it exceed them: it reads all names in a file that the agent writes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.lab import dockers
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Network, Service, command, wait_until, wait_until_gone

MIB = 2**20
MEMORY, TASKS = 32 * MIB, 16
POLICY = f'[side_container]\nmemory = "{MEMORY // MIB}M"\ntasks = {TASKS}\n'
NAMES = 600_000  # dnsmasq keeps each of them in a record of about 100 bytes
# Join a control group, fork until that fails, print how often it worked, retry again and again, end with the input.
BOMB = """
import os, select, sys, time
with open(sys.argv[1], "w") as procs:
    procs.write(str(os.getpid()))
made = 0
while not select.select([sys.stdin], [], [], 0.01)[0]:
    try:
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        made += 1
    except BlockingIOError:
        print(made, flush=True)
"""


@pytest.fixture(scope="module", params=["podman", "systemd", "docker"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with ExitStack() as stack:
        if request.param == "docker":
            stack.enter_context(dockers.running_docker(dockers.HELPERS))
        made = new_service(engine=request.param)
        made.enable_with(POLICY)
        yield made
        made.clean()


def running(service: Service) -> Network:
    network = service.network()
    assert network.start().returncode == 0
    return network


def control_group(pid: int) -> Path:
    (line,) = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return Path(f"/sys/fs/cgroup{line.removeprefix('0::')}")


def limit(pid: int, name: str) -> int:
    """Return the lowest limit of the program's control group and its parents: engines set it at different levels."""
    groups = (control_group(pid), *control_group(pid).parents)
    found = [(group / name).read_text().strip() for group in groups if (group / name).exists()]
    return min(int(each) for each in found if each != "max")


def write_names(network: Network, count: int) -> None:
    lines = (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}\thost-{n}.openstacklocal\n" for n in range(count))
    (network.home / "addn_hosts").write_text("".join(lines))


def shown(network: Network) -> dict[str, Any]:
    rows = json.loads(command(*SIDESPAWN, "ps", network.service.name, "--json").stdout)
    (row,) = (row for row in rows if row["name"] == network.container)
    return dict(row)


def outgrow(network: Network) -> None:
    """Make the program exceed its memory limit and be killed.

    The first program of an image has the image's files charged to its control group. At its limit the kernel would drop
    and reread them for minutes before killing the program, so another program must have read them first.
    """
    pid = network.pid
    write_names(network, NAMES)
    assert network.kill("HUP").returncode == 0
    wait_until_gone(pid, 60)
    wait_until(lambda: "out of memory" in shown(network)["state"])


def test_what_takes_more_memory_ends_alone_with_a_reason_and_its_agent_gets_it_again(service: Service) -> None:
    other, greedy = running(service), running(service)
    pid, others_pid = greedy.pid, other.pid
    assert limit(pid, "memory.max") == MEMORY
    outgrow(greedy)
    assert "out of memory" in command(*SIDESPAWN, "ps", service.name).stdout
    write_names(greedy, 1)
    assert greedy.start().returncode == 0
    assert greedy.pid != pid
    assert other.pid == others_pid
    assert other.kill("HUP").returncode == 0
    (told,) = service.journal(event="exited", reason="out-of-memory", instance=greedy.netns)
    assert told["MESSAGE"].startswith(f"{greedy.container} had ended by itself")
    assert told["MESSAGE"] in command(*SIDESPAWN, "logs", service.name, greedy.netns).stdout


def test_the_sweep_tells_why_it_ended(service: Service) -> None:
    running(service)
    greedy = running(service)
    outgrow(greedy)
    service.wait_until_idle()
    command("systemctl", "start", service.unit)
    wait_until(lambda: bool(service.journal(event="exited", reason="out-of-memory", instance=greedy.netns)))


def test_a_program_that_makes_processes_without_end_is_stopped_at_its_limit(service: Service) -> None:
    bombed = running(service)
    pid = bombed.pid
    assert limit(pid, "pids.max") == TASKS
    # dnsmasq does not fork, so another program does it in the side container's control group, which has the limit.
    argv = (sys.executable, "-c", BOMB, str(control_group(pid) / "cgroup.procs"))
    bomb = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert bomb.stdin is not None
    assert bomb.stdout is not None
    try:
        assert int(bomb.stdout.readline()) + len(("bomb", "dnsmasq")) == TASKS
        # It keeps trying, and everything else keeps working.
        assert bombed.kill("HUP").returncode == 0
        assert running(service).pid != pid
        assert int(bomb.stdout.readline()) + len(("bomb", "dnsmasq")) == TASKS
        assert bombed.pid == pid
        assert shown(bombed)["state"] == "running"
    finally:
        children = Path(f"/proc/{bomb.pid}/task/{bomb.pid}/children").read_text().split()
        bomb.stdin.close()
        bomb.wait(timeout=60)
        bomb.stdout.close()
        command("kill", *children, check=False)
