"""Programs accept what `sidespawn check --examples` prints: each call is tried with the real program, in its image."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

import pytest

from sidespawn import presets
from sidespawn.authoring.example_calls import ExampleCall, example_calls
from tests.lab.networks import command
from tests.unit.shipped import preset

IMAGE = "localhost/sidespawn-helpers:latest"
PROXY = """
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
listen listener
    bind 127.0.0.1:9697
    server metadata 127.0.0.1:8775
"""
ROUTER = """
vrrp_instance a {
    interface ha
    virtual_router_id 1
    virtual_ipaddress {
        10.0.0.9
    }
}
"""
TRACKED = """
General {
    LockFile /tmp/lock
    UNIX {
        Path /tmp/ctl
    }
}
Sync {
    Mode FTFW {
    }
    UDP {
        IPv4_address 127.0.0.1
        IPv4_Destination_Address 127.0.0.1
        Port 3781
        Interface lo
    }
}
"""
# The option of a program that names its file, the file's text, and what makes the program read both and exit.
FILES = {
    "dnsmasq": ("--conf-file=", "", "--test"),
    "haproxy": ("-f", PROXY, "-c"),
    "keepalived": ("--use-file=", ROUTER, "--config-test"),
    "radvd": ("--config=", "interface lo {\n    AdvSendAdvert on;\n};\n", "--configtest"),
    "conntrackd": ("-C", TRACKED, ""),  # it has no such option: it starts
}
# dibbler-client has neither: tests/lab/test_dibbler.py starts it with exactly this call. Neutron's own monitor is not
# packaged: tests/neutron/test_state_change.py asks it.
TRIED = [name for name in presets.names() if preset(name).table.program in FILES]


@pytest.mark.parametrize("name", TRIED)
def test_the_program_takes_each_example(name: str, tmp_path: Path) -> None:
    policy = preset(name)
    calls = example_calls(policy)
    assert all(call.argv for call in calls)
    option, text, check = FILES[policy.table.program]
    lines = ["set -e", "ip link add ha type veth peer name far", "ip link set ha up"]
    for number, call in enumerate(calls):
        (tmp_path / f"{number}.conf").write_text(text)
        argv = with_a_file(call, option, f"/try/{number}.conf")
        lines += [f"mkdir -p {shlex.quote(each)}" for each in directories(argv)]
        words = [policy.side_container.command, *argv[1:], *filter(None, [check])]
        lines.append(f"{shlex.join(words)} >/try/{number}.out 2>&1 || echo {call.rule}: exit code $? >>/try/failed")
    (tmp_path / "try.sh").write_text("\n".join(lines) + "\n")
    command(
        "podman", "run", "--rm", "--network=none", "--cap-add=NET_ADMIN,NET_RAW", "--user=0:0",
        f"--volume={tmp_path}:/try", IMAGE, "/bin/sh", "/try/try.sh",
    )  # fmt: skip
    failed = tmp_path / "failed"
    said = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*.out"))
    assert not failed.exists(), failed.read_text() + said


def with_a_file(call: ExampleCall, option: str, file: str) -> list[str]:
    """Return the call with an existing file, as the example names one of the agent's."""
    argv = list(call.argv)
    for at, word in enumerate(argv):
        if word == option:
            argv[at + 1] = file
        elif option.endswith("=") and word.startswith(option):
            argv[at] = option + file
    assert file in " ".join(argv)
    return argv


def directories(argv: Iterable[str]) -> list[str]:
    """Return the directories in which the call names files."""
    values = (word.rpartition("=")[2] for word in argv)
    return sorted({value.rpartition("/")[0] for value in values if value.startswith("/var/")})
