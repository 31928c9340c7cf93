"""The shipped policy for dibbler-client, used by older releases of Neutron's L3 agent."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from sidespawn.agent.wrapper import named_pid_file
from sidespawn.core.plan import ConfigurationFile, Mount, PidFile
from sidespawn.core.wire import StartRequest
from sidespawn.errors import Denied, Reason
from tests.unit.shipped import preset
from tests.unit.small import decide, denial, start_request

POLICY = preset("neutron-l3-dibbler")
STATE = "/var/lib/neutron/"
ROUTER = "9b8960c2-97bd-52ba-8e86-d0dc491a74bf"
SUBNET = "fd23fc9b-cf8b-56b7-a58d-d0e7e9a6e9be"
OTHER = "ca7db883-4f48-5a62-88f4-cc4c0a39c523"
KEY = f"{ROUTER}:{SUBNET}:qr-a1aa54e5-12"
HOME = f"{STATE}pd/{KEY}"
CALL = ("dibbler-client", "start", "-w", HOME)
# As neutron/agent/linux/dibbler.py of 22.0.0 writes it.
TEXT = f"""
# Config for dibbler-client.

# Use enterprise number based duid
duid-type duid-en 8888 0x{SUBNET.replace("-", "")}

# 8 (Debug) is most verbose. 7 (Info) is usually the best option
log-level 8

# No automatic downlink address assignment
downlink-prefix-ifaces "none"

# Use script to notify l3_agent of assigned prefix
script "{HOME}/notify.sh"

