"""The podman engine through podman's API: each service's own `podman system service`, which systemd starts at a socket.

It creates the same container as the command (podman.py); tests/lab compares what the runtime gets. Settings that the
API would take from containers.conf if they were missing are set explicitly.

podman continues a request that no one waits for any more, and may be killed in the middle of one. A start counts only
if it was answered. Otherwise its processes are ended, whether podman knows about them or not, and the start is retried.
A new podman answers only after all processes of the last one are gone, since systemd does not start it earlier.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress

from sidespawn.core.plan import Plan
from sidespawn.engines import NameTaken, Pins, domain, image_missing, labels, podman
from sidespawn.engines.api import Answer, Api, Unanswered, in_url
from sidespawn.engines.control_groups import controllers, process_limit, slice_name, slice_path
from sidespawn.engines.podman import SYSTEMCTL, Podman, end_container, pid_of, system_calls
from sidespawn.errors import LaunchError, Reason
from sidespawn.system.places import Places
from sidespawn.system.processes import run, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every run milliseconds
    from typing import Any

    from sidespawn.engines.podman import Rows

VERSION = "/v4.0.0/libpod"  # later versions support it too
TRIES = 8  # of a request during which podman ended
PAUSE = 0.05  # seconds; systemd closes connections for a moment after podman has ended
UNLIMITED = 2**64 - 1
# capabilities(7), those that a policy can give.
BITS = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7,
    "SETPCAP": 8, "NET_BIND_SERVICE": 10, "NET_BROADCAST": 11, "NET_ADMIN": 12, "NET_RAW": 13, "IPC_LOCK": 14,
    "SYS_CHROOT": 18, "SYS_NICE": 23, "AUDIT_WRITE": 29,
}  # fmt: skip
# If PID 1 does not answer crun within 25 s, crun asks again, for a unit that PID 1 has made in the meantime.
ASKED_TWICE = "was already loaded or has a fragment file"


class PodmanApi(Podman):
    """One service's podman, through its API."""

    def __init__(self, service: str) -> None:
        self.service, self.unit = service, f"sidespawn-podman@{service}.service"
        self.api = Api(engine="podman", path=str(Places(service).podman), prefix=VERSION, unit=self.unit)

    def start(self, plan: Plan, pins: Pins, request: str) -> tuple[str, int]:
        for left in reversed(range(TRIES)):
            container = self.create(plan, pins, request)
            try:
                started = self.ask("POST", f"/containers/{container}/start", "", podman.START_TIMEOUT, tries=1)
                self.api.succeeded("start", started)
                state = (self.inspect(container) or {"State": {"Status": "removed", "Pid": 0}})["State"]
                pid = pid_of(container, state["Status"], state["Pid"])
                require(plan.capabilities, pid, self.unit)
                return container, pid
            except LaunchError as error:
                again = left > 0 and (isinstance(error, Unanswered) or ASKED_TWICE in error.message)
                with suppress(LaunchError):
                    if again:
                        self.rows()  # answered by the next podman
                end_container(plan.service, container)
                if not again:
                    raise
                self.remove(container)
        raise AssertionError  # pragma: no cover

    def create(self, plan: Plan, pins: Pins, request: str) -> str:
        # If podman ends before it answers, the name may be taken afterwards; the launch frees it.
        created = self.ask(*self.describe(plan, pins, request), podman.START_TIMEOUT)
        # The status is 500 for any error (podman 4.3.1). The second appears if a podman was killed between its two
        # lists.
        if created.status != 201 and ("is already in use" in created.message or "already exists" in created.message):
            raise NameTaken(plan.name)
        if created.status != 201 and ("image not known" in created.message or "no such image" in created.message):
            raise image_missing("the host", plan.image)
        return str(self.api.succeeded("create", created).body["Id"])

    def describe(self, plan: Plan, pins: Pins, request: str) -> tuple[str, str, str]:
        private = {"nsmode": "private"}
        body = {
            "name": plan.name,
            "image": plan.image,
            "entrypoint": [plan.command],
            "command": list(plan.arguments),
            "env": dict(plan.environment),
            "unsetenvall": True,
            "env_host": False,
            "httpproxy": False,
            "user": f"{plan.uid}:{plan.gid}",
            "manage_password": False,
            "umask": "0022",
            "work_dir": "/",
            "labels": labels(plan, request),
            "restart_policy": "no",
            "systemd": "false",
            "sdnotifyMode": "ignore",
            "healthconfig": {"Test": ["NONE"]},
            "log_configuration": {"driver": "journald"},
            "init": False,
            "cgroups_mode": "enabled",
            "oom_score_adj": 0,
            "privileged": False,
            "netns": {"nsmode": "host"} if plan.host_network else {"nsmode": "path", "value": str(pins.netns)},
            "pidns": private,
            "ipcns": private,
            "utsns": private,
            "cgroupns": private,
            "userns": {"nsmode": "host"},  # a namespace's owner: capabilities over the agent's need the initial one
            "cap_drop": ["all"],
            "cap_add": list(plan.capabilities),
            "no_new_privileges": True,
            "read_only_filesystem": True,
            "read_write_tmpfs": False,
            "shm_size": 64 * 1024,
            "mounts": mounts(plan, pins),
            "image_volume_mode": "ignore",
            "use_image_hosts": True,
            "r_limits": [
                {"type": name, "hard": most, "soft": most}
                for name, most in (
                    ("nofile", plan.limits.open_files),
                    ("core", 0),
                    ("nproc", UNLIMITED if process_limit() < 0 else process_limit()),
                )
            ],
            "resource_limits": limits(plan),
            "cgroup_parent": slice_name(plan.service),
        }
        if plan.apparmor:
            body["apparmor_profile"] = plan.apparmor
        if profile := system_calls(plan.service):
            body["seccomp_profile_path"] = profile
        if label := domain(plan.service):
            body["selinux_opts"] = list(label)
        return "POST", "/containers/create", json.dumps(body)

    def inspect(self, name: str) -> dict[str, Any] | None:
        answer = self.ask("GET", f"/containers/{in_url(name)}/json")
        if answer.status == 404 or any(each in answer.message.lower() for each in podman.NO_SUCH_CONTAINER):
            return None
        container: dict[str, Any] = self.api.succeeded("inspect", answer).body
        return container

    def rows(self, label: str = "") -> Rows:
        wanted = f"&filters={in_url(json.dumps({'label': [label]}))}" if label else ""
        containers: Rows = self.api.succeeded("list", self.ask("GET", f"/containers/json?all=true{wanted}")).body
        return containers

    def rm(self, name: str) -> LaunchError | None:
        answer = self.ask("DELETE", f"/containers/{in_url(name)}?force=true&timeout=0&ignore=true")
        if answer.status not in (200, 204, 404):
            return self.api.error("remove", answer)
        # A podman that was killed while it removed this may have left the program running; the next one considers it
        # dead.
        for each in answer.body if isinstance(answer.body, list) else ():
            if (slice_path(self.service) / f"libpod-{each['Id']}.scope").exists():
                end_container(self.service, each["Id"])
        return None

    def reap(self, service: str) -> None:
        # The podman that a killed run called continues its request.
        self.end()
        super().reap(service)
        for each in self.list(service):
            if each.state in ("created", "initialized"):
                self.remove(each.id)

    def ask(self, method: str, path: str, body: str = "", timeout: float = 0.0, tries: int = TRIES) -> Answer:
        for left in reversed(range(tries)):
            try:
                return self.api.ask(method, path, body, timeout or podman.QUERY_TIMEOUT)
            except LaunchError as error:
                if error.reason is Reason.ENGINE_TIMEOUT:
                    self.end()
                time.sleep(PAUSE)
                if not left or not isinstance(error, Unanswered):
                    raise
        raise AssertionError  # pragma: no cover

    def end(self) -> None:
        """Kill this podman and whatever it is doing. systemd starts another one for the next request."""
        run((SYSTEMCTL, "kill", "--signal=KILL", self.unit), podman.QUERY_TIMEOUT)


