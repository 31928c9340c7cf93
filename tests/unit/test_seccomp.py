"""The system call lists are based on podman's: side containers create no namespace, agents use no new mount API.

tests/host tries them on a kernel, and tests/neutron runs Neutron with the agents' list.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidespawn.host import seccomp
from tests.attacks.catalogue import attack

BASE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
    "syscalls": [
        {
            "names": [
                *("clone", "clone3", "fsopen", "inotify_init1", "mount", "prlimit64", "ptrace", "read", "socketcall"),
                "unshare",
            ],
            "action": "SCMP_ACT_ALLOW",
            "args": [],
        },
        {"names": ["bpf", "setns"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_AUDIT_WRITE"]}},
    ],
}
Make = Callable[[], str | None]


def of_side_containers() -> str | None:
    return seccomp.of_side_containers(as_root=False)


def of_roots() -> str | None:
    return seccomp.of_side_containers(as_root=True)


BOTH = pytest.mark.parametrize("make", [of_side_containers, of_roots, seccomp.of_agents])


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "seccomp.json"
    path.write_text(json.dumps(BASE))
    monkeypatch.setattr(seccomp, "BASES", (tmp_path / "nothing", path))
    return path


def profile(make: Make) -> dict[str, Any]:
    text = make()
    assert text is not None
    made: dict[str, Any] = json.loads(text)
    return made


def rules(make: Make, name: str) -> list[dict[str, Any]]:
    return [rule for rule in profile(make)["syscalls"] if name in rule["names"]]


def allowed(make: Make, name: str, *arguments: int) -> bool:
    """Return the answer of the first rule whose arguments match, like the kernel."""
    for rule in rules(make, name):
        if all(arguments[each["index"]] & each["value"] == each["valueTwo"] for each in rule.get("args", ())):
            return bool(rule["action"] == "SCMP_ACT_ALLOW")
    return False


@BOTH
def test_the_rest_of_podmans_list_stays(make: Make) -> None:
    (rule,) = rules(make, "read")
    assert rule["action"] == "SCMP_ACT_ALLOW"
    assert rule["args"] == []
    assert profile(make)["defaultAction"] == BASE["defaultAction"]


@BOTH
def test_where_podman_has_no_file_it_keeps_what_is_built_in(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "BASES", (tmp_path / "nothing",))
    assert make() is None


@BOTH
def test_clone3_does_not_exist_since_no_filter_sees_its_flags(make: Make) -> None:
    (rule,) = rules(make, "clone3")
    assert (rule["action"], rule["errnoRet"]) == ("SCMP_ACT_ERRNO", seccomp.ENOSYS)


# ---------------------------------------------------------------- side containers


@BOTH
def test_calls_are_those_of_one_architecture(make: Make) -> None:
    (each,) = profile(make)["archMap"]
    assert each == {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}


@BOTH
@pytest.mark.parametrize("name", sorted(seccomp.KEYS))
def test_keys_are_refused_since_they_are_of_all_processes_of_a_user(make: Make, name: str) -> None:
    (rule,) = rules(make, name)
    assert (rule["action"], rule["errnoRet"]) == ("SCMP_ACT_ERRNO", seccomp.EPERM)


@pytest.mark.parametrize("name", ["clone3", "setns", "unshare"])
def test_what_makes_namespaces_is_refused_whatever_the_capabilities(name: str) -> None:
    (rule,) = rules(of_side_containers, name)
    assert rule["action"] == "SCMP_ACT_ERRNO"


def test_clone_is_allowed_without_any_flag_for_a_namespace() -> None:
    (rule,) = rules(of_side_containers, "clone")
    (argument,) = rule["args"]
    assert (argument["op"], argument["valueTwo"]) == ("SCMP_CMP_MASKED_EQ", 0)
    flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)  # sched.h
    assert argument["value"] == sum(flags)


@BOTH
@pytest.mark.parametrize(
    ("arguments", "holds"),
    [
        ((1, 1, 0), True),
        ((2, 3, 255), True),
        ((10, 2, 17), True),
        ((17, 3, 0), True),
        ((16, 3, 0), True),
        ((16, 3, 16), True),
        ((16, 3, 15), False),  # NETLINK_KOBJECT_UEVENT
        ((16 | 1 << 32, 3, 15), False),  # the kernel uses half of the register
        ((16, 3, 15 | 1 << 32), False),
        ((16, 3, 9), False),  # NETLINK_AUDIT
        ((38, 5, 0), False),  # AF_ALG
        ((40, 1, 0), False),  # AF_VSOCK, which has no network namespaces
    ],
)
def test_sockets_are_of_few_families(make: Make, arguments: tuple[int, ...], holds: bool) -> None:
    assert allowed(make, "socket", *arguments) is holds
    assert not allowed(make, "socketcall", 1, 0)


# ---------------------------------------------------------------- agents


@pytest.mark.parametrize("name", ["mount", "setns"])
def test_agents_keep_what_ip_netns_needs(name: str) -> None:
    (rule,) = rules(seccomp.of_agents, name)
    assert rule["action"] == "SCMP_ACT_ALLOW"


@pytest.mark.parametrize("name", sorted(seccomp.NEW_MOUNT_API))
def test_the_new_mount_api_does_not_exist_so_that_mount_8_uses_the_old_one(name: str) -> None:
    (rule,) = rules(seccomp.of_agents, name)
    assert (rule["action"], rule["errnoRet"]) == ("SCMP_ACT_ERRNO", seccomp.ENOSYS)


@pytest.mark.parametrize("name", sorted(seccomp.REFUSED))
def test_what_an_agent_does_not_need_is_refused_whatever_the_capabilities(name: str) -> None:
    (rule,) = rules(seccomp.of_agents, name)
    assert (rule["action"], rule["errnoRet"]) == ("SCMP_ACT_ERRNO", seccomp.EPERM)


@pytest.mark.parametrize(
    ("name", "arguments", "holds"),
    [
        ("unshare", (0x20000,), True),
        ("unshare", (0x40000000,), True),
        ("unshare", (0x10000000 | 0x40000000,), False),
        ("clone", (0x11,), True),
        ("clone", (0x10000000 | 0x11,), False),
        ("prlimit64", (0, 7), True),
        ("prlimit64", (1, 7), False),
        ("prlimit64", (1 | 1 << 32, 7), False),
        ("sched_setaffinity", (0,), True),
        ("sched_setscheduler", (1,), False),
        ("setpriority", (0, 0), True),
        ("setpriority", (0, 1), False),
        ("setpriority", (2, 0), False),  # PRIO_USER, for all processes of root
        ("ioprio_set", (1, 0), True),
        ("ioprio_set", (1, 1), False),
        ("ioprio_set", (3, 0), False),  # IOPRIO_WHO_USER
        ("socketcall", (1, 0), False),
    ],
)
def test_what_is_allowed_to_an_agent_by_arguments(name: str, arguments: tuple[int, ...], holds: bool) -> None:
    assert allowed(seccomp.of_agents, name, *arguments) is holds


@attack(251)
def test_who_is_root_or_may_mount_uses_up_no_inotify_of_the_hosts() -> None:
    """Users have 128 each in all containers. dnsmasq needs one to read resolv.conf, and then cannot be root."""
    assert allowed(of_side_containers, "inotify_init1")
    for make in (of_roots, seccomp.of_agents):
        (rule,) = rules(make, "inotify_init1")
        assert rule["action"] == "SCMP_ACT_ERRNO"
