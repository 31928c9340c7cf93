"""The fuzz targets: one function for each reader of untrusted text. It takes bytes and raises if a promise is broken.

`requests`        core/wire        a line of the spool
`policies`        loading/parse    a policy's text, with the shipped presets and tables to build on
`configurations`  core/configuration  a file of the agent, by the rules of each shipped preset
`arguments`       core/options, core/decide  an argument list, which program and policy must read alike
`replies`         wrapper, client  what an agent finds in its replies; and how a wrapper writes a request

Anything raised is a finding, except for the refusals that these readers promise.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from sidespawn import presets
from sidespawn.agent import client, wrapper
from sidespawn.core import configuration, wire
from sidespawn.core.decide import decide
from sidespawn.core.options import Option, ProgramTable, Takes, read_arguments
from sidespawn.core.policy import Policy
from sidespawn.errors import Denied, PolicyError, RequestError
from sidespawn.loading.parse import CAPABILITIES, parse_policy
from sidespawn.loading.programs import parse_program
from tests.fuzz import getopt

CHECKOUT = Path(__file__).parents[2]
PROGRAMS = CHECKOUT / ".cache/fuzz/programs"
# Programs that use getopt_long(3), each with a long option to find its table by.
ORACLES = {"dnsmasq": "pid-file", "keepalived": "vrrp_pid", "radvd": "pidfile"}
REQUEST_ID = "0" * 32


def promised(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


# ---------------------------------------------------------------- request lines


def requests(untrusted_line: bytes) -> None:
    try:
        request = wire.parse_request(untrusted_line)
    except RequestError as error:
        promised(error.message.isprintable() and error.message.isascii(), "a refusal is one plain line")
        promised(error.request_id is None or wire.is_request_id(error.request_id), "an id is 32 hexadecimal digits")
        return
    promised(len(untrusted_line) <= wire.LINE_BYTES, "a long line is refused")
    plain = json.loads(untrusted_line)
    fields: dict[str, Any] = {"v": wire.VERSION, "id": request.id, "deadline": request.deadline}
    if isinstance(request, wire.SignalRequest):
        fields |= {"op": "signal", "signal": request.signal, "pid": request.pid}
        promised(1 < request.pid <= wire.PID_MAX, "no process group, and not PID 1")
    else:
        argv, environment = list(request.untrusted_argv), dict(request.untrusted_environment)
        fields |= {"op": "start", "argv": argv, "netns": request.untrusted_netns, "env": environment}
        texts = (*argv, *environment, *environment.values(), request.untrusted_netns or "")
        promised(all(each.isprintable() for each in texts), "no control character is accepted")
        promised(1 <= len(argv) <= wire.LINE_BYTES // wire.ARGUMENT_BYTES, "argv is not empty and not endless")
        judge(small(), request)
    promised(plain == fields, "a request is what any reader of JSON reads")
    again = wire.parse_request(json.dumps(fields).encode())
    promised(again == request, "a request written again is the same request")


@cache
def small() -> Policy:
    return preset("neutron-dhcp-dnsmasq")


def judge(policy: Policy, request: wire.StartRequest) -> None:
    with suppress(Denied):
        plan = decide(policy, request, lambda _path: b"").plan
        promised(set(plan.capabilities) <= set(policy.side_container.capabilities), "a plan widens nothing")
        promised(not any("\0" in each or "\n" in each for each in plan.arguments), "arguments are one line each")


# ---------------------------------------------------------------- policies


def policies(content: bytes) -> None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return  # read_trusted refused it
    try:
        policy = parse_policy("fuzz", "fuzz.toml", text, presets.read_preset, presets.read_program)
    except PolicyError as error:
        promised("fuzz" in error.message or "presets/" in error.message or "there is no" in error.message, "says where")
        return
    side_container = policy.side_container
    promised(set(side_container.capabilities) <= CAPABILITIES, "no capability that is root by another name")
    promised(side_container.limits.memory > 0 and side_container.limits.tasks > 0, "there are limits")
    promised(0 <= side_container.uid < 2**32 and 0 <= side_container.gid < 2**32, "ids are ids")
    promised(set(policy.signals) <= set(wire.SIGNALS), "signals are of the list")
    promised(all(option in policy.table.options for option in policy.options), "options are the program's")
    # Whatever else it says, a request must lead to a verdict.
    for untrusted_argv in ((policy.table.program,), (policy.table.program, "--help", "-x", "")):
        judge(policy, start_request(untrusted_argv))


def start_request(untrusted_argv: tuple[str, ...]) -> wire.StartRequest:
    return wire.StartRequest(
        id=REQUEST_ID, deadline=0, untrusted_argv=untrusted_argv, untrusted_netns="ns", untrusted_environment=()
    )


@cache
def preset(name: str) -> Policy:
    return parse_policy(name, f"{name}.toml", presets.read_preset(name), presets.read_preset, presets.read_program)


# ---------------------------------------------------------------- configuration files


@cache
def rule_sets() -> tuple[tuple[configuration.ConfigurationRules, Policy], ...]:
    """Return the rules of every shipped preset."""
    found = []
    for name in presets.names():
        policy = preset(name)
        found += [(policy.configuration[each].rules, policy) for each in sorted(policy.configuration)]
    return tuple(found)


def configurations(content: bytes) -> None:
    """Read the rules' name, PRESET.RULES, or some choice of them in the first line; the rest is the agent's file."""
    name, _, untrusted_content = content.partition(b"\n")
    named = {f"{policy.service}.{rules.name}".encode(): (rules, policy) for rules, policy in rule_sets()}
    rules, policy = named.get(name) or rule_sets()[sum(name) % len(rule_sets())]
    try:
        text, bindings = configuration.accept_configuration(rules, "/file", untrusted_content, policy.names, {})
    except Denied as error:
        promised(error.message.isprintable() and error.message.isascii(), "a refusal is one plain line")
        return
    promised(text.isascii() and all(line.isprintable() for line in text.split("\n")), "plain text comes out")
    if rules.format is not configuration.Format.LINES:
        plain = [line for line in text.split("\n") if not line.strip().startswith("auth_pass ")]
        promised(not set("".join(plain)) & set("'\\$#!@`"), "nothing that a program could expand")
        promised(rules.format is configuration.Format.QUOTED or '"' not in text, "no quotes")
    reader = configuration.Reader(rules, "/file", policy.names, dict(bindings))
    names = [line.untrusted_name for line in flat(reader.read(text.encode()))]
    allowed = allowed_names(rules.directives)
    promised(configuration.ANY in allowed or set(names) <= set(allowed), "only allowed directives come out")
    # Reading the result again must yield what the first reading did, except for parts that were left out or replaced.
    kept = [each.untrusted_name for each in flat(accepted_lines(reader.read(untrusted_content), rules.directives))]
    promised(names == kept, "what comes out are the accepted directives, in their order")


def flat(lines: list[configuration.Line]) -> list[configuration.Line]:
    return [each for line in lines for each in (line, *flat(line.block or []))]


def allowed_names(directives: tuple[configuration.Directive, ...]) -> list[str]:
    return [each for rule in directives for each in (rule.name, *allowed_names(rule.block or ()))]


def accepted_lines(
    lines: list[configuration.Line], directives: tuple[configuration.Directive, ...]
) -> list[configuration.Line]:
    by_name = {each.name: each for each in directives}
    kept = []
    for line in lines:
        directive = by_name.get(line.untrusted_name) or by_name[configuration.ANY]
        if directive.passed_on:
            block = None if line.block is None else accepted_lines(line.block, directive.block or ())
            kept.append(configuration.Line(line.number, line.untrusted_name, line.untrusted_value, block))
    return kept


# ---------------------------------------------------------------- arguments


@cache
def program_table(program: str) -> ProgramTable:
    return parse_program(program, presets.read_program(program))


@cache
def oracle(program: str) -> getopt.Table:
    return getopt.table_of(program_file(program), ORACLES[program])


@cache
def program_file(program: str) -> Path:
    """Return the program's file from the side containers' image."""
    of_this_suite = f"sidespawn-helpers-{'[0-9a-f]' * 16}.tar"  # other images have a program's name there
    tars = sorted((CHECKOUT / ".cache/images").glob(of_this_suite), key=lambda path: path.stat().st_mtime)
    promised(bool(tars), "the images' tars are made by `./dev fuzz` and `./dev test`")
    target = PROGRAMS / tars[-1].stem / program
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tars[-1]) as tar, tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            found = tar.extractfile(f"./usr/sbin/{program}")
            file.write(found.read() if found else b"")
        Path(file.name).rename(target)  # complete or missing: another target may look for it now
    return target


def arguments(content: bytes) -> None:
    """Choose the program by the first byte; the rest are its arguments, each ended by NUL.

    An argument that begins with a byte above 0x7f is made from an option in the program's table, so that most lists
    get past the first word: the next byte chooses the option, and the low bits of the first byte how it is spelled.
    """
    programs = sorted(ORACLES)
    program = programs[content[0] % len(programs)] if content else programs[0]
    table = program_table(program)
    untrusted_argv = (program, *(argument(table, each) for each in content[1:].split(b"\0")))
    if any(not each.isprintable() for each in untrusted_argv):
        return  # the wire format refuses it
    try:
        given = read_arguments(table, untrusted_argv)
    except Denied:
        return
    ours = tuple((each.option.name, each.untrusted_value) for each in given)
    canonical = tuple(text for each in given for text in each.option.written(each.untrusted_value))
    theirs = getopt.understood(oracle(program), (program, *canonical))
    promised(not theirs.wrong and not theirs.operands, f"the program accepts {canonical}: {theirs}")
    promised(same(table, theirs.options, ours), f"of {canonical} the program understands {theirs.options}, we {ours}")
    theirs = getopt.understood(oracle(program), untrusted_argv)
    promised(same(table, theirs.options, ours), f"of {untrusted_argv} the program understands {theirs.options}")
    promised(not any(each.strip(" ") for each in theirs.operands), f"only blanks are left of {untrusted_argv}")


def argument(table: ProgramTable, content: bytes) -> str:
    if not content or content[0] < 0x80:
        return content.decode("utf-8", "replace")
    how, rest = content[0], content[1:]
    options = list(table.options.values())
    option: Option = options[(rest[0] if rest else 0) % len(options)]
    value = rest[1:].decode("utf-8", "replace")
    letter = option.short or option.name[0]
    return (
        f"{option.spelling}={value}",
        option.spelling,
        f"-{letter}",
        f"-{letter}{value}",
        f"{option.spelling[:-1]}={value}",
        option.spelling if option.takes is Takes.NOTHING else f"{option.spelling}={value}",
        value,
        f"--{value}",
    )[how & 7]


def same(
    table: ProgramTable, theirs: tuple[tuple[str, str | None], ...], ours: tuple[tuple[str, str | None], ...]
) -> bool:
    """Return whether names and values are equal. A program may have two long names for a letter; both mean the same."""
    if len(theirs) != len(ours):
        return False
    for (their_name, their_value), (name, value) in zip(theirs, ours, strict=True):
        option = table.options[name]
        if their_value != value or their_name not in (name, *ALIASES.get((table.program, option.short), ())):
            return False
    return True


# Undocumented long options of a program that have the same letter as a documented one.
ALIASES = {("dnsmasq", "s"): ("domain-suffix",), ("dnsmasq", "l"): ("dhcp-lease",)}


# ---------------------------------------------------------------- replies


def replies(content: bytes) -> None:
    reply = wrapper.read_reply(content, "/replies/x.json")
    promised(all(isinstance(reply[key], str) for key in ("status", "reason", "message")), "a reply says what and why")
    with redirect_stderr(StringIO()) as said:
        code = wrapper.report(reply)
    promised(code in wrapper.EXIT_CODES.values(), f"exit code {code} is documented")
    promised((code == wrapper.OK) == (reply["status"] in ("running", "done")), "only success looks like success")
    promised(said.getvalue().count("\n") <= 1, "one line is said")
    with suppress(client.ClientError):
        client.outcome(reply)
    # Wrappers write requests without the json module; the result must be what that module would write.
    value = json.loads(content) if reply["reason"] != "internal" else content.decode("utf-8", "surrogateescape")
    if only_plain(value):
        promised(json.loads(wrapper.encode(value)) == value, "a request is written as JSON")


def only_plain(value: object) -> bool:
    """Return whether it consists of what requests may contain."""
    if isinstance(value, dict):
        return all(only_plain(each) for each in value.values())
    if isinstance(value, list):
        return all(only_plain(each) for each in value)
    return value is None or isinstance(value, str) or type(value) is int


TARGETS: dict[str, Callable[[bytes], None]] = {
    "requests": requests,
    "policies": policies,
    "configurations": configurations,
    "arguments": arguments,
    "replies": replies,
}
# Modules whose coverage is reported.
MODULES = {
    "requests": ("core/wire.py",),
    "policies": ("loading/parse.py", "loading/document.py", "core/pattern.py"),
    "configurations": ("core/configuration.py",),
    "arguments": ("core/options.py",),
    "replies": ("agent/wrapper.py", "agent/client.py"),
}
