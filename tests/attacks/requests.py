"""Attacks of one request each: what the agent writes, and the reason code of the answer.

Except for the few that break a line, all reach the host in one claim, followed by valid requests. Each differs in one
thing from a valid request, which would be answered "ok". An empty `answer` means that the line is not a request: it
gets no answer, only a record in the journal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Request = dict[str, Any]
NO_ANSWER = ""
TRACE = "@TRACE@"  # a host path; if it exists, an attacker's program ran there
NETWORK = "@NETWORK@"  # id of the agent's own network or router
HOME = f"/var/lib/neutron/dhcp/{NETWORK}"
ELSEWHERE = "0d5f9a3c-9a52-4c8a-9a0e-4b7c1a5d2e3f"  # id of another network


@dataclass(frozen=True, kw_only=True)
class Case:
    number: int
    what: str
    answer: str
    line: Callable[[Request], bytes]  # arguments of a valid request
    service: str = "dnsmasq"
    file: str = ""  # its content, in cases with a configuration file
    place: str = "proper"  # placeholder for the path of that file
    options: tuple[str, ...] = ()  # the request to a pattern without a policy
    theirs: bool = False  # also tried on the pattern


def dumped(request: Request) -> bytes:
    return json.dumps(request).encode()


def raw(number: int, what: str, change: Callable[[bytes], bytes], answer: str = NO_ANSWER) -> Case:
    """Change the line itself."""
    return Case(number=number, what=what, answer=answer, line=lambda request: change(dumped(request)))


def changed(number: int, answer: str = "bad-request", what: str = "", **changes: object) -> Case:
    """Change or add keys."""
    what = what or json.dumps(changes)
    return Case(number=number, what=what[:70], answer=answer, line=lambda request: dumped(request | changes))


def signal(number: int, name: object, pid: object, answer: str = "bad-request") -> Case:
    def line(request: Request) -> bytes:
        common = {key: request[key] for key in ("v", "id", "deadline")}
        return dumped(common | {"op": "signal", "signal": name, "pid": pid})

    return Case(number=number, what=f"signal {name} to {pid}", answer=answer, line=line)


def option(number: int, answer: str, *options: str, theirs: bool = False) -> Case:
    """Append these to dnsmasq's arguments."""

    def line(request: Request) -> bytes:
        return dumped(request | {"argv": [*request["argv"], *options]})

    what = " ".join(options)[:70]
    return Case(number=number, what=what, answer=answer, line=line, options=options, theirs=theirs)


def instead(number: int, answer: str, name: str, value: str, *more: str, theirs: bool = False) -> Case:
    """Replace the value of one of dnsmasq's options."""

    def line(request: Request) -> bytes:
        argv = [each for each in request["argv"] if not each.startswith(f"--{name}")]
        return dumped(request | {"argv": [*argv, f"--{name}={value}", *more]})

    options = (f"--{name}={value}", *more)
    return Case(number=number, what=" ".join(options)[:70], answer=answer, line=line, options=options, theirs=theirs)


def environment(number: int, answer: str, name: str, value: str = "x") -> Case:
    def line(request: Request) -> bytes:
        return dumped(request | {"env": request["env"] | {name: value}})

    return Case(number=number, what=f"{name}={value}"[:70], answer=answer, line=line)


def program(number: int, service: str, *options: str, answer: str = "option-not-allowed") -> Case:
    """Append these to the arguments of another program."""
    line = option(number, answer, *options).line
    return Case(number=number, what=f"{service} {' '.join(options)}", answer=answer, line=line, service=service)


def directive(number: int, service: str, text: str, answer: str = "configuration-not-allowed") -> Case:
    """Write a configuration file with this text. If the program always has one, append the text to a valid one."""

    def line(request: Request) -> bytes:
        if service != "dnsmasq":
            return dumped(request)
        argv = [each for each in request["argv"] if not each.startswith("--conf-file")]
        return dumped(request | {"argv": [*argv, "--conf-file=/var/lib/neutron/@CASE@"]})

    what = f"{service}: {' '.join(text.split())}"[:70]
    place = re.sub("[^a-z0-9]", "", service + text.lower())[:24] + f"{number}"
    return Case(number=number, what=what, answer=answer, line=line, service=service, file=text, place=place)


def domain(number: int, answer: str, value: str) -> Case:
    return instead(number, answer, "domain", value)


