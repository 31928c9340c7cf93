"""The systemd engine: a side container is a transient service of PID 1. systemd 252 or later.

There is no process besides the program.  It has its own mount and ipc namespaces, the requested network namespace and,
from systemd 257 on, its own pid namespace.  Without a pid namespace it can signal other processes of its user;
docs/security.md says what this means.  Its /proc contains only /proc/sys, so it sees no other processes.

A unit is described by values with their lengths, never by text.  But systemd stores them as text and reads that text at
a daemon-reload.  So strings from an agent go into arguments and environment, which were tried with hostile values
(tests/lab/test_engines.py), and into other properties only if they passed a type.  `$` in an argument is doubled, since
systemd would expand variables; the property without expansion (ExecStartEx) makes a unit of systemd 252 unreadable at
the next daemon-reload.  Text that was read again is never executed: nothing restarts a side container, and its pins are
gone once it runs.

When its program has ended, a unit stays until it is removed, by `RemainAfterExit` or as failed: it holds the name and
tells which request started it.  Processes that a program leaves behind are ended with it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sidespawn.core.plan import Plan
from sidespawn.engines import LABEL, Found, NameTaken, Other, Pins, found, labels, state_of
from sidespawn.engines.control_groups import slice_name
from sidespawn.engines.systemd_bus import Bus, BusError
from sidespawn.engines.systemd_roots import SCRATCH_LABEL, given_path, labelled, prepare, root_path
from sidespawn.errors import LaunchError, Reason, quoted
from sidespawn.system.processes import identify, is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every run milliseconds
    from typing import Any

    Properties = list[tuple[str, tuple[str, Any]]]  # name, signature, value

SYSTEMD = "org.freedesktop.systemd1"
MANAGER = ("/org/freedesktop/systemd1", f"{SYSTEMD}.Manager")
START = ("StartTransientUnit", "ssa(sv)a(sa(sv))")
UNIT, SERVICE = f"{SYSTEMD}.Unit", f"{SYSTEMD}.Service"
GONE = {f"{SYSTEMD}.NoSuchUnit", "org.freedesktop.DBus.Error.UnknownObject"}
PRIVATE_PIDS = 257  # the first version with PrivatePIDs=
START_TIMEOUT, QUERY_TIMEOUT = 60.0, 30.0  # seconds; a start takes 0.02
POLL = 0.002
# In the order of their numbers in capability.h.
CAPABILITIES = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7,
    "SETPCAP": 8, "NET_BIND_SERVICE": 10, "NET_BROADCAST": 11, "NET_ADMIN": 12, "NET_RAW": 13, "IPC_LOCK": 14,
    "SYS_CHROOT": 18, "SYS_NICE": 23, "AUDIT_WRITE": 29,
}  # fmt: skip
# systemd sets these for every service; a plan's own variable of such a name stays.
ADDED = (
    *("HOME", "INVOCATION_ID", "JOURNAL_STREAM", "LANG", "LOGNAME", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE"),
    *("PATH", "SHELL", "SYSTEMD_EXEC_PID", "TERM", "USER"),
)
# Of @system-service: what reaches into other processes of the same user, and what is not the container's own. A pidfd
# gives a descriptor of each namespace of its process (Linux 6.11).
FORBIDDEN = [
    "@keyring", "io_uring_setup", "kcmp", "pidfd_open", "process_madvise", "process_vm_readv", "process_vm_writev",
]  # fmt: skip
INOTIFY = ["inotify_init", "inotify_init1"]  # of which root has 128 in all
FAMILIES = ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"]
TMPFS = "nosuid,nodev,noexec,size=64k"
PRIVATE, RECURSIVE = 1 << 18, 1 << 14  # MS_PRIVATE, MS_REC
EXECUTION_FAILED = range(200, 246)  # systemd.exec(5), process exit codes: the program has not been reached


class Systemd:
    def start(self, plan: Plan, pins: Pins, request: str) -> tuple[str, int]:
        prepare(plan.service, plan.image)
        unit = unit_name(plan.name)
        with Bus(START_TIMEOUT) as bus:
            try:
                bus.call(*MANAGER, *START, unit, "fail", properties(plan, pins, request, version_of(bus)), [])
                return unit, started(bus, unit, plan)
            except BusError as error:  # also if the unit has been removed in the meantime
                if error.name == f"{SYSTEMD}.UnitExists":
                    raise NameTaken(plan.name) from None
                raise engine_error("StartTransientUnit", error) from None

    def find(self, name: str) -> Found | None:
        with Bus(QUERY_TIMEOUT) as bus:
            return look(bus, unit_name(name))

    def list(self, service: str) -> tuple[Found, ...]:
        with Bus(QUERY_TIMEOUT) as bus:
            seen = [look(bus, row[0], service) for row in units_of(bus, service)]
        return tuple(each for each in seen if each is not None)

    def others(self) -> tuple[Other, ...]:
        """Return none: every process on the host belongs to a unit of systemd."""
        return ()

    def remove(self, name: str) -> None:
        unit = unit_name(name)
        with Bus(QUERY_TIMEOUT) as bus:
            found = look(bus, unit)
            program = identify(found.pid) if found is not None and found.pid else None
            if found is not None:  # otherwise there is no unit, or it is not ours
                attempt(bus, "KillUnit", "ssi", unit, "all", 9)
            # The first process of a pid namespace may leave its control group, and so the unit, before it ends.
            while look(bus, unit) is not None or (program is not None and is_alive(program)):
                attempt(bus, "StopUnit", "ss", unit, "replace")
                attempt(bus, "ResetFailedUnit", "s", unit)
                pause(bus)

    def reap(self, service: str) -> None:
        """Wait for starts that are in progress, which still need their pins. systemd knows every process."""
        with Bus(START_TIMEOUT) as bus:
            while any(job for *_, job, _, _ in units_of(bus, service)):
                pause(bus)


def unit_name(name: str) -> str:
    """Return the unit of a side container, given its name or its id, which is the unit's name."""
    return name if name.endswith(".service") else f"sidespawn-{name}.service"


