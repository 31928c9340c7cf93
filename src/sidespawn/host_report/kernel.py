"""Checks requirements on Linux: openat2(2), and control groups with the controllers that enforce the limits."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sidespawn.engines.control_groups import CONTROL_GROUPS, controllers, slice_name, slice_path
from sidespawn.host_report.findings import Finding, Topic, ok, problem, warning
from sidespawn.system import kernel
from sidespawn.system.files import closing

LIMITS = {"memory": "the memory", "pids": "the number of tasks"}  # by controller


@dataclass(frozen=True, kw_only=True)
class Facts:
    release: str
    openat2: int = 0  # errno of a call
    control_groups: str = "v2"  # or hybrid, v1, none
    controllers: frozenset[str] = frozenset(LIMITS)  # of the whole host
    slices: Mapping[str, frozenset[str]] = field(default_factory=dict)  # by the slice's name, if something runs in it


def look(services: tuple[str, ...]) -> Facts:
    return Facts(
        release=os.uname().release,
        openat2=try_openat2(),
        control_groups=version_of_control_groups(),
        controllers=frozenset(controllers()),
        slices={slice_name(each): found for each in services if (found := delegated(each)) is not None},
    )


def try_openat2() -> int:
    """Call it as for a request, since a release number says nothing about seccomp filters and backports."""
    try:
        with closing(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
            os.close(kernel.openat2(root, "etc", os.O_PATH, kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_MAGICLINKS))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def version_of_control_groups() -> str:
    if (CONTROL_GROUPS / "cgroup.controllers").exists():
        return "v2"
    if (CONTROL_GROUPS / "unified/cgroup.controllers").exists():
        return "hybrid"
    return "v1" if CONTROL_GROUPS.is_dir() and any(CONTROL_GROUPS.iterdir()) else "none"


def delegated(service: str) -> frozenset[str] | None:
    """Return the controllers of the service's slice, or None while nothing runs in it: systemd may enable them
    later."""
    path = slice_path(service)
    if not path.is_dir() or not any(each.is_dir() for each in path.iterdir()):
        return None
    return frozenset((path / "cgroup.controllers").read_text().split())


def judge(facts: Facts) -> Iterator[Finding]:
    if not facts.openat2:
        yield ok(Topic.KERNEL, f"Linux {facts.release}, with openat2(2)")
    else:
        found = f"Linux {facts.release}: openat2(2) fails: {os.strerror(facts.openat2)}"
        denied = "a seccomp filter denies it: run this on the host itself, not in a container"
        hint = "boot Linux 5.6 or later" if facts.openat2 == errno.ENOSYS else denied
        yield problem(Topic.KERNEL, found, "no request can be read", hint)
    if facts.control_groups != "v2":
        found = f"control groups: {facts.control_groups}, not v2"
        hint = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line"
        yield problem(
            Topic.CONTROL_GROUPS, found, "limits are not enforced, and remains of a killed start are not found", hint
        )
        return
    yield ok(Topic.CONTROL_GROUPS, "control groups v2")
    for controller in LIMITS:
        yield judge_controller(facts, controller)


def judge_controller(facts: Facts, controller: str) -> Finding:
    topic, message = Topic(f"{controller}-controller"), f"{LIMITS[controller]} of side containers is not limited"
    if controller not in facts.controllers:
        found = f"the host's control groups have no {controller} controller"
        hint = f"boot without cgroup_disable={controller}; in a virtual machine or container, have its host delegate it"
        return warning(topic, found, message, hint)
    lacking = sorted(name for name, there in facts.slices.items() if controller not in there)
    if lacking:
        found = f"{', '.join(lacking)}: the {controller} controller is not delegated"
        hint = f"look for DisableControllers= in: systemctl cat -- -.slice sidespawn.slice {lacking[0]}"
        return warning(topic, found, message, hint)
    return ok(topic, f"{LIMITS[controller]} of side containers is limited")
