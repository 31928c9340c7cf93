"""The profile of system calls is podman's own, and makes no namespace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidespawn.host import syscalls

BASE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [
        {"names": ["clone", "clone3", "read", "unshare"], "action": "SCMP_ACT_ALLOW", "args": []},
        {"names": ["setns"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
    ],
}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "seccomp.json"
    path.write_text(json.dumps(BASE))
    monkeypatch.setattr(syscalls, "BASES", (tmp_path / "nothing", path))
    return path


def rules(name: str) -> list[dict[str, Any]]:
    text = syscalls.profile()
    assert text is not None
    return [rule for rule in json.loads(text)["syscalls"] if name in rule["names"]]


def test_the_rest_of_podmans_profile_stays(base: Path) -> None:
    (rule,) = rules("read")
    assert rule == {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": []}


@pytest.mark.parametrize("name", ["clone3", "setns", "unshare"])
def test_what_makes_namespaces_is_refused_whatever_the_capabilities(base: Path, name: str) -> None:
    (rule,) = rules(name)
    assert rule["action"] == "SCMP_ACT_ERRNO"


def test_clone_is_allowed_without_any_flag_for_a_namespace(base: Path) -> None:
    (rule,) = rules("clone")
    (argument,) = rule["args"]
    assert (argument["op"], argument["valueTwo"]) == ("SCMP_CMP_MASKED_EQ", 0)
    flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)  # sched.h
    assert argument["value"] == sum(flags)


def test_where_podman_has_no_file_it_keeps_what_is_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "BASES", (tmp_path / "nothing",))
    assert syscalls.profile() is None
