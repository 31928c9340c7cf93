"""The calls of neutron_releases.jsonl; README.md says what they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ReleaseCall:
    variant: str
    releases: tuple[str, ...]
    preset: str
    expect: str  # allow, refuse, or feature: somebody has to decide
    argv: tuple[str, ...]
    netns: str | None
    env: dict[str, str]
    files: dict[str, str]

    def __str__(self) -> str:
        return self.variant


def read() -> tuple[ReleaseCall, ...]:
    lines = (Path(__file__).parent / "neutron_releases.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(
        ReleaseCall(**(fields | {"argv": tuple(fields["argv"]), "releases": tuple(fields["releases"])}))
        for fields in map(json.loads, lines)
    )


RELEASE_CALLS = read()
