"""Decides a request by a policy: the result is a plan or a refusal.

`Judge.decide` is a straight line: program, namespace, environment, arguments, then the plan from the names that these
bound.  A plan consists of the policy's own text and of values that passed a type; it contains nothing else of the
request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sidespawn.core.configuration import accept_configuration
from sidespawn.core.options import Given, Option, read_arguments
from sidespawn.core.pattern import Conflict, Pattern, match_any, render, render_first
from sidespawn.core.plan import ChildPidFile, ConfigurationFile, Mount, PidFile, Plan
from sidespawn.core.policy import Caller, OptionRule, Policy, Root
from sidespawn.core.values import PATH_CHARACTERS, is_path
from sidespawn.core.wire import PROBE, SignalRequest, StartRequest
from sidespawn.errors import Denied, Reason, quoted
from sidespawn.frozen import dataclass


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One argument of an allowed request, for `explain`: the arguments passed on for it, and its rule."""

    argument: int
    option: str
    rule: str
    passed_on: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Excused:
    """An argument that monitor mode let pass, with the refusal."""

    reason: Reason
    message: str
    rule: str
    option: str
    count: int  # of this option up to here; 0 for a missing one
    untrusted_value: str | None


@dataclass(frozen=True, kw_only=True)
class Allowed:
    plan: Plan
    bindings: Mapping[str, str]
    judged: tuple[Judged, ...]
    excused: tuple[Excused, ...]


# Refusals that monitor mode only records. All others remain, including those of files that have their own rules.
OF_ARGUMENTS = frozenset(
    {Reason.OPTION_NOT_ALLOWED, Reason.OPTION_REPEATED, Reason.OPTION_MISSING, Reason.OPTION_MALFORMED}
    | {Reason.VALUE_NOT_ALLOWED, Reason.VALUE_CONFLICT}
)
STATE_CHARACTERS = PATH_CHARACTERS | {":"}

# The content of a file under the agent's state, or None if it cannot be read and that is not an error.
ReadFile = Callable[[str], bytes | None]


def decide(policy: Policy, request: StartRequest, read_file: ReadFile) -> Allowed:
    """Return what to start for this request. Raises Denied, and whatever `read_file` raises."""
    return Judge(policy, read_file).decide(request)


