"""The docker engine: docker's API at its socket, 20.10 or later.

A container is described by JSON, so nothing is ever read as an option.  docker cannot express a namespace by its path,
capabilities of a user other than root, or only the plan's environment and mounts.  Our own runtime around runc,
docker_runtime.py, adds these; daemon.json must name it.  Without it docker refuses the container.  Even if docker did
not, the container would have an empty network namespace, never the host's.

docker runs the side containers under containerd, so none ends with sync.  For none to end with docker, docker needs
`live-restore`, which `sidespawn check` looks for.
"""

from __future__ import annotations

import json
import os
import time

from sidespawn.core.plan import Plan
from sidespawn.engines import LABEL, Found, NameTaken, Other, Pins, found, image_missing, labels, state_of
from sidespawn.engines.api import Answer, Api, confirmed, in_url
from sidespawn.engines.control_groups import controllers, process_limit, slice_name

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every run milliseconds
    from typing import Any

SOCKET = "/run/docker.sock"
API = "/v1.41"  # of docker 20.10; later versions support it too
RUNTIME = "sidespawn"
START_TIMEOUT = 60.0  # seconds
QUERY_TIMEOUT = 30.0


class Docker:
    def start(self, plan: Plan, pins: Pins, request: str) -> tuple[str, int]:
        # Not the request's id, which an agent chooses, and may choose for two services at once.
        key = os.urandom(16).hex()
        record = pins.netns.with_name(f"{key}.oci")
        record.write_text(json.dumps(runtime_record(plan, pins)), encoding="utf-8")
        try:
            method, path, body = self.describe(plan, pins, request, key)
            created = ask(method, path, body, START_TIMEOUT)
            if created.status == 409:
                raise NameTaken(plan.name)
            if created.status == 404 and "No such image" in created.message:
                raise image_missing("docker", plan.image)
            container = str(api().succeeded("create", created).body["Id"])
            api().succeeded("start", ask("POST", f"/containers/{container}/start", "", START_TIMEOUT))
        finally:
            record.unlink()
        started = inspect(container)
        return container, pid_of(started) if started else 0

    def describe(self, plan: Plan, pins: Pins, request: str, key: str = "") -> tuple[str, ...]:
        body = {
            "Hostname": key or request,  # docker_runtime.py finds its record by this
            "Image": plan.image,
            "Entrypoint": [plan.command],
            "Cmd": list(plan.arguments),
            "Env": environment(plan),
            "User": f"{plan.uid}:{plan.gid}",
            "WorkingDir": "/",
            "Labels": labels(plan, request),
            # Not even a member of the network "none": docker 20.10 can hang forever when it leaves that (moby#46661).
            "NetworkDisabled": True,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "Runtime": RUNTIME,
                "NetworkMode": "none",
                "IpcMode": "private",
                "CgroupnsMode": "private",
                "UsernsMode": "host",  # a namespace's owner: capabilities over the agent's need the initial one
                "Privileged": False,
                "Init": False,
                "CapDrop": ["ALL"],
                "CapAdd": list(plan.capabilities),
                "SecurityOpt": ["no-new-privileges", *((f"apparmor={plan.apparmor}",) if plan.apparmor else ())],
                "ReadonlyRootfs": True,
                "ShmSize": 64 * 1024,
                "Tmpfs": dict.fromkeys(plan.scratch, "rw,nosuid,nodev,noexec,size=64k,mode=1777"),
                "Mounts": mounts(plan, pins),
                "RestartPolicy": {"Name": "no"},
                "LogConfig": {"Type": "journald", "Config": {"labels": f"{LABEL}service"}},  # as a field
                "CgroupParent": slice_name(plan.service),
                "Ulimits": [
                    {"Name": name, "Soft": most, "Hard": most}
                    for name, most in (("nofile", plan.limits.open_files), ("core", 0), ("nproc", process_limit()))
                ],
            }
            | limits(plan),
        }
        return "POST", f"/containers/create?name={plan.name}", json.dumps(body)

    def find(self, name: str) -> Found | None:
        container = inspect(name)
        if container is None:
            return None
        said, state, pid = container["Config"]["Labels"], container["State"], pid_of(container)
        word = state_of(state["Status"], not pid and state["OOMKilled"])
        return found(container["Id"], container["Name"].removeprefix("/"), pid, word, said)

    def list(self, service: str) -> tuple[Found, ...]:
        wanted = in_url(json.dumps({"label": [f"{LABEL}service={service}"]}))
        listed = (self.find(each["Id"]) for each in ps(f"all=1&filters={wanted}"))
        return tuple(each for each in listed if each is not None)

    def others(self) -> tuple[Other, ...]:
        foreign = (inspect(each["Id"]) for each in ps("all=0") if f"{LABEL}service" not in each["Labels"])
        return tuple(
            Other(id=each["Id"], name=each["Name"].removeprefix("/"), image=each["Config"]["Image"], pid=pid_of(each))
            for each in foreign
            if each is not None and pid_of(each)
        )

    def remove(self, name: str) -> None:
        # Also remove volumes that docker made for the image's VOLUME lines, though nothing could ever see them.
        give_up = time.monotonic() + QUERY_TIMEOUT
        while (answer := ask("DELETE", f"/containers/{in_url(name)}?force=1&v=1", "", QUERY_TIMEOUT)).status == 409:
            # "Already in progress": a killed run had requested it.
            if time.monotonic() > give_up:
                break
            time.sleep(0.02)
        if answer.status not in (204, 404):
            raise api().error("remove", answer)

    def reap(self, service: str) -> None:
        # docker continues a start that no one waits for, without its pins if they were removed now. Removing the
        # container waits until it has started, or prevents the start.
        for each in self.list(service):
            if each.state == "created":
                self.remove(each.id)


