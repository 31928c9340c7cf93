"""Where a service keeps what, on the host.

    /etc/sidespawn/SERVICE.toml       the policy
    /run/sidespawn/SERVICE/spool      the agent's only writable directory; a small file system of its own
    /run/sidespawn/SERVICE/replies    read-only in the agent; a small file system of its own
    /run/sidespawn/SERVICE/agent      the wrapper and the kill scripts, mounted read-only into the agent
    /run/sidespawn/SERVICE/operator   a second spool, for root on the host: `sidespawn stop` and `signal`
    /run/sidespawn/SERVICE/claims     requests taken from a spool and not yet answered
    /run/sidespawn/SERVICE/ledger     one record for each side container
    /run/sidespawn/SERVICE/pins       what is being mounted into a side container at this moment
    /run/sidespawn/SERVICE/snapshots  checked copies of configuration files
    /run/sidespawn/SERVICE/roots      of side containers that systemd starts; see engines/systemd_roots.py
    /run/sidespawn/SERVICE/policy.json  the policy, compiled

All of it lives in /run: a reboot ends the side containers and leaves nothing stale.
"""

from __future__ import annotations

from pathlib import Path

from sidespawn.core.records import dataclass

POLICIES = Path("/etc/sidespawn")
RUN = Path("/run/sidespawn")
NAMESPACES = Path("/run/netns")


@dataclass(frozen=True)
class Places:
    service: str
    run: Path = RUN
    policies: Path = POLICIES

    @property
    def policy(self) -> Path:
        return self.policies / f"{self.service}.toml"

    @property
    def home(self) -> Path:
        return self.run / self.service

    @property
    def spool(self) -> Path:
        return self.home / "spool"

    @property
    def operator(self) -> Path:
        return self.home / "operator"

    @property
    def replies(self) -> Path:
        return self.home / "replies"

    @property
    def agent(self) -> Path:
        return self.home / "agent"

    @property
    def claims(self) -> Path:
        return self.home / "claims"

    @property
    def ledger(self) -> Path:
        return self.home / "ledger"

    @property
    def pins(self) -> Path:
        return self.home / "pins"

    @property
    def snapshots(self) -> Path:
        return self.home / "snapshots"

    @property
    def compiled(self) -> Path:
        return self.home / "policy.json"

    @property
    def syscalls(self) -> Path:
        return self.home / "seccomp.json"

    @property
    def adoption(self) -> Path:
        """Which containers with names of the old wrappers were looked at and not adopted; there once one has looked."""
        return self.home / "adoption"

    @property
    def bucket(self) -> Path:
        return self.home / "bucket"

    @property
    def litter(self) -> Path:
        return self.home / "litter"

    @property
    def lock(self) -> Path:
        return self.home / "lock"
