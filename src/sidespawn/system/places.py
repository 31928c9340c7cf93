"""Files and directories of a service on the host.

    /etc/sidespawn/SERVICE.toml       the policy
    /run/sidespawn/SERVICE/spool      the agent's only writable directory; its own small file system
    /run/sidespawn/SERVICE/replies    read-only in the agent; its own small file system
    /run/sidespawn/SERVICE/replies/doorbell  the FIFO that systemd listens at; who only reads may write to a FIFO
    /run/sidespawn/SERVICE/agent      the wrapper and the kill scripts, mounted read-only into the agent; likewise
    /run/sidespawn/SERVICE/answers    what was answered, root's own record; `replies` has copies of those for the agent
    /run/sidespawn/SERVICE/answers/doorbell  the operator's own, which no agent reaches
    /run/sidespawn/SERVICE/operator   a second spool, for root on the host: `sidespawn stop` and `signal`
    /run/sidespawn/SERVICE/claims     requests taken from a spool and not yet answered
    /run/sidespawn/SERVICE/ledger     one record for each side container
    /run/sidespawn/SERVICE/tally      what happened, counted; see tally.py
    /run/sidespawn/SERVICE/pins       what is being mounted into a side container at this moment
    /run/sidespawn/SERVICE/snapshots  checked copies of configuration files, for side containers; likewise
    /run/sidespawn/SERVICE/roots      of side containers that systemd starts; see engines/systemd_roots.py
    /run/sidespawn/SERVICE/policy.json  the policy, compiled
    /run/sidespawn/SERVICE/seccomp.json  the system calls of podman side containers; see host/seccomp.py
    /run/sidespawn/agent-seccomp.json  the same for agents, of all services
    /run/sidespawn-podman/SERVICE.sock  the service's podman, as systemd starts it; root's alone

All of it lives in /run: a reboot ends the side containers and leaves nothing stale.
"""

from __future__ import annotations

from pathlib import Path

POLICIES = Path("/etc/sidespawn")
RUN = Path("/run/sidespawn")
NAMESPACES = Path("/run/netns")


class Places:
    def __init__(self, service: str, run: Path = RUN, policies: Path = POLICIES) -> None:
        self.service, self.run, self.policies = service, run, policies
        self.policy = policies / f"{service}.toml"
        self.home = run / service
        self.spool = self.home / "spool"
        self.operator = self.home / "operator"
        self.replies = self.home / "replies"
        self.doorbell = self.replies / "doorbell"
        self.answers = self.home / "answers"
        self.operators_doorbell = self.answers / self.doorbell.name
        self.agent = self.home / "agent"
        self.claims = self.home / "claims"
        self.ledger = self.home / "ledger"
        self.pins = self.home / "pins"
        self.snapshots = self.home / "snapshots"
        self.compiled = self.home / "policy.json"
        self.syscalls = self.home / "seccomp.json"
        # Containers with names of legacy wrappers that were checked and not adopted; exists after the first check.
        self.adoption = self.home / "adoption"
        self.bucket = self.home / "bucket"
        self.tally = self.home / "tally"
        self.lock = self.home / "lock"  # its modification time is that of the last sweep, or of the first run
        self.podman = Path("/run/sidespawn-podman", f"{service}.sock")
