"""Parses a service's policy from TOML text: one frozen `Policy`, or an error with file and line.

A policy is loaded as a whole or not at all. An unknown key, a wrong type, an undeclared placeholder, or an option that
the program does not have makes the file invalid.

A service's file may say `extends = "PRESET"`: the preset's tables come first, the file's keys replace or add to them.
Strings may use `{parameter}` for a value of `[parameters]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sidespawn.core.options import Option, ProgramTable, Takes
from sidespawn.core.pattern import Names, Pattern
from sidespawn.core.plan import Limits, Readiness, ReadyWhen, Script
from sidespawn.core.policy import (
    Adopt,
    Agent,
    Caller,
    OptionRule,
    Pace,
    Policy,
    Root,
    ServiceLimits,
    SideContainer,
    is_service_name,
)
from sidespawn.core.values import ALPHANUMERIC, DIGITS, PATH_CHARACTERS, is_decimal, is_path, only
from sidespawn.core.wire import LINE_BYTES, LONGEST_LINE, SIGNALS
from sidespawn.errors import PolicyError
from sidespawn.loading.configuration import build_configuration
from sidespawn.loading.document import Table, meant, merge, parse_toml, size, substitute
from sidespawn.loading.possible import check_possible
from sidespawn.loading.programs import parse_program

POLICY_VERSION = 1
KEYS = frozenset(
    {
        "version",
        "description",
        "mode",
        "program",
        "agent",
        "names",
        "request",
        "environment",
        "options",
        "configuration",
    }
    | {"arguments", "pace", "limits", "side_container", "adopt", "test"}
)
MODES = ("enforce", "monitor")
WAKES = ("doorbell", "path")
EXTENSIONS = 4
ENGINES = ("podman", "docker", "systemd", "kubernetes")
IMAGE_CHARACTERS = ALPHANUMERIC | frozenset("._-/:@")
# SYS_ADMIN, SYS_PTRACE, SYS_MODULE and similar ones amount to root on the host: no policy can give them.
CAPABILITIES = frozenset(
    {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "KILL", "NET_ADMIN"}
    | {"NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "SYS_NICE"}
)
# On the host's own network, NET_ADMIN and NET_RAW apply to the host, and sockets that trust root can be reached.
ON_HOST_NETWORK = frozenset({"NET_BIND_SERVICE"})
SMALLEST_SPOOL = 2 * 2**20  # bytes


Read = Callable[[str], str]  # the text of a preset or of a program's table, by name; raises PolicyError


def parse_policy(service: str, source: str, text: str, read_preset: Read, read_program: Read) -> Policy:
    """Parse the policy of `service` in `text`; `source` is the file's name for messages. Raises PolicyError."""
    document, lines = extended(source, text, read_preset, EXTENSIONS)
    parameters = read_parameters(Table(document, lines, source).table("parameters", optional=True))
    document.pop("parameters", None)
    return build_policy(service, Table(substitute(document, parameters), lines, source), read_program)


def extended(source: str, text: str, read_preset: Read, most: int) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """Return the document with the presets that it extends, and FILE:LINE of each key."""
    document, lines = parse_toml(source, text)
    preset = document.pop("extends", None)
    if preset is None:
        return document, lines
    where = lines.get(("extends",), source)
    if not isinstance(preset, str) or not is_service_name(preset):
        raise PolicyError(f"{where}: extends must be the name of a preset")
    if most == 0:
        raise PolicyError(f"{where}: more than {EXTENSIONS} presets in a chain")
    base, base_lines = extended(f"presets/{preset}.toml", read_preset(preset), read_preset, most - 1)
    own = Table(document, lines, source).table("parameters", optional=True)
    for name in own.keys():
        if name not in base.get("parameters", {}):
            known = ", ".join(base.get("parameters", {}))
            problem = f"is not a parameter of preset {preset}{meant(name, base.get('parameters', {}))}"
            raise own.error(name, problem, f"its parameters: {known}")
    return merge(base, document), base_lines | lines


def read_parameters(table: Table) -> dict[str, str | int]:
    parameters: dict[str, str | int] = {}
    for name in table.keys():
        value = substitute(table.take(name, str, int), parameters)  # of earlier ones
        if isinstance(value, str) and not only(value, PATH_CHARACTERS | IMAGE_CHARACTERS):
            raise table.error(name, "is empty or contains a character that a parameter cannot have")
        parameters[name] = value
    return parameters


