"""Which containers count as started by legacy wrappers, judged by name, image and arguments."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sidespawn import presets
from sidespawn.core.adoption import Recognised, names_of, recognise
from sidespawn.core.plan import KnownFile
from sidespawn.core.policy import Adopt, Policy
from sidespawn.engines import Other
from sidespawn.errors import Denied, PolicyError, Reason
from sidespawn.host.adoption import processes_of, read_argv
from sidespawn.system.processes import identify, send
from tests.unit.shipped import preset
from tests.unit.small import NET, OTHER, POLICY, load, parse

ADOPT = """
[adopt]
name = ["old-tool-ns-{net}", "agent_tool_ns-{net}"]
image = "<text>/agent:<tag>"
"""
DATE = "2026-01-31-235959-123456789"
IMAGE = "registry.example:5000/x/agent:1"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return parse(POLICY + ADOPT)


def adopt_of(policy: Policy) -> Adopt:
    assert policy.adopt is not None
    return policy.adopt


def judge(policy: Policy, *arguments: str, image: str = IMAGE) -> Recognised:
    return recognise(policy, adopt_of(policy), {"net": NET}, image, ("/usr/sbin/tool", *arguments))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("stem", ["old-tool-ns-", "agent_tool_ns-"])
@pytest.mark.parametrize("date", ["", f"-{DATE}", f"_{DATE}"])
def test_a_name_with_or_without_a_date(policy: Policy, stem: str, date: str) -> None:
    assert names_of(policy, adopt_of(policy), f"{stem}{NET}{date}") == {"net": NET}


@pytest.mark.parametrize(
    "name",
    [
        "", NET, "old-tool-ns-", f"old-tool-ns-{NET}-", f"old-tool-ns-{NET}-1", f"old-tool-ns-{NET}.{DATE}",
        f"old-tool-ns-{NET}{DATE}", f"old-tool-ns-{NET}-{DATE}0", f"old-tool-ns-{NET}-{DATE[:-1]}a",
        f"old-tool-ns-{NET}-{DATE}-{DATE}", f"xold-tool-ns-{NET}", f"old-tool-ns-{NET}\n", f"old-tool-ns-{NET.upper()}",
        f"old-tool-ns-../{NET}", f"-{DATE}", f"old-tool-ns-{NET}-{DATE.replace('2', chr(0x662))}",
    ],
    ids=ascii,
)  # fmt: skip
def test_another_name_is_not_an_old_wrappers(policy: Policy, name: str) -> None:
    assert names_of(policy, adopt_of(policy), name) is None


UUID = NET
NAMES = {
    "neutron-dhcp-dnsmasq": (f"neutron-dnsmasq-qdhcp-{UUID}", f"neutron_dhcp_agent_dnsmasq_qdhcp-{UUID}"),
    "neutron-dhcp-haproxy": (f"neutron-haproxy-qdhcp-{UUID}", f"neutron_dhcp_agent_haproxy_qdhcp-{UUID}"),
    "neutron-l3-haproxy": (f"neutron-haproxy-qrouter-{UUID}", f"neutron_l3_agent_haproxy_qrouter-{UUID}"),
    "neutron-l3-keepalived": (f"neutron-keepalived-qrouter-{UUID}", f"neutron_l3_agent_keepalived_qrouter-{UUID}"),
    "neutron-l3-dibbler": (f"neutron-dibbler-qrouter-{UUID}", f"neutron-dibbler-{UUID}"),
    "neutron-l3-radvd": (
        f"neutron-radvd-{UUID}",
        f"neutron_l3_agent_radvd_{UUID}",
        f"neutron-radvd-qrouter-{UUID}",
        f"neutron_l3_agent_radvd_qrouter-{UUID}",
    ),
    "neutron-ovn-metadata-haproxy": (
        f"neutron-haproxy-ovnmeta-{UUID}",
        f"neutron_ovn_metadata_agent_haproxy_ovnmeta-{UUID}",
    ),
}


def test_each_old_name_is_known_to_one_preset_only() -> None:
    policies = {name: preset(name) for name in presets.names() if preset(name).adopt}
    assert NAMES.keys() <= policies.keys()
    for service, names in NAMES.items():
        for name in (*names, *(f"{each}-{DATE}" for each in names)):
            knowing = [each for each, policy in policies.items() if names_of(policy, adopt_of(policy), name)]
            assert knowing == [service]


@pytest.mark.parametrize(
    ("service", "image"),
    [
        ("neutron-dhcp-dnsmasq", "quay.io/openstack.kolla/neutron-dhcp-agent:2025.1-ubuntu-noble"),
        ("neutron-dhcp-dnsmasq", "undercloud.ctlplane:8787/rhosp-rhel8/openstack-neutron-dhcp-agent:16.1"),
        ("neutron-dhcp-haproxy", f"quay.io/podified/openstack-neutron-dhcp-agent@sha256:{'a' * 64}"),
        ("neutron-l3-keepalived", "docker.io/tripleotrain/centos-binary-neutron-l3-agent:current-tripleo"),
        ("neutron-ovn-metadata-haproxy", "quay.io/x/openstack-neutron-metadata-agent-ovn:current-podified"),
    ],
)
def test_images_of_the_three(service: str, image: str) -> None:
    policy = preset(service)
    names = names_of(policy, adopt_of(policy), NAMES[service][0])
    assert names is not None
    assert recognise(policy, adopt_of(policy), names, image, (f"/usr/sbin/{policy.table.program}",)).bindings == names


PD = f"/var/lib/neutron/pd/{UUID}:{OTHER}:qr-0a1b2c3d-4e"


@pytest.mark.parametrize(
    ("service", "name", "argv", "instance", "pid_file"),
    [
        (
            "neutron-l3-radvd",
            f"neutron-radvd-{UUID}",
            ("/usr/sbin/radvd", "-n", "-C", f"/var/lib/neutron/ra/{UUID}.radvd.conf", "-p",
             f"/var/lib/neutron/external/pids/{UUID}.pid.radvd", "-m", "syslog", "-u", "neutron"),
            f"qrouter-{UUID}",
            f"external/pids/{UUID}.pid.radvd",
        ),
        (
            "neutron-l3-dibbler",
            f"neutron-dibbler-qrouter-{UUID}-{DATE}",
            ("/usr/sbin/dibbler-client", "run", "-w", PD),
            OTHER,
            f"pd/{UUID}:{OTHER}:qr-0a1b2c3d-4e/client.pid",
        ),
    ],
    ids=["radvd", "dibbler"],
)  # fmt: skip
def test_what_the_wrappers_start_for_a_router(
    service: str, name: str, argv: tuple[str, ...], instance: str, pid_file: str
) -> None:
    """Kolla's and TripleO's wrappers add -n or run, and pass the agent's arguments on."""
    policy = preset(service)
    names = names_of(policy, adopt_of(policy), name)
    assert names == {"router": UUID}
    found = recognise(policy, adopt_of(policy), names, "quay.io/x/neutron-l3-agent:16.2", argv)
    assert (found.instance, found.netns, found.pid_file) == (instance, f"qrouter-{UUID}", pid_file)
    assert [each.rules for each in found.configuration] == [next(iter(policy.configuration))]


