"""The shipped policy for neutron-keepalived-state-change of Neutron's L3 agent."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from sidespawn.core.plan import Mount, PidFile
from sidespawn.core.wire import StartRequest
from sidespawn.errors import Denied, Reason
from tests.data.corpus import STATE_CHANGE, Call
from tests.unit.shipped import preset
from tests.unit.small import decide, denial, start_request

POLICY = preset("neutron-l3-keepalived-state-change")
STATE = "/var/lib/neutron"
CALL = next(call for call in STATE_CHANGE if "plain" in call.variant)
ROUTER = CALL.argv[CALL.argv.index("--router_id") + 1]
OTHER = "fd23fc9b-cf8b-56b7-a58d-d0e7e9a6e9be"
REQUIRED = (
    *("router_id", "namespace", "conf_dir", "log-file", "monitor_interface", "monitor_cidr", "pid_file", "state_path"),
)


def asked(*argv: str, netns: str | None = None, **environment: str) -> StartRequest:
    return start_request(argv, netns, environment)


def refusal(*argv: str, **request: Any) -> Denied:
    return denial(POLICY, asked(*(argv or CALL.argv), **request))


def pairs(argv: tuple[str, ...]) -> dict[str, str]:
    """Return options with their values, which are empty for options without one."""
    found, rest = {}, list(argv[1:])
    while rest:
        name = rest.pop(0)
        found[name] = rest.pop(0) if rest and not rest[0].startswith("--") else ""
    return found


def script(name: str) -> str:
    return next(each.text for each in POLICY.side_container.scripts if each.path == f"/run/scripts/{name}")


def changed(option: str, value: str) -> tuple[str, ...]:
    at = CALL.argv.index(f"--{option}") + 1
    return (*CALL.argv[:at], value, *CALL.argv[at + 1 :])


# ---------------------------------------------------------------- what Neutron does


@pytest.mark.parametrize("call", STATE_CHANGE, ids=str)
def test_a_recorded_call_is_allowed(call: Call) -> None:
    plan = decide(POLICY, asked(*call.argv, netns=call.netns, **call.env)).plan
    said = pairs(call.argv)
    router, home = said["--router_id"], said["--conf_dir"]
    assert plan.netns == f"qrouter-{router}"
    assert not plan.host_network
    own = {
        "--pid_file": f"/run/monitor/{router}.monitor.pid",
        "--state_path": "/run/agent",
        "--log-file": "/dev/stdout",
    }
    wanted = [f"{name}={own.get(name, value)}" for name, value in said.items() if name not in ("--user", "--group")]
    assert list(plan.arguments) == [each.removesuffix("=") for each in wanted]
    assert f"{router}.monitor" in " ".join(plan.arguments)  # how Neutron recognises it
    assert plan.pid_file == PidFile(beneath=str(call.pid_file).removeprefix(f"{STATE}/"))
    assert plan.mounts == (
        Mount(path=home, beneath=home.removeprefix(f"{STATE}/"), writable=True),
        Mount(path="/run/agent", beneath=".", writable=False),
    )
    assert (plan.uid, plan.capabilities) == (42435, ())


def test_every_call_was_recorded() -> None:
    assert len(STATE_CHANGE) == 9


@pytest.mark.parametrize(
    "name", ["neutron-keepalived-state-change.log", f"neutron-keepalived-state-change-{ROUTER}.log"]
)
def test_a_log_outside_of_the_state_goes_to_the_journal_as_well(name: str) -> None:
    plan = decide(POLICY, asked(*changed("log-file", f"/var/log/neutron/{name}"))).plan
    assert "--log-file=/dev/stdout" in plan.arguments
    assert not [each for each in plan.arguments if "/var/log" in each]


@pytest.mark.parametrize("call", STATE_CHANGE, ids=str)
def test_the_form_of_earlier_releases_means_the_same(call: Call) -> None:
    glued = [f"{name}={value}".removesuffix("=") for name, value in pairs(call.argv).items()]
    tag = f"neutron-keepalived-state-change-monitor-{pairs(call.argv)['--router_id']}.monitor"
    plan = decide(POLICY, asked(call.argv[0], *glued, PROCESS_TAG=tag)).plan
    assert plan.arguments == decide(POLICY, asked(*call.argv)).plan.arguments
    assert dict(plan.environment)["PROCESS_TAG"] == tag


# ---------------------------------------------------------------- dangers


@pytest.mark.parametrize("option", REQUIRED)
def test_neutrons_options_must_be_there(option: str) -> None:
    at = CALL.argv.index(f"--{option}")
    found = refusal(*CALL.argv[:at], *CALL.argv[at + 2 :])
    assert found.reason is Reason.OPTION_MISSING


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("conf_dir", "/etc"), ("conf_dir", f"{STATE}/ha_confs/{ROUTER}/.."), ("conf_dir", f"{STATE}/{ROUTER}")),
        *(("conf_dir", f"/var/lib/neutron-evil/ha_confs/{ROUTER}"), ("conf_dir", f"{STATE}/ha confs /{ROUTER}")),
        *(("conf_dir", ""), ("conf_dir", f"{STATE}/ha_confs/{ROUTER}\n"), ("conf_dir", f"{STATE}/$(id)/{ROUTER}")),
        *(("log-file", "/etc/cron.d/x"), ("log-file", f"{STATE}/ha_confs/{ROUTER}/keepalived.conf")),
        *(
            ("log-file", "/var/log/neutron/../x"),
            ("log-file", f"/var/log/neutron-keepalived-state-change-{ROUTER}.log"),
        ),
        *(("pid_file", "/etc/passwd"), ("pid_file", f"{STATE}/ha_confs/{ROUTER}/conntrackd.pid"), ("pid_file", "")),
        *(("state_path", "/"), ("state_path", "/run"), ("state_path", f"{STATE}/"), ("state_path", f"{STATE}-evil")),
        *(
            ("namespace", "qdhcp-" + ROUTER),
            ("namespace", "../../proc/1/ns/net"),
            ("namespace", "--"),
            ("namespace", ""),
        ),
        *(("monitor_interface", "$(id)"), ("monitor_interface", "a b"), ("monitor_interface", "-x")),
        *(("monitor_interface", "abcdefghijklmnop"), ("monitor_interface", "`id`"), ("monitor_interface", "")),
        *(("monitor_cidr", "169.254.0.1"), ("monitor_cidr", "169.254.0.1/24;id"), ("monitor_cidr", "-v/24")),
        *(("router_id", "x"), ("router_id", ROUTER.upper()), ("user", "root"), ("group", "-1"), ("user", "4294967295")),
    ],
    ids=ascii,
)
def test_another_value_is_refused(option: str, value: str) -> None:
    assert refusal(*changed(option, value)).reason is Reason.VALUE_NOT_ALLOWED


@pytest.mark.parametrize("option", ["router_id", "namespace", "conf_dir", "log-file", "pid_file"])
def test_one_request_cannot_mix_routers(option: str) -> None:
    at = CALL.argv.index(f"--{option}") + 1
    assert refusal(*changed(option, CALL.argv[at].replace(ROUTER, OTHER))).reason is Reason.VALUE_CONFLICT


@pytest.mark.parametrize("argument", ["--debug=yes", "--conf-dir", "-h", "--", "x", "--log_file", "--debu"])
def test_what_the_program_would_read_in_its_own_way_is_refused(argument: str) -> None:
    found = refusal(*CALL.argv, argument).reason
    assert found in (Reason.OPTION_UNKNOWN, Reason.POSITIONAL_NOT_ALLOWED, Reason.OPTION_MALFORMED)


def test_it_is_called_without_a_namespace_or_other_variables() -> None:
    assert refusal(netns=f"qrouter-{ROUTER}").reason is Reason.NAMESPACE_NOT_ALLOWED
    assert refusal(PROCESS_TAG=f"keepalived-{ROUTER}").reason is Reason.VALUE_NOT_ALLOWED
    other = f"neutron-keepalived-state-change-monitor-{OTHER}.monitor"
    assert refusal(PROCESS_TAG=other).reason is Reason.VALUE_CONFLICT
    assert refusal(BASH_ENV="/tmp/x").reason is Reason.ENVIRONMENT_NOT_ALLOWED


def test_it_may_watch_the_snat_namespace_of_a_distributed_router_and_no_third_one() -> None:
    plan = decide(POLICY, asked(*changed("namespace", f"snat-{ROUTER}"))).plan
    assert (plan.netns, plan.instance) == (f"snat-{ROUTER}", f"qrouter-{ROUTER}")
    assert refusal(*changed("namespace", f"snat-{OTHER}")).reason is Reason.VALUE_CONFLICT
    for other in (f"qdhcp-{ROUTER}", f"fip-{ROUTER}", f"snat-{ROUTER}-x", f"snat-qrouter-{ROUTER}", ROUTER):
        assert refusal(*changed("namespace", other)).reason is Reason.VALUE_NOT_ALLOWED


def test_an_option_is_given_once() -> None:
    assert refusal(*CALL.argv, "--namespace", f"qrouter-{ROUTER}").reason is Reason.OPTION_REPEATED
    assert refusal(*CALL.argv, f"--namespace=qrouter-{ROUTER}").reason is Reason.OPTION_REPEATED


# ---------------------------------------------------------------- its `ip`


@pytest.mark.parametrize(
    ("arguments", "executed"),
    [
        (("netns", "exec", "qrouter-x", "/bin/echo", "a  b", "$HOME", "*"), "a  b $HOME *\n"),
        (("netns", "exec", "-n", "/bin/echo", "netns", "exec"), "netns exec\n"),
    ],
)
def test_ip_netns_exec_executes_the_program_unchanged(
    tmp_path: Path, arguments: tuple[str, ...], executed: str
) -> None:
    path = tmp_path / "ip"
    path.write_text(script("ip"))
    path.chmod(0o755)
    assert subprocess.run((path, *arguments), capture_output=True, text=True, timeout=10, check=True).stdout == executed


def test_every_other_ip_is_the_images(tmp_path: Path) -> None:
    images = tmp_path / "image-ip"
    images.write_text('#!/bin/sh\necho image "$@"\n')
    images.chmod(0o755)
    path = tmp_path / "ip"
    path.write_text(script("ip").replace("exec ip ", f"exec {images} "))
    path.chmod(0o755)
    said = subprocess.run((path, "-o", "monitor", "a"), capture_output=True, text=True, timeout=10, check=True).stdout
    assert said == "image -o monitor a\n"


# ---------------------------------------------------------------- which form of the program it is


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        ("#!/usr/bin/python3", "/usr/bin/python3"),
        ("#!/usr/bin/python3 -s", "/usr/bin/python3"),
        ("#!/usr/bin/env python3.11", "/usr/bin/env python3.11"),
        ('#!/bin/sh\n\'\'\'exec\' "/opt/a/python3" "$0" "$@"', "/opt/a/python3"),
        ("#!/bin/sh\n# it was in Python before", ""),
        ("#!/bin/sh\n", ""),
    ],
)
def test_the_form_of_the_program_is_found(tmp_path: Path, head: str, interpreter: str) -> None:
    program = tmp_path / "program"
    program.write_text(f'{head}\necho script "$@"\n')
    program.chmod(0o755)
    path = tmp_path / "monitor"
    path.write_text(
        script("monitor").replace("exec $interpreter", 'exec echo "$interpreter"').replace("/run/", f"{tmp_path}/")
    )
    path.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "MONITOR": str(program)}
    command = (str(path), "--conf_dir=/a", "--pid_file=/b")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=False)
    first = done.stdout.splitlines()[0]
    if interpreter:
        rest = "--conf_dir=/a --pid_file=/b --namespace= --config-file=/dev/null"
        assert first == f"{interpreter} {tmp_path}/scripts/foreground {program} {rest}"
    else:
        assert first == "script --conf_dir /a --pid_file /b"