def each_of(number: int, answer: str, make: Callable[..., Case], *things: str) -> Sequence[Case]:
    return [make(number, answer, thing) for thing in things]


def put_in_first_argument(text: bytes) -> Callable[[bytes], bytes]:
    return lambda line: line.replace(b'"--no-hosts"', b'"--no-hosts' + text + b'"')


def duplicated(key: bytes) -> Callable[[bytes], bytes]:
    return lambda line: line[:-1] + b", " + key + b"}"


def longer_by(number: int) -> Callable[[bytes], bytes]:
    return lambda line: line[:-1] + b" " * number + b"}"


def with_deadline(number: bytes) -> Callable[[bytes], bytes]:
    return lambda line: re.sub(rb'"deadline": \d+', b'"deadline": ' + number, line)


PARSING: tuple[Case, ...] = (
    raw(29, "a byte that UTF-8 has not", put_in_first_argument(b"\xff")),
    raw(29, "an overlong slash", put_in_first_argument(b"\xc0\xaf")),
    raw(29, "a surrogate in UTF-8", put_in_first_argument(b"\xed\xa0\x80")),
    raw(30, "NUL itself", put_in_first_argument(b"\0")),
    raw(30, "NUL escaped", put_in_first_argument(rb"\u0000"), "bad-request"),
    raw(31, "LF escaped", put_in_first_argument(rb"\n--dhcp-script=/x"), "bad-request"),
    raw(31, "CR LF escaped", put_in_first_argument(rb"\r\n"), "bad-request"),
    raw(31, "escape", put_in_first_argument(rb"\u001b[2J"), "bad-request"),
    raw(31, "right-to-left override", put_in_first_argument(rb"\u202e"), "bad-request"),
    raw(31, "CR itself", put_in_first_argument(b"\r")),
    raw(32, "U+2028", put_in_first_argument("\u2028".encode()), "bad-request"),
    raw(32, "U+0085", put_in_first_argument("\x85".encode()), "bad-request"),
    raw(32, "a vertical tab", put_in_first_argument(rb"\u000b"), "bad-request"),
    raw(32, "a request behind U+2028", lambda line: b"x" + "\u2028".encode() + line),
    raw(32, "a request behind a form feed", lambda line: b"x\x0c" + line),
    raw(33, "70,000 bytes", put_in_first_argument(b"x" * 70_000), "bad-request"),
    raw(33, "600,000 bytes", put_in_first_argument(b"x" * 600_000)),
    raw(34, "30,000 lists", lambda line: b"[" * 30_000),
    raw(34, "10,000 objects", lambda line: b'{"a":' * 10_000),
    raw(34, "lists in an argument", lambda line: line.replace(b'"--no-hosts"', b"[" * 9000 + b"]" * 9000)),
    raw(35, "op twice", duplicated(b'"op": "start"')),
    raw(35, "argv twice", duplicated(b'"argv": ["dnsmasq"]')),
    raw(35, "id twice", duplicated(b'"id": "00000000000000000000000000000000"')),
    raw(35, "a variable twice", lambda line: line.replace(b'"env": {', b'"env": {"PROCESS_TAG": "x", ')),
    raw(36, "NaN", with_deadline(b"NaN")),
    raw(36, "1e999", with_deadline(b"1e999")),
    raw(36, "-Infinity", with_deadline(b"-Infinity")),
    raw(36, "1.0", with_deadline(b"1.0")),
    raw(37, "5,000 digits", with_deadline(b"9" * 5000)),
    raw(37, "20 digits", with_deadline(b"9" * 20)),
    raw(38, "half a pair", put_in_first_argument(rb"\ud800"), "bad-request"),
    raw(38, "the other half", put_in_first_argument(rb"\udfff"), "bad-request"),
    changed(39, NO_ANSWER, id="\uff11" * 32),
    changed(39, "program-not-allowed", argv=["\uff44nsmasq"]),
    changed(39, "namespace-not-allowed", netns=f"qdhcp-{ELSEWHERE}".replace("0", "\u0660")),
    instead(39, "value-not-allowed", "dhcp-lease-max", "\uff12\uff15\uff16"),
    instead(39, "value-not-allowed", "dhcp-lease-max", "\u0662\u0665\u0666"),
    changed(40, v=True),
    changed(40, v="1"),
    changed(40, argv="dnsmasq --no-hosts"),
    changed(40, argv=[1]),
    changed(40, argv=[]),
    changed(40, argv=None),
    changed(40, netns=5),
    changed(40, env=[]),
    changed(40, env={"PROCESS_TAG": 1}),
    changed(40, op="exec"),
    changed(40, op=["start"]),
    changed(40, deadline="soon"),
    changed(40, deadline=True),
    changed(40, deadline=-1),
    changed(40, deadline=2**61),
    changed(40, service="another"),
    changed(40, signal="KILL"),
    raw(40, "null", lambda line: b"null"),
    raw(40, "a list", lambda line: b"[" + line + b"]"),
    raw(40, "a string", lambda line: json.dumps(line.decode()).encode()),
    raw(40, "nothing in it", lambda line: b"{}"),
    *(instead(43, "value-not-allowed", "domain", each, theirs=True) for each in ("/*", "x /*", "'a b'")),
    *each_of(43, "value-not-allowed", domain, '"x"', f"$(touch {TRACE})", f"`touch {TRACE}`", f"x; touch {TRACE}",
             f"x|touch {TRACE}", f"x&touch {TRACE}"),
    instead(44, "value-not-allowed", "domain", "x/e;s/.*/id/e"),
    instead(44, "value-not-allowed", "domain", f"x/w {TRACE}", theirs=True),
    instead(44, "value-not-allowed", "domain", f'x" | "touch {TRACE}'),
)  # fmt: skip

