"""Every dnsmasq call recorded from Neutron, made for real: dnsmasq gets what Neutron asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.corpus import DAEMONS, Call
from tests.lab.networks import NEUTRON, Service, command

STATE = "/var/lib/neutron/"
ADDED = ["--keep-in-foreground", "--pid-file=/run/dnsmasq/pid", "--log-facility=-"]


@pytest.fixture
def namespace(call: Call) -> Iterator[str]:
    name = str(call.netns)
    command("ip", "netns", "add", name)
    command("ip", "-n", name, "link", "set", "lo", "up")
    # DHCPv6 servers identify themselves by a MAC address, so there must be one.
    command("ip", "-n", name, "link", "add", "tap0", "type", "veth", "peer", "name", "far0")
    yield name
    command("ip", "netns", "del", name)


def on_host(service: Service, path: str) -> Path:
    """Write a file of the agent's state, in a directory that exists."""
    file = service.state / path.removeprefix(STATE)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def write_files(service: Service, call: Call) -> None:
    for path, text in call.files.items():
        on_host(service, path).write_text(text)
    for option in call.argv:  # a file that the call names and Neutron had not written yet
        name, _, path = option.partition("=")
        if name in ("--addn-hosts", "--dhcp-leasefile"):
            on_host(service, path).touch()
    for each in service.state.rglob("*"):
        os.chown(each, NEUTRON, NEUTRON)


@pytest.mark.parametrize("call", DAEMONS, ids=str)
def test_a_recorded_call_reaches_dnsmasq(shared_service: Service, call: Call, namespace: str) -> None:
    write_files(shared_service, call)
    inside = ["ip", "netns", "exec", namespace, "env", *(f"{name}={value}" for name, value in call.env.items())]
    done = command(*inside, str(shared_service.wrapper), *call.argv[1:], check=False)
    assert (done.returncode, done.stderr) == (0, "")

    pid = on_host(shared_service, str(call.pid_file)).read_text().strip()
    program, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    assert program == "/usr/sbin/dnsmasq"
    said = [each for each in call.argv[1:] if each and not each.startswith("--pid-file=")]
    logs_to_a_file = any(each.startswith("--log-facility=") for each in said)
    assert arguments == said + (ADDED[:2] if logs_to_a_file else ADDED)
    assert call.env["PROCESS_TAG"].removeprefix("dnsmasq-") in " ".join(arguments)  # how Neutron recognises it

    stopped = command(*inside, str(shared_service.kill_script), "15", pid, check=False)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    for each in shared_service.state.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def test_all_of_them_are_there() -> None:
    assert len(DAEMONS) == 31
