"""The podman engine through the rootful command, 4.0 or later; podman_api.py uses the API.

Everything that widens a container is switched off by name, since containers.conf and the image could switch it on. The
program's arguments come after the image, where podman reads no options; `--entrypoint` is the policy's path. podman
gives the side container and its conmon their own scopes in the service's slice, so none ends with sync.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sidespawn.core.plan import Plan
from sidespawn.engines import LABEL, Found, NameTaken, Other, Pins, domain, found, image_missing, labels, state_of
from sidespawn.engines.api import Unanswered, confirmed
from sidespawn.engines.control_groups import controllers, process_limit, slice_name, slice_path
from sidespawn.errors import LaunchError, Reason
from sidespawn.system.places import Places
from sidespawn.system.processes import Output, last_line, run

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every run milliseconds
    from typing import Any

    Rows = list[dict[str, Any]]

PODMAN = "/usr/bin/podman"
SYSTEMCTL = "/usr/bin/systemctl"
JOURNALCTL = "/usr/bin/journalctl"
UMOUNT = "/usr/bin/umount"
START_TIMEOUT = 60.0  # seconds; podman takes 0.15, but much longer if hundreds start at once or the disk is busy
QUERY_TIMEOUT = 30.0
REASON_TIMEOUT = 5.0  # for the journal, about a container that has ended anyway
ALIVE = ("running", "paused", "stopping")  # the states with a program
# The second: podman was killed while it created or removed the container, so only one of its two lists has it.
NO_SUCH_CONTAINER = ("no such container", "container not known")
HARMLESS = "nosuid,nodev,noexec"
KILLED = 137  # exit code: 128 and the number of SIGKILL
FAILED_TO_RUN = 125  # podman-run(1): the error is podman's own
# systemd's own message: the kernel killed a process of the unit because its control group had no memory left.
OUT_OF_MEMORY_MESSAGE = ("_PID=1", "MESSAGE_ID=fe6faa94e7774663a0da52717891d8ef")


class Podman:
    def start(self, plan: Plan, pins: Pins, request: str) -> tuple[str, int]:
        id_file = id_file_of(pins)
        id_file.unlink(missing_ok=True)
        try:
            done = run(self.describe(plan, pins, request), START_TIMEOUT)
            if done.code != 0:
                # podman says the second if an earlier one was killed between updating its two lists of containers.
                if "is already in use" in done.stderr or "container already exists" in done.stderr:
                    raise NameTaken(plan.name)
                raise start_error(plan, done)
            return id_file.read_text(), int(pins.pid_file.read_text())
        except (LaunchError, OSError, ValueError) as error:
            if id_file.exists():  # podman was killed, by the time limit or otherwise, and may not know the container
                end_container(plan.service, id_file.read_text())
            if isinstance(error, LaunchError):
                raise
            raise LaunchError(Reason.ENGINE_FAILED, "podman run ended with 0 and started nothing") from None
        finally:
            id_file.unlink(missing_ok=True)

    def describe(self, plan: Plan, pins: Pins, request: str) -> tuple[str, ...]:
        options = [
            "--hooks-dir=/run/sidespawn-podman",  # there are none among the sockets
            "--default-mounts-file=/dev/null",
            "--detach",
            f"--name={plan.name}",
            "--pull=never",
            "--restart=no",
            "--replace=false",
            f"--pidfile={pins.pid_file}",
            f"--cidfile={id_file_of(pins)}",
            "--network=host" if plan.host_network else f"--network=ns:{pins.netns}",
            "--pid=private",
            "--ipc=private",
            "--uts=private",
            "--cgroupns=private",
            "--userns=host",  # a namespace's owner: capabilities over the agent's namespace need the initial one
            "--privileged=false",
            "--init=false",
            "--cgroups=enabled",
            "--oom-score-adj=0",
            "--env-host=false",
            "--cap-drop=all",
            *(f"--cap-add={capability}" for capability in plan.capabilities),
            "--security-opt=no-new-privileges",
            *((f"--security-opt=apparmor={plan.apparmor}",) if plan.apparmor else ()),
            *((f"--security-opt=seccomp={profile}",) if (profile := system_calls(plan.service)) else ()),
            *(f"--security-opt=label={each}" for each in domain(plan.service)),
            "--read-only",
            "--read-only-tmpfs=false",
            "--shm-size=64k",
            *(f"--tmpfs={path}:rw,nosuid,nodev,noexec,size=64k,mode=1777" for path in plan.scratch),
            "--image-volume=ignore",
            "--no-hosts",
            "--http-proxy=false",
            "--systemd=false",
            "--sdnotify=ignore",
            "--no-healthcheck",
            "--log-driver=journald",
            f"--user={plan.uid}:{plan.gid}",
            "--passwd=false",
            "--umask=0022",
            "--workdir=/",
            f"--ulimit=nofile={plan.limits.open_files}:{plan.limits.open_files}",
            "--ulimit=core=0:0",
            # podman would raise it to 1048576.
            f"--ulimit=nproc={process_limit()}:{process_limit()}",
            *limits(plan),
            f"--cgroup-parent={slice_name(plan.service)}",
            *(f"--label={key}={value}" for key, value in labels(plan, request).items()),
            "--unsetenv-all",
            *(f"--env={name}={value}" for name, value in plan.environment),
        ]
        for mount, pin in zip(plan.mounts, pins.mounts, strict=True):
            mode = "rw" if mount.writable else "ro"
            options.append(f"--mount=type=bind,src={pin},dst={mount.path},{mode},bind-propagation=rprivate,{HARMLESS}")
        for file, pin in zip(plan.configuration, pins.configuration, strict=True):
            options.append(f"--mount=type=bind,src={pin},dst={file.path},ro,bind-propagation=rprivate,{HARMLESS}")
        for script, pin in zip(plan.scripts, pins.scripts, strict=True):
            options.append(f"--mount=type=bind,src={pin},dst={script.path},ro,bind-propagation=rprivate,nosuid,nodev")
        return (PODMAN, "run", *options, f"--entrypoint={plan.command}", plan.image, *plan.arguments)

    def find(self, name: str) -> Found | None:
        try:
            container = self.inspect(name)
        except LaunchError as error:
            if error.reason is Reason.ENGINE_TIMEOUT or isinstance(error, Unanswered):
                raise
            return self.find_torn(name, error)
        if container is None:
            return None
        state = container["State"]
        pid = pid_of(container["Id"], state["Status"], state["Pid"])
        word = state_of(state["Status"], not pid and ran_out_of_memory(container))
        return found(container["Id"], container["Name"], pid, word, container["Config"]["Labels"])

    def inspect(self, name: str) -> dict[str, Any] | None:
        done = run((PODMAN, "container", "inspect", "--format=json", name), QUERY_TIMEOUT)
        if done.code != 0:
            if any(each in done.stderr.lower() for each in NO_SUCH_CONTAINER):
                return None
            raise engine_error("podman container inspect", done)
        return parsed("podman container inspect", done)[0]

    def find_torn(self, name: str, trouble: LaunchError) -> Found:
        """Return a stopped container that podman lists and can remove, but not inspect, because a power failure kept
        files of its store from being written ("getting graph driver info", podman 5.4.2). Raises `trouble` without one.
        """
        for row in self.rows():
            if name in (row["Id"], *row["Names"]) and not row["Pid"]:
                return found(row["Id"], row["Names"][0], 0, row["State"], row["Labels"] or {})
        raise trouble

    def list(self, service: str) -> tuple[Found, ...]:
        rows = self.rows(f"{LABEL}service={service}")
        return tuple(each for each in map(self.look, rows) if each is not None)

    def look(self, row: dict[str, Any]) -> Found | None:
        """Return a container from a row of `podman ps`, which does not say why something was killed."""
        pid = pid_of(row["Id"], row["State"], row["Pid"])
        if not pid and row["ExitCode"] == KILLED:
            return self.find(row["Id"])
        return found(row["Id"], row["Names"][0], pid, row["State"], row["Labels"])

    def rows(self, label: str = "") -> Rows:
        """Return every container, running or not; if a label is given, only those with it."""
        wanted = (f"--filter=label={label}",) if label else ()
        done = run((PODMAN, "ps", "--all", *wanted, "--format=json"), QUERY_TIMEOUT)
        if done.code != 0:
            raise engine_error("podman ps", done)
        return parsed("podman ps", done)

    def others(self) -> tuple[Other, ...]:
        return tuple(
            Other(id=each["Id"], name=each["Names"][0], image=each["Image"], pid=each["Pid"])
            for each in self.rows()
            if each["Pid"] and f"{LABEL}service" not in (each["Labels"] or {})
        )

    def reap(self, service: str) -> None:
        # A podman that is killed between starting the program and recording it leaves a process that no podman command
        # knows, not even `podman rm --force`. Its scope does.
        alive = {each.id for each in self.list(service) if each.pid is not None}
        orphans = {scope: container for scope, container in scopes_of(service).items() if container not in alive}
        end_scopes(orphans)
        for container in set(orphans.values()):  # otherwise it would look like a program that ended by itself
            self.remove(container)

    def remove(self, name: str) -> None:
        if trouble := self.rm(name):
            # A killed podman may have mounted this without recording it (seen with 4.3.1).
            left = [word.rstrip(":") for word in trouble.message.split() if word.endswith("/userdata/shm:")]
            for path in left:
                run((UMOUNT, "--lazy", path), QUERY_TIMEOUT)
            # Also if the program ended while podman handled it: "container state improper: stopped" (4.3.1).
            trouble = self.rm(name)
        if trouble:
            raise trouble

    def rm(self, name: str) -> LaunchError | None:
        """Remove it; return the error if podman could not."""
        done = run((PODMAN, "rm", "--force", "--time=0", "--ignore", name), QUERY_TIMEOUT)
        return engine_error("podman rm", done) if done.code != 0 else None


def podman_of(service: str) -> Podman:
    """Return podman through its API if systemd listens for it, else the command."""
    if Places(service).podman.exists():
        from sidespawn.engines.podman_api import PodmanApi  # noqa: PLC0415 - it is one of these

        return PodmanApi(service)
    return Podman()


def pid_of(container: str, state: str, pid: int) -> int:
    """Return its pid, from what podman says; 0 unless it runs."""
    return confirmed(pid, container) if state in ALIVE else 0


def parsed(what: str, done: Output) -> Rows:
    try:
        containers: Rows = json.loads(done.stdout or "[]")
    except ValueError:
        raise LaunchError(Reason.ENGINE_FAILED, f"{what} printed {last_line(done.stdout)}") from None
    return containers


def ran_out_of_memory(container: dict[str, Any]) -> bool:
    """Return whether the kernel killed the ended container's program at its memory limit.

    podman's own answer misses what conmon did not see: each such kill with crun on Debian 12 (conmon 2.1.6), and later
    some, if systemd removed the control group first. systemd reads the kernel's count before it removes one.
    """
    state = container["State"]
    if state["OOMKilled"] or state["ExitCode"] != KILLED:
        return bool(state["OOMKilled"])
    journal = (JOURNALCTL, "--quiet", "--boot", "--lines=1", "--output=cat", *OUT_OF_MEMORY_MESSAGE)
    with suppress(LaunchError):  # there is no journalctl, or it takes too long: the reason is lost
        return bool(run((*journal, f"UNIT=libpod-{container['Id']}.scope"), REASON_TIMEOUT).stdout)
    return False


def system_calls(service: str) -> str:
    """Return the profile without namespaces that was made with the service's directories."""
    profile = Places(service).syscalls
    return str(profile) if profile.exists() else ""