INJECTION: tuple[Case, ...] = (
    changed(45, netns=f"qdhcp-{ELSEWHERE}\nExecStartPost=/bin/touch {TRACE}"),
    option(45, "bad-request", f"--domain=x\nExecStartPost=/bin/touch {TRACE}"),
    *each_of(46, "value-not-allowed", domain, "$HOME", "${PATH}", "$$"),
    *each_of(47, "value-not-allowed", domain, "%h", "%H.example", "%%"),
    *(changed(48, "program-not-allowed", argv=[f"{each}dnsmasq"]) for each in ("+", "!", "!!", "-", "@", ":", "|")),
    changed(48, "program-not-allowed", argv=["/bin/sh", "-c", f"touch {TRACE}"]),
    instead(49, "value-conflict", "dhcp-hostsfile", f"/var/lib/neutron/dh cp/{NETWORK}/host"),
    instead(49, "value-not-allowed", "dhcp-hostsfile", f"/var/lib/neutron/dhcp:rw/{NETWORK}/host"),
    instead(50, "value-not-allowed", "dhcp-hostsfile", f"/var/lib/neutron/dhcp,dst=/etc/{NETWORK}/host"),
    instead(50, "value-not-allowed", "dhcp-leasefile", f"{HOME},rw/leases"),
    environment(51, "environment-not-allowed", "HOME", ""),
    environment(51, "environment-not-allowed", "PROCESS_TAG=x", ""),
    environment(51, "environment-not-allowed", "", ""),
    environment(51, "environment-not-allowed", "PROCESS*", ""),
    changed(52, image="dir:/etc"),
    changed(52, "program-not-allowed", argv=["--privileged"]),
    changed(52, "program-not-allowed", argv=["dir:/etc"]),
    changed(52, "namespace-not-allowed", netns="--privileged"),
    changed(52, "namespace-not-allowed", netns="host"),
    changed(53, "namespace-not-allowed", netns=f"qdhcp-../../{ELSEWHERE}"),
    changed(53, "namespace-not-allowed", netns="../qdhcp-x"),
    changed(53, name="../../etc/x"),
    changed(54, "namespace-not-allowed", netns="qdhcp-.*"),
    changed(54, "namespace-not-allowed", netns=f"qdhcp-{ELSEWHERE}|"),
    changed(55, labels={"io.podman.annotations.privileged": "TRUE"}),
    changed(55, annotations={"run.oci.keep_original_groups": "1"}),
    environment(55, "environment-not-allowed", "io.podman.annotations.seccomp", "unconfined"),
    *each_of(56, "environment-not-allowed", environment, "LD_PRELOAD", "LD_LIBRARY_PATH", "GCONV_PATH", "PYTHONPATH",
             "TMPDIR", "BASH_ENV", "NOTIFY_SOCKET", "INVOCATION_ID", "PATH", "CONTAINERS_CONF"),
    changed(57, cwd="/etc"),
    changed(57, root="/"),
    *each_of(58, "option-unknown", lambda n, a, t: option(n, a, t, theirs=t.startswith("--addn-h")),
             f"--conf-scr=/bin/touch {TRACE}", "--log-fac=/x", "--pid-f=/x", "--addn-h=/etc/passwd", "--tftp-ro=/",
             "--dhcp-hostsf=/x", "--no-such-option", "-%"),
    *each_of(58, "option-unknown", option, "-6/x", "-C/x", "-7/x", "-8/x", "-x/x", "-kd", "-hR"),
    instead(59, "value-not-allowed", "domain", "--dhcp-script=/x"),
    option(59, "value-not-allowed", "--interface", "--dhcp-script=/x"),
    option(59, "value-not-allowed", "--server", "-6"),
    *each_of(60, "positional-not-allowed", option, "--", "-", "file", "\u2010\u2010x"),
    option(60, "positional-not-allowed", "--", "--dhcp-script=/x"),
    changed(61, what="100,000 arguments", argv=["dnsmasq", *["x"] * 100_000]),
    changed(61, what="1,025 arguments", argv=["dnsmasq"] * 1025),
    option(62, "option-repeated", "--pid-file=/x", theirs=True),
    option(62, "option-repeated", f"--dhcp-leasefile=/var/lib/neutron/dhcp/{ELSEWHERE}/leases"),
    option(62, "option-repeated", "--conf-file=/dev/null"),
)  # fmt: skip

