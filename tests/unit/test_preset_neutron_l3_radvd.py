"""The shipped policy for radvd of Neutron's L3 agent."""

from __future__ import annotations

import pytest

from sidespawn.core.wire import StartRequest
from sidespawn.errors import Denied, Reason
from tests.data.corpus import RADVD, Call
from tests.unit.shipped import preset, request_of
from tests.unit.small import decide, denial, start_request

POLICY = preset("neutron-l3-radvd")
ROUTER = "0685ef13-7726-5f18-a9c3-a8d59a0a7a67"
OTHER = "bc1059c6-8135-53af-9526-907174020359"
FILE = f"ra/{ROUTER}.radvd.conf"
CALL = (
    "radvd",
    *("-C", f"/var/lib/neutron/{FILE}"),
    *("-p", f"/var/lib/neutron/external/pids/{ROUTER}.pid.radvd"),
    *("-m", "syslog", "-u", "root"),
)
NEUTRONS = """\
interface qr-8917bf22-85
{
   AdvSendAdvert on;
   MinRtrAdvInterval 30;
   MaxRtrAdvInterval 100;
   AdvLinkMTU 1450;

   AdvManagedFlag on;

   RDNSS  2001:db8::53  2001:db8::54  {};

   prefix 2001:db8:0::/64
   {
        AdvOnLink on;
        AdvAutonomous on;
   };


   route fe80::a9fe:a9fe/128 {
   };
};interface qr-5243c7e0-2b
{
   AdvSendAdvert on;
};
"""
PLAIN = """\
interface qr-8917bf22-85 {
    AdvSendAdvert on;
    MinRtrAdvInterval 30;
    MaxRtrAdvInterval 100;
    AdvLinkMTU 1450;
    AdvManagedFlag on;
    RDNSS 2001:db8::53 2001:db8::54 {
    };
    prefix 2001:db8:0::/64 {
        AdvOnLink on;
        AdvAutonomous on;
    };
    route fe80::a9fe:a9fe/128 {
    };
};
interface qr-5243c7e0-2b {
    AdvSendAdvert on;
};
"""


def asked(*argv: str, netns: str = f"qrouter-{ROUTER}", tag: str = f"radvd-{ROUTER}") -> StartRequest:
    return start_request(argv, netns, {"PROCESS_TAG": tag})


def refusal(content: str) -> Denied:
    return denial(POLICY, asked(*CALL), {FILE: content.encode()})


@pytest.mark.parametrize("call", RADVD, ids=str)
def test_a_recorded_call_is_allowed(call: Call) -> None:
    plan = decide(POLICY, request_of(call), call.beneath).plan
    assert plan.arguments[0] == f"--config={call.argv[2]}"
    assert plan.pid_file is not None
    assert f"/var/lib/neutron/{plan.pid_file.beneath}" == call.pid_file
    assert [each.text is not None for each in plan.configuration] == [True]


def test_neutrons_call_is_allowed_and_its_file_rewritten() -> None:
    plan = decide(POLICY, asked(*CALL), {FILE: NEUTRONS.encode()}).plan
    path = f"/var/lib/neutron/{FILE}"
    assert plan.arguments == (f"--config={path}", "--nodaemon", "--logmethod=stderr", "--pidfile=/run/radvd/pid")
    assert [(each.path, each.text) for each in plan.configuration] == [(path, PLAIN)]
    assert plan.pid_file is not None
    assert plan.pid_file.beneath == f"external/pids/{ROUTER}.pid.radvd"
    assert plan.mounts == ()
    assert plan.capabilities == ("NET_RAW",)


@pytest.mark.parametrize(
    "line",
    [
        "Clients { fe80::1; };",
        "include /etc/shadow;",
        "interface qr-1 { AdvSendAdvert on; HomeAgentLifetime 5; };",
        "interface ../../etc { AdvSendAdvert on; };",
        "interface qr-1 { AdvSendAdvert maybe; };",
        "interface qr-1 { prefix 2001:db8::/129 { }; };",
        "interface qr-1 { prefix 2001:db8::/64; };",
        "interface qr-1 { AdvSendAdvert on { }; };",
        'interface "qr-1" { };',
        "interface qr-1 { AdvSendAdvert on };",
        "interface qr-1 { AdvSendAdvert on;",
        "};",
        "interface qr-1 { prefix 2001:db8::/64 { AdvOnLink on; AdvOnLink $X; }; };",
        "root:x:0:0:root:/root:/bin/bash",
    ],
)
def test_anything_else_is_refused(line: str) -> None:
    assert refusal(line).reason is Reason.CONFIGURATION_NOT_ALLOWED


@pytest.mark.parametrize("option", [("-t", "/"), ("-l", "/var/lib/neutron/x"), ("--logfile=/x",), ("-d", "5"), ("-c",)])
def test_no_other_option_is_allowed(option: tuple[str, ...]) -> None:
    assert denial(POLICY, asked(*CALL, *option)).reason is Reason.OPTION_NOT_ALLOWED


@pytest.mark.parametrize(
    "path",
    ["/etc/shadow", f"/var/lib/neutron-evil/ra/{ROUTER}.radvd.conf", f"/var/lib/neutron/ra/../{ROUTER}.radvd.conf", ""],
)
def test_a_configuration_file_that_has_no_rules_is_refused(path: str) -> None:
    assert denial(POLICY, asked("radvd", "-C", path, *CALL[3:])).reason is Reason.VALUE_NOT_ALLOWED


def test_another_routers_file_is_refused() -> None:
    assert (
        denial(POLICY, asked("radvd", "-C", f"/var/lib/neutron/ra/{OTHER}.radvd.conf", *CALL[3:])).reason
        is Reason.VALUE_CONFLICT
    )
