"""The host compares a plan's digest to find out whether the running container is the one asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from sidespawn.core.decide import fit_for_a_name
from sidespawn.core.plan import (
    ChildPidFile,
    ConfigurationFile,
    Limits,
    Mount,
    PidFile,
    Plan,
    Readiness,
    ReadyWhen,
    Script,
    container_name,
)
from sidespawn.core.policy import is_service_name
from tests.unit.small import decide, load, request

PLAN = decide(load(), request("--quiet")).plan

OTHER: dict[str, list[Any]] = {
    "service": ["other"],
    "instance": ["other"],
    "engine": ["other"],
    "image": ["localhost/tool:2"],
    "command": ["/usr/bin/tool"],
    "arguments": [(), (*PLAN.arguments, ""), PLAN.arguments[::-1], ("".join(PLAN.arguments),)],
    "environment": [(("A", "1"),), (("A", ""), ("1", ""))],
    "netns": ["other"],
    "host_network": [True],
    "uid": [0],
    "gid": [0],
    "capabilities": [(), ("NET_ADMIN",), ("NET_RAW", "NET_ADMIN")],
    "state": ["/other"],
    "mounts": [
        (),
        (Mount(path="/state/other", beneath="other", writable=True),),
        (replace(PLAN.mounts[0], beneath="other"),),
    ],
    "configuration": [(ConfigurationFile(path="/state/a", beneath="a", rules="extra", text=""),)],
    "scripts": [
        (Script(path="/run/a", text=""),),
        (Script(path="/run/a", text="b"),),
        (Script(path="/run/b", text=""),),
    ],
    "scratch": [(), ("/run/other",)],
    "apparmor": ["sidespawn-side-container"],
    "limits": [replace(PLAN.limits, **{each.name: 1}) for each in fields(Limits)],
    "pid_file": [None, PidFile(beneath="other/pid")],
    "child_pid_files": [
        (ChildPidFile(beneath="other/pid", inside="/run/pid"),),
        (ChildPidFile(beneath="other/pid", inside="/run/other"),),
    ],
    "readiness": [
        Readiness(when=ReadyWhen.FILE, what="/x", within=10),
        replace(PLAN.readiness, what="101"),
        replace(PLAN.readiness, within=9),
    ],
    "grace": [9],
}


def test_equal_plans_have_equal_digests() -> None:
    assert decide(load(), request("--quiet")).plan.digest == PLAN.digest


def test_it_is_a_sha256_in_hexadecimal() -> None:
    assert len(PLAN.digest) == 64
    assert set(PLAN.digest) <= set("0123456789abcdef")


@pytest.mark.parametrize("field", [each.name for each in fields(Plan)])
def test_any_other_field_gives_another_digest(field: str) -> None:
    plans = [PLAN, *(replace(PLAN, **{field: value}) for value in OTHER[field])]
    assert len({plan.digest for plan in plans}) == len(plans) > 1


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_it_is_the_same_in_every_process(seed: str) -> None:
    code = "from tests.unit.test_plan import PLAN; print(PLAN.digest)"
    environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(each for each in sys.path if each)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == PLAN.digest


def test_the_name_says_service_and_instance() -> None:
    assert replace(PLAN, service="a", instance="b").name == "a_b"


def test_no_two_services_side_containers_have_one_name() -> None:
    assert container_name("a-b", "c") != container_name("a", "b-c")
    mark = container_name("a", "b").removeprefix("a").removesuffix("b")
    assert not is_service_name(f"a{mark}b")
    assert not fit_for_a_name(f"a{mark}b")