def properties(plan: Plan, pins: Pins, request: str, version: int) -> Properties:
    """Return all properties of the unit for D-Bus (org.freedesktop.systemd1(5)), for this version of systemd."""
    capabilities = ("t", sum(1 << CAPABILITIES[each] for each in plan.capabilities))
    argv = [plan.command, *(argument.replace("$", "$$") for argument in plan.arguments)]
    given = given_path(plan.service, plan.image)
    # Mounts inherit the flags of their sources: read-only, nosuid, nodev and noexec as needed. systemd 252 reads the
    # host's whole list of mounts twice for each path to which it adds such a flag.
    binds = [bind(pin, mount.path) for mount, pin in zip(plan.mounts, pins.mounts, strict=True)]
    texts = zip(plan.configuration, pins.configuration, strict=True)
    binds += [bind(given / "texts" / pin.name, file.path) for file, pin in texts]
    scripts = zip(plan.scripts, pins.scripts, strict=True)
    binds += [bind(given / "scripts" / pin.name, script.path) for script, pin in scripts]
    binds += [bind(given / name, f"/{name}", RECURSIVE) for name in ("proc", "dev")]
    # Mount points in the agent's state are made in an empty directory, for this side container only. Mount points
    # elsewhere, which only a policy names, are made in the root, for the whole service.
    has_state = any(path.startswith(f"{plan.state}/") for _, path, *_ in binds)
    tmpfs = labelled(TMPFS, plan.service, SCRATCH_LABEL)
    empty = [(plan.state, f"ro,mode=755,{tmpfs}")] if has_state else []
    empty += [(path, f"mode=1777,{tmpfs}") for path in ("/dev/shm", *plan.scratch)]  # noqa: S108
    own: Properties = [] if plan.host_network else [("NetworkNamespacePath", ("s", str(pins.netns)))]
    if version >= PRIVATE_PIDS:
        own.append(("PrivatePIDs", ("s", "yes")))
        # It would also mount all of /proc, /sys and /run, writable, unless something else is mounted there.
        binds.append(bind(given / "sys", "/sys"))
        empty += [("/run", f"ro,mode=755,{tmpfs}")] if "/run" not in plan.scratch else []
    own += [("User", ("s", str(plan.uid))), ("Group", ("s", str(plan.gid)))] if plan.uid or plan.gid else []
    return [
        ("Description", ("s", f"Side container {plan.name}")),
        ("Slice", ("s", slice_name(plan.service))),
        ("IgnoreOnIsolate", ("b", True)),
        ("Type", ("s", "exec")),
        ("RemainAfterExit", ("b", True)),
        ("ExecStart", ("a(sasb)", [(plan.command, argv, False)])),
        ("TimeoutStartUSec", ("t", int(START_TIMEOUT * 1e6))),
        ("TimeoutStopUSec", ("t", int(max(plan.grace, 1) * 1e6))),
        ("RootDirectory", ("s", str(root_path(plan.service, plan.image)))),
        ("MountAPIVFS", ("b", False)),
        ("MountFlags", ("t", PRIVATE)),
        ("ReadOnlyPaths", ("as", ["+/"])),  # `+`: relative to the root directory, including what is mounted in it
        ("TemporaryFileSystem", ("a(ss)", empty)),
        ("BindPaths", ("a(ssbt)", binds)),
        *own,
        ("CapabilityBoundingSet", capabilities),
        ("AmbientCapabilities", capabilities),
        ("NoNewPrivileges", ("b", True)),
        *([("AppArmorProfile", ("(bs)", (False, plan.apparmor)))] if plan.apparmor else ()),
        ("PrivateIPC", ("b", True)),
        ("RestrictNamespaces", ("t", 0)),
        ("LockPersonality", ("b", True)),
        ("MemoryDenyWriteExecute", ("b", True)),
        ("RestrictRealtime", ("b", True)),
        ("RestrictSUIDSGID", ("b", True)),
        ("RestrictAddressFamilies", ("(bas)", (True, FAMILIES))),
        ("SystemCallArchitectures", ("as", ["native"])),
        ("SystemCallFilter", ("(bas)", (True, ["@system-service"]))),
        ("SystemCallFilter", ("(bas)", (False, FORBIDDEN + (INOTIFY if plan.uid == 0 else [])))),
        ("SystemCallErrorNumber", ("i", 1)),  # EPERM
        ("DevicePolicy", ("s", "closed")),
        ("Environment", ("as", [f"{name}={value}" for name, value in plan.environment])),
        ("UnsetEnvironment", ("as", [name for name in ADDED if name not in dict(plan.environment)])),
        ("UMask", ("u", 0o022)),
        ("LimitNOFILE", ("t", plan.limits.open_files)),
        ("LimitCORE", ("t", 0)),
        ("MemoryMax", ("t", plan.limits.memory)),
        ("MemorySwapMax", ("t", 0)),
        ("TasksMax", ("t", plan.limits.tasks)),
        ("StandardInput", ("s", "null")),
        ("SyslogIdentifier", ("s", plan.name)),
        ("SyslogLevelPrefix", ("b", False)),
        ("LogRateLimitIntervalUSec", ("t", 30_000_000)),
        ("LogRateLimitBurst", ("u", 10_000)),
        ("LogExtraFields", ("aay", [field.encode() for field in log_fields(plan, request)])),
    ]