class Judge:
    """Goes through one request. Each part is accepted or raises Denied; names that it binds stay bound."""

    def __init__(self, policy: Policy, read_file: ReadFile) -> None:
        self.policy, self.read_file = policy, read_file
        self.bindings: dict[str, str] = {}
        self.judged: list[Judged] = []
        self.configuration: list[ConfigurationFile] = []
        self.excused: list[Excused] = []

    def decide(self, request: StartRequest) -> Allowed:
        self.program(request.untrusted_argv[0])
        self.netns(request.untrusted_netns)
        for untrusted_name, untrusted_value in request.untrusted_environment:
            self.environment(untrusted_name, untrusted_value)
        for given in read_arguments(self.policy.table, request.untrusted_argv):
            self.argument(given)
        self.whole()
        # Every name and value of the environment has been accepted by now, so it is passed on unchanged.
        plan = make_plan(self.policy, self, request.untrusted_environment)
        return Allowed(plan=plan, bindings=self.bindings, judged=tuple(self.judged), excused=tuple(self.excused))

    def program(self, untrusted_program: str) -> None:
        """Check only the name: the policy says which file to run."""
        if untrusted_program.rpartition("/")[2] != self.policy.table.program:
            message = f"{quoted(untrusted_program)} is not {self.policy.table.program}, this service's only program"
            raise Denied(Reason.PROGRAM_NOT_ALLOWED, message, argument=0)

    def netns(self, untrusted_netns: str | None) -> None:
        rule, netns = self.policy.netns_rule, self.policy.netns
        if self.policy.caller is Caller.OUTSIDE or netns is None:
            if untrusted_netns is not None:
                message = f"request came from network namespace {quoted(untrusted_netns)}; this policy expects none"
                raise Denied(Reason.NAMESPACE_NOT_ALLOWED, f"{message} ({rule})", rule=rule)
            return
        if untrusted_netns is None:
            message = f"request came from no named network namespace; this policy expects {netns.source} ({rule})"
            hint = "run the program with `ip netns exec NAME`; the agent's /run/netns must be the host's"
            raise Denied(Reason.NAMESPACE_NOT_ALLOWED, message, hint, rule=rule)
        what = f"network namespace {quoted(untrusted_netns)}"
        self.bind((netns,), untrusted_netns, what, rule, refusal=Reason.NAMESPACE_NOT_ALLOWED)

    def environment(self, untrusted_name: str, untrusted_value: str) -> None:
        what = f"environment variable {quoted(untrusted_name)}"
        if untrusted_name not in self.policy.environment:
            rule = self.policy.environment_rule
            message = f"{what} is not named by the policy ({rule})"
            raise Denied(Reason.ENVIRONMENT_NOT_ALLOWED, message, rule=rule)
        patterns, rule = self.policy.environment[untrusted_name]
        self.bind(patterns, untrusted_value, f"{what}, {quoted(untrusted_value)},", rule)

    def argument(self, given: Given) -> None:
        """Accept one option as its rule says. In monitor mode, accept its canonical form even if no rule allows it."""
        option, value, allowed = given.option, given.untrusted_value, self.policy.options.get(given.option.name)
        try:
            rule = self.option(given, allowed)
        except Denied as refusal:
            self.excuse(refusal, option, value, self.given(option) + 1)
            rule = refusal.rule
        passed_on = self.passed_on(allowed, value) if allowed else option.written(value)
        self.judged.append(Judged(argument=given.argument, option=option.name, rule=rule, passed_on=passed_on))

    def given(self, option: Option) -> int:
        return sum(each.option == option.name for each in self.judged)

    def excuse(self, refusal: Denied, option: Option, untrusted_value: str | None, count: int) -> None:
        """Note a refusal in monitor mode if it concerns only arguments; raise it otherwise."""
        allowed = self.policy.options.get(option.name)
        if not self.policy.is_monitor or refusal.reason not in OF_ARGUMENTS or (allowed and allowed.configuration):
            raise refusal
        self.excused.append(
            Excused(
                reason=refusal.reason,
                message=refusal.message,
                rule=refusal.rule,
                option=option.name,
                count=count,
                untrusted_value=untrusted_value,
            )
        )

    def option(self, given: Given, allowed: OptionRule | None) -> str:
        """Return the rule that allows it."""
        option, value, argument = given.option, given.untrusted_value, given.argument
        what = f"argument {argument}, {option.spelling},"
        if allowed is None:
            danger = f": it {option.danger}" if option.danger else ""
            rule = self.policy.options_rule
            message = f"{what} is not among the options that the policy allows ({rule}){danger}"
            raise Denied(Reason.OPTION_NOT_ALLOWED, message, argument=argument, rule=rule)
        rule = allowed.rule
        if self.given(option) >= allowed.most:
            message = f"{what} is given more than {allowed.most} time(s) ({rule})"
            raise Denied(Reason.OPTION_REPEATED, message, argument=argument, rule=rule)
        if value is None and not allowed.bare:
            raise Denied(Reason.OPTION_MALFORMED, f"{what} has no value ({rule})", argument=argument, rule=rule)
        if value is not None and not self.is_configuration(allowed, value):
            wanted = allowed.values
            if allowed.configuration:  # it is not such a path, so this only says what was expected, or what conflicts
                wanted += (self.policy.configuration[allowed.configuration].path,)
            self.bind(wanted, value, f"{what} has the value {quoted(value)}, which", rule, argument=argument)
        return rule

    def passed_on(self, allowed: OptionRule, value: str | None) -> tuple[str, ...]:
        """Return the arguments that the program gets for an accepted argument."""
        if not allowed.passed_on:
            return ()
        if allowed.instead is None:
            return allowed.option.written(value)
        instead = render(allowed.instead, self.bindings)
        if instead is None:
            raise Denied(Reason.POLICY_INVALID, f"a name in {allowed.instead.source} is not bound ({allowed.rule})")
        return (instead,) if value is None else allowed.option.written(instead)

    def is_configuration(self, allowed: OptionRule, untrusted_path: str) -> bool:
        """Return whether the value names a file with rules. If so, the file is read and checked against them."""
        if not allowed.configuration:
            return False
        configuration = self.policy.configuration[allowed.configuration]
        try:
            found = match_any((configuration.path,), untrusted_path, self.policy.names, self.bindings)
        except Conflict:
            found = None
        if found is None:
            return False
        self.bindings = found
        path = f"{untrusted_path}/{configuration.file}" if configuration.file else untrusted_path
        below = beneath(self.policy, path)
        text, untrusted_content = None, self.read_file(below)
        if untrusted_content is not None:
            text, self.bindings = accept_configuration(
                configuration.rules, path, untrusted_content, self.policy.names, self.bindings
            )
        file = ConfigurationFile(path=configuration.at or path, beneath=below, rules=allowed.configuration, text=text)
        self.configuration.append(file)
        return True

    def whole(self) -> None:
        """Check requirements that involve all options."""
        given = {each.option for each in self.judged}
        for name, allowed in self.policy.options.items():
            if allowed.required and name not in given:
                message = f"{allowed.option.spelling} must be given ({allowed.rule})"
                self.excuse(Denied(Reason.OPTION_MISSING, message, rule=allowed.rule), allowed.option, None, 0)

    def bind(
        self,
        patterns: tuple[Pattern, ...],
        untrusted_value: str,
        what: str,
        rule: str,
        *,
        argument: int | None = None,
        refusal: Reason = Reason.VALUE_NOT_ALLOWED,
    ) -> None:
        """Accept a value that one of the patterns matches."""
        try:
            found = match_any(patterns, untrusted_value, self.policy.names, self.bindings)
        except Conflict as conflict:
            other, bound = quoted(conflict.untrusted_value), quoted(conflict.bound)
            message = f"{what} has {other} for {{{conflict.name}}}, but this request is for {bound} ({rule})"
            conflicting = Reason.VALUE_CONFLICT if refusal is Reason.VALUE_NOT_ALLOWED else refusal
            raise Denied(conflicting, message, argument=argument, rule=rule) from None
        if found is None:
            wanted = " or ".join(pattern.source for pattern in patterns[:4]) or "no value"
            raise Denied(refusal, f"{what} is not {wanted} ({rule})", argument=argument, rule=rule)
        self.bindings = found