# ---------------------------------------------------------------- image and arguments


def test_what_is_known_of_it(policy: Policy) -> None:
    old = judge(policy, "-q", f"--data=/state/{NET}/data")
    assert (old.instance, old.netns, old.pid_file) == (NET, f"ns-{NET}", f"{NET}/pid")
    assert old.bindings["home"] == f"/state/{NET}"
    assert old.configuration == ()


@pytest.mark.parametrize("image", ["agent:1", "x/agents:1", "x/agent:", "x/agent:1/../y", ""], ids=ascii)
def test_another_image_is_refused(policy: Policy, image: str) -> None:
    with pytest.raises(Denied) as denied:
        judge(policy, image=image)
    assert denied.value.reason is Reason.IMAGE_NOT_ALLOWED


def test_arguments_for_another_instance_are_refused(policy: Policy) -> None:
    with pytest.raises(Denied) as denied:
        judge(policy, f"--data=/state/{OTHER}/data")
    assert denied.value.reason is Reason.VALUE_CONFLICT


def test_arguments_need_not_be_allowed(policy: Policy) -> None:
    assert judge(policy, "--name=a/b", "-x", "--loud").configuration == ()


def test_a_file_with_rules_is_remembered(policy: Policy) -> None:
    file = KnownFile(path="/state/a.conf", beneath="a.conf", rules="extra", digest="")
    assert judge(policy, "--file=/state/a.conf").configuration == (file,)
    assert judge(policy, "--file=/dev/null").configuration == ()