STANDARD_DNSMASQ = (
    f"--dhcp-script={TRACE}", "--dhcp-luascript=/x", f"--conf-script=/bin/touch {TRACE}", "--conf-dir=/etc",
    "--servers-file=/etc/shadow", "--hostsdir=/etc", "--dhcp-hostsdir=/etc", "--dhcp-optsdir=/etc", "--read-ethers",
    "--resolv-file=/etc/shadow", "--enable-tftp", "--tftp-root=/", "--dumpfile=/etc/cron.d/x",
    "--dnssec-timestamp=/etc/x", "--user=root", "--group=root", "--dhcp-scriptuser=root", "--enable-dbus",
    "--enable-ubus", "--ipset=/x/y", "--nftset=/x/y", "--script-arp", "--no-daemon", "--test", "--keep-in-foreground",
)  # fmt: skip

DNSMASQ: tuple[Case, ...] = (
    *each_of(64, "option-not-allowed", option, *STANDARD_DNSMASQ),
    *(option(64, "option-not-allowed", *each) for each in (
        ("-6", "/bin/sh"), ("-7", "/etc"), ("-r", "/etc/shadow"), ("-Z",), ("-u", "root"), ("-g", "root"),
    )),
    *(option(64, "option-repeated", each, "/etc/shadow") for each in ("-C", "-H", "-x", "-l")),
    option(64, "value-not-allowed", "-8", "/etc/cron.d/x"),
    *(instead(64, "value-not-allowed", each, "/etc/shadow") for each in (
        "addn-hosts", "dhcp-hostsfile", "dhcp-optsfile", "dhcp-leasefile", "pid-file", "log-facility", "conf-file",
    )),
    *(directive(65, "dnsmasq", f"{each.removeprefix('--')}\n") for each in STANDARD_DNSMASQ),
    *(directive(65, "dnsmasq", f"{each}\n") for each in (
        "conf-file=/etc/shadow", "log-async=20\nconf-file=/var/lib/neutron/other", "log-facility=/etc/cron.d/x",
        "addn-hosts=/etc/shadow", "dhcp-leasefile=/etc/cron.d/x", "pid-file=/etc/cron.d/x",
    )),
    directive(65, "dnsmasq", f"#{'x' * 1024}dhcp-script=/x\n"),
    directive(65, "dnsmasq", "log-async=20\rdhcp-script=/x\n"),
    directive(65, "dnsmasq", "dhcp-option=3,10.0.0.1 dhcp-script=/x\n"),
    directive(65, "dnsmasq", "\u2028dhcp-script=/x\n"),
)  # fmt: skip

