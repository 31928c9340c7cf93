"""Every dnsmasq call that was recorded from Neutron, made for real: what reaches dnsmasq is what Neutron said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.networks import NEUTRON, Service, command

ROWS = [json.loads(line) for line in (Path(__file__).parents[1] / "data/neutron_argv.jsonl").read_text().splitlines()]
DAEMONS = [row for row in ROWS if row["kind"] == "daemon" and row["program"] == "dnsmasq"]
STATE = "/var/lib/neutron"
ADDED = ["--keep-in-foreground", "--pid-file=/run/dnsmasq/pid", "--log-facility=-"]


@pytest.fixture
def namespace(row: dict[str, Any]) -> Iterator[str]:
    command("ip", "netns", "add", row["netns"])
    command("ip", "-n", row["netns"], "link", "set", "lo", "up")
    # DHCPv6 servers name themselves by a MAC address, so there must be one.
    command("ip", "-n", row["netns"], "link", "add", "tap0", "type", "veth", "peer", "name", "far0")
    yield row["netns"]
    command("ip", "netns", "del", row["netns"])


def write_files(service: Service, row: dict[str, Any]) -> None:
    paths = {**row["files"], row["pid_file"]: None}
    for path, text in paths.items():
        file = service.state / path.removeprefix(f"{STATE}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            file.write_text(text)
    for path in service.state.rglob("*"):
        os.chown(path, NEUTRON, NEUTRON)
    for option in row["argv"]:  # a file that the call names and Neutron had not written yet
        name, _, value = option.partition("=")
        if name in ("--addn-hosts", "--dhcp-leasefile") and value.startswith(STATE):
            file = service.state / value.removeprefix(f"{STATE}/")
            file.touch()
            os.chown(file, NEUTRON, NEUTRON)


@pytest.mark.parametrize("row", DAEMONS, ids=[row["variant"] for row in DAEMONS])
def test_a_recorded_call_reaches_dnsmasq(shared_service: Service, row: dict[str, Any], namespace: str) -> None:
    write_files(shared_service, row)
    environment = [f"{name}={value}" for name, value in row["env"].items()]
    inside = ["ip", "netns", "exec", namespace, "env", *environment]
    done = command(*inside, str(shared_service.wrapper), *row["argv"][1:], check=False)
    assert (done.returncode, done.stderr) == (0, "")

    pid_file = shared_service.state / row["pid_file"].removeprefix(f"{STATE}/")
    pid = int(pid_file.read_text())
    program, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    assert program == "/usr/sbin/dnsmasq"
    said = [each for each in row["argv"][1:] if each and not each.startswith("--pid-file=")]
    logs_to_a_file = any(each.startswith("--log-facility=") for each in said)
    assert arguments == said + (ADDED[:2] if logs_to_a_file else ADDED)
    assert row["env"]["PROCESS_TAG"].removeprefix("dnsmasq-") in " ".join(arguments)  # how Neutron recognises it

    stopped = command(*inside, str(shared_service.kill_script), "15", str(pid), check=False)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    shutil.rmtree(shared_service.state / "dhcp", ignore_errors=True)


def test_all_of_them_are_there() -> None:
    assert len(DAEMONS) == 31
