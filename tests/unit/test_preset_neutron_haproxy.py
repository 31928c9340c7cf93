"""The shipped policies for haproxy as Neutron's metadata proxy: for routers, for isolated networks, on OVN."""

from __future__ import annotations

import pytest

from sidespawn.core.policy import Policy
from sidespawn.errors import Denied, Reason
from tests.data.corpus import HAPROXY, Call
from tests.unit.shipped import preset, request_of
from tests.unit.small import decide, denial

POLICIES = {
    "qrouter": preset("neutron-l3-haproxy"),
    "qdhcp": preset("neutron-dhcp-haproxy"),
    "ovnmeta": preset("neutron-ovn-metadata-haproxy"),
}
IN_A_NAMESPACE = [call for call in HAPROXY if call.netns is not None]
ROUTER = next(call for call in IN_A_NAMESPACE if call.variant == "haproxy: router" or "router" in call.variant)


def policy_for(call: Call) -> Policy:
    return POLICIES[str(call.netns).partition("-")[0]]


def files_of(call: Call, replaced: str = "", by: str = "") -> dict[str, bytes]:
    assert all(replaced in text for text in call.files.values())
    return {path: text.replace(replaced.encode(), by.encode(), 1) for path, text in call.beneath.items()}


def refusal(*more: str, replaced: str = "", by: str = "") -> Denied:
    return denial(policy_for(ROUTER), request_of(ROUTER, *more), files_of(ROUTER, replaced, by))


@pytest.mark.parametrize("call", IN_A_NAMESPACE, ids=str)
def test_a_recorded_call_is_allowed(call: Call) -> None:
    plan = decide(policy_for(call), request_of(call), files_of(call)).plan
    assert plan.arguments == (*call.argv[1:], "-db")
    assert plan.pid_file is not None  # named only in the file
    assert f"/var/lib/neutron/{plan.pid_file.beneath}" == call.pid_file


def test_what_a_side_container_does_by_itself_is_left_out_and_the_rest_is_there() -> None:
    (file,) = decide(policy_for(ROUTER), request_of(ROUTER), files_of(ROUTER)).plan.configuration
    lines = {line.strip() for line in str(file.text).splitlines()}
    assert not [line for line in lines if line.split()[:1] in (["user"], ["group"], ["pidfile"], ["daemon"])]
    assert {"log stdout format raw local0 info", "server metadata /run/agent/metadata_proxy", "bind :::9697"} <= lines


@pytest.mark.parametrize(
    "option",
    ["-W", "-Ws", "-sf 1", "-st 1", "-C /", "-p /x", "-x /x", "-S /x", "-c", "-D", "-db", "-n 1", "-m 1", "-dM", "-q"],
)
def test_no_option_but_the_file_is_allowed(option: str) -> None:
    assert refusal(*option.split()).reason is Reason.OPTION_NOT_ALLOWED


@pytest.mark.parametrize("argument", ["--", "/etc/haproxy", "-f/etc/passwd", "-foo", "--f"])
def test_what_haproxy_would_read_in_its_own_way_is_refused(argument: str) -> None:
    assert refusal(argument).reason in (Reason.POSITIONAL_NOT_ALLOWED, Reason.OPTION_UNKNOWN)


def test_a_second_file_is_refused() -> None:
    assert refusal("-f", ROUTER.argv[2]).reason is Reason.OPTION_REPEATED


GLOBAL = [
    "external-check",
    "insecure-fork-wanted",
    "insecure-setuid-wanted",
    "lua-load /var/lib/neutron/x.lua",
    "lua-load-per-thread /var/lib/neutron/x.lua",
    "lua-prepend-path /var/lib/neutron/?.lua",
    "ssl-engine dynamic",
    "setenv LD_PRELOAD /x.so",
    "presetenv A b",
    "stats socket /var/lib/neutron/stats level admin",
    "log /var/lib/neutron/log local0",
    "log 203.0.113.1:514 local0",
    "server-state-file /etc/shadow",
    "server-state-base /etc",
    "ca-base /etc",
    "crt-base /etc",
    "chroot /",
    "uid 0",
    "localpeer x",
    "node x",
    "unix-bind prefix /",
    "wurfl-data-file /etc/shadow",
    "user root root",
    "daemon yes",
    ".include /etc/passwd",
]
LISTEN = [
    "external-check command /bin/sh",
    "option external-check",
    "option redispatch",
    "errorfile 503 /etc/shadow",
    "errorfiles x",
    "http-request return status 200 file /etc/shadow",
    "http-request return status 200 lf-file /etc/shadow",
    "http-request use-service lua.x",
    "http-request lua.x",
    "http-request set-map(/etc/shadow) a b",
    "http-request deny deny_status 429 if { src -f /etc/shadow }",
    "acl a src -f /etc/shadow",
    "use_backend %[src,map(/etc/shadow)]",
    "bind 0.0.0.0:80 ssl crt /etc/ssl/private/key.pem",
    "bind unix@/var/lib/neutron/x",
    "bind fd@3",
    "bind :::9697 namespace other",
    "server metadata 127.0.0.1:80",
    "server metadata /var/lib/neutron/../../run/podman/podman.sock",
    "server metadata /run/podman/podman.sock",
    "server metadata /var/lib/neutron/metadata_proxy namespace other",
    "server metadata /var/lib/neutron/metadata_proxy ssl ca-file /etc/shadow",
    "load-server-state-from-file global",
    "filter lua.x",
    "stats enable",
    "source 0.0.0.0 usesrc clientip",
]


@pytest.mark.parametrize("line", GLOBAL)
def test_a_directive_that_is_not_neutrons_is_refused_in_the_global_section(line: str) -> None:
    assert refusal(replaced="global\n", by=f"global\n    {line}\n").reason is Reason.CONFIGURATION_NOT_ALLOWED


@pytest.mark.parametrize(
    "more",
    ["namespace other", "ssl ca-file x", "agent-check agent-addr 10.0.0.1", "source 10.0.0.1 interface eth0", "x"],
)
def test_no_word_can_be_added_to_the_servers_line(more: str) -> None:
    server = "server metadata /var/lib/neutron/metadata_proxy"
    assert "a value that is not allowed" in refusal(replaced=server, by=f"{server} {more}").message


@pytest.mark.parametrize("line", LISTEN)
def test_a_directive_that_is_not_neutrons_is_refused_in_the_proxy(line: str) -> None:
    denied = refusal(replaced="listen listener\n", by=f"listen listener\n    {line}\n")
    assert denied.reason is Reason.CONFIGURATION_NOT_ALLOWED


@pytest.mark.parametrize("section", ["program x\n    command /bin/sh", "peers x", "userlist x", "cache x", "ring x"])
def test_no_other_section_is_allowed(section: str) -> None:
    assert refusal(replaced="listen listener", by=f"{section}\n\nlisten listener").reason is (
        Reason.CONFIGURATION_NOT_ALLOWED
    )


@pytest.mark.parametrize("trick", ['"httplog"', "http\\log", "httplog x # x", "$HOME", "${HOME}", "'httplog'"])
def test_quotes_escapes_variables_and_late_comments_are_refused(trick: str) -> None:
    assert refusal(replaced="option httplog", by=f"option {trick}").reason is Reason.CONFIGURATION_NOT_ALLOWED


def test_another_networks_pid_file_is_refused() -> None:
    other = "/var/lib/neutron/external/pids/eabae8f1-da6c-5b04-bfab-7b8b0cd4ebea.pid.haproxy"
    assert refusal(replaced=str(ROUTER.pid_file), by=other).reason is Reason.CONFIGURATION_NOT_ALLOWED