HAPROXY: tuple[Case, ...] = (
    *(program(66, "haproxy", *each) for each in (
        ("-W",), ("-Ws",), ("-C", "/"), ("-p", "/etc/cron.d/x"), ("-x", "/run/x"), ("-S", "/run/x"),
        ("-sf", "1"), ("-st", "1"), ("-c",), ("-D",), ("-L", "x"), ("-m", "1"),
    )),
    program(66, "haproxy", "-f", "/etc", answer="option-repeated"),
    program(66, "haproxy", "--", "/etc/shadow", answer="positional-not-allowed"),
    *(directive(67, "haproxy", text) for each in (
        "external-check", "lua-load /x.lua", "lua-load-per-thread /x.lua", "lua-prepend-path /x", "ssl-engine x",
        "insecure-fork-wanted", "insecure-setuid-wanted", "setenv LD_PRELOAD /x", "presetenv X y", "module-load x",
    ) for text in [f"global\n    {each}\n"]),
    directive(67, "haproxy", "program evil\n    command /bin/sh\n"),
    directive(67, "haproxy", "listen listener\n    option external-check\n"),
    directive(67, "haproxy", "listen listener\n    external-check command /bin/sh\n"),
    directive(67, "haproxy", "listen listener\n    http-request lua.evil\n"),
    *(directive(68, "haproxy", f"listen listener\n    {each}\n") for each in (
        "errorfile 503 /etc/shadow", "http-request return status 200 file /etc/shadow", "acl a src -f /etc/shadow",
        "use_backend %[src,map(/etc/shadow)]", "bind :::9698 ssl crt /etc/shadow", "load-server-state-from-file global",
        "server metadata 10.0.0.1:80", "server metadata /run/dbus/system_bus_socket",
        "server metadata 10.0.0.1:80 namespace qrouter-other", "bind :::9698 namespace qrouter-other",
        "bind /etc/cron.d/x", "log /etc/cron.d/x local0", "http-request set-header X-Neutron-Router-ID " + ELSEWHERE,
    )),
    *(directive(68, "haproxy", f"global\n    {each}\n") for each in (
        "pidfile /etc/cron.d/x", "stats socket /run/x level admin", "server-state-file /etc/shadow", "ca-base /etc",
        "chroot /", "localpeer x", "ssl-default-bind-ciphers x",
    )),
    directive(68, "haproxy", "peers x\n    peer y 10.0.0.1:1\n"),
    directive(68, "haproxy", "userlist x\n    user y insecure-password z\n"),
    directive(68, "haproxy", "cache x\n    total-max-size 4095\n"),
)  # fmt: skip

KEEPALIVED: tuple[Case, ...] = (
    *(program(69, "keepalived", *each) for each in (
        ("-M",), ("--core-dump-pattern=|/x",), ("--core-dump",), ("-c", "/x"), ("-b", "/x"), ("-A", "/x"),
        ("-s", "host"), ("-u", "/x"), ("-i", "x"), ("--checkers_pid=/x",), ("--bfd_pid=/x",), ("--log-file=/x",),
    )),
    program(69, "keepalived", "-g", "/x", answer="positional-not-allowed"),
    program(69, "keepalived", "-p", "/etc/cron.d/x", answer="option-repeated"),
    program(69, "keepalived", "-r", "/etc/cron.d/x", answer="option-repeated"),
    *(directive(70, "keepalived", text) for text in (
        "global_defs {\n    startup_script /x\n}\n", "global_defs {\n    shutdown_script /x\n}\n",
        "global_defs {\n    script_user root\n}\n", "global_defs {\n    tmp_config_directory /etc\n}\n",
        "global_defs {\n    config_save_dir /etc\n}\n", "global_defs {\n    reload_file /etc/shadow\n}\n",
        "global_defs {\n    reload_time_file /etc/shadow\n}\n", "global_defs {\n    smtp_server 10.0.0.1\n}\n",
        "net_namespace host\n", "include /etc/shadow\n", "includem /etc/*\n", "includer /etc/shadow\n",
        "vrrp_script evil {\n    script /x\n}\n", "track_file evil {\n    file /etc/shadow\n}\n",
        "vrrp_track_file evil {\n    file /etc/shadow\n}\n",
        "vrrp_instance VR_8 {\n    notify /x\n}\n", "vrrp_instance VR_8 {\n    notify_master /x\n}\n",
        "vrrp_instance VR_8 {\n    notify_fifo /x\n}\n",
        "vrrp_instance VR_8 {\n    track_script {\n        evil\n    }\n}\n",
        "virtual_server 10.0.0.1 80 {\n    quorum_up /x\n}\n",
        "virtual_server 10.0.0.1 80 {\n    real_server 10.0.0.2 80 {\n        MISC_CHECK {\n misc_path /x\n}\n}\n}\n",
        "$EVIL=include\n$EVIL /etc/shadow\n", "@host include /etc/shadow\n",
    )),
)  # fmt: skip

