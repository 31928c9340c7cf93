"""Records what each Neutron release calls in tests/data/neutron_matrix.jsonl, which tests/unit judges.

Run `python -m tests.neutron.record` after `./dev test neutron`, which installs the newest release and an old one. The
code of other releases is fetched and run with the dependencies of one of these two. `--fetch-only` only fetches it;
`./dev test neutron --all` does that for tests/neutron/test_releases.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.neutron.releases import CACHE, NEWEST, OLD, VENVS

CORPUS = Path(__file__).parents[1] / "data" / "neutron_matrix.jsonl"
RECORDER = Path(__file__).parent / "inside" / "recorder.py"


@dataclass(frozen=True)
class Release:
    name: str
    version: str
    venv: str  # the release with suitable dependencies


RELEASES = (
    Release("2023.1", "22.2.1", OLD),
    Release("2023.2", "23.2.0", OLD),
    Release("2024.1", "24.2.2", OLD),
    Release("2024.2", "25.2.3", OLD),
    Release("2025.1", "26.0.6", NEWEST),
    Release("2025.2", "27.0.4", NEWEST),
    Release("2026.1", "28.0.2", NEWEST),
    Release("2026.2", "29.0.0", NEWEST),
)


def code_of(release: Release) -> Path:
    """Fetch the release's own packages, which take precedence over those in its environment."""
    place = CACHE / "neutron-releases" / release.version
    if not (place / "neutron").is_dir():
        pip = (str(VENVS[release.venv] / "bin" / "pip"), "install", "--quiet", "--no-deps", "--no-compile")
        subprocess.run((*pip, f"--target={place}", f"neutron=={release.version}"), check=True)
    return place


def record(release: Release) -> list[dict[str, Any]]:
    with TemporaryDirectory(prefix="n") as root:  # short: Neutron refuses sockets with long paths
        command = (str(VENVS[release.venv] / "bin" / "python"), str(RECORDER), root)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(code_of(release))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{release.name}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    for release in RELEASES:
        code_of(release)
    if sys.argv[1:] != ["--fetch-only"]:
        write()


def write() -> None:
    """Write one line for each distinct call, with the releases that make it."""
    merged: dict[str, list[str]] = {}
    for release in RELEASES:
        for call in record(release):
            merged.setdefault(json.dumps(call), []).append(release.name)
    order = {name: at for at, name in enumerate(dict.fromkeys(option_of(line) for line in merged))}
    lines = sorted(merged, key=lambda line: (order[option_of(line)], merged[line]))
    CORPUS.write_text("".join(json.dumps({**json.loads(line), "releases": merged[line]}) + "\n" for line in lines))


def option_of(line: str) -> tuple[str, str]:
    call = json.loads(line)
    return call["helper"], call["option"]


if __name__ == "__main__":
    main()
