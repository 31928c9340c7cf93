"""Causes are told apart from their consequences, and listed in the order in which to fix them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.errors import PolicyError
from sidespawn.host_report.agents import container_of, restarting
from sidespawn.host_report.findings import State, Topic, problem, warning
from sidespawn.service_report.diagnosis.ailments import CAUSES, ORDER, Ailment, Id, Sign, ailment_of, in_order
from sidespawn.service_report.diagnosis.services import invalid
from sidespawn.system.places import Places


def ailment(each: Id, service: str = "", state: State = State.PROBLEM) -> Ailment:
    return Ailment(id=each, state=state, found="f", message="m", service=service)


def shape(*found: Ailment) -> list[tuple[str, list[str]]]:
    return [(str(each.id), [str(below.id) for below in each.consequences]) for each in in_order(found)]


def test_every_id_has_its_place_in_the_order() -> None:
    assert sorted(ORDER) == sorted((*Topic, *Sign))


def test_a_cause_always_comes_first() -> None:
    """Otherwise there could be a cycle."""
    for each, causes in CAUSES.items():
        assert all(ORDER.index(cause) < ORDER.index(each) for cause in causes), each


def test_an_invalid_policy_explains_what_is_down_and_fails() -> None:
    found = (
        ailment(Sign.REQUESTS_FAIL, "a"),
        ailment(Topic.SERVICE_UNITS, "a"),
        ailment(Topic.LEFTOVER_ACCOUNTS, state=State.WARNING),
        ailment(Sign.POLICY_INVALID, "a"),
    )
    assert shape(*found) == [("policy-invalid", ["service-units", "requests-fail"]), ("leftover-accounts", [])]


def test_another_services_trouble_explains_nothing_and_the_hosts_explains_all() -> None:
    found = (ailment(Sign.POLICY_INVALID, "b"), ailment(Topic.SERVICE_UNITS, "a"))
    assert shape(*found) == [("policy-invalid", []), ("service-units", [])]
    everywhere = (ailment(Topic.PYTHON), ailment(Topic.SERVICE_UNITS, "a"), ailment(Topic.SERVICE_UNITS, "b"))
    assert shape(*everywhere) == [("python", ["service-units", "service-units"])]


def test_a_consequence_of_a_consequence_is_one_of_the_first_cause() -> None:
    found = (ailment(Topic.AGENT_MOUNTS, "a"), ailment(Topic.SPOOL_MOUNTS, "a"), ailment(Topic.UNIT_FILES))
    assert shape(*found) == [("unit-files", ["spool-mounts", "agent-mounts"])]


def test_problems_come_before_warnings_of_one_kind() -> None:
    found = (ailment(Topic.SERVICE_UNITS, "a", State.WARNING), ailment(Topic.SERVICE_UNITS, "b"))
    assert [each.service for each in in_order(found)] == ["b", "a"]


def test_a_warning_comes_before_what_follows_from_it_and_after_other_problems() -> None:
    found = (
        ailment(Topic.MEMORY_CONTROLLER, state=State.WARNING),
        ailment(Topic.UNIT_FILES, state=State.WARNING),
        ailment(Topic.PODMAN),
        ailment(Topic.SERVICE_UNITS, "a"),
    )
    assert shape(*found) == [("unit-files", ["service-units"]), ("podman", []), ("memory-controller", [])]


def test_nothing_is_lost() -> None:
    found = [ailment(each, service) for each in ORDER for service in ("", "a", "b")]
    causes = in_order(found)
    assert sum(1 + len(each.consequences) for each in causes) == len(found)
    assert not [below for each in causes for below in each.consequences if below.consequences]


def test_a_finding_keeps_its_command_and_names_a_service_only_if_it_is_one() -> None:
    of_service = ailment_of(problem(Topic.SERVICE_UNITS, "f", "m", "h", "a", "systemctl start x"), ["a"])
    assert (of_service.service, of_service.command, of_service.advice) == ("a", "systemctl start x", "h")
    assert ailment_of(warning(Topic.UNIT_FILES, "f", "m", "h", "/etc/a"), ["a"]).service == ""


@pytest.mark.parametrize(
    ("message", "command"),
    [
        (
            "/etc/sidespawn/a.toml is not used: /etc/sidespawn can be changed by others than root",
            "chown root /etc/sidespawn; chmod go-w /etc/sidespawn",
        ),
        ("/etc/sidespawn/a.toml is not used: /etc/sidespawn is a link", ""),
        ("/etc/sidespawn/a.toml:3: unknown key", ""),
        (
            "/etc/x y/a.toml is not used: /etc/x$(reboot) can be changed by others than root",
            "chown root '/etc/x$(reboot)'; chmod go-w '/etc/x$(reboot)'",
        ),
    ],
)
def test_commands_that_fix_a_policy(message: str, command: str) -> None:
    found = invalid(Places("a", policies=Path("/etc/sidespawn")), PolicyError(message, "do this"))
    assert (found.command, found.service, bool(found.advice)) == (command, "a", True)


def test_an_instance_that_keeps_ending_explains_only_its_own_failures() -> None:
    ending = replace(ailment(Sign.KEEPS_ENDING, "a"), instance="x")
    own, other = (replace(ailment(Sign.REQUESTS_FAIL, "a"), instance=each) for each in ("x", "y"))
    assert shape(ending, own, other) == [("keeps-ending", ["requests-fail"]), ("requests-fail", [])]


@pytest.mark.parametrize(
    "cause", [Sign.APPARMOR_DENIED, Sign.SELINUX_DENIED, Topic.APPARMOR_PROFILE, Topic.SELINUX_LABELS]
)
def test_what_a_security_module_denies_explains_what_fails(cause: Id) -> None:
    found = (ailment(cause, state=State.WARNING), ailment(Sign.KEEPS_ENDING, "a"), ailment(Sign.REQUESTS_FAIL, "b"))
    assert shape(*found) == [(str(cause), ["keeps-ending", "requests-fail"])]


def test_a_profile_that_is_not_loaded_explains_what_is_denied() -> None:
    found = (ailment(Sign.APPARMOR_DENIED), ailment(Topic.APPARMOR_PROFILE), ailment(Sign.SELINUX_DENIED))
    assert shape(*found) == [("apparmor-profile", ["apparmor-denied"]), ("selinux-denied", [])]


@pytest.mark.parametrize(
    ("control_group", "command"),
    [
        (f"0::/machine.slice/libpod-{'ab' * 32}.scope/container\n", "podman restart abababababab"),
        (f"0::/system.slice/docker-{'0' * 64}.scope\n", "docker restart 000000000000"),
        (f"0::/docker/{'0' * 64}\n", "docker restart 000000000000"),
        (f"0::/libpod_parent/libpod-{'ab' * 32}\n", "podman restart abababababab"),
        (f"0::/sidespawn.slice/agents.slice/libpod-{'ab' * 32}.scope\n", "podman restart abababababab"),
        (
            f"0::/machine.slice/machine-libpod_pod_{'1' * 64}.slice/libpod-{'ab' * 32}.scope\n",
            "podman restart abababababab",
        ),
        # Users name these.
        (f"0::/user.slice/user-1000.slice/user@1000.service/libpod-{'ab' * 32}.scope\n", ""),
        (f"0::/user.slice/user-1000.slice/user@1000.service/machine.slice/libpod-{'ab' * 32}.scope\n", ""),
        (f"0::/system.slice/theirs.service/machine.slice/libpod-{'ab' * 32}.scope\n", ""),
        (f"0::/user.slice/libpod-{'ab' * 32}.scope\n", ""),
        ("0::/system.slice/neutron-dhcp-agent.service\n", ""),
        (f"0::/machine.slice/libpod-conmon-{'ab' * 32}.scope\n", ""),
        ("", ""),
    ],
)
def test_how_an_agent_is_restarted(control_group: str, command: str) -> None:
    assert restarting(control_group) == command


@pytest.mark.parametrize(
    "of_container",
    [
        "0::/machine.slice/libpod-{}.scope",
        "0::/machine.slice/machine-libpod_pod_" + "2" * 64 + ".slice/libpod-{}.scope",
        "0::/libpod_parent/libpod-{}",
        "0::/libpod_parent/" + "2" * 64 + "/libpod-{}",
        "0::/system.slice/neutron-dhcp-agent.service/libpod-payload-{}",
        "0::/system.slice/docker-{}.scope",
        "0::/docker/{}",
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/crio-{}.scope",
        "0::/kubepods/pod1/{}",
        "0::/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:{}",
        "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{}.scope",
        "0::/kubepods/burstable/pod1/{}",
    ],
)
def test_an_agents_own_groups_are_of_its_container(of_container: str) -> None:
    """Agents can make any number of groups, and looking at one agent takes a while."""
    group = of_container.format("0" * 64)
    inner = ("x", "1" * 64, f"libpod-{'1' * 64}.scope", f"machine.slice/docker-{'1' * 64}.scope")
    assert {container_of(f"{group}/{each}") for each in inner} == {container_of(group)} == {group}
    assert container_of("0::/user.slice") == "0::/user.slice"
