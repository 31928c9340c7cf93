"""What disks are stacked from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Base:
    """Packages and a kernel. `identity` names what it was made from, `python` the version of Python in it."""

    identity: str
    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.img"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initial_root(self) -> Path:
        return self.directory / "initrd.img"

    @property
    def python(self) -> str:
        return (self.directory / "python").read_text()