def bind(source: Path, path: str, flags: int = 0) -> tuple[str, str, bool, int]:
    return (str(source), path, False, flags)


def log_fields(plan: Plan, request: str) -> list[str]:
    """Return the labels as fields: the journal adds them to every line of the program, and the unit returns them."""
    said = {each.removeprefix(LABEL): value for each, value in labels(plan, request).items()}
    return [f"CONTAINER_NAME={plan.name}", *(f"{LABEL_FIELD}{key.upper()}={value}" for key, value in said.items())]


LABEL_FIELD = "SIDESPAWN_LABEL_"


def started(bus: Bus, unit: str, plan: Plan) -> int:
    """Return the program's pid once it has been executed; 0 if it has already ended. Raises LaunchError."""
    path = bus.call(*MANAGER, "GetUnit", "s", unit)
    while (state := get(bus, path, UNIT, "ActiveState")) == "activating" or get(bus, path, UNIT, "Job")[0]:
        pause(bus)
    if state == "failed" and (status := get(bus, path, SERVICE, "ExecMainStatus")) in EXECUTION_FAILED:
        hint = f"journalctl --unit={unit} has the reason"
        raise LaunchError(Reason.ENGINE_FAILED, f"systemd cannot execute {plan.command}: status {status}", hint)
    # With a pid namespace, the process that enters it forks the program and ends. PID 1 may hear of the program later.
    while (pid := int(get(bus, path, SERVICE, "MainPID"))) and identify(pid) is None:
        pause(bus)
    return pid


