"""An agent container to test against, like that of Neutron's DHCP agent: run, exec, kill, restart.

    agent = AgentContainer(name="my-agent", image="localhost/sidespawn-agent:latest", state=Path("/var/lib/my-state"),
                           service_options=tuple(json_of_sidespawn_enable["podman_options"]),
                           security_options=tuple(json_of_sidespawn_enable["security_options"]))
    agent.start()
    agent.exec(("ip", "netns", "add", "qdhcp-…"), code=0)
    agent.kill(); agent.remove()

podman starts the container, as root. It has only what its job needs: no engine's socket, not privileged,
no-new-privileges, a seccomp profile, and only the capabilities in `CAPABILITIES`.  It shares the host's network and
pids, as Neutron's agents must: they look up their helpers in /proc by pid.

The set was found by dropping one capability after the other from podman's and Kolla's (podman 4.3.1, Linux 6.18).
Working with namespaces needs it; the wrapper and the kill scripts need none.  Neutron's own privilege helper may need
more (DAC_OVERRIDE, to delete its user's files as root), which changes nothing here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sidespawn.host.directories import IMAGE_IN_AGENT
from sidespawn.recipes import containers
from sidespawn.recipes.containers import NAMESPACES
from sidespawn.setup import hardening
from sidespawn.system.processes import Output
from sidespawn.testing.commands import TIMEOUT, run

# Each with what fails without it.
CAPABILITIES = {
    "SYS_ADMIN": "ip netns add (unshare, mounting the name in /run/netns), ip netns exec (setns, mounting /sys)",
    "NET_ADMIN": "ip link add, ip address add (making interfaces in namespaces, giving them addresses)",
}
NEUTRON = 42435  # uid and gid of neutron in Kolla's images and in localhost/sidespawn-agent
STATE = "/var/lib/neutron"

# capabilities(7), in the order of their bits.
CAPABILITY_NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AgentContainer:
    """One agent container; the methods act on the container of its name, so an object can be recreated at any time."""

    name: str
    image: str
    state: Path  # the agent's state directory on the host; /var/lib/neutron in the agent
    service_options: tuple[str, ...] = ()  # `podman_options` of `sidespawn enable --json`, of each of its services
    # `security_options` likewise. Without them podman's own seccomp profile, and no security module, confines it.
    security_options: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = tuple(CAPABILITIES)
    host_pids: bool = True  # False: an agent that uses sidespawn.agent.client and does not look up pids in /proc
    contained: bool = False  # by `sidespawn agent-options`: not root, without `security_options` and `host_pids`
    privileged: bool = False  # like agents without sidespawn: everything is allowed. Only for comparisons

    def options(self) -> tuple[str, ...]:
        """Return the options of `podman run` besides the name and the image."""
        return (
            "--pull=never",
            *(self.recipe() if self.contained else self.own_options()),
            f"--volume={self.state}:{STATE}:rw,rprivate",
            # The wrapper hides the image's own program; for `dnsmasq --test` it is executed from here.
            f"--mount=type=image,src={self.image},dst={IMAGE_IN_AGENT}",
            *self.service_options,
        )

    def recipe(self) -> tuple[str, ...]:
        """Return the recipe's options. /run/netns must belong to the agent's group: see `namespaces_of_a_group`."""
        return tuple(containers.podman(containers.Agent(uid=NEUTRON, gid=NEUTRON, capabilities=self.capabilities)))

    def own_options(self) -> tuple[str, ...]:
        return (
            "--network=host",
            *(("--pid=host",) if self.host_pids else ()),
            *(("--privileged",) if self.privileged else self.confinement()),
            # Mounts of the agent there must appear on the host, and vice versa.
            "--volume=/run/netns:/run/netns:rshared",
        )

    def confinement(self) -> tuple[str, ...]:
        options = ["--cap-drop=all", *(f"--cap-add={name}" for name in self.capabilities)]
        options += ("--security-opt=no-new-privileges", *self.security_options)
        # podman's profiles for both deny mount(2), which `ip netns` needs whatever the capabilities are.
        has_profile = any(option.startswith("--security-opt=apparmor=") for option in self.security_options)
        if hardening.has_apparmor() and not has_profile:
            options.append("--security-opt=apparmor=unconfined")
        has_domain = any(option.startswith("--security-opt=label=type:") for option in self.security_options)
        if hardening.has_selinux() and not has_domain:
            options.append("--security-opt=label=disable")
        return tuple(options)

    def start(self) -> int:
        """Start it; return its pid on the host. `ip netns` must have been used once on the host, so that /run/netns
        exists.

        Raises Unexpected, as all methods do.
        """
        run(
            (*podman(), "run", "--detach", f"--name={self.name}", *self.options(), self.image, "sleep", "infinity"),
            code=0,
        )
        return self.pid()

    def pid(self) -> int:
        return int(run(("podman", "container", "inspect", "--format={{.State.Pid}}", self.name), code=0).stdout)

    def exists(self) -> bool:
        return run(("podman", "container", "exists", self.name)).code == 0

    def exec(
        self, argv: tuple[str, ...], *, user: int = 0, timeout: float = TIMEOUT, code: int | None = None
    ) -> Output:
        """Run a command in it, as root or another user. `code`: the required exit code."""
        return run((*podman(), "exec", f"--user={user}:{user}", self.name, *argv), timeout, code=code)

    def write(self, path: str, text: str, user: int = NEUTRON) -> None:
        """Create or replace a file as Neutron does: a new one, renamed into place. Missing parents are created."""
        script = 'umask 022 && mkdir -p "${1%/*}" && printf %s "$2" >"$1.new" && mv "$1.new" "$1"'
        self.exec(("sh", "-c", script, "sh", path, text), user=user, code=0)

    def read(self, path: str) -> str:
        return self.exec(("cat", path), code=0).stdout

    def exec_in(self, netns: str, tag: str, argv: tuple[str, ...], timeout: float = 180.0) -> Output:
        """Run a helper or a kill script the way Neutron does: in the namespace, PROCESS_TAG set."""
        return self.exec(("ip", "netns", "exec", netns, "env", f"PROCESS_TAG={tag}", *argv), timeout=timeout)

    def kill(self) -> None:
        """Kill the agent as a crash would: with SIGKILL, and without telling its helpers."""
        run(("podman", "kill", "--signal=KILL", self.name), code=0)

    def remove(self) -> None:
        """End and remove the container of its name; no error without one."""
        removal = ("podman", "rm", "--force", "--time=0", "--ignore", self.name)
        # runc fails if systemd removes the control group while it reads it (1.1.5, seen once on a busy host).
        if run(removal).code != 0:
            run(removal, code=0)


def podman() -> tuple[str, ...]:
    """Return the command; with SELinux, without the categories of root's login.

    conmon's pipes have those, and a container in a domain that obeys categories could not write to them. Through
    env(1), since Debian's policy does not let root's domain be entered through podman itself.
    """
    return ("runcon", "--range=s0", "env", "podman") if hardening.has_selinux() else ("podman",)


@contextmanager
def namespaces_of_a_group(gid: int = NEUTRON) -> Iterator[None]:
    """Prepare /run/netns as `sidespawn agent-options` says, and restore it afterwards."""
    before = os.stat(NAMESPACES)
    os.chown(NAMESPACES, 0, gid)
    os.chmod(NAMESPACES, 0o2775)  # noqa: S103 - for the agent's group
    try:
        yield
    finally:
        os.chown(NAMESPACES, before.st_uid, before.st_gid)
        os.chmod(NAMESPACES, before.st_mode & 0o7777)


def process_status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status. Raises OSError if there is no such process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def effective_capabilities(pid: int) -> tuple[str, ...]:
    """Return the names of a process's capabilities, without CAP_, sorted."""
    bits = int(process_status(pid)["CapEff"], 16)
    known = range(len(CAPABILITY_NAMES))
    unknown = [f"BIT_{bit}" for bit in range(len(CAPABILITY_NAMES), 64) if bits >> bit & 1]
    return tuple(sorted([CAPABILITY_NAMES[bit] for bit in known if bits >> bit & 1] + unknown))