RADVD: tuple[Case, ...] = (
    *(program(71, "radvd", *each) for each in (("-l", "/etc/cron.d/x"), ("-t", "/"), ("-d", "5"), ("-n",))),
    program(71, "radvd", "-f", "x", answer="option-unknown"),
    program(71, "radvd", "-C", "/etc/shadow", answer="option-repeated"),
    program(71, "radvd", "-p", "/etc/cron.d/x", answer="option-repeated"),
    program(71, "radvd", "-u", "root", answer="option-repeated"),
    directive(71, "radvd", "interface eth0 {\n    RASrcAddress { fe80::1; };\n};\n"),
    directive(71, "radvd", "include /etc/shadow;\n"),
)  # fmt: skip

DIBBLER: tuple[Case, ...] = (
    *(program(72, "dibbler-client", word, answer="positional-not-allowed")
      for word in ("run", "stop", "status", "install", "uninstall", "help", "start")),
    program(72, "dibbler-client", "-w", "/etc", answer="option-repeated"),
    program(72, "dibbler-client", "-W", "/etc", answer="option-unknown"),
    *(directive(72, "dibbler-client", text) for text in (
        'script "/bin/sh"\n', f'script "/var/lib/neutron/pd/{ELSEWHERE}/notify.sh"\n', "log-mode full\n",
        'log-name "x"\n', 'work-dir "/etc"\n', "experimental\n", "strict-rfc-no-routing\n", "inactive-mode\n",
        'iface "eth0" {\n    script "/bin/sh"\n}\n', 'include "/etc/shadow"\n',
    )),
)  # fmt: skip

OTHERS: tuple[Case, ...] = (
    directive(74, "dnsmasq", "root:$6$salt$hash:19000:0:99999:7:::\n"),
    option(75, "option-not-allowed", "--test", "--conf-file=/var/lib/neutron/x"),
    program(75, "haproxy", "-c", "-f", "/var/lib/neutron/x"),
    changed(76, "namespace-not-allowed", netns="../../proc/1/ns/net"),
    changed(76, "namespace-not-allowed", netns="/proc/1/ns/net"),
    changed(76, "namespace-not-allowed", netns=f"qdhcp-{ELSEWHERE}/../x"),
    changed(76, "namespace-not-allowed", netns="."),
    changed(76, "namespace-not-allowed", netns=""),
    changed(76, "namespace-not-allowed", netns=None),
    changed(76, netns="x" * 65),
    *(signal(88, "HUP", pid) for pid in (-1, 0, 1, "self", 2**40, 2**22 + 1, None, 7.0 and "7", [7], True)),
    *(signal(90, name, 4711) for name in ("STOP", "SEGV", "RTMIN", "hup", "SIGHUP", "", 9, None, "HUP\n", "KILL ")),
    signal(90, "USR1", 4711, "signal-not-allowed"),
    signal(90, "USR2", 4711, "signal-not-allowed"),
    changed(116, v=0),
    changed(116, v=2),
    changed(116, NO_ANSWER, what="an id in capitals", id="AB" * 16),
    changed(117, NO_ANSWER, id="../../x"),
    changed(117, NO_ANSWER, id="../replies/" + "a" * 21),
    changed(117, NO_ANSWER, id="a" * 33),
    changed(117, NO_ANSWER, id=None),
    changed(121, "program-not-allowed", argv=["<0>kernel: forged"]),
    changed(121, argv=["\x1b[2J\x1b[31mforged"]),
    changed(121, argv=["x\nSIDESPAWN_EVENT=started"]),
    changed(121, netns="\n<0>forged"),
    changed(121, NO_ANSWER, id="\x1b[2J"),
    instead(122, "value-not-allowed", "domain", "a" * 30_000 + "!"),
    instead(122, "value-not-allowed", "domain", "a-" * 15_000),
    instead(122, "value-not-allowed", "dhcp-range", "set:" + "a" * 20_000 + "," + "1." * 9000),
    instead(122, "value-not-allowed", "txt-record", "a." * 14_000 + ",\u00e9"),
    changed(123, netns=f"qdhcp-{ELSEWHERE}\n"),
    environment(123, "bad-request", "PROCESS_TAG", f"dnsmasq-{NETWORK}\n"),
    option(123, "bad-request", "--log-dhcp\n"),
    instead(123, "bad-request", "dhcp-lease-max", "256\n"),
    instead(124, "value-not-allowed", "dhcp-hostsfile", f"/var/lib/neutron/dhcp/../dhcp/{NETWORK}/host"),
    instead(124, "value-not-allowed", "dhcp-hostsfile", f"/var/lib/neutron-evil/dhcp/{NETWORK}/host"),
    instead(124, "value-not-allowed", "dhcp-hostsfile", f"/var/lib/neutronevil/{NETWORK}/host"),
    instead(124, "value-not-allowed", "dhcp-hostsfile", f"/var/lib/neutron/dhcp/{NETWORK}evil/host"),
    instead(124, "value-not-allowed", "dhcp-hostsfile", f"/var/lib/neutron/./dhcp/{NETWORK}/host"),
    instead(124, "value-not-allowed", "dhcp-hostsfile", f"/var/lib/neutron//dhcp/{NETWORK}/host"),
    instead(124, "value-conflict", "dhcp-hostsfile", f"/var/lib/neutron/dhcp/{ELSEWHERE}/host"),
)  # fmt: skip

