"""The calls in neutron_releases.jsonl and neutron_matrix.jsonl; README.md describes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ReleaseCall:
    variant: str
    releases: tuple[str, ...]
    preset: str
    expect: str  # allow, refuse, or feature: a decision is needed
    argv: tuple[str, ...]
    netns: str | None
    env: dict[str, str]
    files: dict[str, str]

    def __str__(self) -> str:
        return self.variant


@dataclass(frozen=True, kw_only=True)
class MatrixCall:
    helper: str  # the preset
    option: str  # the option that is set, or what is special about the network
    releases: tuple[str, ...]
    argv: tuple[str, ...]
    netns: str | None
    env: dict[str, str]
    files: dict[str, str]


def read(name: str) -> list[dict[str, Any]]:
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return [
        fields | {"argv": tuple(fields["argv"]), "releases": tuple(fields["releases"])}
        for fields in map(json.loads, lines)
    ]


RELEASE_CALLS = tuple(ReleaseCall(**fields) for fields in read("neutron_releases.jsonl"))
MATRIX_CALLS = tuple(MatrixCall(**fields) for fields in read("neutron_matrix.jsonl"))
