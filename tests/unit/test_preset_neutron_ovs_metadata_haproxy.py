"""The shipped policy for haproxy as the metadata proxy of a whole host."""

from __future__ import annotations

from typing import Any

import pytest

from sidespawn.core.plan import PidFile
from sidespawn.core.wire import StartRequest
from sidespawn.errors import Denied, Reason
from tests.data.corpus import HAPROXY
from tests.unit.shipped import preset
from tests.unit.small import decide, denial, start_request

POLICY = preset("neutron-ovs-metadata-haproxy")
STATE = "/var/lib/neutron/"
(CALL,) = (call for call in HAPROXY if call.netns is None)
((PATH, TEXT),) = CALL.files.items()
PID = str(CALL.pid_file)


def asked(*argv: str, netns: str | None = None, tag: str = "haproxy-host_metadata_proxy") -> StartRequest:
    return start_request(argv, netns, {"PROCESS_TAG": tag})


def refusal(*argv: str, content: str = TEXT, **request: Any) -> Denied:
    return denial(POLICY, asked(*(argv or CALL.argv), **request), {PATH.removeprefix(STATE): content.encode()})


def test_the_recorded_call_is_allowed() -> None:
    plan = decide(POLICY, asked(*CALL.argv), {PATH.removeprefix(STATE): TEXT.encode()}).plan
    assert plan.arguments == ("-f", PATH, "-db")
    assert (plan.netns, plan.host_network, plan.instance) == ("", True, "host")
    assert (plan.uid, plan.capabilities, plan.mounts) == (42435, ("NET_BIND_SERVICE",), ())
    assert plan.pid_file == PidFile(beneath=PID.removeprefix(STATE))
    (file,) = plan.configuration
    left_out = ("user ", "group ", "daemon")
    wanted = [
        " ".join(line.split()) for line in TEXT.splitlines() if line.strip() and not line.strip().startswith(left_out)
    ]
    wanted[1] = "log stdout format raw local0 info"
    assert [line.strip() for line in str(file.text).splitlines() if line] == wanted


@pytest.mark.parametrize(
    "option",
    ["-W", "-Ws", "-sf 1", "-st 1", "-C /", "-x /x", "-S /x", "-c", "-D", "-db", "-n 1", "-m 1", "-dM", "-q", "-L x"],
)
def test_no_option_but_the_files_is_allowed(option: str) -> None:
    assert refusal(*CALL.argv, *option.split()).reason is Reason.OPTION_NOT_ALLOWED


@pytest.mark.parametrize(
    ("at", "path"),
    [
        *((2, "/etc/shadow"), (2, f"{STATE}x/host_metadata_proxy.haproxy.conf"), (2, f"{STATE}../x"), (2, STATE)),
        *(
            (2, f"{PATH}\n"),
            (4, "/etc/passwd"),
            (4, PATH),
            (4, f"{STATE}a/../host_metadata_proxy.pid.haproxy"),
            (4, ""),
        ),
    ],
    ids=ascii,
)
def test_another_path_is_refused(at: int, path: str) -> None:
    assert refusal(*CALL.argv[:at], path, *CALL.argv[at + 1 :]).reason is Reason.VALUE_NOT_ALLOWED


def test_it_is_called_in_no_namespace_and_by_its_one_name() -> None:
    assert refusal(netns="qdhcp-0065347c-3513-59a1-aef3-65d693fe6e19").reason is Reason.NAMESPACE_NOT_ALLOWED
    assert refusal(netns="host").reason is Reason.NAMESPACE_NOT_ALLOWED
    assert refusal(tag="haproxy-0065347c-3513-59a1-aef3-65d693fe6e19").reason is Reason.VALUE_NOT_ALLOWED


# What runs code, reads or writes files, or exposes more of the host's network than metadata.
IN = {
    "global": {
        **{name: f"{name} /tmp/x" for name in ("lua-load", "lua-load-per-thread", "lua-prepend-path", "ssl-engine")},
        **{
            name: f"{name} /tmp/x"
            for name in ("pidfile", "chroot", "ca-base", "crt-base", "server-state-file", "setenv")
        },
        **{
            name: name for name in ("external-check", "insecure-fork-wanted", "insecure-setuid-wanted", "master-worker")
        },
        "admin socket": "stats socket /tmp/x level admin",
        "log to a file": "log /tmp/x local0",
        "log to another host": "log 192.0.2.1 local0",
        "another namespace": "unix-bind mode 777",
    },
    "frontend public": {
        "another port": "bind *:22 name clear",
        "another name": "bind *:80",
        "a socket": "bind /run/x.sock",
        "another namespace": "bind *:80 name clear namespace x",
        "a certificate": "bind *:80 name clear ssl crt /etc/x",
        "a file": "errorfile 503 /etc/shadow",
        "an answer from a file": "http-request return status 200 file /etc/shadow",
        "Lua": "http-request lua.x",
        "TCP": "mode tcp",
        "an acl from a file": "acl instance_03e5f923-3cd9-59d1-91f6-b6bdde843db2_192.0.2.10 src -f /etc/shadow",
        "an acl of another name": "acl x src 192.0.2.10",
        "a default": "default_backend x",
        "statistics for administrators": "stats admin if TRUE",
        "statistics elsewhere": "stats uri /",
        "a capture": "capture request header Cookie len 99",
        "a filter": "filter spoe engine x config /etc/x",
    },
    "backend backend_03e5f923-3cd9-59d1-91f6-b6bdde843db2_192.0.2.10": {
        "a socket": "server metasrv /run/docker.sock",
        "another name": "server x 127.0.0.1:8775",
        "another namespace": "server metasrv 127.0.0.1:8775 namespace x",
        "a check": "server metasrv 127.0.0.1:8775 check",
        "an abstract socket": "server metasrv abns@x",
        "any server": "server metasrv 0.0.0.0",
        "a descriptor": "server metasrv fd@3",
        "an external check": "external-check command /tmp/x",
        "another header": "http-request set-header Host x",
        "an expression in a header": "http-request set-header X-Tenant-ID %[env(HOME)]",
        "a file": "errorfile 503 /etc/shadow",
        "no proxy": "option http_proxy",
    },
}
CASES = {
    f"{section.split()[0]}: {name}": (section, text) for section, cases in IN.items() for name, text in cases.items()
}


@pytest.mark.parametrize(("section", "text"), CASES.values(), ids=CASES.keys())
def test_nothing_else_may_stand_in_a_section(section: str, text: str) -> None:
    assert TEXT.count(f"\n{section}\n") == 1
    content = TEXT.replace(f"\n{section}\n", f"\n{section}\n    {text}\n")
    assert refusal(content=content).reason is Reason.CONFIGURATION_NOT_ALLOWED


@pytest.mark.parametrize(
    "section",
    [
        *(
            "program x\n    command /tmp/x",
            "listen x\n    bind *:81",
            "frontend other\n    mode http",
            "peers x",
            "cache x",
        ),
        *("resolvers x\n    parse-resolv-conf", "defaults\n    mode http", "backend x\n    mode http", "userlist x"),
        *(
            "http-errors x\n    errorfile 503 /etc/shadow",
            "ring x\n    backing-file /tmp/x",
            "root:x:0:0:root:/root:/bin/sh",
        ),
    ],
    ids=ascii,
)
def test_there_is_no_other_section(section: str) -> None:
    assert refusal(content=f"{TEXT}\n{section}\n").reason is Reason.CONFIGURATION_NOT_ALLOWED