def id_file_of(pins: Pins) -> Path:
    """Return the file that podman writes the container's id to, before it starts the program."""
    return pins.pid_file.with_suffix(".cid")


def end_scopes(scopes: Iterable[str]) -> None:
    if names := tuple(scopes):
        run((SYSTEMCTL, "kill", "--signal=KILL", *names), QUERY_TIMEOUT)
        run((SYSTEMCTL, "stop", *names), QUERY_TIMEOUT)


def end_container(service: str, container: str) -> None:
    """End its processes, whether podman knows about them or not."""
    end_scopes(scope for scope, of in scopes_of(service).items() if of == container)


def scopes_of(service: str) -> dict[str, str]:
    """Return the scopes of side containers and conmons in the service's slice, each with its container's id."""
    names = (path.name for path in slice_path(service).glob("libpod-*.scope"))
    return {name: name.removesuffix(".scope").rpartition("-")[2] for name in names}


def limits(plan: Plan) -> tuple[str, ...]:
    """Return limits on memory and tasks, if the host's control groups have the controllers."""
    there = controllers()
    # Without an explicit limit, podman would ask for 2048 tasks, and fail where it cannot get them.
    tasks = plan.limits.tasks if "pids" in there else 0
    memory = (f"--memory={plan.limits.memory}", f"--memory-swap={plan.limits.memory}")
    return (f"--pids-limit={tasks}", *(memory if "memory" in there else ()))


def start_error(plan: Plan, done: Output) -> LaunchError:
    if done.code == FAILED_TO_RUN and ("image not known" in done.stderr or "no such image" in done.stderr.lower()):
        return image_missing("the host", plan.image)
    return engine_error("podman run", done)


def engine_error(what: str, done: Output) -> LaunchError:
    return LaunchError(Reason.ENGINE_FAILED, f"{what} ended with {done.code}: {last_line(done.stderr)}")
