"""Tries what a compromised agent would try first, in an agent like those of today's deployments and in the demo's.

The attempts change nothing on the host, apart from one file in the demo's own directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sidespawn.cli.demo.stage import HOME, SERVICE
from sidespawn.testing.agent import AgentContainer

ESCAPED = HOME / "written-by-the-agent"
REPLIES = f"/run/sidespawn/{SERVICE}/replies"
SOCKETS = "/run/podman/podman.sock /run/docker.sock /var/run/docker.sock /run/containerd/containerd.sock"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    what: str
    script: str  # for sh -c in the agent; exits with 0 if it worked
    today: bool = True  # whether it makes sense in an agent without sidespawn
    trace: Path | None = None  # made on the host if it worked


@dataclass(frozen=True, kw_only=True)
class Tried:
    worked: bool
    said: str  # the last line it printed


ATTEMPTS = (
    Attempt(what="enter the host: nsenter -t 1 -m", script="nsenter -t 1 -m true"),
    Attempt(what="write a file of the host", script=f"echo hello >/proc/1/root{ESCAPED}", trace=ESCAPED),
    Attempt(what="make a device node for a disk", script="mknod /tmp/disk b 8 0"),
    Attempt(what="open the memory of a host's process", script=": </proc/1/mem"),
    Attempt(
        what="find a container engine's socket",
        script=f"for s in {SOCKETS}; do test -S $s && exit 0; done; echo no socket; exit 1",
        today=False,  # only there if it was mounted; nsenter works as well
    ),
    Attempt(what="answer a request in the host's name", script=f"echo x >{REPLIES}/x", today=False),
    Attempt(what="change the wrapper", script="echo >>/usr/sbin/dnsmasq", today=False),
)


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """Something that the agent can still do with what it has for its work. Probed without doing it."""

    what: str
    because: str
    script: str


REMAINING = (
    Remaining(
        what="mount a fresh /proc and set kernel.core_pattern: code as root on the host",
        because="SYS_ADMIN",
        script="mkdir -p /tmp/p && unshare -m sh -c 'mount -t proc p /tmp/p && test -w /tmp/p/sys/kernel/core_pattern'",
    ),
    Remaining(
        what="make its read-only mounts writable (the wrapper, its own replies)",
        because="SYS_ADMIN",
        script=f"unshare -m sh -c 'mount -o remount,bind,rw {REPLIES} && test -w {REPLIES}'",
    ),
    Remaining(
        what="read the environment of the host's processes",
        because="SYS_ADMIN, host pids",
        script="cat /proc/1/environ >/dev/null",
    ),
    Remaining(what="signal the host's root processes", because="root, host pids", script="kill -0 1"),
)


def attempt(agent: AgentContainer, each: Attempt) -> Tried:
    """Try it, check for its trace on the host, and remove that."""
    done = agent.exec(("sh", "-c", each.script))
    worked = done.code == 0 and (each.trace is None or each.trace.exists())
    if each.trace is not None:
        worked = worked or each.trace.exists()
        each.trace.unlink(missing_ok=True)
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return Tried(worked=worked, said=lines[-1] if lines else "")


def is_possible(agent: AgentContainer, each: Remaining) -> bool:
    return agent.exec(("sh", "-c", each.script)).code == 0