def make_plan(policy: Policy, judge: Judge, environment: tuple[tuple[str, str], ...]) -> Plan:
    bindings, side_container = judge.bindings, policy.side_container
    instance = render_first(policy.instance, bindings)
    netns = None if policy.netns is None else render(policy.netns, bindings)
    named = side_container.host_network or (netns is not None and fit_for_a_name(netns))
    if instance is None or not named or not fit_for_a_name(instance):
        raise Denied(Reason.POLICY_INVALID, "the policy's instance and netns do not produce valid names here")
    given = {each.option for each in judge.judged}
    defaults = (each for each in policy.unless_given if each.lstrip("-").partition("=")[0] not in given)
    mounts = place_mounts(policy, bindings)
    for path in (*(mount.path for mount in mounts), *(file.path for file in judge.configuration)):
        if not is_path(path):  # it must not contain characters that an engine interprets, such as a comma
            raise Denied(Reason.VALUE_NOT_ALLOWED, f"{quoted(path)} cannot be a path in the side container")
    ours = (side_container.command, *side_container.scratch)
    ours += (*(each.path for each in side_container.scripts), *(each.path for each in judge.configuration))
    for path in (*(mount.path for mount in mounts), *(f"{each}/" for each in ours)):
        # With a link in its place, an engine would mount it somewhere else, over whatever is there.
        if any(path.startswith(f"{mount.path}/") for mount in mounts):
            message = f"{quoted(path.rstrip('/'))} is inside a mount, where the agent could replace it"
            raise Denied(Reason.POLICY_INVALID, message)
    pid_file = None if side_container.pid_file is None else render(side_container.pid_file, bindings)
    return Plan(
        service=policy.service,
        instance=instance,
        engine=side_container.engine,
        image=side_container.image,
        command=side_container.command,
        arguments=(
            *policy.first,
            *(text for each in judge.judged for text in each.passed_on),
            *policy.always,
            *defaults,
        ),
        environment=(*side_container.environment, *environment),
        netns=netns or "",
        host_network=side_container.host_network,
        uid=side_container.uid,
        gid=side_container.gid,
        capabilities=side_container.capabilities,
        state=policy.agent.state,
        mounts=mounts,
        configuration=tuple(judge.configuration),
        scripts=side_container.scripts,
        scratch=side_container.scratch,
        apparmor=side_container.apparmor,
        limits=side_container.limits,
        pid_file=None if pid_file is None else PidFile(beneath=beneath(policy, pid_file, writes=True)),
        child_pid_files=child_pid_files(policy, bindings),
        readiness=side_container.readiness,
        grace=side_container.grace,
    )