# Ask for prefix over the external gateway interface
iface "qg-a1aa54e5-12" {{
# Bind to generated LLA
bind-to-address fe80::f816:3eff:fe00:1
# ask for address

    pd 1

}}
"""
HINT = TEXT.replace("    pd 1\n", "    pd 1 {\n        prefix 2001:db8:1::/64\n    }\n")


def asked(*argv: str, netns: str | None = f"qrouter-{ROUTER}", tag: str = f"dibbler-{KEY}") -> StartRequest:
    return start_request(argv, netns, {"PROCESS_TAG": tag})


def refusal(*argv: str, content: str = TEXT, **request: Any) -> Denied:
    return denial(POLICY, asked(*(argv or CALL), **request), {f"pd/{KEY}/client.conf": content.encode()})


# ---------------------------------------------------------------- what Neutron does


def test_neutrons_call_is_allowed() -> None:
    plan = decide(POLICY, asked(*CALL), {f"pd/{KEY}/client.conf": TEXT.encode()}).plan
    assert plan.arguments == ("run", "-w", HOME, "-w", "/run/dibbler")
    assert KEY in " ".join(plan.arguments)  # how Neutron recognises it
    assert plan.mounts == (Mount(path="/run/agent", beneath=f"pd/{KEY}", writable=True),)
    assert plan.pid_file == PidFile(beneath=f"pd/{KEY}/client.pid")
    assert (plan.uid, plan.capabilities) == (42435, ("NET_BIND_SERVICE",))
    (file,) = plan.configuration
    assert file == ConfigurationFile(
        path="/run/dibbler/client.conf",
        beneath=f"pd/{KEY}/client.conf",
        rules="client",
        text=(
            f"duid-type duid-en 8888 0x{SUBNET.replace('-', '')}\n"
            'log-level 7\ndownlink-prefix-ifaces "none"\nscript "/run/scripts/notify"\n'
            'iface "qg-a1aa54e5-12" {\n    bind-to-address fe80::f816:3eff:fe00:1\n    pd 1\n}\n'
        ),
    )


def test_a_hint_for_the_prefix_is_allowed() -> None:
    (file,) = decide(POLICY, asked(*CALL), {f"pd/{KEY}/client.conf": HINT.encode()}).plan.configuration
    assert "    pd 1 {\n        prefix 2001:db8:1::/64\n    }\n" in str(file.text)


def test_neutrons_stop_ends_the_pid_in_the_directory() -> None:
    stop = [list(each) for each in POLICY.agent.stop]
    assert named_pid_file(stop, ["stop", "-w", HOME]) == f"{HOME}/client.pid"
    assert named_pid_file(stop, ["start", "-w", HOME]) is None


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize("word", ["run", "stop", "status", "install", "uninstall", "help"])
def test_no_other_word_is_allowed(word: str) -> None:
    assert refusal("dibbler-client", word, "-w", HOME).reason is Reason.OPTION_NOT_ALLOWED


@pytest.mark.parametrize("argv", [("-w", HOME, "start"), ("star", "-w", HOME), ("start", "run", "-w", HOME)], ids=ascii)
def test_a_word_that_dibbler_would_read_in_its_own_way_is_refused(argv: tuple[str, ...]) -> None:
    assert refusal("dibbler-client", *argv).reason is Reason.POSITIONAL_NOT_ALLOWED


def test_word_and_directory_must_be_there_once() -> None:
    assert refusal("dibbler-client", "-w", HOME).reason is Reason.OPTION_MISSING
    assert refusal("dibbler-client", "start").reason is Reason.OPTION_MISSING
    assert refusal(*CALL, "-w", HOME).reason is Reason.OPTION_REPEATED


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/dibbler", "", "/var/lib/dibbler", f"{HOME}/", f"{HOME}/..", f"{STATE}pd/../pd/{KEY}", f"{STATE}{KEY}"),
        *(f"/var/lib/neutron-evil/pd/{KEY}", f"{HOME}\n", f"{HOME}\0", f"{STATE}pd/{ROUTER}:{SUBNET}", f"{HOME}:x/y"),
        *(f"{STATE}pd/{ROUTER}:{SUBNET}:../x", f"{STATE}pd/{ROUTER}:{SUBNET}:", f"{STATE}pd/{ROUTER}:{SUBNET}:a,b"),
    ],
    ids=ascii,
)
def test_another_directory_is_refused(path: str) -> None:
    assert refusal("dibbler-client", "start", "-w", path).reason is Reason.VALUE_NOT_ALLOWED


def test_another_router_is_refused() -> None:
    assert refusal("dibbler-client", "start", "-w", HOME.replace(ROUTER, OTHER)).reason is Reason.VALUE_CONFLICT
    assert refusal(tag=f"dibbler-{KEY.replace(SUBNET, OTHER)}").reason is Reason.VALUE_CONFLICT
    assert refusal(netns=f"qdhcp-{ROUTER}").reason is Reason.NAMESPACE_NOT_ALLOWED


# ---------------------------------------------------------------- its configuration file

# From the dibbler user's guide, 1.0.1: what runs programs, writes files or changes the host.
ELSEWHERE = {
    "another script": ('script "{home}/notify.sh"', 'script "/tmp/x"'),
    "a script beside": ("notify.sh", "x.sh"),
    "another subnet's script": (SUBNET + ":", OTHER + ":"),
    "script without quotes": ('script "{home}/notify.sh"', "script {home}/notify.sh"),
    "script with arguments": ("notify.sh", "notify.sh x"),
    "work directory": ("log-level 8", 'work-dir "/etc"'),
    "log name": ("log-level 8", "log-name x"),
    "log mode": ("log-level 8", "log-mode syslog"),
    "log level": ("log-level 8", "log-level 9"),
    "log colours": ("log-level 8", "log-colors true"),
    "mapping prefix": ("log-level 8", "mapping-prefix\noption aftr"),
    "inactive mode": ("log-level 8", "inactive-mode"),
    "reconfigure": ("log-level 8", "reconfigure-accept 1"),
    "authentication": ("log-level 8", "auth-enabled true"),
    "experimental": ("log-level 8", "experimental"),
    "DNS updates": ("log-level 8", "ddns-protocol udp"),
    "downlink interfaces": ('"none"', '"eth0"'),
    "another identity": ("duid-en 8888 0x", "duid-ll 0x"),
    "an interface without quotes": ('"qg-a1aa54e5-12"', "qg-a1aa54e5-12"),
    "a path for an interface": ('"qg-a1aa54e5-12"', '"../x"'),
    "an address": ("    pd 1", "    ia"),
    "name servers": ("    pd 1", "    option dns-server"),
    "an NTP server": ("    pd 1", "    option ntp-server"),
    "a script for an interface": ("    pd 1", '    script "/tmp/x"'),
    "two prefixes": ("    pd 1", "    pd 2"),
    "an address to bind to that is a name": ("fe80::f816:3eff:fe00:1", "localhost"),
    "a block that stays open": ("\n}\n", "\n"),
    "a shadow file": ("log-level 8", "root:x:0:0:root:/root:/bin/bash"),
    "an include": ("log-level 8", "include /etc/shadow"),
    "a comment of another kind": ("log-level 8", "// log-level 8"),
}


@pytest.mark.parametrize("change", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_nothing_else_may_stand_in_the_file(change: tuple[str, str]) -> None:
    old, new = (each.replace("{home}", HOME) for each in change)
    assert old in TEXT
    assert refusal(content=TEXT.replace(old, new)).reason is Reason.CONFIGURATION_NOT_ALLOWED


# ---------------------------------------------------------------- the policy's script


@pytest.mark.parametrize(
    ("event", "prefix", "written"),
    [
        ("add", "2001:db8:1::", "2001:db8:1::/64"),
        ("update", "2001:db8:2::", "2001:db8:2::/64"),
        ("delete", "2001:db8:2::", "::/64"),
        ("add", None, "::/64"),
        ("expire", "2001:db8:1::", None),
    ],
)
def test_the_script_writes_the_prefix_as_neutrons_does(
    tmp_path: Path, event: str, prefix: str | None, written: str | None
) -> None:
    (script,) = POLICY.side_container.scripts
    path = tmp_path / "notify"
    path.write_text(script.text.replace("/run/agent", str(tmp_path)))
    path.chmod(0o755)
    environment = {} if prefix is None else {"PREFIX1": prefix}
    subprocess.run((path, event), env=environment, timeout=10, check=True)
    found = tmp_path / "prefix"
    assert (found.read_text() if found.exists() else None) == written