def build_policy(service: str, top: Table, read_program: Read) -> Policy:
    top.check_keys(KEYS)  # first, or a misspelled table would be reported as a missing one
    if top.take("version", int) != POLICY_VERSION:
        raise top.error("version", f"must be {POLICY_VERSION}")
    declared = top.table("names", optional=True)
    declared.declare(declared.keys())
    top.declare(declared.keys())
    names = {name: declared.patterns(name) for name in declared.keys()}
    side_container = build_side_container(top.table("side_container"))
    program: str = top.take("program", str)
    if not is_service_name(program):
        raise top.error("program", "must be the name of a program's table: lower-case letters, digits and hyphens")
    table = parse_program(program, read_program(program))
    request = top.table("request")
    options = top.table("options", optional=True)
    environment = top.table("environment", optional=True)
    configuration = top.table("configuration", optional=True)
    arguments = top.table("arguments", optional=True)
    policy = Policy(
        service=service,
        description=top.take("description", str, default=""),
        is_monitor=top.choice("mode", MODES, MODES[0]) == "monitor",
        table=table,
        agent=build_agent(top.table("agent")),
        pace=build_pace(top.table("pace", optional=True)),
        limits=build_limits(top.table("limits", optional=True)),
        names=names,
        caller=Caller(request.choice("caller", tuple(Caller), default=Caller.INSIDE.value)),
        netns=None if side_container.host_network else request.pattern("netns"),
        netns_rule=request.where("netns"),
        instance=request.patterns("instance"),
        signals=request.strings("signals", optional=True),
        signals_rule=request.where("signals"),
        environment={name: (environment.patterns(name), environment.where(name)) for name in environment.keys()},
        environment_rule=environment.where(),
        options={rule.option.name: rule for rule in build_options(options, table)},
        options_rule=options.where(),
        configuration={
            name: build_configuration(configuration.table(name), name, table) for name in configuration.keys()
        },
        first=arguments.strings("first", optional=True),
        always=arguments.strings("always", optional=True),
        unless_given=arguments.strings("unless_given", optional=True),
        side_container=side_container,
        adopt=build_adopt(top.table("adopt"), side_container.engine) if top.has("adopt") else None,
    )
    top.take("test", list, default=[])  # cases for `sidespawn check`, not used here
    for each in (request, arguments, top):
        each.done()
    check_policy(policy, top, request)
    check_possible(policy, top)
    return policy


def build_agent(table: Table) -> Agent:
    local, stop = table.take("local", list, default=[]), table.take("stop", list, default=[])
    for key, lists in (("local", local), ("stop", stop)):
        if not all(isinstance(argv, list) and all(isinstance(each, str) for each in argv) for argv in lists):
            raise table.error(key, "must be a list of argument lists")
    agent = Agent(
        state=table.path("state"),
        state_on_host=table.path("state_on_host"),
        roots=build_roots(table),
        spool_uid=table.number("spool_uid", 0, 2**32 - 2, default=0),
        wrapper=table.path("wrapper"),
        kill_scripts=table.strings("kill_scripts", optional=True),
        shared_kill_scripts=table.strings("shared_kill_scripts", optional=True),
        timeout=table.number("timeout", 1, 600, default=120),
        local=tuple(tuple(argv) for argv in local),
        stop=tuple(tuple(argv) for argv in stop),
        wakes_by_path=table.choice("wake", WAKES, WAKES[0]) == "path",
        refusals_fail=table.take("refusals_fail", bool, default=True),
    )
    scripts = (*agent.kill_scripts, *agent.shared_kill_scripts)
    if not all(is_path(path) for path in scripts):
        raise table.error("kill_scripts", "must be absolute paths in the agent")
    files = [path.rpartition("/")[2] for path in (agent.wrapper, *scripts)]
    if len(set(files)) != len(files):
        raise table.error("kill_scripts", "contains two paths with the same file name (the wrapper included)")
    table.done()
    return agent


def build_roots(agent: Table) -> tuple[Root, ...]:
    """Build the roots. None may be inside another: its writers could replace a directory in the path with a link."""
    table = agent.table("roots", optional=True)
    roots = []
    taken = [(agent.path("state"), agent.path("state_on_host"), "state")]
    for name in table.keys():
        each = table.table(name)
        root = Root(
            path=each.path("path"), on_host=each.path("on_host"), writable=each.take("writable", bool, default=False)
        )
        each.done()
        for path, on_host, other in taken:
            if is_nested(root.path, path) or is_nested(root.on_host, on_host):
                raise table.error(name, f"and agent.{other} overlap, in the agent or on the host")
        taken.append((root.path, root.on_host, f"roots.{name}"))
        roots.append(root)
    return tuple(roots)