def child_pid_files(policy: Policy, bindings: dict[str, str]) -> tuple[ChildPidFile, ...]:
    children = ((render(pattern, bindings), inside) for pattern, inside in policy.side_container.child_pid_files)
    return tuple(
        ChildPidFile(beneath=beneath(policy, path, writes=True), inside=inside) for path, inside in children if path
    )


def place_mounts(policy: Policy, bindings: dict[str, str]) -> tuple[Mount, ...]:
    side_container = policy.side_container
    writable = dict.fromkeys(path for path in (render(each, bindings) for each in side_container.mounts) if path)
    writes = ((at, render(each, bindings)) for at, each in side_container.writes)
    reads = ((at, render(each, bindings)) for at, each in side_container.reads)
    return (
        *(Mount(path=path, beneath=beneath(policy, path, writes=True), writable=True) for path in writable),
        *(Mount(path=at, beneath=beneath(policy, path, writes=True), writable=True) for at, path in writes if path),
        *(Mount(path=at, beneath=beneath(policy, path, or_all=True), writable=False) for at, path in reads if path),
    )


def beneath(policy: Policy, path: str, *, or_all: bool = False, writes: bool = False) -> str:
    """Return the path relative to the agent's state directory or another root, comparing components, not characters."""
    agent, parts = policy.agent, path.split("/")
    state = Root(path=agent.state, on_host="", writable=True)
    for root in (state, *agent.roots):
        above = root.path.split("/")
        inside = parts[len(above) :] or ["."]
        named = is_path("/" + "/".join(inside), STATE_CHARACTERS) or (or_all and len(parts) == len(above))
        if parts[: len(above)] == above and named and (root.writable or not writes):
            return f"{root.on_host and root.on_host + '//'}{'/'.join(inside)}"
    roots = ", ".join(each.path for each in (state, *agent.roots) if each.writable or not writes)
    raise Denied(Reason.VALUE_NOT_ALLOWED, f"{quoted(path)} is not under {roots}")


def fit_for_a_name(text: str) -> bool:
    """Check the name of a namespace or container: no separator, no leading hyphen, at most 64 characters."""
    return 0 < len(text) <= 64 and text[0].isalnum() and text.isascii() and text.replace("-", "").isalnum()


def check_signal(policy: Policy, request: SignalRequest) -> None:
    """Raise Denied unless the policy lets agents send this signal. They may always ask whether a process exists."""
    if request.signal not in (PROBE, *policy.signals):
        allowed = ", ".join(policy.signals) or "none"
        raise Denied(
            Reason.SIGNAL_NOT_ALLOWED,
            f"signal {request.signal} is not allowed: {allowed} ({policy.signals_rule})",
            rule=policy.signals_rule,
        )
