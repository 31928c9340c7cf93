"""Examines the engines podman, docker and systemd: is each installed, new enough, and able to start side containers?

An engine that no enabled service uses may be missing, but at least one must work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sidespawn.engines import docker, systemd_bus
from sidespawn.engines.podman import PODMAN
from sidespawn.errors import LaunchError
from sidespawn.host_report import containers_conf, kubernetes, podman_storage
from sidespawn.host_report.findings import Finding, State, Topic, ok, problem, warning
from sidespawn.setup.systemd import PACKAGE
from sidespawn.system.processes import last_line, run

TIMEOUT = 60.0
PODMAN_NEEDED = (4, 0)
DOCKER_RUNTIME = PACKAGE / "engines/docker-runtime"
DOCKER_PID = Path("/run/docker.pid")
HOST_PYTHON = Path("/usr/bin/python3")  # what docker-runtime calls
# Text in podman's message, and the remedy.
PODMAN_HINTS = {
    "OCI runtime": "install crun or runc, or correct runtime= in /etc/containers/containers.conf",
    # podman 5 and 6. Of the third message only the end is kept.
    "unsupported network backend": "remove network_backend from containers.conf, and install netavark",
    "BoltDB": "remove database_backend from containers.conf, and reboot, so that podman migrates its database",
    "legacy database": "reboot, so that podman migrates its database of containers; see: podman info",
    "netavark": "install netavark; podman needs it even without networks",
    "conmon": "install conmon",
    "containers.conf": "correct /etc/containers/containers.conf; see containers.conf(5)",
    "": "run podman info as root until it succeeds",
}


@dataclass(frozen=True, kw_only=True)
class Podman:
    is_installed: bool = True
    version: str = ""
    error: str = ""  # what `podman info` said when it failed
    runtime: str = ""  # path
    has_runtime: bool = True
    manager: str = "systemd"  # of control groups
    store: str = ""
    images: int = 0
    storage: podman_storage.Storage = field(default_factory=podman_storage.Storage)
    settings: containers_conf.Facts = field(default_factory=containers_conf.Facts)


@dataclass(frozen=True, kw_only=True)
class Docker:
    is_installed: bool = True  # its socket exists
    is_running: bool = True
    version: str = ""
    api: str = ""  # the newest that it supports
    error: str = ""
    hint: str = ""
    refusal: str = ""  # docker's message if it does not support our version of its API
    runtime: str = ""  # path of the runtime called sidespawn
    live_restore: bool = False
    has_python: bool = True


@dataclass(frozen=True, kw_only=True)
class Bus:
    error: str = ""  # why systemd cannot be asked


@dataclass(frozen=True, kw_only=True)
class Facts:
    podman: Podman
    docker: Docker
    bus: Bus
    kubernetes: kubernetes.Facts | None = None  # examined only if it is used


def look(engines: frozenset[str]) -> Facts:
    return Facts(
        podman=look_at_podman(),
        docker=look_at_docker("docker" in engines),
        bus=look_at_bus(),
        kubernetes=kubernetes.look() if "kubernetes" in engines else None,
    )


def look_at_podman() -> Podman:
    if not Path(PODMAN).exists():
        return Podman(is_installed=False)
    try:
        done = run((PODMAN, "info", "--format=json"), TIMEOUT)
        if done.code != 0:
            version = run((PODMAN, "--version"), TIMEOUT).stdout.strip().removeprefix("podman version ")
            return Podman(version=version, error=last_line(done.stderr))
    except LaunchError as error:
        return Podman(error=error.message)
    try:
        info = json.loads(done.stdout)
        version = str(info["version"]["Version"])
        if info["host"]["ociRuntime"] is None:  # it is configured but does not run
            return Podman(version=version, error=last_line(done.stderr))
        runtime = str(info["host"]["ociRuntime"]["path"])
        return Podman(
            version=version,
            runtime=runtime,
            has_runtime=Path(runtime).exists(),
            manager=str(info["host"]["cgroupManager"]),
            store=str(info["store"]["graphRoot"]),
            images=int(info["store"]["imageStore"]["number"]),
            storage=podman_storage.look(info["store"]),
            settings=containers_conf.look(version, numbers(version)),
        )
    except (ValueError, LookupError, TypeError):
        return Podman(error=f"it printed {last_line(done.stdout)}")


def look_at_docker(is_used: bool) -> Docker:
    if not Path(docker.SOCKET).exists():
        return Docker(is_installed=False)
    if not is_used and not DOCKER_PID.exists():
        return Docker(is_running=False)  # systemd would start it for our request
    try:
        answer = docker.ask("GET", "/version", "", TIMEOUT)
        if answer.status != 200:
            return Docker(refusal=answer.message)
        info = docker.ask("GET", "/info", "", TIMEOUT).body
        return Docker(
            version=str(answer.body["Version"]),
            api=str(answer.body["ApiVersion"]),
            runtime=str(info.get("Runtimes", {}).get(docker.RUNTIME, {}).get("path", "")),
            live_restore=bool(info.get("LiveRestoreEnabled")),
            has_python=HOST_PYTHON.exists(),
        )
    except LaunchError as error:
        return Docker(error=error.message, hint=error.hint)
    except (LookupError, TypeError, AttributeError):
        return Docker(error="docker's answer to GET /version or /info lacks expected fields")


def look_at_bus() -> Bus:
    try:
        with systemd_bus.Bus(TIMEOUT):
            return Bus()
    except LaunchError as error:
        return Bus(error=error.message)


def judge(facts: Facts, engines: frozenset[str]) -> Iterator[Finding]:
    """Judge the engines. Unused ones are only mentioned, unless no engine works."""
    judged = {
        "podman": tuple(judge_podman(facts.podman)),
        "docker": tuple(judge_docker(facts.docker)),
        "systemd": tuple(judge_bus(facts.bus)),
    }
    if facts.kubernetes is not None:
        judged["kubernetes"] = tuple(kubernetes.judge(facts.kubernetes))
    working = [name for name, found in judged.items() if not any(each.state is State.PROBLEM for each in found)]
    yield from judge_all(working, engines)
    for name, found in judged.items():
        if name in engines:
            yield from found
        elif name in working or found[0].state is not State.PROBLEM:
            yield found[0]
        else:
            yield ok(found[0].id, f"{found[0].found} (no enabled service uses it)")


def judge_of(engine: str) -> Iterator[Finding]:
    """Return the findings about an engine that is in use."""
    match engine:
        case "podman":
            yield from judge_podman(look_at_podman())
        case "docker":
            yield from judge_docker(look_at_docker(is_used=True))
        case "systemd":
            yield from judge_bus(look_at_bus())
        case "kubernetes":
            yield from kubernetes.judge(kubernetes.look())


def judge_all(working: list[str], engines: frozenset[str]) -> Iterator[Finding]:
    install = "install podman with crun or runc"
    if not working:
        yield problem(
            Topic.ENGINES, "none of podman, docker and systemd works as engine", "nothing can be started", install
        )
    elif not engines and working == ["systemd"]:
        hint = f"{install}, or name the engine: sidespawn enable SERVICE --engine=systemd"
        yield warning(Topic.ENGINES, "only systemd works as engine", "the presets use podman by default", hint)


def judge_podman(facts: Podman) -> Iterator[Finding]:
    cannot, named = "podman cannot start a side container", f"podman {facts.version}".strip()
    if not facts.is_installed:
        hint = "install podman, or enable the service with another --engine"
        yield problem(Topic.PODMAN, f"{PODMAN} is not installed", cannot, hint)
    elif numbers(facts.version) < PODMAN_NEEDED and facts.version:
        hint = "upgrade podman to 4.0 or later"
        yield problem(Topic.PODMAN, named, "it lacks --unsetenv-all and --passwd, which came with 4.0", hint)
    elif facts.error:
        hint = next(hint for words, hint in PODMAN_HINTS.items() if words in facts.error)
        yield problem(Topic.PODMAN, f"{named}: podman info fails: {facts.error}", cannot, hint)
    elif not facts.has_runtime:
        hint = PODMAN_HINTS["OCI runtime"]
        yield problem(Topic.PODMAN, f"{named}: its runtime {facts.runtime} does not exist", cannot, hint)
    elif facts.manager != "systemd":
        found = f"{named} manages control groups by {facts.manager}"
        hint = 'set cgroup_manager = "systemd" in /etc/containers/containers.conf'
        yield problem(Topic.PODMAN, found, "it refuses the slice of a service", hint)
    else:
        yield ok(Topic.PODMAN, f"{named} with {facts.runtime}; images in {facts.store}: {facts.images}")
        yield from podman_storage.judge(facts.storage)
        yield from containers_conf.judge(facts.settings)


def judge_docker(facts: Docker) -> Iterator[Finding]:
    cannot = "docker cannot start a side container"
    if not facts.is_installed:
        hint = "install docker (Debian: docker.io), or enable the service with another --engine"
        yield problem(Topic.DOCKER, f"docker is not installed: there is no {docker.SOCKET}", cannot, hint)
        return
    if not facts.is_running:
        way = "systemctl start docker"
        yield problem(Topic.DOCKER, "docker is not running", cannot, way, command=way)
        return
    if facts.refusal:
        hint = 'docker before 20.10: upgrade it; docker 29 and later: {"min-api-version": "1.41"} in'
        hint += " /etc/docker/daemon.json, then systemctl restart docker"
        yield problem(Topic.DOCKER, f"docker does not speak version 1.41 of its API: {facts.refusal}", cannot, hint)
        return
    if facts.error:
        yield problem(Topic.DOCKER, facts.error, cannot, facts.hint or "see: systemctl status docker")
        return
    yield ok(Topic.DOCKER, f"docker {facts.version}, API {facts.api}, at its socket; the docker command is not needed")
    if facts.runtime != str(DOCKER_RUNTIME):
        wanted = json.dumps({"runtimes": {docker.RUNTIME: {"path": str(DOCKER_RUNTIME)}}})
        found = f"docker's runtime {docker.RUNTIME} is {facts.runtime or 'missing'}"
        hint = f"put {wanted} into /etc/docker/daemon.json, then: systemctl reload docker"
        yield problem(Topic.DOCKER_RUNTIME, found, "docker refuses side containers", hint)
    elif not facts.has_python:
        found = f"there is no {HOST_PYTHON}, which docker's runtime {docker.RUNTIME} calls"
        yield problem(Topic.DOCKER_RUNTIME, found, cannot, "install python3")
    if not facts.live_restore:
        hint = 'put {"live-restore": true} into /etc/docker/daemon.json, then: systemctl reload docker'
        found = "docker has no live-restore"
        yield warning(Topic.DOCKER_LIVE_RESTORE, found, "side containers end when docker restarts", hint)


def judge_bus(facts: Bus) -> Iterator[Finding]:
    if facts.error:
        message, hint = "the engine systemd cannot start a side container", "see: systemctl is-system-running"
        yield problem(Topic.SYSTEMD_BUS, facts.error, message, hint)
    else:
        yield ok(Topic.SYSTEMD_BUS, f"systemd answers at {systemd_bus.SOCKET}")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version)[:2])