GROWN: tuple[Case, ...] = (
    *(directive(176, "dnsmasq", f"ra-param={each}\n") for each in (
        "eth0,mtu:../../../../../var/lib/neutron/x,60", "eth0,mtu:/etc,60", "*,mtu:eth0/..,60", "*,high,../x",
        "../../x,60", "eth0,mtu:a:b,60",
    )),
    *(directive(177, "dnsmasq", f"{each}\n") for each in (
        'dhcp-option=6,"a" dhcp-script=/x', 'dhcp-option=6,"a\\"b"', 'dhcp-option=6,"a', 'dhcp-option=6,"a"b"',
        'dhcp-option=6,"a\\nconf-file=/etc/shadow"', 'dhcp-boot=\'a\',"b"', 'txt-record=x,"a"\tb', 'domain="x"',
    )),
    *(directive(178, "dnsmasq", f"{each}\n") for each in (
        "dhcp-option=6,a#\tb", "dhcp-option=6,#a", 'dhcp-option=6,"a # \nconf-file=/etc/shadow', "log-async=20#",
        'log-dhcp "#" \nconf-file=/etc/shadow', "server=/x/10.0.0.1#dhcp-script", "# a\rdhcp-script=/x", "#\x01",
    )),
    *(directive(179, "dnsmasq", f"{each}\n") for each in (
        "conf-file = /etc/shadow", "dhcp-script\t=\t/bin/sh", "dhcp-option = 6 , a b", "= conf-file=/etc/shadow",
        "conf-file", "-- conf-file=/etc/shadow", "--conf-file=/etc/shadow",
        "no-hosts conf-file=/etc/shadow", "server = 10.0.0.1 @eth0",
    )),
    *(directive(180, "dnsmasq", f"dhcp-option={each}\n") for each in (
        "6," + ",".join(["a"] * 66), "6,,a", "6,a,", "6,-a", "6,=a", "6,a,#b", "6,~", "6,(", "6,a;b", "6,a|b", "6,$a",
        "6,`a`",
    )),
    *(directive(181, "dnsmasq", f"log-facility={each}\n") for each in (
        "/var/log/../../etc/cron.d/x", "/etc/cron.d/x", "/var/log/a/b/c/d", "/var/log/", "/var/logs/x", "/var/log/.x",
        "local0 /etc/x", "-x",
    )),
    *(option(182, "value-not-allowed", f"--server={each}") for each in (
        "10.0.0.1@eth0", "10.0.0.1#53@10.0.0.2", "/x/10.0.0.1@lo", "//", "/x/#", "fe80::1%../x", "fe80::1%",
        "10.0.0.1#0", "10.0.0.1#99999", "/x/y/", "/-x/10.0.0.1", "#",
    )),
    *(directive(182, "dnsmasq", f"{each}\n") for each in (
        "server=10.0.0.1@eth0", "server=10.0.0.1#53@10.0.0.2", "local=/x/10.0.0.1@lo",
        "rev-server=10.0.0.0/8,10.0.0.1@lo",
        "address=/x/10.0.0.1,10.0.0.2", "server=fe80::1%eth0",
    )),
    *(instead(183, "value-not-allowed", "conf-file", f"/etc/{each}") for each in (
        "neutron/../shadow", "neutron-evil/dnsmasq.conf", "neutron/neutron.conf", "neutron/dnsmasq.d/../neutron.conf",
        "neutron/dnsmasq.d/.x", "neutron", "neutron/", "neutron/dnsmasq-a/b", "neutron/dnsmasq.",
        "neutron//dnsmasq.conf",
        "dnsmasq.conf", "neutron/dnsmasq.d/a,b", "neutron/dnsmasq-a:b",
    )),
    *(instead(184, "value-not-allowed", "log-facility", each) for each in (
        f"/etc/neutron/{NETWORK}/dhcp_dns_log", f"/var/log/kolla/{NETWORK}/dhcp_dns_log",
        f"/var/log/{NETWORK}/dhcp_dns_log",
        f"/var/log/neutron/../{NETWORK}/dhcp_dns_log", f"/var/log/neutron/{NETWORK}/other",
        "/var/log/neutron/dhcp_dns_log",
        f"/var/log/kolla/neutron/a/b/{NETWORK}/dhcp_dns_log", f"/run/neutron/{NETWORK}/dhcp_dns_log",
    )),
    instead(184, "value-conflict", "log-facility", f"/var/log/neutron/{ELSEWHERE}/dhcp_dns_log"),
    *(directive(188, "keepalived", f"vrrp_instance VR_8 {{\n authentication {{\n auth_pass {each}\n }}\n}}\n")
      for each in (
        "a b", "a}\n}\nnotify /x\n{{", '"a', "a$_PWD", "$_HOSTNAME", "a\\", "a\x01", "a\u00e9", "a " + "b" * 300,
        "b" * 256,
        "x } notify /x",
    )),
    *(changed(190, answer, netns=netns) for answer, netns in (
        ("namespace-not-allowed", f"snat-{NETWORK}"), ("namespace-not-allowed", f"qrouter-{NETWORK}"),
    )),
    *(directive(192, "haproxy", f"global\n    {each}\n") for each in (
        "user root daemon", "user $(id)", "user root$$", "user $", "user a$b", 'user "root"', "user root\\x",
        "group x$",
        "group domain users", "uid 0", "gid 0", "user {x", "user @root",
    )),
    *(directive(193, "haproxy", f"listen listener\n    server metadata {each}\n") for each in (
        "/run/neutron/../dbus/x", "/run/neutron/a/b/c", "abns@x", "unix@/run/neutron/x", "/run/neutron/x,y", "fd@3",
        "/run/neutron-evil/x", "/run/neutron/.x", "/run/neutron", "/run/agent/x", "/run/neutron/x check",
        "/run/neutron/x@y",
        "/run/neutron/x send-proxy", "/run/neutron/a\\ b",
    )),
    *(directive(194, "haproxy", f"listen listener\n    bind {each}\n") for each in (
        "fe80::1:80 interface eth0 ssl crt /etc/shadow", "fe80::1:80,:::81", "10.0.0.1:80-90",
        "[fe80::1]:80 interface a b",
        "fe80::1:80 interface ../x", "fe80::1%lo:80", "fe80::1:0", "[fe80::1:80", "fe80::1]:80", "unix@/etc/x:80",
        "fd@0:80",
        "*:80", "fe80::1:80 namespace x", "::1:80 accept-proxy",
    )),
    *(raw(195, f"{each:,} more bytes", longer_by(each), "bad-request") for each in (65_536, 200_000, 500_000)),
    changed(195, what="1,025 arguments in a long line", argv=["dnsmasq", *["--log-dhcp" + "x" * 90] * 1024]),
)  # fmt: skip

CASES = (*PARSING, *INJECTION, *DNSMASQ, *HAPROXY, *KEEPALIVED, *RADVD, *DIBBLER, *OTHERS, *GROWN)
