"""`wake = "path"`: a file in the spool starts the service without the doorbell, and PID 1 watches only that file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.agent import wrapper
from sidespawn.setup import systemd
from tests.attacks.stage import expect_pid_1_answers
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Service, command, unit_state, wait_until

WAKE = '[agent]\nwake = "path"\n'


@pytest.fixture
def path_service() -> Iterator[Service]:
    """Make a service without a doorbell that agents could ring."""
    made = new_service()
    made.enable_with(f"{WAKE}[pace]\nlinger = 0\n")
    made.places.doorbell.unlink()
    yield made
    made.clean()


def request_by_hand(service: Service, **fields: object) -> str:
    """Write a request with a shell and flock(1), like docs/wire.md and the OpenStack specification. Return its id."""
    request_id = uuid.uuid4().hex
    common = {"v": 1, "id": request_id, "deadline": wrapper.boottime_ms() + 60_000}
    line, spool = json.dumps(common | fields), service.places.spool
    write = 'printf "%s\\n" "$1" >>"$2/processes"; date >"$2/processes-timestamp"'
    command("flock", f"{spool}/processes", "sh", "-c", write, "sh", line, str(spool))
    return request_id


def test_two_files_written_by_hand_start_a_program(path_service: Service) -> None:
    network = path_service.network()
    path_service.wait_until_idle()
    start = {"op": "start", "argv": ["dnsmasq", *network.options()], "netns": network.netns, "env": {}}
    answer = path_service.places.replies / f"{request_by_hand(path_service, **start)}.json"
    wait_until(answer.exists)
    assert json.loads(answer.read_text())["status"] == "running"
    path_service.wait_until_idle()
    answer = (
        path_service.places.replies
        / f"{request_by_hand(path_service, op='signal', signal='TERM', pid=network.pid)}.json"
    )
    wait_until(answer.exists)
    assert json.loads(answer.read_text())["status"] == "done"
    path_service.wait_until_idle()
    assert not path_service.places.spool.joinpath("processes-timestamp").exists()
    assert unit_state(systemd.path_unit(path_service.name)) == "active"


def test_without_it_nothing_but_the_doorbell_starts_the_service(service: Service) -> None:
    assert not systemd.wakes_by_path(service.name)
    assert service.places.doorbell.is_fifo()
    service.wait_until_idle()
    request_id = request_by_hand(service, op="signal", signal="HUP", pid=1)
    service.wait_until_idle()
    assert not (service.places.replies / f"{request_id}.json").exists()


def test_it_comes_and_goes_with_the_policy(service: Service) -> None:
    unit, enable = systemd.path_unit(service.name), (*SIDESPAWN, "enable", service.name, "--json")
    policy = service.places.policy.read_text()
    body = policy.partition("\n")[2]  # the mark of a policy written by `enable`
    service.places.policy.write_text(f"{body}\n{WAKE}")
    warnings = json.loads(command(*SIDESPAWN, "check", service.name, "--json").stdout)
    assert "the service's way of waking (wake) is stale" in json.dumps(warnings)
    told = json.loads(command(*enable).stdout)
    assert unit in told["units"]
    assert {"what": f"unit {unit}", "before": "disabled", "after": "enabled"} in told["diff"]
    assert unit_state(unit) == "active"
    assert json.loads(command(*enable).stdout)["changed"] is False
    command("systemctl", "stop", f"sidespawn@{service.name}.socket")
    assert unit_state(unit) == "inactive"
    command("systemctl", "start", f"sidespawn@{service.name}.socket")
    assert unit_state(unit) == "active"
    service.places.policy.write_text(body)
    told = json.loads(command(*enable).stdout)
    assert unit not in told["units"]
    assert (unit_state(unit), systemd.wakes_by_path(service.name)) == ("inactive", False)
    network = service.network()
    assert network.start().returncode == 0


def test_disabling_leaves_none_of_it(path_service: Service) -> None:
    path_service.disable()
    assert not list(systemd.INSTALLED.glob(f"*/sidespawn@{path_service.name}*"))
    assert unit_state(systemd.path_unit(path_service.name)) == "inactive"


# ---------------------------------------------------------------- what an agent can do to it

SILENT = """
import os, sys, time
from tests.attacks import inside
os.makedirs("/mnt", exist_ok=True)
inside.mount_silent_autofs("/mnt")
print("mounted", flush=True)
time.sleep(600)
"""


@pytest.fixture
def silent() -> Iterator[str]:
    """Return a host path to a file system that never answers, reached through a process in another mount namespace."""
    process = subprocess.Popen(
        ("unshare", "--mount", "--propagation=private", sys.executable, "-c", SILENT),
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "mounted\n"
    yield f"/proc/{process.pid}/root/mnt/x"
    process.kill()
    process.communicate()


def test_a_link_in_the_files_place_silences_the_path_unit_and_not_pid_1(path_service: Service, silent: str) -> None:
    service = path_service
    network = service.network()
    service.places.spool.joinpath("processes").symlink_to(silent)
    unit = systemd.path_unit(service.name)
    wait_until(lambda: unit_state(unit) == "failed")
    expect_pid_1_answers()
    report = command(*SIDESPAWN, "check", "--json", check=False).stdout
    assert f"{unit} is failed" in report
    assert f"sidespawn enable {service.name}" in report
    service.enable()
    assert unit_state(unit) == "active"
    assert network.start().returncode == 0


@pytest.mark.parametrize("kind", ["directory", "full directory", "FIFO", "of another user"])
def test_a_file_without_requests_costs_short_runs(path_service: Service, kind: str) -> None:
    service = path_service
    service.wait_until_idle()
    requests = service.places.spool / "processes"
    match kind:
        case "directory":
            requests.mkdir()
        case "full directory":
            (requests / "a/b").mkdir(parents=True)
        case "FIFO":
            command("mkfifo", str(requests))
        case _:
            new = requests.with_name("new")
            new.write_text("{}\n")
            os.chown(new, 1000, 1000)
            new.rename(requests)
    wait_until(lambda: not requests.exists())
    service.wait_until_idle()
    runs = command("journalctl", "--quiet", "--output=cat", f"UNIT={service.unit}", "JOB_TYPE=start").stdout
    assert Counter(runs.splitlines())[f"Started {service.unit}"] + runs.count("Started ") <= 6
    assert service.network().start().returncode == 0
