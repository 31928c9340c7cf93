"""The verdict, one rule at a time, with a small policy. The shipped policies are in test_preset_*.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidespawn.core.decide import Allowed, check_signal
from sidespawn.core.plan import ChildPidFile, ConfigurationFile, Mount, PidFile, Script
from sidespawn.core.policy import Policy
from sidespawn.core.wire import SIGNALS, SignalRequest
from sidespawn.errors import Denied, PolicyError, Reason
from tests.unit.small import ID, NET, OTHER, POLICY, decide, denial, line_of, load, request, start_request

SMALL = load()


def allowed(*arguments: str, policy: Policy = SMALL, netns: str = f"ns-{NET}", **environment: str) -> Allowed:
    return decide(policy, request(*arguments, netns=netns, **environment))


def denied(*arguments: str, policy: Policy = SMALL, netns: str | None = f"ns-{NET}", **environment: str) -> Denied:
    return denial(policy, request(*arguments, netns=netns, **environment))


# ---------------------------------------------------------------- the plan


def test_the_plan_of_an_allowed_request() -> None:
    plan = allowed("--quiet", "--name=a", TAG=f"tool-{NET}").plan
    assert (plan.service, plan.instance, plan.name) == ("small", NET, f"small_{NET}")
    assert plan.command == "/usr/sbin/tool"
    assert plan.arguments == (f"--data=/state/{NET}/data", "--quiet", "--name=a", "--loud", "--log=default")
    assert plan.environment == (("TAG", f"tool-{NET}"),)
    assert plan.netns == f"ns-{NET}"
    assert (plan.uid, plan.gid, plan.capabilities) == (1000, 1000, ("NET_ADMIN", "NET_RAW"))
    assert plan.mounts == (Mount(path=f"/state/{NET}", beneath=NET, writable=True),)
    assert plan.pid_file == PidFile(beneath=f"{NET}/pid")
    assert plan.configuration == ()
    assert plan.scratch == ("/run/tool",)


def test_the_pid_files_of_children_come_from_what_the_request_binds() -> None:
    names = ('home = "/state/{net}"', 'home = "/state/{net}"\nother = "<uuid>"')
    rule = 'child_pid_files = { "{home}/pid-a" = "/run/a", "/state/{other}" = "/run/b" }\nmemory ='
    plan = decide(load(names, ("memory =", rule)), request()).plan
    assert plan.child_pid_files == (ChildPidFile(beneath=f"{NET}/pid-a", inside="/run/a"),)


@pytest.mark.parametrize("path", ["/run/{net}", "/statement/{net}", "/state", "/state/../{net}"])
def test_the_pid_file_of_a_child_is_in_the_state(path: str) -> None:
    with pytest.raises(PolicyError, match="child_pid_files can never be used"):
        load(("memory =", f'child_pid_files = {{ "{path}" = "/run/a" }}\nmemory ='))


def test_each_argument_knows_its_rule_and_what_is_passed_on() -> None:
    judged = allowed("", "-q", "-n", "a").judged
    assert [(each.argument, each.option, each.passed_on) for each in judged] == [
        (1, "data", (f"--data=/state/{NET}/data",)),
        (3, "quiet", ("--quiet",)),
        (4, "name", ("--name=a",)),
    ]
    assert judged[1].rule == f"small.toml:{line_of(POLICY, 'quiet = true')}"


def test_the_names_that_a_request_bound() -> None:
    assert allowed().bindings == {"net": NET, "home": f"/state/{NET}"}


@pytest.mark.parametrize(
    ("arguments", "log"),
    [([], ["--log=default"]), (["--log"], ["--log"]), (["-l"], ["--log"]), (["--log=mine"], ["--log=mine"])],
)
def test_an_argument_of_the_policy_yields_to_the_requests(arguments: list[str], log: list[str]) -> None:
    assert [each for each in allowed(*arguments).plan.arguments if each.startswith("--log")] == log


def test_an_option_that_is_not_passed_on_does_not_reach_the_program() -> None:
    policy = load(("quiet = true", "quiet = { pass = false }"))
    assert "--quiet" not in allowed("--quiet", policy=policy).plan.arguments


def test_a_mount_whose_names_are_not_bound_is_left_out() -> None:
    policy = load(
        ('mounts = ["{home}"]', 'mounts = ["{home}", "/state/{other}"]'), ("[request]", 'other = "<tag>"\n[request]')
    )
    assert [each.path for each in allowed(policy=policy).plan.mounts] == [f"/state/{NET}"]


def test_two_patterns_for_one_directory_mount_it_once() -> None:
    policy = load(('mounts = ["{home}"]', 'mounts = ["{home}", "/state/{net}"]'))
    assert [each.path for each in allowed(policy=policy).plan.mounts] == [f"/state/{NET}"]


def test_the_first_instance_whose_names_are_bound_names_it() -> None:
    policy = load(
        ('instance = "{net}"', 'instance = ["{net}-{label}", "{net}"]'),
        ("[request]", 'label = "<integer 1..9>"\n[request]'),
        ('name = { value = "<tag>", most = 2 }', 'name = "{label}"'),
    )
    assert allowed("--name=5", policy=policy).plan.instance == f"{NET}-5"
    assert allowed(policy=policy).plan.instance == NET


# ---------------------------------------------------------------- program


@pytest.mark.parametrize("program", ["tool", "/usr/sbin/tool", "/tmp/evil/tool", "./tool"])
def test_only_the_name_of_the_program_counts_and_the_policys_is_run(program: str) -> None:
    asked = request()
    plan = decide(SMALL, replace(asked, untrusted_argv=(program, *asked.untrusted_argv[1:]))).plan
    assert plan.command == "/usr/sbin/tool"
    assert "/tmp/evil" not in repr(plan)


@pytest.mark.parametrize(
    "program", ["", "tools", "too", "TOOL", "tool ", "tool\n", "tool\0", "/", "tool/", "tool/x", "-tool"], ids=ascii
)
def test_no_other_program(program: str) -> None:
    asked = request()
    found = denial(SMALL, replace(asked, untrusted_argv=(program, *asked.untrusted_argv[1:])))
    assert (found.reason, found.argument) == (Reason.PROGRAM_NOT_ALLOWED, 0)


# ---------------------------------------------------------------- namespace


@pytest.mark.parametrize(
    "netns",
    [
        *(
            None,
            "",
            NET,
            "ns-",
            f"ns-{NET}\n",
            f"ns-{NET}\0",
            f"ns-{NET}/",
            f"/run/netns/ns-{NET}",
            f"ns-{NET.upper()}",
        ),
        *("../../proc/1/ns/net", "..", ".", "-", f"ns-{NET}x", f"nsx-{NET}", f" ns-{NET}", f"ns-{NET}-", "n" * 65),
    ],
    ids=ascii,
)
def test_namespace_refused(netns: str | None) -> None:
    found = denied(netns=netns)
    assert found.reason is Reason.NAMESPACE_NOT_ALLOWED
    assert found.rule == SMALL.netns_rule


def test_a_request_from_no_namespace_gets_a_hint_how_to_use_one() -> None:
    assert "ip netns exec" in denied(netns=None).hint


def test_the_namespace_decides_whose_files_may_be_named() -> None:
    found = denied(netns=f"ns-{OTHER}")
    assert found.reason is Reason.VALUE_CONFLICT
    assert f"has '{NET}' for {{net}}, but this request is for '{OTHER}'" in found.message


def test_a_namespace_that_contradicts_itself_is_refused() -> None:
    policy = load(('netns = "ns-{net}"', 'netns = "{tag}-{tag}"'), ('net = "<uuid>"', 'net = "<uuid>"\ntag = "<tag>"'))
    assert denied(policy=policy, netns="a-b").reason is Reason.NAMESPACE_NOT_ALLOWED


# ---------------------------------------------------------------- environment


def test_environment_that_the_policy_names() -> None:
    assert allowed(TAG=f"tool-{NET}").plan.environment == (("TAG", f"tool-{NET}"),)
    assert allowed().plan.environment == ()


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "GCONV_PATH",
        "PYTHONPATH",
        "TMPDIR",
        "BASH_ENV",
        "PATH",
        "HOME",
        "tag",
        "TAG ",
        "TAG\n",
        "",
        "TAG=x",
    ],
)
def test_no_other_environment(name: str) -> None:
    found = denial(SMALL, replace(request(), untrusted_environment=((name, f"tool-{NET}"),)))
    assert found.reason is Reason.ENVIRONMENT_NOT_ALLOWED
    assert found.rule == SMALL.environment_rule


@pytest.mark.parametrize(
    "value", ["", "tool-", f"tool-{NET}\n", f"tool-{NET} ", f"tool-{NET}\0", f"-tool-{NET}", "x" * 5000]
)
def test_no_other_value_in_the_environment(value: str) -> None:
    assert denied(TAG=value).reason is Reason.VALUE_NOT_ALLOWED


def test_the_environment_names_the_same_network() -> None:
    assert denied(TAG=f"tool-{OTHER}").reason is Reason.VALUE_CONFLICT


# ---------------------------------------------------------------- options

DENY = [
    (["--script=/tmp/x"], Reason.OPTION_NOT_ALLOWED),
    (["--script", "/tmp/x"], Reason.OPTION_NOT_ALLOWED),
    (["-s", "/tmp/x"], Reason.OPTION_NOT_ALLOWED),
    (["--loud"], Reason.OPTION_NOT_ALLOWED),  # the policy sets it
    (["--scrip=/tmp/x"], Reason.OPTION_UNKNOWN),
    (["-s/tmp/x"], Reason.OPTION_UNKNOWN),
    (["--nothing"], Reason.OPTION_UNKNOWN),
    (["--quiet=1"], Reason.OPTION_MALFORMED),
    (["--name"], Reason.OPTION_MALFORMED),
    (["eth0"], Reason.POSITIONAL_NOT_ALLOWED),
    (["--"], Reason.POSITIONAL_NOT_ALLOWED),
    (["--log", "x"], Reason.POSITIONAL_NOT_ALLOWED),
    (["--quiet", "--quiet"], Reason.OPTION_REPEATED),
    (["--quiet", "-q"], Reason.OPTION_REPEATED),
    (["--name=a", "-n", "b", "--name", "c"], Reason.OPTION_REPEATED),
    (["--name="], Reason.VALUE_NOT_ALLOWED),
    (["--name", ""], Reason.VALUE_NOT_ALLOWED),
    (["--name=a\n"], Reason.VALUE_NOT_ALLOWED),
    (["--name=a\0"], Reason.VALUE_NOT_ALLOWED),
    (["--name=a,b"], Reason.VALUE_NOT_ALLOWED),
    (["--name=-a"], Reason.VALUE_NOT_ALLOWED),
    (["--name", "--script=/tmp/x"], Reason.VALUE_NOT_ALLOWED),
    (["--name=" + "a" * 65], Reason.VALUE_NOT_ALLOWED),
    (["--log="], Reason.VALUE_NOT_ALLOWED),
    ([f"--data=/state/{NET}/data\n"], Reason.VALUE_NOT_ALLOWED),
    ([f"--data=/state/{NET}/../{NET}/data"], Reason.VALUE_NOT_ALLOWED),
    ([f"--data=/state-evil/{NET}/data"], Reason.VALUE_NOT_ALLOWED),
    (["--data=/etc/shadow"], Reason.VALUE_NOT_ALLOWED),
    ([f"--data=/state/{OTHER}/data"], Reason.VALUE_CONFLICT),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "reason"), DENY, ids=[ascii(" ".join(case[0]))[:60] for case in DENY])
def test_deny(arguments: list[str], reason: Reason) -> None:
    found = denied(*arguments)
    assert found.reason is reason
    assert found.message.isascii()
    assert found.message.isprintable()
    assert len(found.message) < 600


def test_a_missing_option_is_reported_with_its_rule() -> None:
    asked = replace(request(), untrusted_argv=("tool", "--quiet"))
    found = denial(SMALL, asked)
    assert found.reason is Reason.OPTION_MISSING
    assert found.rule == f"small.toml:{line_of(POLICY, 'data = ')}"
    assert "--data must be given" in found.message


def test_a_value_where_the_rule_wants_one() -> None:
    assert (
        denied("--log", policy=load(('log = { value = "<tag>", bare = true }', 'log = "<tag>"'))).reason
        is Reason.OPTION_MALFORMED
    )


def test_no_value_where_the_rule_wants_none() -> None:
    found = denied("--log=a", policy=load(('log = { value = "<tag>", bare = true }', "log = true")))
    assert found.reason is Reason.VALUE_NOT_ALLOWED
    assert "is not no value" in found.message or "no value" in found.message


def test_a_refusal_says_what_the_option_could_do_and_which_rule_refuses_it() -> None:
    found = denied("--quiet", "--script=/tmp/x")
    assert "argument 3, --script" in found.message
    assert "runs a program" in found.message
    assert (found.argument, found.rule) == (3, SMALL.options_rule)


def test_a_refused_value_is_reported_with_what_is_expected() -> None:
    found = denied("--name=a,b")
    assert "argument 2, --name, has the value 'a,b', which is not <tag>" in found.message
    assert found.rule == f"small.toml:{line_of(POLICY, 'name = {')}"


# ---------------------------------------------------------------- configuration files


def test_a_configuration_file_is_left_to_its_rules() -> None:
    plan = allowed("--file=/state/tool.conf").plan
    assert plan.configuration == (
        ConfigurationFile(path="/state/tool.conf", beneath="tool.conf", rules="extra", text=None),
    )
    assert "--file=/state/tool.conf" in plan.arguments


def test_the_options_own_values_need_no_rules() -> None:
    assert allowed("--file=/dev/null").plan.configuration == ()


@pytest.mark.parametrize(
    "path",
    [
        *("", "/etc/shadow", "tool.conf", "/state/", "/state/a/b", "/state/..", "/state/../etc/shadow", "/state//a"),
        *("/state-evil/a", "/state/.a", "/state/a\n", "/state/a\0", "/state/-a", "/state/" + "a" * 65, "/STATE/a"),
    ],
    ids=ascii,
)
def test_no_other_configuration_file(path: str) -> None:
    assert denied(f"--file={path}").reason is Reason.VALUE_NOT_ALLOWED


# ---------------------------------------------------------------- what a plan can never hold


def test_a_mount_is_inside_the_agents_state() -> None:
    with pytest.raises(PolicyError, match="mounts can never be used"):
        load(('mounts = ["{home}"]', 'mounts = ["/etc/{net}"]'))


# The last part of the mount's path is chosen by the agent.
ANY_MOUNT = (
    ('name = { value = "<tag>", most = 2 }', 'name = "{sub}"'),
    ("[request]", 'sub = "<text>"\n[request]'),
    ('mounts = ["{home}"]', 'mounts = ["/state/{sub}"]'),
)


@pytest.mark.parametrize("value", ["..", ".", "a/../..", "a/../../etc", "../x", "a//b", "/"])
def test_a_mount_does_not_leave_the_agents_state_whatever_its_type_allows(value: str) -> None:
    assert denied(f"--name={value}", policy=load(*ANY_MOUNT)).reason is Reason.VALUE_NOT_ALLOWED


ENGINES_OWN = ["a,src=/etc", 'a",ro=false,"']


@pytest.mark.parametrize("value", ENGINES_OWN)
def test_a_mount_holds_nothing_that_an_engine_would_read_as_its_own(value: str) -> None:
    assert denied(f"--name={value}", policy=load(*ANY_MOUNT)).reason is Reason.VALUE_NOT_ALLOWED


@pytest.mark.parametrize("value", ENGINES_OWN)
def test_neither_does_the_path_of_a_configuration_file(value: str) -> None:
    policy = load(('path = "/state/<name>"', 'path = "/state/<text>"'))
    assert denied(f"--file=/state/{value}", policy=policy).reason is Reason.VALUE_NOT_ALLOWED


@pytest.mark.parametrize("value", ["a/b", "a b", ".", "-a", "a,b", "a" * 65, "a_b"])
def test_an_instance_is_fit_for_a_name_or_nothing_starts(value: str) -> None:
    policy = load(
        ('name = { value = "<tag>", most = 2 }', 'name = "{sub}"'),
        ("[request]", 'sub = "<text>"\n[request]'),
        ('instance = "{net}"', 'instance = "{sub}"'),
    )
    assert denied(f"--name={value}", policy=policy).reason is Reason.POLICY_INVALID


# ---------------------------------------------------------------- any request

words = st.sampled_from(
    [
        *("--quiet", "-q", "--name=a", "-n", "b", "--name", "", "--log", "--log=x", "-l", "--file=/dev/null", "--loud"),
        *(f"--data=/state/{NET}/data", f"--data=/state/{OTHER}/data", "--file=/state/tool.conf", "--script=/x", "-"),
    ]
)


@given(st.lists(words | st.text(max_size=20), max_size=8))
def test_arguments_are_denied_or_come_out_canonical(arguments: list[str]) -> None:
    asked = replace(request(), untrusted_argv=("tool", *arguments))
    try:
        plan = decide(SMALL, asked).plan
    except Denied as error:
        assert error.message.isprintable()
        return
    own = ("--loud", "--log=default")
    again = replace(asked, untrusted_argv=("tool", *(each for each in plan.arguments if each not in own)))
    assert decide(SMALL, again).plan == plan


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("signal", SIGNALS)
def test_signal(signal: str) -> None:
    asked = SignalRequest(id=ID, deadline=0, signal=signal, pid=4711)
    if signal in ("HUP", "TERM"):
        check_signal(SMALL, asked)
        return
    with pytest.raises(Denied, match=f"signal {signal} is not allowed: HUP, TERM") as caught:
        check_signal(SMALL, asked)
    assert (caught.value.reason, caught.value.rule) == (Reason.SIGNAL_NOT_ALLOWED, SMALL.signals_rule)


def test_no_signals_unless_the_policy_names_them() -> None:
    policy = load(('signals = ["HUP", "TERM"]\n', ""))
    with pytest.raises(Denied, match="is not allowed: none"):
        check_signal(policy, SignalRequest(id=ID, deadline=0, signal="HUP", pid=4711))


# ---------------------------------------------------------------- a caller outside the namespace

OUTSIDE = (('netns = "ns-{net}"', 'caller = "outside"\nnetns = "ns-{net}"'),)
HOST = (
    ('netns = "ns-{net}"', 'caller = "outside"'),
    ('capabilities = ["NET_RAW", "NET_ADMIN"]', 'capabilities = ["NET_BIND_SERVICE"]\nhost_network = true'),
)


def test_the_namespace_of_a_caller_outside_is_what_its_arguments_bound() -> None:
    plan = decide(load(*OUTSIDE), request(netns=None)).plan
    assert (plan.netns, plan.host_network, plan.instance) == (f"ns-{NET}", False, NET)


def test_a_caller_outside_is_in_no_namespace() -> None:
    found = denied(policy=load(*OUTSIDE))
    assert found.reason is Reason.NAMESPACE_NOT_ALLOWED
    assert "this policy expects none" in found.message


def test_a_namespace_that_no_argument_names_starts_nothing() -> None:
    policy = load(*OUTSIDE, ("required = true", "required = false"))
    assert denial(policy, request("--data=/state/x", netns=None)).reason is Reason.VALUE_NOT_ALLOWED
    assert denial(policy, start_request(("tool",), None, {})).reason is Reason.POLICY_INVALID


def test_the_hosts_own_network_is_given_only_where_the_policy_says_so() -> None:
    assert not allowed().plan.host_network
    plan = decide(load(*HOST), request(netns=None)).plan
    assert (plan.netns, plan.host_network) == ("", True)
    assert denied(policy=load(*HOST)).reason is Reason.NAMESPACE_NOT_ALLOWED


# ---------------------------------------------------------------- what the program gets by other means


def test_a_value_is_replaced_by_the_policys() -> None:
    policy = load(('{ value = "<tag>", most = 2 }', '{ value = "<tag>", instead = "/run/{net}" }'))
    assert f"--name=/run/{NET}" in allowed("--name=x", policy=policy).plan.arguments
    assert denied("--name=/x", policy=policy).reason is Reason.VALUE_NOT_ALLOWED


def test_a_value_with_an_unbound_name_starts_nothing() -> None:
    names = ('home = "/state/{net}"', 'home = "/state/{net}"\nother = "<uuid>"')
    policy = load(names, ('{ value = "<tag>", most = 2 }', '{ value = "<tag>", instead = "{other}" }'))
    assert denied("--name=x", policy=policy).reason is Reason.POLICY_INVALID


def test_arguments_of_the_policy_stand_first_and_last() -> None:
    arguments = allowed(policy=load(('always = ["--loud"]', 'first = ["-x"]\nalways = ["--loud"]'))).plan.arguments
    assert arguments == ("-x", f"--data=/state/{NET}/data", "--loud", "--log=default")


def test_variables_and_scripts_are_the_policys() -> None:
    rules = '[side_container.environment]\nPATH = "/a:/b"\n[side_container.scripts]\n"/run/a" = ["#!/bin/sh", "b"]\n'
    plan = allowed(policy=load(("[side_container.ready]", f"{rules}[side_container.ready]")), TAG=f"tool-{NET}").plan
    assert plan.environment == (("PATH", "/a:/b"), ("TAG", f"tool-{NET}"))
    assert plan.scripts == (Script(path="/run/a", text="#!/bin/sh\nb\n"),)


def test_a_directory_can_be_written_at_a_path_of_the_policys_own() -> None:
    policy = load(("scratch =", 'writes = { "/run/agent" = "{home}" }\nscratch ='), ('mounts = ["{home}"]', ""))
    assert allowed(policy=policy).plan.mounts == (Mount(path="/run/agent", beneath=NET, writable=True),)


IN_A_DIRECTORY = (
    ('path = "/state/<name>"', 'path = "/state/<name>"\nfile = "tool.conf"\nat = "/run/tool/tool.conf"'),
    ('file = { value = "/dev/null", configuration', "file = { configuration"),
)


def test_a_configuration_file_is_in_the_named_directory_and_where_the_policy_says() -> None:
    files = {"a/tool.conf": b"log-queries\n"}
    (file,) = decide(load(*IN_A_DIRECTORY), request("--file=/state/a"), files).plan.configuration
    assert file == ConfigurationFile(
        path="/run/tool/tool.conf", beneath="a/tool.conf", rules="extra", text="log-queries\n"
    )


def test_the_file_in_the_directory_is_judged() -> None:
    with pytest.raises(Denied) as caught:
        decide(load(*IN_A_DIRECTORY), request("--file=/state/a"), {"a/tool.conf": b"conf-script=/x\n"})
    assert caught.value.reason is Reason.CONFIGURATION_NOT_ALLOWED
    assert "/state/a/tool.conf" in caught.value.message


def test_a_colon_is_allowed_in_the_agents_path_but_not_in_the_side_containers() -> None:
    pattern = ('path = "/state/<name>"', 'path = "/state/a:b"')
    files = {"a:b": b"log-queries\n"}
    assert denial(load(pattern), request("--file=/state/a:b"), files).reason is Reason.VALUE_NOT_ALLOWED
    elsewhere = (pattern[0], pattern[1] + '\nat = "/run/x"')
    (file,) = decide(load(elsewhere), request("--file=/state/a:b"), files).plan.configuration
    assert (file.path, file.beneath) == ("/run/x", "a:b")