def look(bus: Bus, unit: str, service: str | None = None) -> Found | None:
    """Return the unit if it is a side container, and of that service if one is named."""
    try:
        path = bus.call(*MANAGER, "GetUnit", "s", unit)
        fields = [bytes(each).decode() for each in get(bus, path, SERVICE, "LogExtraFields")]
        pid, name = get(bus, path, SERVICE, "MainPID"), dict(each.partition("=")[::2] for each in fields)
        state = "running" if pid else state_of("exited", get(bus, path, SERVICE, "Result") == "oom-kill")
    except BusError as error:
        if error.name in GONE:
            return None
        raise engine_error("GetUnit", error) from None
    said = {LABEL + key.removeprefix(LABEL_FIELD).lower(): value for key, value in name.items()}
    if f"{LABEL}service" not in said or service not in (None, said[f"{LABEL}service"]):
        return None
    return found(unit, name["CONTAINER_NAME"], pid, state, said)


def units_of(bus: Bus, service: str) -> Iterator[Any]:
    """Return rows with the name first and the waiting job third from the end; includes services with the same prefix.

    Earlier versions had a hyphen after the service.
    """
    try:
        yield from bus.call(*MANAGER, "ListUnitsByPatterns", "asas", [], [f"sidespawn-{service}[-_]*.service"])
    except BusError as error:
        raise engine_error("ListUnitsByPatterns", error) from None


def version_of(bus: Bus) -> int:
    """Return PID 1's version without the distribution's suffix, as in 257.9-1~deb13u1."""
    return int(re.split("[^0-9]", get(bus, *MANAGER, "Version"))[0] or 0)


def get(bus: Bus, path: str, interface: str, name: str) -> Any:
    return bus.call(path, "org.freedesktop.DBus.Properties", "Get", "ss", interface, name)


def attempt(bus: Bus, member: str, signature: str, *values: Any) -> None:
    """Make a call and ignore its failure: what it asks for is already done or in progress."""
    with suppress(BusError):
        bus.call(*MANAGER, member, signature, *values)


def pause(bus: Bus) -> None:
    """Sleep a tenth of the time waited: each check costs PID 1 as much as us, and one of many starts waits long."""
    left = bus.give_up - time.monotonic()
    if left < 0:
        raise bus.failed(TimeoutError())
    time.sleep(max(POLL, (bus.timeout - left) / 10))


def engine_error(what: str, error: BusError) -> LaunchError:
    return LaunchError(Reason.ENGINE_FAILED, f"systemd refuses {what}: {quoted(str(error))}")