def is_nested(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def build_pace(table: Table) -> Pace:
    pace = Pace(linger=table.number("linger", 0, 60, default=3), parallel=table.number("parallel", 1, 64, default=4))
    table.done()
    return pace


def build_limits(table: Table) -> ServiceLimits:
    default = ServiceLimits()
    limits = ServiceLimits(
        burst=table.number("burst", 1, 100_000, default=default.burst),
        rate=table.number("rate", 1, 10_000, default=default.rate),
        instances=table.number("instances", 1, 10_000, default=default.instances),
        backoff=table.number("backoff", 0, 3600, default=default.backoff),
        records=table.number("records", 1, 100_000, default=default.records),
        replies=table.number("replies", 64, 65_536, default=default.replies),
        spool=size(table, "spool") if table.has("spool") else default.spool,
        line=size(table, "line") if table.has("line") else default.line,
    )
    if not LINE_BYTES <= limits.line <= LONGEST_LINE:
        raise table.error("line", "must be from 64K to 512K")
    if limits.spool < SMALLEST_SPOOL:
        raise table.error("spool", "must be at least 2M, or a full request file would fill it")
    table.done()
    return limits


def build_options(table: Table, program: ProgramTable) -> Iterable[OptionRule]:
    for name in table.keys():
        option = program.options.get(name)
        if option is None:
            problem = f"is not an option of {program.program} {program.version}{meant(name, program.options)}"
            raise table.error(name, problem)
        if table.take(name, bool, str, list, dict) is False:
            continue  # a service's own policy revokes what its preset allows
        yield build_option_rule(table, name, option)


def build_option_rule(table: Table, name: str, option: Option) -> OptionRule:
    """Build a rule. The long form is a table; `true`, a pattern or a list of patterns are short for one."""
    given = table.take(name, bool, str, list, dict)
    if isinstance(given, dict):
        long = table.table(name)
        values = long.patterns("value", optional=True)
        configuration = long.take("configuration", str, default="")
        rule = OptionRule(
            option=option,
            values=values,
            bare=long.take("bare", bool, default=not values and not configuration),
            required=long.take("required", bool, default=False),
            most=long.number("most", 1, 4096, default=1),
            passed_on=long.take("pass", bool, default=True),
            instead=long.pattern("instead") if long.has("instead") else None,
            configuration=configuration,
            rule=table.where(name),
        )
        long.done()
    else:
        values = () if given is True else table.patterns(name)
        rule = OptionRule(
            option=option, values=values, bare=not values, required=False, most=1, passed_on=True, instead=None,
            configuration="", rule=table.where(name),
        )  # fmt: skip
    if option.takes in (Takes.NOTHING, Takes.WORD) and rule.values:
        raise table.error(name, "takes no value")
    if option.takes is Takes.VALUE and rule.bare:
        raise table.error(name, "takes a value, so the rule must list the allowed ones")
    return rule


def build_side_container(table: Table) -> SideContainer:
    ready, stop = table.table("ready"), table.table("stop", optional=True)
    engine = table.choice("engine", ENGINES)
    image = table.take("image", str)
    if not is_image(image) and not (engine == "systemd" and is_path(image)):
        raise table.error("image", "must be the name of an image, without a transport", "see `podman images`")
    capabilities = table.strings("capabilities", optional=True)
    for capability in capabilities:
        if capability not in CAPABILITIES:
            raise table.error("capabilities", f"cannot have {capability}", f"allowed: {' '.join(sorted(CAPABILITIES))}")
    scratch = table.strings("scratch", optional=True)
    if not all(is_path(path) for path in scratch):
        raise table.error("scratch", "must be absolute paths")
    apparmor: str = table.take("apparmor", str, default="")
    if not set(apparmor) <= ALPHANUMERIC | {"-", ".", "_"}:
        raise table.error("apparmor", "must be the name of a profile")
    children = table.table("child_pid_files", optional=True)
    environment, scripts = table.table("environment", optional=True), table.table("scripts", optional=True)
    side_container = SideContainer(
        engine=engine,
        image=image,
        command=table.path("command"),
        uid=table.number("uid", 0, 2**32 - 2),
        gid=table.number("gid", 0, 2**32 - 2),
        host_network=table.take("host_network", bool, default=False),
        capabilities=tuple(sorted(capabilities)),
        environment=tuple((name, environment.take(name, str)) for name in environment.keys()),
        mounts=table.patterns("mounts", optional=True),
        writes=build_places(table.table("writes", optional=True)),
        reads=build_places(table.table("reads", optional=True)),
        scratch=scratch,
        apparmor=apparmor,
        scripts=tuple(Script(path=path, text="\n".join(scripts.strings(path)) + "\n") for path in scripts.path_keys()),
        pid_file=table.pattern("pid_file") if table.has("pid_file") else None,
        child_pid_files=tuple((children.parsed(key, (key,))[0], children.path(key)) for key in children.keys()),
        limits=Limits(
            memory=size(table, "memory"),
            tasks=table.number("tasks", 1, 100_000),
            open_files=table.number("open_files", 16, 1_000_000, default=1024),
        ),
        readiness=build_readiness(ready),
        grace=stop.number("grace", 0, 300, default=10),
    )
    for each in (stop, table):
        each.done()
    return side_container


def build_adopt(table: Table, engine: str) -> Adopt:
    adopt = Adopt(
        names=table.patterns("name"),
        images=table.patterns("image"),
        engine=table.choice("engine", ENGINES, engine),
        rule=table.where(),
    )
    table.done()
    return adopt


def build_places(table: Table) -> tuple[tuple[str, Pattern], ...]:
    return tuple((path, table.pattern(path)) for path in table.path_keys())


def is_image(text: str) -> bool:
    """Check for [HOST[:PORT]/]PATH[:TAG][@DIGEST]: no option, no transport such as dir: or oci:, which open paths."""
    registry, _, rest = text.rpartition("/")[0].partition("/")
    host, colon, port = registry.partition(":")
    return (
        only(text, IMAGE_CHARACTERS)
        and text[0] in ALPHANUMERIC
        and "//" not in text
        and ":" not in rest
        and (not colon or (bool(host) and only(port, DIGITS)))
    )


def build_readiness(table: Table) -> Readiness:
    said = [when for when in ReadyWhen if table.has(when.value)]
    if len(said) != 1:
        raise table.error("", "must have exactly one of file, listens, alive")
    when = said[0]
    if when is ReadyWhen.ALIVE:
        what = str(table.number("alive", 1, 60_000))
    elif when is ReadyWhen.FILE:
        what = table.path("file")
    else:
        what = table.take("listens", str)
        protocol, _, port = what.partition(":")
        if protocol not in ("udp", "tcp") or not is_decimal(port) or not 0 < int(port) < 65536:
            raise table.error("listens", "must be a protocol and a port, such as udp:67")
    readiness = Readiness(when=when, what=what, within=table.number("within", 1, 300, default=10))
    table.done()
    return readiness


def check_policy(policy: Policy, top: Table, request: Table) -> None:
    """Check what concerns the whole policy."""
    for name in policy.names:
        if name in uses(policy.names, policy.names[name], set()):
            raise top.table("names").error(name, "defines itself")
    for signal in policy.signals:
        if signal not in SIGNALS:
            raise request.error("signals", f"cannot have {signal}", f"allowed: {' '.join(SIGNALS)}")
    side_container = policy.side_container
    if side_container.host_network:
        if policy.caller is not Caller.OUTSIDE:
            raise request.error("caller", 'must be "outside" where side_container.host_network is true')
        if side_container.uid == 0 or not ON_HOST_NETWORK.issuperset(side_container.capabilities):
            problem = f"allows neither uid 0 nor capabilities other than {' '.join(ON_HOST_NETWORK)}"
            raise top.table("side_container").error("host_network", problem)
    for pattern in policy.adopt.names if policy.adopt else ():
        if policy.netns is None or not set(policy.netns.names) <= set(pattern.names):
            raise top.table("adopt").error("name", "must contain every name of request.netns, which is required")
    for rule in policy.options.values():
        if rule.configuration and rule.configuration not in policy.configuration:
            raise PolicyError(f"{rule.rule}: there is no [configuration.{rule.configuration}]")


def uses(names: Names, patterns: tuple[Pattern, ...], found: set[str]) -> set[str]:
    """Return every name that the patterns use, directly or through another name."""
    for name in (name for pattern in patterns for name in pattern.names if name not in found):
        found.add(name)
        uses(names, names[name], found)
    return found
