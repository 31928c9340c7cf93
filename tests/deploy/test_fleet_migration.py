"""Two hosts, each in a lab of its own, migrate one after the other while the clients of all networks renew.

A renewal that reaches nobody, while one dnsmasq follows another, is sent again by its client. It is lost only if no
answer comes until the client gives up on its server.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from lab.record import Place
from tests.deploy.conftest import CHECKOUT, Ansible
from tests.deploy.inside.host_of_a_fleet import NETWORKS
from tests.lab.networks import SLOWNESS, command

DIRECTORY = "/var/lib/fleet"
# What Ansible takes for ssh: options, the host, a command.
SSH = f"""\
#!/bin/sh
while [ $# -gt 2 ]; do shift; done
cd {CHECKOUT} && exec /usr/bin/python3 -m lab exec --name "$1" -- sh -c "$2"
"""
# Seconds. dnsmasq's shortest lease is of two minutes: a client has a minute from its first renewal until the lease
# ends. Half of it is on the safe side, and short enough to show a helper that stays away.
LONGEST = 30 * SLOWNESS
# Steps that a file shows; the others are podman's.
RECORDED, ENABLED, DISABLED = "recorded", "enabled", "disabled"
MIGRATION = (RECORDED, ENABLED, "stop", "rename", "create", "start")
WAY_BACK = ("stop", "rm", "rename", "start", DISABLED)
# podman, which says when it has done what is named, and then waits to be killed. A lab's commands get this variable.
PODMAN = """\
#!/bin/sh
/usr/bin/podman "$@" || exit
[ "$1" != "$SIDESPAWN_INTERRUPT_AFTER" ] || { touch /run/interrupted; exec sleep 1000; }
"""
MIGRATE, ROLLBACK = (
    [{"name": "role", "ansible.builtin.include_role": {"name": f"sidespawn.host.{role}"}}]
    for role in ("migrate", "rollback")
)


def lab(*arguments: str) -> tuple[str, ...]:
    return ("/usr/bin/python3", "-m", "lab", *arguments)


@dataclass(frozen=True)
class Remote:
    """A host as the test sees it."""

    name: str
    process: subprocess.Popen[str]

    @property
    def root(self) -> Path:
        record = Place(name=self.name).load()
        assert record is not None
        return Path(f"/proc/{record.pid}/root")

    def ask(self, verb: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{verb}\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the host's program has ended: see its output above"
        return json.loads(line)


@pytest.fixture(scope="module")
def remotes() -> Iterator[tuple[Remote, ...]]:
    names = [f"fleet-{os.getpid()}-{number}" for number in (1, 2)]
    python = str(CHECKOUT / ".venv/bin/python")
    program = (python, "-m", "tests.deploy.inside.host_of_a_fleet", DIRECTORY)
    with ExitStack() as stack:
        made = []
        for name in names:
            command("env", "-C", str(CHECKOUT), *lab("up", "--name", name))
            stack.callback(command, "env", "-C", str(CHECKOUT), *lab("down", "--name", name))
            process = subprocess.Popen(
                lab("exec", "--name", name, "--", *program), cwd=CHECKOUT, text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            made.append(Remote(name, process))
        with ThreadPoolExecutor() as pool:
            list(pool.map(Remote.hear, made))
        yield tuple(made)


@pytest.fixture(scope="module")
def fleet(ansible: Ansible, remotes: tuple[Remote, ...], tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    home = tmp_path_factory.mktemp("fleet")
    ssh = home / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    reached = {
        "ansible_connection": "ssh",
        "ansible_ssh_executable": str(ssh),
        "ansible_ssh_args": "",
        "ansible_ssh_transfer_method": "piped",
        "ansible_ssh_pipelining": True,
    }
    hosts = {each.name: reached | each.ask("variables") for each in remotes}
    inventory = home / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    return replace(ansible, inventory=inventory, batches=(("serial", 1), ("max_fail_percentage", 0)))


def test_a_fleet_migrates_and_comes_back_and_loses_no_renewal(fleet: Ansible, remotes: tuple[Remote, ...]) -> None:
    first, second = remotes
    before = {each: each.ask("state") for each in remotes}
    assert [each["former helpers"] for each in before.values()] == [NETWORKS, NETWORKS]

    # A failure in the first batch leaves the second host as it was.
    first.ask("spoil")
    ran = fleet.play(MIGRATE, check=False, variables={"migrate_mode": "enforce"})
    assert ran.code != 0
    assert "no-ping" in ran.output
    assert ran.hosts == {first.name}
    assert second.ask("state") == before[second]
    first.ask("mend")
    fleet.play(ROLLBACK, f"--limit={first.name}")
    assert first.ask("state") == before[first]
    assert_served(second)
    first.ask("waits")

    # Killed on the second host, and run again.
    fleet.interrupt(MIGRATE, {}, recorded(second))
    assert first.ask("state")["own helpers"] == NETWORKS
    assert second.ask("state")["former helpers"] == NETWORKS
    fleet.play(MIGRATE)
    for each in remotes:
        state = each.ask("state")
        assert (state["own helpers"], state["former helpers"]) == (NETWORKS, 0)
        assert_served(each)

    fleet.play(ROLLBACK)
    for each in remotes:
        assert each.ask("state") == before[each]
        assert_served(each)


@pytest.mark.long
def test_hosts_that_are_killed_at_each_step_end_as_one_that_was_not(
    fleet: Ansible, remotes: tuple[Remote, ...]
) -> None:
    first, second = remotes
    before = {each: each.ask("state") for each in remotes}
    fleet.play(MIGRATE, f"--limit={first.name}")
    for step in MIGRATION:
        interrupt(fleet, MIGRATE, second, step)
    fleet.play(MIGRATE)
    assert_migrated(second, as_well_as=first)
    for each in remotes:
        assert_served(each)
    for step in WAY_BACK:
        interrupt(fleet, ROLLBACK, first, step)
        assert second.ask("state")["own helpers"] == NETWORKS
    fleet.play(ROLLBACK)
    for each in remotes:
        assert each.ask("state") == before[each]
        assert_served(each)


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize(("there", "back"), tuple(zip_longest(MIGRATION, WAY_BACK)), ids=MIGRATION)
def test_one_kill_at_any_step_on_any_host_does_not_change_the_end(
    fleet: Ansible, remotes: tuple[Remote, ...], number: int, there: str, back: str | None
) -> None:
    killed, other = remotes[number], remotes[1 - number]
    before = {each: each.ask("state") for each in remotes}
    for each in remotes:
        each.ask("waits")
    interrupt(fleet, MIGRATE, killed, there)
    fleet.play(MIGRATE)
    assert_migrated(killed, as_well_as=other)
    if back:
        interrupt(fleet, ROLLBACK, killed, back)
    fleet.play(ROLLBACK)
    for each in remotes:
        assert each.ask("state") == before[each]
        assert_served(each)


def interrupt(fleet: Ansible, tasks: list[dict[str, Any]], host: Remote, step: str) -> None:
    """Run the tasks on this host, and kill all that runs for them, there as well, when it has done this step."""
    policies, limit = host.root / "etc/sidespawn", f"--limit={host.name}"
    podman, says = host.root / "usr/local/bin/podman", host.root / "run/interrupted"
    seen = {
        RECORDED: recorded(host),
        ENABLED: lambda: any(policies.glob("*.toml")),
        DISABLED: lambda: not any(policies.glob("*.toml")),
    }
    podman.write_text(PODMAN)
    podman.chmod(0o755)
    try:
        fleet.interrupt(tasks, {}, seen.get(step, says.exists), limit, SIDESPAWN_INTERRUPT_AFTER=step)
    finally:
        podman.unlink()
        says.unlink(missing_ok=True)


def recorded(host: Remote) -> Callable[[], bool]:
    """Return whether the state before is recorded there."""
    return lambda: any((host.root / f"{DIRECTORY[1:]}/record").glob("before-*"))


def assert_migrated(host: Remote, *, as_well_as: Remote) -> None:
    end = host.ask("end")
    assert (end["own helpers"], end["former helpers"], end["status"]) == (NETWORKS, 0, "running")
    assert end == as_well_as.ask("end")


def assert_served(host: Remote) -> None:
    """Since the last time."""
    waits = host.ask("waits")
    assert len(waits) == NETWORKS
    assert all(each["addresses"] == ["10.20.0.10"] for each in waits), waits
    assert max(each["longest"] for each in waits) < LONGEST, waits
