"""The verdict: a policy and a request in, a plan or a refusal out.

`decide` is a straight line: program, namespace, environment, arguments, then the plan from what these bound.  A plan
consists of the policy's own text and of values that passed a type; of the request itself nothing is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sidespawn.core.options import Given, read_arguments
from sidespawn.core.pattern import Conflict, Pattern, match_any, render, render_first
from sidespawn.core.plan import ConfigurationFile, Mount, PidFile, Plan
from sidespawn.core.policy import OptionRule, Policy
from sidespawn.core.wire import SignalRequest, StartRequest
from sidespawn.errors import Denied, Reason, quoted


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One argument of an allowed request, for `explain`: what is passed on for it, and the rule that allowed it."""

    argument: int
    option: str
    rule: str
    passed_on: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Allowed:
    plan: Plan
    bindings: Mapping[str, str]
    judged: tuple[Judged, ...]


def decide(policy: Policy, request: StartRequest) -> Allowed:
    """What to start for this request. Raises Denied."""
    check_program(policy, request.untrusted_argv[0])
    bindings = bind_netns(policy, request.untrusted_netns)
    environment, bindings = bind_environment(policy, request.untrusted_environment, bindings)
    given = read_arguments(policy.table, request.untrusted_argv)
    judged, files, bindings = judge_options(policy, given, bindings)
    arguments = (*(text for each in judged for text in each.passed_on), *policy.always)
    for default in policy.unless_given:
        name = default.lstrip("-").partition("=")[0]
        if all(each.option != name for each in judged):
            arguments += (default,)
    side_container = policy.side_container
    instance = render_first(policy.instance, bindings)
    netns = render(policy.netns, bindings)
    if instance is None or netns is None or not fit_for_a_name(instance) or not fit_for_a_name(netns):
        raise Denied(Reason.POLICY_INVALID, "the policy's instance and netns do not come out as names for this request")
    mounted = dict.fromkeys(path for path in (render(each, bindings) for each in side_container.mounts) if path)
    plan = Plan(
        service=policy.service,
        instance=instance,
        engine=side_container.engine,
        image=side_container.image,
        command=side_container.command,
        arguments=arguments,
        environment=environment,
        netns=netns,
        uid=side_container.uid,
        gid=side_container.gid,
        capabilities=side_container.capabilities,
        mounts=tuple(Mount(path=path, beneath=beneath(policy, path)) for path in mounted),
        configuration=files,
        scratch=side_container.scratch,
        limits=side_container.limits,
        pid_file=place_pid_file(policy, bindings),
        readiness=side_container.readiness,
        grace=side_container.grace,
    )
    return Allowed(plan=plan, bindings=bindings, judged=judged)


def check_program(policy: Policy, untrusted_program: str) -> None:
    """The name only: which file is run is the policy's to say."""
    if untrusted_program.rpartition("/")[2] != policy.table.program:
        raise Denied(
            Reason.PROGRAM_NOT_ALLOWED,
            f"{quoted(untrusted_program)} is not {policy.table.program}, the one program of this service",
            argument=0,
        )


def bind_netns(policy: Policy, untrusted_netns: str | None) -> dict[str, str]:
    if untrusted_netns is None:
        raise Denied(
            Reason.NAMESPACE_NOT_ALLOWED,
            f"the request comes from no named network namespace; {policy.netns_rule} wants {policy.netns.source}",
            "run the program by `ip netns exec NAME`, and see that the agent's /run/netns is the host's",
            rule=policy.netns_rule,
        )
    bindings = match_any((policy.netns,), untrusted_netns, policy.names, {})
    if bindings is None:
        raise Denied(
            Reason.NAMESPACE_NOT_ALLOWED,
            f"network namespace {quoted(untrusted_netns)} is not {policy.netns.source} ({policy.netns_rule})",
            rule=policy.netns_rule,
        )
    return bindings


def bind_environment(
    policy: Policy, untrusted_environment: tuple[tuple[str, str], ...], bindings: dict[str, str]
) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    for untrusted_name, untrusted_value in untrusted_environment:
        if untrusted_name not in policy.environment:
            raise Denied(
                Reason.ENVIRONMENT_NOT_ALLOWED,
                f"environment variable {quoted(untrusted_name)} is not one that {policy.environment_rule} names",
                rule=policy.environment_rule,
            )
        patterns, rule = policy.environment[untrusted_name]
        what = f"environment variable {untrusted_name}, {quoted(untrusted_value)},"
        bindings = bind(policy, patterns, untrusted_value, bindings, what, rule)
    return untrusted_environment, bindings  # every name and value has just been accepted


