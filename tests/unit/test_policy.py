"""Policies are loaded whole or not at all, and an author learns what is wrong and where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidespawn import presets
from sidespawn.core.options import Takes
from sidespawn.core.plan import ReadyWhen
from sidespawn.core.policy import Policy, is_service_name
from sidespawn.errors import PolicyError, Reason
from sidespawn.loading.parse import CAPABILITIES
from sidespawn.loading.programs import parse_program
from tests.unit.shipped import policy_of, preset
from tests.unit.small import POLICY, PROGRAM, changed, line_of, load, parse


def refusal(*changes: tuple[str, str], program: str = PROGRAM) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        load(*changes, program=program)
    assert caught.value.reason is Reason.POLICY_INVALID
    return caught.value


# ---------------------------------------------------------------- what is read


def test_a_policy_is_read() -> None:
    policy = load()
    assert policy.service == "small"
    assert policy.agent.state_on_host == "/host/state"
    assert policy.side_container.limits.memory == 64 * 2**20
    assert policy.side_container.capabilities == ("NET_ADMIN", "NET_RAW")
    assert policy.side_container.readiness.when is ReadyWhen.ALIVE
    assert policy.options["name"].most == 2


def test_an_omitted_key_grants_nothing() -> None:
    text = POLICY
    for section in ("environment", "options", "configuration.extra", "configuration.extra.directives", "arguments"):
        text = re.sub(rf"\[{re.escape(section)}\]\n(?:[^\[\n].*\n)*", "", text)
    for key in ("capabilities", "mounts", "scratch", "pid_file", "signals"):
        text = re.sub(rf"^{key} = .*\n", "", text, flags=re.MULTILINE)
    policy = parse(text)
    side_container = policy.side_container
    assert (policy.options, policy.environment, policy.configuration, policy.signals) == ({}, {}, {}, ())
    assert (side_container.capabilities, side_container.mounts, side_container.scratch) == ((), (), ())
    assert (side_container.pid_file, side_container.child_pid_files) == (None, ())
    assert (policy.agent.local, policy.agent.kill_scripts, policy.always) == ((), (), ())


@pytest.mark.parametrize(
    ("rule", "bare", "values", "most", "required", "passed_on"),
    [
        ("log = true", True, [], 1, False, True),
        ('log = "<tag>"', False, ["<tag>"], 1, False, True),
        ('log = ["a", "<tag>"]', False, ["a", "<tag>"], 1, False, True),
        ("log = {}", True, [], 1, False, True),
        ('log = { value = "a" }', False, ["a"], 1, False, True),
        ('log = { value = "a", bare = true }', True, ["a"], 1, False, True),
        ("log = { most = 9, required = true, pass = false }", True, [], 9, True, False),
    ],
)
def test_short_and_long_forms_of_an_option_rule(
    rule: str, bare: bool, values: list[str], most: int, required: bool, passed_on: bool
) -> None:
    found = load(('log = { value = "<tag>", bare = true }', rule)).options["log"]
    assert (found.bare, [each.source for each in found.values]) == (bare, values)
    assert (found.most, found.required, found.passed_on) == (most, required, passed_on)


def test_every_rule_knows_its_line() -> None:
    policy = load()
    for name in ("quiet", "data", "log"):
        assert policy.options[name].rule == f"small.toml:{line_of(POLICY, f'{name} = ')}"
    assert policy.netns_rule == f"small.toml:{line_of(POLICY, 'netns = ')}"
    assert policy.signals_rule == f"small.toml:{line_of(POLICY, 'signals = ')}"
    assert policy.options_rule == f"small.toml:{line_of(POLICY, '[options]')}"
    assert policy.environment["TAG"][1] == f"small.toml:{line_of(POLICY, 'TAG = ')}"
    directives = policy.configuration["extra"].rules.directives
    assert directives[0].rule == f"small.toml:{line_of(POLICY, 'cache-size = ')}"


# ---------------------------------------------------------------- errors, each with its place

# The change, the fragment whose line is blamed ("" for the whole file), and the message.
BROKEN = {
    "not TOML": (("version = 1\n", "version = = 1\n"), "version = = 1", "not valid TOML: invalid value in column 11"),
    "key twice": (
        ("version = 1\n", 'version = 1\n"version" = 1\n'),
        '"version" = 1',
        "not valid TOML: cannot overwrite",
    ),
    "no version": (("version = 1\n", ""), "", "version is missing"),
    "another version": (("version = 1\n", "version = 2\n"), "version = 2", "version must be 1"),
    "version as bool": (("version = 1\n", "version = true\n"), "version = true", "version must be an integer"),
    "no program": (('program = "tool"\n', ""), "", "program is missing"),
    "program is a path": (('program = "tool"', 'program = "../tool"'), "../tool", "program must be the name"),
    "description is a number": (('"a tool"', "1"), "description = 1", "description must be a string"),
    "no agent": (("[agent]", "[parameters]"), "", "agent is missing"),
    "no request": (
        ("[request]\n", "[agents]\n"),
        "[agents]",
        "agents is not allowed here; did you mean agent?",
    ),
    "no state": (('state = "/state"\n', ""), "[agent]", "agent.state is missing"),
    "relative state": (('"/host/state"', '"host/state"'), "host/state", "agent.state_on_host must be an absolute path"),
    "state with ..": (('"/host/state"', '"/host/../state"'), "/host/../state", "must be an absolute path"),
    "state with a newline": (('"/host/state"', '"/host\\nstate"'), "state_on_host", "must be an absolute path"),
    "state with a NUL": (('"/host/state"', '"/host\\u0000state"'), "state_on_host", "must be an absolute path"),
    "state with a comma": (('"/host/state"', '"/host,state"'), "/host,state", "must be an absolute path"),
    "state with a colon": (('"/host/state"', '"/host:state"'), "/host:state", "must be an absolute path"),
    "state with a %": (('"/host/state"', '"/host%n"'), "/host%n", "must be an absolute path"),
    "state with //": (('"/host/state"', '"/host//state"'), "/host//state", "must be an absolute path"),
    "state ends in /": (('"/host/state"', '"/host/state/"'), "/host/state/", "must be an absolute path"),
    "state is a list": (('"/host/state"', '["/host"]'), '["/host"]', "agent.state_on_host must be a string"),
    "state is empty": (('"/host/state"', '""'), "state_on_host", "must be an absolute path"),
    "wrapper is no path": (
        ('wrapper = "/usr/sbin/tool"', 'wrapper = "tool"'),
        'wrapper = "tool"',
        "agent.wrapper must",
    ),
    "timeout too long": (("[names]", "timeout = 601\n[names]"), "timeout = 601", "agent.timeout must be from 1 to 600"),
    "timeout is a float": (("[names]", "timeout = 1.5\n[names]"), "timeout = 1.5", "agent.timeout must be an integer"),
    "spool_uid is negative": (("[names]", "spool_uid = -1\n[names]"), "spool_uid", "agent.spool_uid must be from 0"),
    "local is flat": (
        ("[names]", 'local = ["--version"]\n[names]'),
        "local = ",
        "agent.local must be a list of argument lists",
    ),
    "kill script is no path": (("[names]", 'kill_scripts = "kill"\n[names]'), "kill_scripts", "must be absolute paths"),
    "pace without end": (("[names]", "[pace]\nlinger = 61\n[names]"), "linger", "pace.linger must be from 0 to 60"),
    "name with unknown type": (('"<uuid>"', '"<uid>"'), "<uid>", "names.net is not a valid pattern: there is no type"),
    "name is a number": (('net = "<uuid>"', "net = 1"), "net = 1", "names.net must be a string or a list"),
    "name without patterns": (('net = "<uuid>"', "net = []"), "net = []", "names.net must be a string or a list"),
    "netns is two patterns": (('"ns-{net}"', '["a", "b"]'), '["a", "b"]', "request.netns must be one pattern"),
    "no netns": (('netns = "ns-{net}"\n', ""), "[request]", "request.netns is missing"),
    "no instance": (('instance = "{net}"\n', ""), "[request]", "request.instance is missing"),
    "no such signal": (('["HUP", "TERM"]', '["HUP", "STOP"]'), "signals", "request.signals cannot have STOP"),
    "signal by number": (('["HUP", "TERM"]', '["15"]'), "signals", "request.signals cannot have 15"),
    "signals mixed": (
        ('["HUP", "TERM"]', '["HUP", 15]'),
        "signals",
        "request.signals must be a string or a list of strings",
    ),
    "no such option": (("quiet = true", "quite = true"), "quite", "options.quite is not an option of tool 1.0"),
    "abbreviated option": (("quiet = true", "quie = true"), "quie = ", "options.quie is not an option"),
    "option by its letter": (("quiet = true", "q = true"), "q = true", "options.q is not an option"),
    "value for a flag": (("quiet = true", 'quiet = "x"'), 'quiet = "x"', "options.quiet takes no value"),
    "no value where one is needed": (
        ('{ value = "<tag>", most = 2 }', "true"),
        "name = true",
        "options.name takes a value",
    ),
    "long form without a value": (
        ('{ value = "<tag>", most = 2 }', "{ most = 2 }"),
        "most = 2",
        "options.name takes a value",
    ),
    "option is a number": (("quiet = true", "quiet = 1"), "quiet = 1", "options.quiet must be true or false"),
    "most is 0": (("most = 2", "most = 0"), "most = 0", "options.name.most must be from 1 to 4096"),
    "most is a bool": (("most = 2", "most = true"), "most = true", "options.name.most must be an integer"),
    "required is a string": (
        ("required = true", 'required = "yes"'),
        "required",
        "options.data.required must be true or false",
    ),
    "option with a bad pattern": (('"<tag>", most', '"<tag", most'), "most = 2", "name.value is not a valid pattern"),
    "undeclared name in options": (('"{home}/data"', '"{hom}/data"'), "data = ", "options.data.value uses {hom}"),
    "undeclared name in netns": (('"ns-{net}"', '"ns-{nett}"'), "netns = ", "request.netns uses {nett}"),
    "undeclared name in environment": (('"tool-{net}"', '"tool-{n}"'), "TAG = ", "environment.TAG uses {n}"),
    "undeclared name in mounts": (('["{home}"]', '["{hom}"]'), "mounts = ", "side_container.mounts uses {hom}"),
    "undeclared name in pid_file": (
        ('"{home}/pid"', '"{hom}/pid"'),
        "pid_file = ",
        "side_container.pid_file uses {hom}",
    ),
    "undeclared name in names": (('"/state/{net}"', '"/state/{n}"'), 'home = "', "names.home uses {n}"),
    "undeclared name in a directive": (
        ('["{net}", "nobody"]', '"{n}"'),
        "owner = ",
        "uses {n}",
    ),
    "undeclared name in a configuration's path": (
        ('"/state/<name>"', '"/state/{n}"'),
        "path = ",
        "uses {n}",
    ),
    "name that defines itself": (('"/state/{net}"', '"/state/{home}"'), "home = ", "names.home defines itself"),
    "no such configuration": (
        ('configuration = "extra"', 'configuration = "x"'),
        "/dev/null",
        "there is no [configuration.x]",
    ),
    "configuration of another format": (('format = "lines"', 'format = "ini"'), "format", "must be one of lines"),
    "configuration without directives": (
        ("[configuration.extra.directives]", "[configuration.extra.directive]"),
        "[configuration.extra]",
        "directives is missing",
    ),
    "directive is a number": (
        ("log-queries = true", "log-queries = 1"),
        "log-queries = 1",
        "log-queries must be true or false",
    ),
    "another engine": (('"podman"', '"runc"'), "engine", "side_container.engine must be one of podman"),
    "no image": (('image = "localhost/tool:1"\n', ""), "[side_container]", "side_container.image is missing"),
    "no memory": (('memory = "64M"\n', ""), "[side_container]", "side_container.memory is missing"),
    "no tasks": (("tasks = 8\n", ""), "[side_container]", "side_container.tasks is missing"),
    "no tasks allowed": (("tasks = 8\n", "tasks = 0\n"), "tasks = 0", "side_container.tasks must be from 1"),
    "no uid": (("uid = 1000\n", ""), "[side_container]", "side_container.uid is missing"),
    "uid by name": (("uid = 1000\n", 'uid = "root"\n'), 'uid = "root"', "side_container.uid must be an integer"),
    "uid of nobody at all": (("uid = 1000\n", "uid = 4294967295\n"), "4294967295", "side_container.uid must be from 0"),
    "relative command": (
        ('command = "/usr/sbin/tool"', 'command = "tool"'),
        "command",
        "side_container.command must be",
    ),
    "relative scratch": (('["/run/tool"]', '["run/tool"]'), "scratch", "side_container.scratch must be absolute paths"),
    "scratch with options": (('["/run/tool"]', '["/run/tool:exec"]'), "scratch", "side_container.scratch must be"),
    "two pid files": (
        ('pid_file = "{home}/pid"', 'pid_file = ["{home}/a", "{home}/b"]'),
        "pid_file",
        "side_container.pid_file",
    ),
    "undeclared name in child_pid_files": (
        ("tasks = 8\n", 'tasks = 8\nchild_pid_files = { "{hom}/pid-a" = "/run/a" }\n'),
        "child_pid_files",
        "side_container.child_pid_files.{hom}/pid-a uses {hom}",
    ),
    "child pid file with a bad pattern": (
        ("tasks = 8\n", 'tasks = 8\nchild_pid_files = { "{home/pid-a" = "/run/a" }\n'),
        "child_pid_files",
        "is not a valid pattern",
    ),
    "child pid file inside is relative": (
        ("tasks = 8\n", 'tasks = 8\nchild_pid_files = { "{home}/pid-a" = "run/a" }\n'),
        "child_pid_files",
        "must be an absolute path",
    ),
    "child pid file inside with ..": (
        ("tasks = 8\n", 'tasks = 8\nchild_pid_files = { "{home}/pid-a" = "/run/../a" }\n'),
        "child_pid_files",
        "must be an absolute path",
    ),
    "child pid file inside with a newline": (
        ("tasks = 8\n", 'tasks = 8\nchild_pid_files = { "{home}/pid-a" = "/run\\na" }\n'),
        "child_pid_files",
        "must be an absolute path",
    ),
    "child pid file with two paths": (
        ("tasks = 8\n", 'tasks = 8\nchild_pid_files = { "{home}/pid-a" = ["/run/a"] }\n'),
        "child_pid_files",
        "must be a string",
    ),
    "child_pid_files is no table": (
        ("tasks = 8\n", 'tasks = 8\nchild_pid_files = "/run/a"\n'),
        "child_pid_files",
        "side_container.child_pid_files must be a table",
    ),
    "two kinds of ready": (("alive = 100", "alive = 100\nfile = '/x'"), "[side_container.ready]", "exactly one of"),
    "no kind of ready": (("alive = 100", "within = 5"), "[side_container.ready]", "exactly one of"),
    "alive for ever": (("alive = 100", "alive = 60001"), "alive", "side_container.ready.alive must be from 1 to 60000"),
    "ready file is relative": (("alive = 100", 'file = "pid"'), 'file = "pid"', "side_container.ready.file must be"),
    "caller from nowhere": (
        ('netns = "ns-{net}"', 'netns = "ns-{net}"\ncaller = "anywhere"'),
        "caller",
        "request.caller must be one of inside, outside",
    ),
    "the host's network beside a namespace": (
        ("tasks = 8\n", "tasks = 8\nhost_network = true\n"),
        "netns =",
        "request.netns is not allowed here",
    ),
    "a word with a value": (
        ("quiet = true", 'quiet = true\ngo = "<tag>"'),
        "go =",
        "options.go takes no value",
    ),
    "script at a relative path": (
        ("tasks = 8\n", 'tasks = 8\nscripts = { "run/a" = "x" }\n'),
        "scripts",
        "must be an absolute path",
    ),
    "writes at a relative path": (
        ("tasks = 8\n", 'tasks = 8\nwrites = { "run/a" = "{home}" }\n'),
        "writes",
        "must be an absolute path",
    ),
    "writes where no name is": (
        ("tasks = 8\n", 'tasks = 8\nwrites = { "/run/a" = "{nobody}" }\n'),
        "writes",
        "which [names] does not declare",
    ),
    "instead of a value that no name gives": (
        ("most = 2 }", 'most = 2, instead = "{nobody}" }'),
        "instead",
        "which [names] does not declare",
    ),
    "refusals that fail sometimes": (
        ('wrapper = "/usr/sbin/tool"', 'wrapper = "/usr/sbin/tool"\nrefusals_fail = "no"'),
        "refusals_fail",
        "must be true or false",
    ),
    "woken by something else": (
        ('wrapper = "/usr/sbin/tool"', 'wrapper = "/usr/sbin/tool"\nwake = "paths"'),
        "wake",
        "must be one of doorbell, path; did you mean path?",
    ),
    "shared kill script at a relative path": (
        ('wrapper = "/usr/sbin/tool"', 'wrapper = "/usr/sbin/tool"\nshared_kill_scripts = ["kill"]'),
        "[agent]",
        "must be absolute paths in the agent",
    ),
    "shared kill script with the wrapper's name": (
        ('wrapper = "/usr/sbin/tool"', 'wrapper = "/usr/sbin/tool"\nshared_kill_scripts = ["/etc/tool"]'),
        "[agent]",
        "two paths with the same file name",
    ),
    "configuration at a relative path": (
        ('format = "lines"', 'format = "lines"\nat = "x"'),
        'at = "x"',
        "must be an absolute path",
    ),
    "grace without end": (
        ("[side_container.ready]", "[side_container.stop]\ngrace = 301\n[side_container.ready]"),
        "grace",
        "must be from 0 to 300",
    ),
}


@pytest.mark.parametrize(("change", "blamed", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_an_error_says_where_and_what(change: tuple[str, str], blamed: str, said: str) -> None:
    message = refusal(change).message
    place = f"small.toml:{line_of(changed(change), blamed)}: " if blamed else "small.toml: "
    assert message.startswith(place)
    assert said in message


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (("quiet = true", "quiet = true\nstate = 1"), ""),
        (("tasks = 8", "task = 8\ntasks = 8"), "allowed keys: "),
        (('["HUP", "TERM"]', '["STOP"]'), "HUP"),
        (('["NET_RAW", "NET_ADMIN"]', '["SYS_ADMIN"]'), "NET_ADMIN"),
        (('"localhost/tool:1"', '"docker://tool"'), "podman images"),
    ],
    ids=["no hint", "unknown key", "signal", "capability", "image"],
)
def test_a_hint_says_what_could_stand_there(change: tuple[str, str], hint: str) -> None:
    found = refusal(change).hint
    assert (hint in found) if hint else found == ""


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("quiet = true\nlines = [\n  [\"a\"],\n  [\"b\"],\n]", "options.lines is not an option"),
        ("quiet = true # a comment with [brackets] and a = sign\nlines = true", "options.lines is not an option"),
    ],
    ids=["a list of lists over several lines", "a comment"],
)  # fmt: skip
def test_lines_are_found_among_other_notations(value: str, problem: str) -> None:
    change = ("quiet = true", value)
    assert refusal(change).message.startswith(f"small.toml:{line_of(changed(change), 'lines = ')}: {problem}")


def test_lines_are_right_behind_a_list_over_several_lines() -> None:
    change = ("[names]", 'local = [\n  ["--version"],\n  ["--help"],\n]\ntimeout = 601\n[names]')
    assert refusal(change).message.startswith(f"small.toml:{line_of(changed(change), 'timeout')}: agent.timeout")


# ---------------------------------------------------------------- unknown keys, everywhere


@pytest.mark.parametrize(
    "behind",
    [
        "version = 1\n",
        "[agent]\n",
        "[request]\n",
        "[options]\n",
        "[configuration.extra]\n",
        "[arguments]\n",
        "[side_container]\n",
        "[side_container.ready]\n",
    ],
    ids=str.strip,
)
def test_an_unknown_key_is_refused_everywhere(behind: str) -> None:
    change = (behind, f"{behind}unknown = 1\n")
    message = refusal(change).message
    assert message.startswith(f"small.toml:{line_of(changed(change), 'unknown')}: ")
    assert "unknown " in message


def test_an_unknown_key_in_an_inline_table_is_refused() -> None:
    assert "options.name.mots is not allowed here" in refusal(("most = 2", "mots = 2")).message


@pytest.mark.parametrize(
    "section", ["unknown", "agent.unknown", "side_container.stop.unknown", "configuration.extra.unknown"]
)
def test_an_unknown_table_is_refused(section: str) -> None:
    change = ("[names]", f"[{section}]\n[names]")
    assert f"{section} is not allowed here" in refusal(change).message


def test_an_unknown_key_of_a_programs_table_is_refused() -> None:
    assert (
        "programs/tool.toml:4: unknown"
        in refusal(program=changed(("[nothing]", "unknown = 1\n[nothing]"), text=PROGRAM)).message
    )


def test_a_danger_of_an_option_that_does_not_exist_is_refused() -> None:
    program = changed(("[danger]\n", '[danger]\nskript = "x"\n'), text=PROGRAM)
    assert "danger.skript" in refusal(program=program).message


def test_an_option_is_in_a_programs_table_once() -> None:
    program = changed(("[optional]\n", '[optional]\nquiet = ""\n'), text=PROGRAM)
    assert "is listed twice" in refusal(program=program).message


# ---------------------------------------------------------------- what no policy can grant


@pytest.mark.parametrize(
    "capability",
    [
        *(
            "SYS_ADMIN",
            "SYS_PTRACE",
            "SYS_MODULE",
            "SYS_RAWIO",
            "SYS_BOOT",
            "BPF",
            "PERFMON",
            "MKNOD",
            "SYS_TIME",
            "SYSLOG",
        ),
        *(
            "CHECKPOINT_RESTORE",
            "MAC_ADMIN",
            "MAC_OVERRIDE",
            "SYS_RESOURCE",
            "SETFCAP",
            "LINUX_IMMUTABLE",
            "AUDIT_CONTROL",
        ),
        *("all", "ALL", "", "net_admin", "CAP_NET_ADMIN", "NET_ADMIN\\n", "NET_ADMIN,SYS_ADMIN", "NET_ADMIN "),
    ],
)
def test_no_policy_can_give(capability: str) -> None:
    assert "capabilities cannot have " in refusal(('["NET_RAW", "NET_ADMIN"]', f'["{capability}"]')).message


@pytest.mark.parametrize("capability", sorted(CAPABILITIES))
def test_a_policy_can_give(capability: str) -> None:
    assert load(('["NET_RAW", "NET_ADMIN"]', f'["{capability}"]')).side_container.capabilities == (capability,)


@pytest.mark.parametrize(
    "image", ["tool", "localhost/tool:1", "registry.example:5000/a/tool@sha256:" + "0" * 64, "0123456789ab", "a__b"]
)
def test_image(image: str) -> None:
    assert load(('"localhost/tool:1"', f'"{image}"')).side_container.image == image


@pytest.mark.parametrize(
    "image",
    [
        *(
            "",
            "--privileged",
            "-v/:/host",
            "docker://tool",
            "dir:/var/lib/tool",
            "oci:/tmp/x:1",
            "docker-archive:/x.tar",
        ),
        *("tool --privileged", "tool,x", "tool\\n", "tool\\u0000", "/tool", "./tool", "tool;x", "$IMAGE", "t\u00f6l"),
    ],
)
def test_an_image_is_neither_an_option_nor_a_transport(image: str) -> None:
    assert "side_container.image must be the name of an image" in refusal(('"localhost/tool:1"', f'"{image}"')).message


@pytest.mark.parametrize(("size", "bytes_"), [("1K", 2**10), ("64M", 2**26), ("2G", 2**31)])
def test_memory(size: str, bytes_: int) -> None:
    assert load(('"64M"', f'"{size}"')).side_container.limits.memory == bytes_


@pytest.mark.parametrize(
    "size",
    [
        "",
        "M",
        "64",
        "64m",
        "64MB",
        "-1M",
        "1.5G",
        " 64M",
        "64M\\n",
        "64 M",
        "unlimited",
        "9" * 40 + "M",
        "\u0661M",
        "0M",
    ],
)
def test_memory_is_always_limited(size: str) -> None:
    assert "side_container.memory must be a size such as 64M" in refusal(('"64M"', f'"{size}"')).message


@pytest.mark.parametrize("what", ["udp:67", "tcp:1", "udp:65535"])
def test_listens(what: str) -> None:
    assert load(("alive = 100", f'listens = "{what}"')).side_container.readiness.what == what


@pytest.mark.parametrize(
    "what",
    ["", "udp", "udp:", "sctp:1", "udp:0", "udp:65536", "udp:-1", "udp:67\\n", ":67", "UDP:67", "udp:" + "9" * 5000],
)
def test_listens_names_a_protocol_and_a_port(what: str) -> None:
    assert "must be a protocol and a port" in refusal(("alive = 100", f'listens = "{what}"')).message


@pytest.mark.parametrize("name", ["a", "neutron-dhcp-dnsmasq", "x" * 40, "0"])
def test_service_name(name: str) -> None:
    assert is_service_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "a b", "a@b", "a\n", "a\0", "x" * 41, "\u0430", "%i"],
    ids=ascii,
)
def test_no_service_name(name: str) -> None:
    assert not is_service_name(name)


# ---------------------------------------------------------------- extends and parameters

PRESET = changed(("version = 1\n", 'version = 1\n[parameters]\nuid = 1000\nroot = "/host"\n'), text=POLICY)
PRESET = PRESET.replace('description = "a tool"\nprogram = "tool"\n', "", 1)
PRESET = 'description = "a tool"\nprogram = "tool"\n' + changed(
    ("uid = 1000\ngid", 'uid = "{uid}"\ngid'), ('"/host/state"', '"{root}/state/{uid}"'), text=PRESET
)


def extend(text: str, preset: str = PRESET) -> Policy:
    return parse('extends = "base"\n' + text, base=preset)


def extend_refusal(text: str) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        extend(text)
    return caught.value


def test_a_policy_that_only_extends_is_its_preset() -> None:
    policy = extend("")
    assert policy.service == "small"
    assert (policy.side_container.uid, policy.agent.state_on_host) == (1000, "/host/state/1000")


def test_a_parameter_keeps_its_type_and_becomes_part_of_strings() -> None:
    policy = extend('[parameters]\nuid = 7\nroot = "/srv"\n')
    assert (policy.side_container.uid, policy.agent.state_on_host) == (7, "/srv/state/7")


def test_a_key_replaces_the_presets() -> None:
    policy = extend("[options]\nname = 'only'\n[side_container]\nuid = 9\n")
    assert [each.source for each in policy.options["name"].values] == ["only"]
    assert policy.options["name"].rule == "small.toml:3"
    assert policy.side_container.uid == 9


def test_keys_that_are_not_named_stay_as_in_the_preset() -> None:
    policy = extend("[options]\nname = 'only'\n")
    assert policy.options["quiet"].rule == f"presets/base.toml:{line_of(PRESET, 'quiet = ')}"
    assert policy.options["data"].required


def test_a_key_is_added_to_the_presets() -> None:
    policy = extend("[options]\nscript = '/bin/x'\n")
    assert {"script", "quiet"} <= policy.options.keys()


def test_an_option_is_taken_back_by_false() -> None:
    assert "quiet" not in extend("[options]\nquiet = false\n").options


def test_only_an_option_that_exists_can_be_taken_back() -> None:
    assert "is not an option of tool" in extend_refusal("[options]\nquite = false\n").message


def test_a_list_is_replaced_and_not_extended() -> None:
    assert extend('[side_container]\ncapabilities = ["KILL"]\n').side_container.capabilities == ("KILL",)


@pytest.mark.parametrize("preset", ["1", '""', '"../base"', '"Base"', '["base"]', '"/etc/passwd"', '"base\\n"'])
def test_extends_names_a_preset(preset: str) -> None:
    with pytest.raises(PolicyError, match=r"^small\.toml:1: extends must be the name of a preset"):
        parse(f"extends = {preset}\n", base=PRESET)


def test_a_preset_that_is_not_there() -> None:
    with pytest.raises(PolicyError, match="there is no preset named nothing"):
        parse('extends = "nothing"\n')


def test_presets_that_extend_each_other_in_a_circle_are_refused() -> None:
    with pytest.raises(PolicyError, match="more than 4 presets in a chain"):
        parse('extends = "base"\n', base='extends = "base"\n' + PRESET)


def test_a_parameter_that_the_preset_does_not_have() -> None:
    error = extend_refusal("[parameters]\nuidd = 7\n")
    assert error.message.startswith("small.toml:3: parameters.uidd ")
    assert "uid, root" in error.hint


@pytest.mark.parametrize("value", ["true", "1.5", "[]", "{}", "1979-05-27"])
def test_a_parameter_is_a_string_or_a_number(value: str) -> None:
    assert "parameters.uid must be a string or an integer" in extend_refusal(f"[parameters]\nuid = {value}\n").message


@pytest.mark.parametrize("character", list("{}<>,'\"$%`;*?[]()|&!#~^=\\\n\0\t\u00e4"), ids=ascii)
def test_a_parameter_cannot_change_what_a_pattern_means(character: str) -> None:
    escaped = f"\\u{ord(character):04x}"
    assert "contains a character" in extend_refusal(f'[parameters]\nroot = "/a{escaped}b"\n').message


def test_an_empty_parameter_is_refused() -> None:
    assert "contains a character" in extend_refusal('[parameters]\nroot = ""\n').message


@pytest.mark.parametrize("text", ["{uid", "{uidx", "uid}"])
def test_half_a_hole_is_not_a_parameter(text: str) -> None:
    policy = extend(f'description = "{text}"\n')
    assert policy.description == text


# ---------------------------------------------------------------- names that define each other


def test_a_circle_of_names_is_refused() -> None:
    change = ('net = "<uuid>"\nhome = "/state/{net}"', 'net = "a{b}"\nb = "c{home}"\nhome = "d{net}"')
    assert "defines itself" in refusal(change).message


def test_a_name_used_by_two_others_is_no_circle() -> None:
    policy = load(('home = "/state/{net}"', 'home = "/state/{net}"\nlogs = ["/log/{net}", "/log/{net}/{net}"]'))
    assert "logs" in policy.names


# ---------------------------------------------------------------- what ships


@pytest.mark.parametrize("name", presets.names())
def test_every_shipped_preset_is_valid(name: str) -> None:
    assert preset(name).description
    assert is_service_name(name)


@pytest.mark.parametrize("name", presets.names())
def test_every_shipped_preset_can_be_extended(name: str) -> None:
    assert policy_of(f'extends = "{name}"\n').service == "service"


@pytest.mark.parametrize("path", sorted((presets.DIRECTORY / "programs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_program_table_is_valid(path: Path) -> None:
    table = parse_program(path.stem, presets.read_program(path.stem))
    assert table.options
    assert all(not option.short or len(option.short) == 1 for option in table.options.values())


def test_what_a_program_table_says_of_an_option() -> None:
    table = parse_program("dnsmasq", presets.read_program("dnsmasq"))
    assert table.options["no-hosts"].takes is Takes.NOTHING
    assert table.options["conf-dir"].takes is Takes.VALUE
    assert table.options["pid-file"].takes is Takes.OPTIONAL
    assert table.options["dhcp-script"].danger
    assert table.options["dhcp-script"].short == "6"


def test_a_name_that_ships_nothing_is_told_what_does() -> None:
    with pytest.raises(PolicyError, match="there is no preset named nothing") as caught:
        presets.read_preset("nothing")
    assert "neutron-dhcp-dnsmasq" in caught.value.hint


# ---------------------------------------------------------------- the host's own network


@pytest.mark.parametrize(
    "change",
    [
        ("uid = 1000", "uid = 0"),
        ('capabilities = ["NET_BIND_SERVICE"]', 'capabilities = ["NET_ADMIN"]'),
        ('capabilities = ["NET_BIND_SERVICE"]', 'capabilities = ["NET_BIND_SERVICE", "NET_RAW"]'),
    ],
    ids=["root", "NET_ADMIN", "NET_RAW"],
)
def test_no_policy_grants_power_over_the_hosts_network(change: tuple[str, str]) -> None:
    small = (
        ('netns = "ns-{net}"', 'caller = "outside"'),
        ('capabilities = ["NET_RAW", "NET_ADMIN"]', 'capabilities = ["NET_BIND_SERVICE"]\nhost_network = true'),
    )
    assert load(*small).side_container.host_network
    with pytest.raises(PolicyError) as caught:
        parse(changed(change, text=changed(*small)))
    assert "host_network allows neither uid 0 nor capabilities other than NET_BIND_SERVICE" in caught.value.message


def test_the_hosts_network_is_for_callers_outside() -> None:
    text = changed(('netns = "ns-{net}"\n', ""), ("uid = 1000", "uid = 1000\nhost_network = true"))
    with pytest.raises(PolicyError) as caught:
        parse(text)
    assert 'request.caller must be "outside"' in caught.value.message


# ---------------------------------------------------------------- the nearest known word


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[agent]", "[agnet]"), "agnet is not allowed here; did you mean agent?"),
        (("netns =", "netsn ="), "request.netns is missing; did you mean netsn?"),
        (("memory =", "memroy ="), "side_container.memory is missing; did you mean memroy?"),
        (("tasks =", "ioweight ="), "side_container.tasks is missing$"),
        (("most = 2", "mots = 2"), "options.name.mots is not allowed here; did you mean most?"),
        (("quiet = true", "qiet = true"), "options.qiet is not an option of tool 1.0; did you mean quiet?"),
        (('engine = "podman"', 'engine = "podmn"'), "must be one of podman, docker, .*; did you mean podman?"),
        (('format = "lines"', 'format = "lins"'), "format must be one of lines, .*; did you mean lines?"),
        (('"{home}/data"', '"{hom}/data"'), r"uses \{hom\}, which \[names\] does not declare; did you mean home?"),
        (('program = "tool"', 'program = "my_tool"'), "program must be the name .*: lower-case letters, digits"),
        (("alive = 100", "alive = 100\nwithn = 5"), "ready.withn is not allowed here; did you mean within?"),
        (("scratch =", "scrach ="), "side_container.scrach is not allowed here; did you mean scratch?"),
    ],
    ids=lambda each: each[1] if isinstance(each, tuple) else "",
)  # fmt: skip
def test_an_unknown_word_is_reported_with_the_nearest_known_one(change: tuple[str, str], said: str) -> None:
    with pytest.raises(PolicyError, match=said.replace("?", r"\?")):
        load(change)


def test_an_unknown_parameter_is_reported_with_the_nearest_known_one() -> None:
    with pytest.raises(PolicyError, match=r"parameters.imge is not a parameter of preset .*; did you mean image\?"):
        policy_of('extends = "neutron-dhcp-dnsmasq"\n[parameters]\nimge = "x"\n')


def test_all_keys_that_are_allowed_somewhere_are_listed() -> None:
    with pytest.raises(PolicyError) as caught:
        parse(f"{POLICY}\n[limits]\nx = 1\n")
    assert caught.value.hint == "allowed keys: backoff, burst, instances, line, rate, records, replies, spool"
    with pytest.raises(PolicyError) as caught:
        load(("log-queries = true", "log-queries = { x = 1 }"))
    assert caught.value.hint == "allowed keys: bare, block, instead, pass, value"
