"""The shipped policy for conntrackd of Neutron's L3 agent."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sidespawn.agent.wrapper import is_answered_here
from sidespawn.core.plan import Mount
from sidespawn.core.wire import StartRequest
from sidespawn.errors import Denied, Reason
from tests.data.corpus import CONNTRACKD, QUESTIONS, Call
from tests.unit.shipped import preset, request_of
from tests.unit.small import decide, denial, start_request

POLICY = preset("neutron-l3-conntrackd")
STATE = "/var/lib/neutron/"
CALL = CONNTRACKD[0]
ROUTER = str(CALL.netns).removeprefix("qrouter-")
OTHER = "ca7db883-4f48-5a62-88f4-cc4c0a39c523"
((PATH, TEXT),) = CALL.files.items()


def asked(*argv: str, netns: str | None = f"qrouter-{ROUTER}", tag: str = f"default-service-{ROUTER}") -> StartRequest:
    return start_request(argv, netns, {"PROCESS_TAG": tag})


def refusal(*argv: str, content: str = TEXT, **request: Any) -> Denied:
    return denial(POLICY, asked(*(argv or CALL.argv), **request), {PATH.removeprefix(STATE): content.encode()})


# ---------------------------------------------------------------- what Neutron does


@pytest.mark.parametrize("call", CONNTRACKD, ids=str)
def test_a_recorded_call_is_allowed_and_found_by_pgrep(call: Call) -> None:
    plan = decide(POLICY, request_of(call), call.beneath).plan
    assert plan.arguments == ("-C", "conntrackd -d", "-C", call.argv[3])
    assert re.search("conntrackd -d -C " + call.argv[3], " ".join((plan.command, *plan.arguments)))
    below = call.argv[3].removeprefix(STATE).removesuffix("/conntrackd.conf")
    assert plan.mounts == (Mount(path="/run/agent", beneath=below, writable=True),)
    assert plan.pid_file is None  # written by Neutron
    assert (plan.uid, plan.capabilities) == (42435, ("NET_ADMIN",))


def test_every_call_was_recorded() -> None:
    assert (len(CONNTRACKD), len(QUESTIONS)) == (2, 16)


def test_the_file_is_the_agents_but_for_the_paths_that_the_side_container_has() -> None:
    (file,) = decide(POLICY, asked(*CALL.argv), {PATH.removeprefix(STATE): TEXT.encode()}).plan.configuration
    home = PATH.removesuffix("/conntrackd.conf")
    wanted = TEXT.replace(f"{home}/conntrackd.lock", "/run/conntrackd/lock").replace(f"{home}/", "/run/agent/")
    lines = [line.strip() for line in wanted.splitlines() if line.strip() and "Syslog" not in line]
    assert [line.strip() for line in str(file.text).splitlines()] == lines


@pytest.mark.parametrize("call", QUESTIONS, ids=lambda call: f"{call}, {call.argv[-1]}")
def test_a_question_to_a_running_conntrackd_is_answered_in_the_agent(call: Call) -> None:
    assert is_answered_here(POLICY.agent.local, call.argv[1:])


def test_neither_the_start_nor_what_empties_the_kernels_table_is_answered_in_the_agent() -> None:
    for argv in (CALL.argv[1:], ("-C", PATH, "-F"), ("-F",), ("-C", PATH, "-n", "-d"), ("-C", PATH)):
        assert not is_answered_here(POLICY.agent.local, argv)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("option", ["-B", "-h", "-k", "-n", "-t", "-v", "-x", "-F", "-R", "-c", "-e", "-f", "-i", "-s"])
def test_no_other_option_is_allowed(option: str) -> None:
    assert refusal(*CALL.argv, option).reason is Reason.OPTION_NOT_ALLOWED


@pytest.mark.parametrize("argument", ["-dump", "+d", "-Cx", "network", "--", "-d=1", "conntrackd -d"])
def test_what_conntrackd_would_read_in_its_own_way_is_refused(argument: str) -> None:
    found = refusal(*CALL.argv, argument).reason
    assert found in (Reason.OPTION_UNKNOWN, Reason.POSITIONAL_NOT_ALLOWED, Reason.OPTION_MALFORMED)


def test_each_option_is_given_once_and_must_be() -> None:
    assert refusal(*CALL.argv, "-d").reason is Reason.OPTION_REPEATED
    assert refusal(*CALL.argv, "-C", PATH).reason is Reason.OPTION_REPEATED
    assert refusal("conntrackd", "-C", PATH).reason is Reason.OPTION_MISSING
    assert refusal("conntrackd", "-d").reason is Reason.OPTION_MISSING


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/shadow", "", "conntrackd.conf", f"{STATE}ha_confs/../{ROUTER}/conntrackd.conf", "conntrackd -d"),
        *(f"/var/lib/neutron-evil/ha_confs/{ROUTER}/conntrackd.conf", f"{PATH}\n", f"{PATH}\0", f"{PATH}x", f"-{PATH}"),
        f"{STATE}ha_confs/{ROUTER}/keepalived.conf",
    ],
    ids=ascii,
)
def test_another_path_is_refused(path: str) -> None:
    assert refusal("conntrackd", "-d", "-C", path).reason is Reason.VALUE_NOT_ALLOWED


def test_another_router_is_refused() -> None:
    assert refusal("conntrackd", "-d", "-C", PATH.replace(ROUTER, OTHER)).reason is Reason.VALUE_CONFLICT
    assert refusal(tag=f"default-service-{OTHER}").reason is Reason.VALUE_CONFLICT
    assert refusal(netns=f"qdhcp-{ROUTER}").reason is Reason.NAMESPACE_NOT_ALLOWED
    assert refusal(netns=None).reason is Reason.NAMESPACE_NOT_ALLOWED


# ---------------------------------------------------------------- its configuration file

# From conntrackd.conf(5) of 1.4.7: what reads or writes files, loads code, or reaches beyond the router.
IN_GENERAL = {
    "log file": "LogFile /etc/cron.d/x",
    "log file switched on": "LogFile on",
    "lock file elsewhere": "LockFile /etc/cron.d/x",
    "lock file of another router": f"LockFile {STATE}ha_confs/{OTHER}/conntrackd.lock",
    "lock file up": f"LockFile {STATE}ha_confs/{ROUTER}/../conntrackd.lock",
    "socket elsewhere": "UNIX {\n        Path /run/docker.sock\n    }",
    "socket of another router": f"UNIX {{\n        Path {STATE}ha_confs/{OTHER}/conntrackd.ctl\n    }}",
    "syslog facility": "Syslog local0",
    "priority": "Nice -20",
    "scheduler": "Scheduler {\n        Type FIFO\n        Priority 99\n    }",
    "systemd": "Systemd on",
    "reliable events": "NetlinkEventsReliable on",
    "polling": "PollSecs 1",
    "process limits": "EventIterationLimit 100",
    "filter in user space": "Filter From Userspace {\n    }",
    "filter without origin": "Filter {\n    }",
    "another protocol": "Filter From Kernelspace {\n        Protocol Accept {\n            X\n        }\n    }",
    "protocols ignored": "Filter From Kernelspace {\n        Protocol Ignore {\n            TCP\n        }\n    }",
    "a state": "Filter From Kernelspace {\n        State Accept {\n            ESTABLISHED for TCP\n        }\n    }",
    "a name for an address": "Filter From Kernelspace {\n        Address Ignore {\n"
    "            IPv4_address localhost\n        }\n    }",
    "size too large": "HashSize 16777217",
    "size in another spelling": "HashSize 0x10",
    "quotes": 'LockFile "/tmp/x"',
    "comment within": "HashSize # 1",
    "include": "include /etc/shadow",
}
IN_SYNC = {
    "mode with options": "Mode FTFW {\n        DisableExternalCache On\n    }",
    "another mode": "Mode ALARM {\n    }",
    "TCP": "TCP {\n        IPv4_address 192.0.2.1\n    }",
    "UDP": "UDP {\n        IPv4_address 192.0.2.1\n        IPv4_Destination_Address 192.0.2.2\n    }",
    "options": "Options {\n        ExpectationSync On\n    }",
    "another group": "Multicast {\n        Group 1\n    }",
    "a name for an address": "Multicast Default {\n        IPv4_address example.org\n    }",
    "an interface that is a path": "Multicast Default {\n        Interface ../x\n    }",
}
AT_THE_TOP = {
    "helpers": "Helper {\n    Type ftp inet tcp {\n        QueueNum 0\n    }\n}",
    "statistics": "Stats {\n    LogFile /etc/cron.d/x\n}",
    "a shadow file": "root:x:0:0:root:/root:/bin/bash",
    "closed twice": "}",
    "open": "General {",
}


@pytest.mark.parametrize("text", IN_GENERAL.values(), ids=IN_GENERAL.keys())
def test_nothing_else_may_stand_in_general(text: str) -> None:
    assert refusal(content=TEXT.replace("General {", f"General {{\n    {text}")).reason is (
        Reason.CONFIGURATION_NOT_ALLOWED
    )


@pytest.mark.parametrize("text", IN_SYNC.values(), ids=IN_SYNC.keys())
def test_nothing_else_may_stand_in_sync(text: str) -> None:
    assert refusal(content=TEXT.replace("Sync {", f"Sync {{\n    {text}")).reason is Reason.CONFIGURATION_NOT_ALLOWED


@pytest.mark.parametrize("text", AT_THE_TOP.values(), ids=AT_THE_TOP.keys())
def test_nothing_else_may_stand_at_the_top(text: str) -> None:
    assert refusal(content=f"{TEXT}\n{text}\n").reason is Reason.CONFIGURATION_NOT_ALLOWED