@pytest.mark.parametrize(
    "argument", ["--file=/etc/passwd", "--script=/bin/sh", "--unheard-of", "positional", "--scr=/x"]
)
def test_what_could_make_it_do_more_has_no_rules(policy: Policy, argument: str) -> None:
    (file,) = judge(policy, argument).configuration
    assert file.rules == ""


def test_the_arguments_tell_a_segment() -> None:
    policy = preset("neutron-dhcp-dnsmasq")
    argv = ("/usr/sbin/dnsmasq", "-k", f"--pid-file=/var/lib/neutron/dhcp/7/{UUID}/pid")
    image = "localhost/neutron-dhcp-agent:1"
    old = recognise(policy, adopt_of(policy), {"network": UUID}, image, argv)
    assert (old.instance, old.netns) == (f"qdhcp-{UUID}-7", f"qdhcp-{UUID}")


def test_the_children_of_keepalived_have_their_file() -> None:
    policy, confs = preset("neutron-l3-keepalived"), f"/var/lib/neutron/ha_confs/{UUID}"
    files = ("-f", f"{confs}/keepalived.conf", "-p", f"{confs}.pid.keepalived", "-r", f"{confs}.pid.keepalived-vrrp")
    argv = ("/usr/sbin/keepalived", "-n", "-l", "-D", "-P", *files)
    old = recognise(
        policy, adopt_of(policy), {"router": UUID, "namespace": f"qrouter-{UUID}"}, "x/neutron-l3-agent:1", argv
    )
    assert old.child_pid_files == (f"ha_confs/{UUID}.pid.keepalived-vrrp",)
    assert [each.rules for each in old.configuration] == ["vrrp"]


# ---------------------------------------------------------------- the policy


def test_without_the_table_nothing_is_adopted() -> None:
    assert load().adopt is None


def test_the_engine_is_the_side_containers_by_default(policy: Policy) -> None:
    assert adopt_of(policy).engine == policy.side_container.engine


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ADOPT.replace("{net}", "<uuid>"), "must contain every name of request.netns"),
        (ADOPT + 'engine = "lxc"\n', "must be one of"),
        (ADOPT + "surprise = 1\n", "is not allowed here"),
        ("[adopt]\n", "is missing"),
        (ADOPT.replace("<text>", "<texts>"), "there is no type"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PolicyError, match=problem):
        parse(POLICY + text)


# ---------------------------------------------------------------- processes


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def own_group() -> str:
    """Return a name that occurs in the path of this process's control group."""
    return Path("/proc/self/cgroup").read_text().split(":")[-1].strip()


def other(pid: int, group: str) -> Other:
    return Other(id=group, name="x", image=IMAGE, pid=pid)


def argv_name() -> str:
    return read_argv(os.getpid())[0].rpartition("/")[2]


def test_a_process_of_the_container_that_runs_the_program_is_found() -> None:
    found = list(processes_of(other(os.getpid(), own_group()), argv_name()))
    assert found[0].pid == os.getpid()


def test_a_process_below_a_shell_is_found() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "/bin/sleep 100; exit 0"]) as shell:
        try:
            wait_until(lambda: len(list(processes_of(other(shell.pid, own_group()), "sleep"))) == 1)
            (sleeper,) = processes_of(other(shell.pid, own_group()), "sleep")
            assert sleeper.pid != shell.pid
        finally:
            for process in [*processes_of(other(shell.pid, own_group()), "sleep"), identify(shell.pid)]:
                if process:
                    send(process, "KILL")


def test_a_process_in_another_control_group_is_not_the_containers() -> None:
    """Containers end, and their pids may then belong to other programs with the same name."""
    assert list(processes_of(other(os.getpid(), "0" * 64), argv_name())) == []


def test_a_process_of_another_program_is_not_one() -> None:
    assert list(processes_of(other(os.getpid(), own_group()), "dnsmasq")) == []


def test_a_container_that_has_ended_has_no_process() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    assert list(processes_of(other(process.pid, own_group()), "true")) == []
