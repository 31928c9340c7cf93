"""A finding: what was checked on the host, what was found, and what to do unless it is ok.

Programs read these as JSON, so an id keeps its meaning once it is published; docs/operating.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"  # requests are served, but not everything that is promised holds
    PROBLEM = "problem"  # requests fail: all of them, or those of the subject


class Topic(StrEnum):
    """Ids of findings. A module that finds several kinds of problems has one for each."""

    KERNEL = "kernel"
    CONTROL_GROUPS = "control-groups"
    MEMORY_CONTROLLER = "memory-controller"
    PIDS_CONTROLLER = "pids-controller"
    SYSTEMD = "systemd"
    ROOT = "root"
    ENGINES = "engines"
    PODMAN = "podman"
    PODMAN_STORAGE = "podman-storage"
    PODMAN_SETTINGS = "podman-settings"
    DOCKER = "docker"
    DOCKER_RUNTIME = "docker-runtime"
    DOCKER_LIVE_RESTORE = "docker-live-restore"
    KUBERNETES = "kubernetes"
    STATIC_PODS = "static-pods"
    KUBERNETES_AGENTS = "kubernetes-agents"
    SYSTEMD_BUS = "systemd-bus"
    PYTHON = "python"
    CODE = "code"
    UNITS = "units"
    UNIT_FILES = "unit-files"
    SERVICE_UNITS = "service-units"
    DAEMON_RELOAD = "daemon-reload"
    SPOOL_MOUNTS = "spool-mounts"
    MOUNT_NAMESPACE = "mount-namespace"
    AGENTS = "agents"
    AGENT_MOUNTS = "agent-mounts"
    AGENT_APPARMOR = "agent-apparmor"
    AGENT_RELEASE = "agent-release"
    FILE_SYSTEMS = "file-systems"
    NETWORK_NAMESPACES = "network-namespaces"
    APPARMOR = "apparmor"
    APPARMOR_PROFILE = "apparmor-profile"
    SELINUX = "selinux"
    SELINUX_MODULE = "selinux-module"
    SELINUX_LABELS = "selinux-labels"
    JOURNAL = "journal"
    LEFTOVERS = "leftovers"
    LEFTOVER_LINKS = "leftover-links"
    LEFTOVER_DROP_INS = "leftover-drop-ins"
    LEFTOVER_DIRECTORIES = "leftover-directories"
    LEFTOVER_ACCOUNTS = "leftover-accounts"
    NOT_LOOKED_AT = "not-looked-at"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`message` (the consequence) and `hint` (what to do) are empty if and only if the state is ok. `command` fixes it
    in root's shell; it is empty if no command can, or if an operator must choose.
    """

    id: Topic
    state: State
    found: str
    message: str = ""
    hint: str = ""
    subject: str = ""  # the service, engine, file or profile, if the id does not say which
    command: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.found}: {self.message}; {self.hint}" if self.message else self.found


def ok(topic: Topic, found: str, subject: str = "") -> Finding:
    return Finding(id=topic, state=State.OK, found=found, subject=subject)


def warning(topic: Topic, found: str, message: str, hint: str, subject: str = "", command: str = "") -> Finding:
    about = {"message": message, "hint": hint, "subject": subject, "command": command}
    return Finding(id=topic, state=State.WARNING, found=found, **about)


def problem(topic: Topic, found: str, message: str, hint: str, subject: str = "", command: str = "") -> Finding:
    about = {"message": message, "hint": hint, "subject": subject, "command": command}
    return Finding(id=topic, state=State.PROBLEM, found=found, **about)


def worst(findings: Iterable[Finding]) -> State:
    states = {each.state for each in findings}
    return next((state for state in (State.PROBLEM, State.WARNING) if state in states), State.OK)
