"""Asks podman and docker for their containers. Starts nothing, not even an engine that is not running."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import Any

from sidespawn.engines import docker
from sidespawn.engines.podman import PODMAN
from sidespawn.errors import LaunchError, Reason
from sidespawn.host_report.engines import DOCKER_PID
from sidespawn.host_scan.containers import Container, ContainerMount
from sidespawn.setup.systemd import is_booted
from sidespawn.system.processes import last_line, run

TIMEOUT = 120.0
AT_ONCE = 50  # containers per podman command
DOCKER_CONTAINERS = Path("/var/lib/docker/containers")
PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/docker:/opt/bin:/snap/bin"


def of_podman() -> Iterator[Container]:
    """Return podman's containers. Raises LaunchError if podman is installed but does not answer."""
    if not Path(PODMAN).exists():
        return
    if os.geteuid() != 0:
        raise LaunchError(Reason.HOST_UNSUITABLE, "only root can see the containers of root's podman")
    ids = podman("ps", "--all", "--quiet", "--no-trunc").split()
    devices = bound(json.loads(podman("volume", "ls", "--format=json") or "[]") or ()) if ids else {}
    for start in range(0, len(ids), AT_ONCE):
        for told in inspected(ids[start : start + AT_ONCE]):
            added = told.get("EffectiveCaps") or ()
            yield container("podman", told, name=str(told["Name"]), added=added, devices=devices)


def inspected(ids: list[str]) -> list[dict[str, Any]]:
    """Inspect containers. If one ends in the meantime, the command fails but still prints the others."""
    try:
        found: list[dict[str, Any]] = json.loads(podman("inspect", "--type=container", *ids))
        return found
    except LaunchError:
        if len(ids) > 1:
            return [found for each in ids for found in inspected([each])]
        if podman("ps", "--all", "--quiet", "--no-trunc", f"--filter=id={ids[0]}").split():
            raise
        return []


def podman(*arguments: str) -> str:
    done = run((PODMAN, *arguments), TIMEOUT)
    if done.code != 0:
        raise LaunchError(Reason.ENGINE_FAILED, f"podman {arguments[0]}: {last_line(done.stderr)}")
    return done.stdout


def of_docker() -> Iterator[Container]:
    """Return docker's containers. Raises LaunchError if docker does not answer, or is stopped but has containers."""
    if not DOCKER_PID.exists() and not is_connectable():
        if which("dockerd", path=PROGRAMS) is None:  # what an uninstalled one left does not start again
            return
        with suppress(FileNotFoundError):
            if left := len(list(DOCKER_CONTAINERS.iterdir())):
                raise LaunchError(Reason.ENGINE_FAILED, f"docker is not running, and has {left} containers")
        return
    devices = bound(answered("/volumes").get("Volumes") or ())
    for each in answered("/containers/json?all=1"):
        with suppress(FileNotFoundError):  # it has ended since
            told = answered(f"/containers/{each['Id']}/json")
            yield container("docker", told, name=str(told["Name"]).lstrip("/"), added=(), devices=devices)


def bound(volumes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the host's directory or file behind each volume that binds one, by the engine's path of the volume."""
    found = {}
    for each in volumes:
        options = each.get("Options") or {}
        if {"bind", "rbind"} & set(str(options.get("o", "")).split(",")) and options.get("device"):
            found[str(each["Mountpoint"])] = str(options["device"])
    return found


def is_connectable() -> bool:
    """Return whether connecting starts nothing: a service manager that listens at the socket would start docker."""
    return Path(docker.SOCKET).exists() and not is_booted()


def answered(path: str) -> Any:
    answer = docker.ask("GET", path, "", TIMEOUT)
    if answer.status == 404:
        raise FileNotFoundError(path)
    if answer.status != 200:
        raise LaunchError(Reason.ENGINE_FAILED, f"docker: {answer.message}")
    return answer.body


def container(engine: str, told: Mapping[str, Any], *, name: str, added: Any, devices: Mapping[str, str]) -> Container:
    host, configuration = told["HostConfig"], told["Config"]
    capabilities = {str(each).upper().removeprefix("CAP_") for each in (*(host.get("CapAdd") or ()), *added)}
    mounts = told.get("Mounts") or ()
    once = {
        each.get("Target") for each in host.get("Mounts") or () if (each.get("BindOptions") or {}).get("NonRecursive")
    }
    return Container(
        engine=engine,
        name=name,
        running=bool(told["State"].get("Running")),
        restart=restart_policy(host),
        privileged=bool(host.get("Privileged")),
        host_pids=host.get("PidMode") == "host",
        capabilities=frozenset(capabilities),
        mounts=tuple(
            ContainerMount(
                source=devices.get(str(each["Source"]), str(each["Source"])),
                target=str(each["Destination"]),
                recursive="bind" not in (each.get("Options") or ()) and each["Destination"] not in once,
                writable=bool(each.get("RW")),
            )
            for each in mounts
            if each.get("Source", "").startswith("/")
        ),
        covered=(
            *(host.get("Tmpfs") or ()),
            *(str(each["Destination"]) for each in mounts if each.get("Type") == "tmpfs"),
        ),
        environment=dict(each.partition("=")[::2] for each in configuration.get("Env") or ()),
        labels=configuration.get("Labels") or {},
    )


def restart_policy(host: Mapping[str, Any]) -> str:
    name = str((host.get("RestartPolicy") or {}).get("Name") or "")
    return "" if name == "no" else name