def judge_options(
    policy: Policy, given: tuple[Given, ...], bindings: dict[str, str]
) -> tuple[tuple[Judged, ...], tuple[ConfigurationFile, ...], dict[str, str]]:
    judged: list[Judged] = []
    files: list[ConfigurationFile] = []
    count: dict[str, int] = {}
    for each in given:
        option, value = each.option, each.untrusted_value
        rule = policy.options.get(option.name)
        what = f"argument {each.argument}, {option.spelling}"
        if rule is None:
            danger = f" (it {option.danger})" if option.danger else ""
            raise Denied(
                Reason.OPTION_NOT_ALLOWED,
                f"{what}{danger}, is not among the options that {policy.options_rule} allows",
                argument=each.argument,
                rule=policy.options_rule,
            )
        count[option.name] = count.get(option.name, 0) + 1
        if count[option.name] > rule.most:
            raise Denied(
                Reason.OPTION_REPEATED,
                f"{what}, is given more than {rule.most} time(s) ({rule.rule})",
                argument=each.argument,
                rule=rule.rule,
            )
        if value is None:
            if not rule.bare:
                raise Denied(
                    Reason.OPTION_MALFORMED,
                    f"{what}, stands without a value ({rule.rule})",
                    argument=each.argument,
                    rule=rule.rule,
                )
        else:
            file = configuration_file(policy, rule, value, bindings)
            if file is not None:
                files.append(file)
            else:
                what = f"{what}, has the value {quoted(value)}, which"
                bindings = bind(policy, rule.values, value, bindings, what, rule.rule, argument=each.argument)
        passed_on = option.written(value) if rule.passed_on else ()
        judged.append(Judged(argument=each.argument, option=option.name, rule=rule.rule, passed_on=passed_on))
    for rule in policy.options.values():
        if rule.required and rule.option.name not in count:
            raise Denied(Reason.OPTION_MISSING, f"{rule.option.spelling} must be given ({rule.rule})", rule=rule.rule)
    return tuple(judged), tuple(files), bindings


def bind(
    policy: Policy,
    patterns: tuple[Pattern, ...],
    untrusted_value: str,
    bindings: dict[str, str],
    what: str,
    rule: str,
    argument: int | None = None,
) -> dict[str, str]:
    """The bindings after `untrusted_value` was accepted. Raises Denied."""
    try:
        found = match_any(patterns, untrusted_value, policy.names, bindings)
    except Conflict as conflict:
        raise Denied(
            Reason.VALUE_CONFLICT,
            f"{what} has {quoted(conflict.untrusted_value)} for {{{conflict.name}}}, but this request is for"
            f" {quoted(conflict.bound)} ({rule})",
            argument=argument,
            rule=rule,
        ) from None
    if found is None:
        wanted = " or ".join(pattern.source for pattern in patterns[:4]) or "no value"
        raise Denied(Reason.VALUE_NOT_ALLOWED, f"{what} is not {wanted} ({rule})", argument=argument, rule=rule)
    return found


def configuration_file(
    policy: Policy, rule: OptionRule, untrusted_value: str, bindings: dict[str, str]
) -> ConfigurationFile | None:
    """The file that an option names, when it is one that has rules."""
    if not rule.configuration:
        return None
    configuration = policy.configuration[rule.configuration]
    try:
        if match_any((configuration.path,), untrusted_value, policy.names, bindings) is None:
            return None
    except Conflict:
        return None
    return ConfigurationFile(path=untrusted_value, beneath=beneath(policy, untrusted_value), rules=rule.configuration)


def place_pid_file(policy: Policy, bindings: Mapping[str, str]) -> PidFile | None:
    pattern = policy.side_container.pid_file
    path = None if pattern is None else render(pattern, bindings)
    if path is None:
        return None
    directory, _, name = beneath(policy, path).rpartition("/")
    return PidFile(beneath=directory or ".", name=name)


def beneath(policy: Policy, path: str) -> str:
    """The path relative to the agent's state directory. Components are compared, not characters."""
    state, parts = policy.agent.state.split("/"), path.split("/")
    inside = parts[len(state) :]
    if parts[: len(state)] != state or not inside or any(part in ("", ".", "..") for part in inside):
        raise Denied(Reason.VALUE_NOT_ALLOWED, f"{quoted(path)} is not beneath {policy.agent.state}")
    return "/".join(inside)


def fit_for_a_name(text: str) -> bool:
    """Of one namespace or container: no separator, no leading hyphen, at most 64 characters."""
    return 0 < len(text) <= 64 and text[0].isalnum() and text.isascii() and text.replace("-", "").isalnum()


def check_signal(policy: Policy, request: SignalRequest) -> None:
    """Raises Denied unless the policy lets agents send this signal."""
    if request.signal not in policy.signals:
        allowed = ", ".join(policy.signals) or "none"
        raise Denied(
            Reason.SIGNAL_NOT_ALLOWED,
            f"signal {request.signal} is not allowed: {allowed} ({policy.signals_rule})",
            rule=policy.signals_rule,
        )
