"""The keys of all machines of one cache: for logging in, and for identifying a machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vm import programs
from vm.cache import Cache

ALIAS = "sidespawn-vm"  # by which the machines' key is known, whatever their port


@dataclass(frozen=True, kw_only=True)
class Keys:
    directory: Path

    @property
    def user(self) -> Path:
        return self.directory / "user"

    @property
    def user_public(self) -> Path:
        return self.directory / "user.pub"

    @property
    def host(self) -> Path:
        return self.directory / "host"

    @property
    def host_public(self) -> Path:
        return self.directory / "host.pub"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def public(self) -> str:
        return self.user_public.read_text() + self.host_public.read_text()


def ensure_keys(cache: Cache) -> Keys:
    """Makes them once for each cache."""
    return Keys(directory=cache.layer("keys", "ssh", _make))


def _make(draft: Path) -> None:
    keys = Keys(directory=draft)
    for key in (keys.user, keys.host):
        programs.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", ALIAS, "-f", str(key), seconds=60)
    keys.known_hosts.write_text(f"{ALIAS} {keys.host_public.read_text()}")
