"""The shipped policy for Neutron's DHCP agent allows all that Neutron asks of dnsmasq, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from sidespawn.core.decide import check_signal
from sidespawn.core.options import Takes
from sidespawn.core.policy import Policy
from sidespawn.core.wire import SIGNALS, SignalRequest, StartRequest
from sidespawn.errors import Denied, Reason
from tests.data.corpus import DAEMONS, KILLS, PROBES, Call
from tests.unit.shipped import request_of
from tests.unit.small import decide, denial

PLAIN = next(call for call in DAEMONS if str(call) == "plain")
EVERYTHING = next(call for call in DAEMONS if str(call) == "everything")
SEGMENT = next(call for call in DAEMONS if str(call) == "segment 101")
NET = str(PLAIN.netns).removeprefix("qdhcp-")
OTHER = str(EVERYTHING.netns).removeprefix("qdhcp-")
HOME = f"/var/lib/neutron/dhcp/{NET}"
EVIL = "/tmp/evil"

# What the policy adds to every call, and to calls without logging options.
ALWAYS = ("--keep-in-foreground", "--pid-file=/run/dnsmasq/pid")
UNLESS_GIVEN = "--log-facility=-"


def without(call: Call, option: str) -> tuple[str, ...]:
    return tuple(each for each in call.argv if not re.match(rf"--{option}(=|$)", each))


def plain(*arguments: str, instead_of: str = "") -> StartRequest:
    """Return the plainest recorded call with more arguments; one of them may replace an argument that it had."""
    kept = without(PLAIN, instead_of) if instead_of else PLAIN.argv
    return replace(request_of(PLAIN), untrusted_argv=(*kept, *arguments))


def refusal(policy: Policy, untrusted_request: StartRequest) -> Denied:
    found = denial(policy, untrusted_request)
    assert found.message.isprintable()
    assert found.rule.startswith("neutron-dhcp-dnsmasq.toml:") or found.rule == ""
    return found


# ---------------------------------------------------------------- what Neutron asks for


def test_all_recorded_calls_are_here() -> None:
    assert (len(DAEMONS), len(PROBES), len(KILLS)) == (31, 2, 49)


@pytest.mark.parametrize("call", DAEMONS, ids=str)
def test_a_recorded_call_reaches_dnsmasq_as_it_was_made(neutron_dhcp: Policy, call: Call) -> None:
    """Check that dnsmasq gets the same options and values, in the same number and order, as `--name=value`.

    There are three differences: dnsmasq does not get the agent's pid file (the host writes it), an empty argument
    is dropped (dnsmasq ignores it), and the policy's own arguments follow.
    """
    passed_on = tuple(each for each in without(call, "pid-file")[1:] if each.strip())
    logs = any(each.startswith("--log-facility=") for each in passed_on)
    added = ALWAYS if logs else (*ALWAYS, UNLESS_GIVEN)
    assert decide(neutron_dhcp, request_of(call)).plan.arguments == (*passed_on, *added)


@pytest.mark.parametrize("call", DAEMONS, ids=str)
def test_a_recorded_call_gets_its_own_directories_and_its_pid_file(neutron_dhcp: Policy, call: Call) -> None:
    plan = decide(neutron_dhcp, request_of(call)).plan
    assert plan.pid_file is not None
    assert f"/var/lib/neutron/{plan.pid_file.beneath}" == call.pid_file
    writable = {each.path for each in plan.mounts}
    written = {path.rpartition("/")[0] for path in call.files if not path.endswith("dnsmasq-neutron.conf")}
    assert writable == written
    assert [f"/var/lib/neutron/{each.beneath}" for each in plan.mounts] == [each.path for each in plan.mounts]


@pytest.mark.parametrize("call", DAEMONS, ids=str)
def test_a_recorded_calls_configuration_file_passes_its_rules(neutron_dhcp: Policy, call: Call) -> None:
    allowed = decide(neutron_dhcp, request_of(call), call.beneath)
    named = [each.removeprefix("--conf-file=") for each in call.argv if each.startswith("--conf-file=/var/")]
    assert [each.path for each in allowed.plan.configuration] == named
    assert [each.text for each in allowed.plan.configuration] == [call.files[path] for path in named]


@pytest.mark.parametrize("call", DAEMONS, ids=str)
def test_a_recorded_call_keeps_its_tag_by_which_neutron_finds_the_process(neutron_dhcp: Policy, call: Call) -> None:
    assert dict(decide(neutron_dhcp, request_of(call)).plan.environment) == call.env


def test_every_recorded_call_is_an_instance_of_its_own(neutron_dhcp: Policy) -> None:
    names = [decide(neutron_dhcp, request_of(call)).plan.name for call in DAEMONS]
    assert len(set(names)) == len(DAEMONS)


def test_a_segment_is_an_instance_beside_its_network(neutron_dhcp: Policy) -> None:
    assert decide(neutron_dhcp, request_of(SEGMENT)).plan.instance == f"{SEGMENT.netns}-101"


@pytest.mark.parametrize("call", [each for each in PROBES if each.program == "dnsmasq"], ids=str)
def test_a_probe_is_answered_in_the_agent(neutron_dhcp: Policy, call: Call) -> None:
    assert call.argv[1:] in neutron_dhcp.agent.local


@pytest.mark.parametrize("signal", SIGNALS)
def test_signals(neutron_dhcp: Policy, signal: str) -> None:
    asked = SignalRequest(id="0" * 32, deadline=0, signal=signal, pid=4711)
    if signal in ("HUP", "TERM", "KILL"):
        check_signal(neutron_dhcp, asked)
    else:
        with pytest.raises(Denied, match="is not allowed"):
            check_signal(neutron_dhcp, asked)


# ---------------------------------------------------------------- what else dnsmasq could do

# Name, letter, and whether it takes a value: (V)alue, (O)ptional, (N)one.
DANGEROUS = {
    "runs programs": [("dhcp-script", "6", "V"), ("dhcp-luascript", "", "V"), ("conf-script", "", "V")],
    "says when scripts run": [("script-arp", "", "N"), ("script-on-renewal", "", "N")],
    "reads configuration": [("conf-file", "C", "O"), ("conf-dir", "7", "V"), ("servers-file", "", "V")],
    "reads files": [
        ("addn-hosts", "H", "V"),
        ("hostsdir", "", "V"),
        ("resolv-file", "r", "O"),
        ("dhcp-hostsfile", "", "V"),
        ("dhcp-optsfile", "", "V"),
        ("dhcp-hostsdir", "", "V"),
        ("dhcp-optsdir", "", "V"),
        ("read-ethers", "Z", "N"),
        ("tftp-root", "", "V"),
        ("enable-tftp", "", "O"),
    ],
    "writes files": [
        ("log-facility", "8", "V"),
        ("pid-file", "x", "O"),
        ("dhcp-leasefile", "l", "O"),
        ("dumpfile", "", "V"),
        ("dnssec-timestamp", "", "V"),
    ],
    "changes identity": [
        ("user", "u", "O"),
        ("group", "g", "O"),
        ("dhcp-scriptuser", "", "V"),
        ("no-daemon", "d", "N"),
    ],
    "reaches further": [
        ("enable-dbus", "1", "O"),
        ("enable-ubus", "", "O"),
        ("ipset", "", "V"),
        ("nftset", "", "V"),
        ("conntrack", "", "N"),
    ],
}
# Allowed with the values that belong to the request's own network.
WITH_OWN_VALUES = {
    "conf-file",
    "addn-hosts",
    "dhcp-hostsfile",
    "dhcp-optsfile",
    "log-facility",
    "pid-file",
    "dhcp-leasefile",
}


def dangerous_forms() -> list[tuple[str, list[str], str, Reason]]:
    """Yield each dangerous option in each form that getopt_long(3) would take, and the reason for its refusal."""
    forms = []
    for name, letter, takes in (each for group in DANGEROUS.values() for each in group):
        direct = Reason.VALUE_NOT_ALLOWED if name in WITH_OWN_VALUES else Reason.OPTION_NOT_ALLOWED
        apart = Reason.POSITIONAL_NOT_ALLOWED if takes == "O" else direct
        if takes == "N":
            forms += [
                ("long", [f"--{name}"], name, direct),
                ("abbreviated", [f"--{name[:-1]}"], name, Reason.OPTION_UNKNOWN),
            ]
            forms += [("short", [f"-{letter}"], name, direct)] if letter else []
            forms += [("bundled", [f"-k{letter}"], name, Reason.OPTION_UNKNOWN)] if letter else []
            continue
        forms += [
            ("long", [f"--{name}={EVIL}"], name, direct),
            ("apart", [f"--{name}", EVIL], name, apart),
            ("abbreviated", [f"--{name[:-1]}={EVIL}"], name, Reason.OPTION_UNKNOWN),
            ("abbreviated apart", [f"--{name[:-1]}", EVIL], name, Reason.OPTION_UNKNOWN),
        ]
        if letter:
            forms += [
                ("short apart", [f"-{letter}", EVIL], name, apart if letter in "q1" else direct),
                ("short glued", [f"-{letter}{EVIL}"], name, Reason.OPTION_UNKNOWN),
                ("short with =", [f"-{letter}={EVIL}"], name, Reason.OPTION_MALFORMED),
                ("bundled", [f"-k{letter}{EVIL}"], name, Reason.OPTION_UNKNOWN),
            ]
    return forms


FORMS = dangerous_forms()


@pytest.mark.parametrize(
    ("arguments", "name", "reason"), [case[1:] for case in FORMS], ids=[f"{name}-{form}" for form, _, name, _ in FORMS]
)
def test_refused_in_every_form(neutron_dhcp: Policy, arguments: list[str], name: str, reason: Reason) -> None:
    assert refusal(neutron_dhcp, plain(*arguments, instead_of=name)).reason is reason


@pytest.mark.parametrize(("name", "takes"), [(name, takes) for group in DANGEROUS.values() for name, _, takes in group])
def test_dangerous_options_are_marked(neutron_dhcp: Policy, name: str, takes: str) -> None:
    option = neutron_dhcp.table.options[name]
    assert option.danger
    assert option.takes is {"V": Takes.VALUE, "O": Takes.OPTIONAL, "N": Takes.NOTHING}[takes]


@pytest.mark.parametrize("name", ["dhcp-script", "conf-script", "user", "enable-dbus", "tftp-root"])
def test_the_refusal_says_what_it_could_do(neutron_dhcp: Policy, name: str) -> None:
    message = refusal(neutron_dhcp, plain(f"--{name}={EVIL}")).message
    assert f"it {neutron_dhcp.table.options[name].danger}" in message


def test_nothing_dangerous_is_allowed_with_free_values(neutron_dhcp: Policy) -> None:
    allowed = {name for name in neutron_dhcp.options if neutron_dhcp.table.options[name].danger}
    assert allowed == WITH_OWN_VALUES


@pytest.mark.parametrize(
    "argument",
    [
        "--no-daemon",
        "-d",
        "--test",
        "--help",
        "-w",
        "--version",
        "-v",
        "--dhcp-host=x",
        "--address=/x/1.2.3.4",
        "--port=53",
        "--listen-address=0.0.0.0",
    ],
)
def test_neither_is_what_neutron_never_asks_for(neutron_dhcp: Policy, argument: str) -> None:
    assert refusal(neutron_dhcp, plain(argument)).reason is Reason.OPTION_NOT_ALLOWED


# ---------------------------------------------------------------- one network, and no other

OWN_FILES = {
    "dhcp-hostsfile": "host",
    "addn-hosts": "addn_hosts",
    "dhcp-optsfile": "opts",
    "dhcp-leasefile": "leases",
    "pid-file": "pid",
}
FOREIGN = {
    "another network's": (f"/var/lib/neutron/dhcp/{OTHER}/FILE", Reason.VALUE_CONFLICT),
    "another network's segment": (f"/var/lib/neutron/dhcp/7/{OTHER}/FILE", Reason.VALUE_CONFLICT),
    "another directory": (f"/var/lib/neutron/dhcp2/{NET}/FILE", Reason.VALUE_CONFLICT),
    "a segment": (f"/var/lib/neutron/dhcp/7/{NET}/FILE", Reason.VALUE_CONFLICT),
    "a sibling prefix": (f"/var/lib/neutron-evil/dhcp/{NET}/FILE", Reason.VALUE_NOT_ALLOWED),
    "a sibling directory": (f"{HOME}-evil/FILE", Reason.VALUE_NOT_ALLOWED),
    "through ..": (f"{HOME}/../{OTHER}/FILE", Reason.VALUE_NOT_ALLOWED),
    "through .. and back": (f"/var/lib/neutron/dhcp/../dhcp/{NET}/FILE", Reason.VALUE_NOT_ALLOWED),
    "through .": (f"/var/lib/neutron/./{NET}/FILE", Reason.VALUE_NOT_ALLOWED),
    "with //": (f"/var/lib/neutron//dhcp/{NET}/FILE", Reason.VALUE_NOT_ALLOWED),
    "deeper": (f"{HOME}/x/FILE", Reason.VALUE_NOT_ALLOWED),
    "another name": (f"{HOME}/FILE2", Reason.VALUE_NOT_ALLOWED),
    "a trailing newline": (f"{HOME}/FILE\n", Reason.VALUE_NOT_ALLOWED),
    "a trailing NUL": (f"{HOME}/FILE\0", Reason.VALUE_NOT_ALLOWED),
    "a trailing blank": (f"{HOME}/FILE ", Reason.VALUE_NOT_ALLOWED),
    "a trailing slash": (f"{HOME}/FILE/", Reason.VALUE_NOT_ALLOWED),
    "upper case": (f"/var/lib/neutron/dhcp/{NET.upper()}/FILE", Reason.VALUE_NOT_ALLOWED),
    "relative": ("FILE", Reason.VALUE_NOT_ALLOWED),
    "the host's": ("/etc/shadow", Reason.VALUE_NOT_ALLOWED),
    "standard input": ("-", Reason.VALUE_NOT_ALLOWED),
    "empty": ("", Reason.VALUE_NOT_ALLOWED),
    "two values": (f"{HOME}/FILE,/etc/shadow", Reason.VALUE_NOT_ALLOWED),
}


@pytest.mark.parametrize(("path", "reason"), FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("option", OWN_FILES)
def test_no_file_but_its_own(neutron_dhcp: Policy, option: str, path: str, reason: Reason) -> None:
    value = path.replace("FILE", OWN_FILES[option])
    assert refusal(neutron_dhcp, plain(f"--{option}={value}", instead_of=option)).reason is reason


@pytest.mark.parametrize("option", OWN_FILES)
def test_its_own_file(neutron_dhcp: Policy, option: str) -> None:
    decide(neutron_dhcp, plain(f"--{option}={HOME}/{OWN_FILES[option]}", instead_of=option))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (f"/var/lib/neutron/log/{OTHER}/dhcp_dns_log", Reason.VALUE_CONFLICT),
        (f"/var/lib/neutron/log/{NET}/other", Reason.VALUE_NOT_ALLOWED),
        (f"/var/lib/neutron-evil/log/{NET}/dhcp_dns_log", Reason.VALUE_NOT_ALLOWED),
        (f"/var/lib/neutron/../{NET}/dhcp_dns_log", Reason.VALUE_NOT_ALLOWED),
        (f"/var/lib/neutron/log/{NET}/dhcp_dns_log\n", Reason.VALUE_NOT_ALLOWED),
        ("/var/log/messages", Reason.VALUE_NOT_ALLOWED),
        ("daemon", Reason.VALUE_NOT_ALLOWED),
        ("-", Reason.VALUE_NOT_ALLOWED),
    ],
)
def test_no_log_but_its_own(neutron_dhcp: Policy, path: str, reason: Reason) -> None:
    assert refusal(neutron_dhcp, plain(f"--log-facility={path}")).reason is reason


@pytest.mark.parametrize(
    "path",
    [
        "/etc/dnsmasq.conf",
        "/etc/neutron/neutron.conf",
        "/etc/neutron/dnsmasq",
        "/etc/neutron/dnsmasq-a/../neutron.conf",
        "/etc/neutron/dnsmasq.d/../neutron.conf",
        "/etc/neutron-evil/dnsmasq.conf",
        "/var/log/neutron/dnsmasq.conf",
        f"{HOME}/opts",
        "/var/lib/neutron/a/b/c",
        "/var/lib/neutron/..",
        "/var/lib/neutron/",
        "/dev/null\n",
        "/dev/nul",
        "/var/lib/neutron-evil/a",
        "",
        "-",
    ],
)
def test_no_configuration_but_a_file_in_its_directories(neutron_dhcp: Policy, path: str) -> None:
    assert (
        refusal(neutron_dhcp, plain(f"--conf-file={path}", instead_of="conf-file")).reason is Reason.VALUE_NOT_ALLOWED
    )


@pytest.mark.parametrize(
    ("netns", "reason"),
    [
        (f"qdhcp-{OTHER}", Reason.VALUE_CONFLICT),
        (None, Reason.NAMESPACE_NOT_ALLOWED),
        (f"qrouter-{NET}", Reason.NAMESPACE_NOT_ALLOWED),
        (f"qdhcp-{NET}\n", Reason.NAMESPACE_NOT_ALLOWED),
        ("qdhcp-", Reason.NAMESPACE_NOT_ALLOWED),
        ("qdhcp-../../proc/1/ns/net", Reason.NAMESPACE_NOT_ALLOWED),
        ("../../proc/1/ns/net", Reason.NAMESPACE_NOT_ALLOWED),
    ],
)
def test_namespace(neutron_dhcp: Policy, netns: str | None, reason: Reason) -> None:
    assert refusal(neutron_dhcp, replace(request_of(PLAIN), untrusted_netns=netns)).reason is reason


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PROCESS_TAG", f"dnsmasq-{OTHER}", Reason.VALUE_CONFLICT),
        ("PROCESS_TAG", f"dnsmasq-7/{OTHER}", Reason.VALUE_CONFLICT),
        ("PROCESS_TAG", f"haproxy-{NET}", Reason.VALUE_NOT_ALLOWED),
        ("PROCESS_TAG", "", Reason.VALUE_NOT_ALLOWED),
        ("PROCESS_TAG", f"dnsmasq-0/{NET}", Reason.VALUE_CONFLICT),
        ("LD_PRELOAD", f"dnsmasq-{NET}", Reason.ENVIRONMENT_NOT_ALLOWED),
        ("PATH", "/sbin:/usr/sbin", Reason.ENVIRONMENT_NOT_ALLOWED),
    ],
)
def test_environment(neutron_dhcp: Policy, name: str, value: str, reason: Reason) -> None:
    assert refusal(neutron_dhcp, replace(request_of(PLAIN), untrusted_environment=((name, value),))).reason is reason


def test_the_tag_is_not_needed(neutron_dhcp: Policy) -> None:
    assert decide(neutron_dhcp, replace(request_of(PLAIN), untrusted_environment=())).plan.environment == ()


# ---------------------------------------------------------------- counts

REQUIRED = ["no-hosts", "dhcp-hostsfile", "dhcp-optsfile", "dhcp-leasefile", "pid-file", "conf-file"]
# If one of these is missing, dnsmasq reads or writes a default file.


@pytest.mark.parametrize("option", REQUIRED)
def test_required(neutron_dhcp: Policy, option: str) -> None:
    found = refusal(neutron_dhcp, plain(instead_of=option))
    assert found.reason is Reason.OPTION_MISSING
    assert f"--{option} must be given" in found.message


def test_what_is_required_is_just_that(neutron_dhcp: Policy) -> None:
    assert sorted(name for name, rule in neutron_dhcp.options.items() if rule.required) == sorted(REQUIRED)


MANY = {"dhcp-range", "dhcp-option-force", "txt-record", "server", "dhcp-match", "dhcp-userclass", "except-interface"}


@pytest.mark.parametrize("argument", [each for each in EVERYTHING.argv[1:] if each[2:].partition("=")[0] not in MANY])
def test_once(neutron_dhcp: Policy, argument: str) -> None:
    twice = replace(request_of(EVERYTHING), untrusted_argv=(*EVERYTHING.argv, argument))
    assert refusal(neutron_dhcp, twice).reason is Reason.OPTION_REPEATED


@pytest.mark.parametrize(
    ("argument", "most"),
    [("--server=10.0.0.1", 128), ("--dhcp-match=set:ipxe,175", 4), ("--dhcp-range=set:a,2001:db8::,ra-only", 2048)],
)
def test_many_but_not_without_end(neutron_dhcp: Policy, argument: str, most: int) -> None:
    option = argument[2:].partition("=")[0]
    decide(neutron_dhcp, plain(*(argument,) * most, instead_of=option))
    found = refusal(neutron_dhcp, plain(*(argument,) * (most + 1), instead_of=option))
    assert found.reason is Reason.OPTION_REPEATED


@pytest.mark.parametrize(
    "argument",
    [
        *("--domain=a,b", "--domain=a,10.0.0.0/8", "--domain=", "--server=/example/10.0.0.1@x", "--server=10.0.0.1#0"),
        *("--server=10.0.0.1@eth0", "--server=", "--dhcp-lease-max=-1", "--dhcp-lease-max=1e9", "--interface=tap*"),
        *("--dhcp-range=set:a,10.0.0.1,10.0.0.9,255.0.0.0,1h", "--dhcp-range=10.0.0.1", "--dhcp-range=interface:eth0"),
        *("--dhcp-option-force=6,10.0.0.1", "--dhcp-option-force=option:mtu,67", "--txt-record=a", "--txt-record=,b"),
        *("--dhcp-match=set:x,1", "--bridge-interface=a,b", "--local-service=host"),
    ],
)  # fmt: skip
def test_no_other_values(neutron_dhcp: Policy, argument: str) -> None:
    option = argument[2:].partition("=")[0]
    assert refusal(neutron_dhcp, plain(argument, instead_of=option)).reason is Reason.VALUE_NOT_ALLOWED


# ---------------------------------------------------------------- what a side container gets


def test_no_more_than_dnsmasq_needs(neutron_dhcp: Policy) -> None:
    plan = decide(neutron_dhcp, request_of(EVERYTHING)).plan
    assert plan.capabilities == ("NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW")
    assert plan.uid != 0
    assert plan.command == "/usr/sbin/dnsmasq"
    assert plan.environment == tuple(EVERYTHING.env.items())
    assert all(each.path.startswith("/var/lib/neutron/") for each in plan.mounts)


def test_the_segment_of_the_tag_is_the_segment_of_the_files(neutron_dhcp: Policy) -> None:
    """Otherwise a request could name any segment in its tag, and get one instance for each over the same files."""
    call = next(each for each in DAEMONS if "segment" in each.variant)
    tag = f"dnsmasq-102/{str(call.netns).removeprefix('qdhcp-')}"
    request = replace(request_of(call), untrusted_environment=(("PROCESS_TAG", tag),))
    assert denial(neutron_dhcp, request).reason is Reason.VALUE_CONFLICT