def require(capabilities: tuple[str, ...], pid: int, unit: str) -> None:
    """Raise LaunchError if the unit could not give the program one of them: the runtime leaves it out silently.

    The program's parent, conmon, has what the unit can give; the program may have dropped some itself.
    """
    with suppress(OSError, IndexError):  # the program has ended, which is noticed later
        parent = int(status_of(pid, b"PPid:")[0])
        bounds = int(status_of(parent, b"CapBnd:")[0], 16)
        if missing := [each for each in capabilities if not bounds >> BITS[each] & 1]:
            message = f"{unit} cannot give the side container {' and '.join(missing)}: CapabilityBoundingSet lacks it"
            raise LaunchError(Reason.ENGINE_FAILED, message, f"see: systemctl cat {unit}; then: sidespawn enable")


def mounts(plan: Plan, pins: Pins) -> Rows:
    data = ["rprivate", "nosuid", "nodev", "noexec"]
    binds = [
        (mount.path, pin, ["rw" if mount.writable else "ro", *data])
        for mount, pin in zip(plan.mounts, pins.mounts, strict=True)
    ]
    binds += [(file.path, pin, ["ro", *data]) for file, pin in zip(plan.configuration, pins.configuration, strict=True)]
    binds += [(script.path, pin, ["ro", *data[:-1]]) for script, pin in zip(plan.scripts, pins.scripts, strict=True)]
    scratch = ["rw", "nosuid", "nodev", "noexec", "size=64k", "mode=1777"]
    return [
        *({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": scratch} for path in plan.scratch),
        *({"destination": path, "type": "bind", "source": str(pin), "options": each} for path, pin, each in binds),
    ]


def limits(plan: Plan) -> dict[str, Any]:
    """Return limits on memory and tasks, if the host's control groups have the controllers."""
    there = controllers()
    # Without an explicit limit, podman would ask for 2048 tasks, and fail where it cannot get them.
    tasks = plan.limits.tasks if "pids" in there else 0
    memory = {"memory": {"limit": plan.limits.memory, "swap": plan.limits.memory}} if "memory" in there else {}
    return {"pids": {"limit": tasks}, **memory}