def api() -> Api:
    return Api(engine="docker", path=SOCKET, prefix=API, unit="docker")


def ask(method: str, path: str, body: str, timeout: float) -> Answer:
    return api().ask(method, path, body, timeout)


def inspect(name: str) -> dict[str, Any] | None:
    answer = ask("GET", f"/containers/{in_url(name)}/json", "", QUERY_TIMEOUT)
    container: dict[str, Any] | None = None if answer.status == 404 else api().succeeded("inspect", answer).body
    return container


def ps(query: str) -> list[dict[str, Any]]:
    containers: list[dict[str, Any]] = (
        api().succeeded("list", ask("GET", f"/containers/json?{query}", "", QUERY_TIMEOUT)).body
    )
    return containers


def pid_of(container: dict[str, Any]) -> int:
    """Return its pid; 0 unless it runs."""
    return confirmed(container["State"]["Pid"], container["Id"]) if container["State"]["Running"] else 0


def environment(plan: Plan) -> list[str]:
    return [f"{name}={value}" for name, value in plan.environment]


def runtime_record(plan: Plan, pins: Pins) -> dict[str, Any]:
    return {
        "netns": str(pins.netns),
        "environment": environment(plan),
        "capabilities": [f"CAP_{each}" for each in plan.capabilities],
        "binds": [str(pin) for pin in (*pins.mounts, *pins.configuration)],
        "scripts": [str(pin) for pin in pins.scripts],
    }


def mounts(plan: Plan, pins: Pins) -> list[dict[str, Any]]:
    places = [(mount.path, pin, not mount.writable) for mount, pin in zip(plan.mounts, pins.mounts, strict=True)]
    places += [(file.path, pin, True) for file, pin in zip(plan.configuration, pins.configuration, strict=True)]
    places += [(script.path, pin, True) for script, pin in zip(plan.scripts, pins.scripts, strict=True)]
    private = {"Propagation": "rprivate"}
    return [
        {"Type": "bind", "Source": str(pin), "Target": path, "ReadOnly": read_only, "BindOptions": private}
        for path, pin, read_only in places
    ]


def limits(plan: Plan) -> dict[str, int]:
    """Return limits on memory and tasks, if the host's control groups have the controllers."""
    wanted = {
        "memory": {"Memory": plan.limits.memory, "MemorySwap": plan.limits.memory},
        "pids": {"PidsLimit": plan.limits.tasks},
    }
    return {key: value for each in controllers() for key, value in wanted.get(each, {}).items()}
