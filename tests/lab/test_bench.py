"""The benchmark, in its smallest form, measures what it claims to measure, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

CHECKOUT = Path(__file__).parents[2]
KEYS = {"podman_warm", "podman_cold", "podman_burst", "systemd_warm", "systemd_cold", "systemd_burst", "docker_warm"}


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *options]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture
def plots() -> Iterator[Path]:
    """Make a directory in the checkout, as a benchmark in a lab needs it."""
    (CHECKOUT / ".cache").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=CHECKOUT / ".cache") as name:
        yield Path(name)


@pytest.mark.slow
def test_one_short_round(plots: Path) -> None:
    done = bench("--quick", "--rounds=1", "--json=-", f"--plots={plots}")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    figures = json.loads(line)
    assert figures.keys() == KEYS | {"lost"}
    assert figures.pop("lost") == 0, done.stderr
    # None if the other side has no running program: it did not finish the work sooner.
    assert all(each is not None and 0 < each < 100 for each in figures.values()), done.stderr
    assert "podman run" in done.stderr
    assert "systemd-run" not in done.stderr  # it has no ratio
    assert {path.name for path in plots.iterdir()} == {"warm.svg", "cold.svg", "burst.svg"}


@pytest.mark.slow
def test_a_part_with_the_older_patterns_in_full() -> None:
    done = bench("--only=warm", "--rounds=1", "--engine=podman", "--json=-")
    assert done.returncode == 0, done.stderr
    whole = json.loads(done.stdout)
    found = {each["way"]: each for each in whole["figures"]}
    assert set(found) == {"sidespawn, podman", "podman run", "TripleO's pattern", "nsenter"}
    assert (whole["complete"], whole["left_out"]) == (True, {})
    # TripleO's pattern may lose a request, as it does elsewhere.
    lost = {way: each["lost"] for way, each in found.items() if way != "TripleO's pattern"}
    assert set(lost.values()) == {0}, done.stderr
    ours = found["sidespawn, podman"]
    assert (ours["reference"], ours["rounds"]) == ("podman run", 1)
    assert 0 < ours["wrapper"] < ours["seconds"]["median"]
    assert 4 * 2**20 < ours["peak"] < 40 * 2**20
    assert found["podman run"]["ratio"] is None
    single = {each["way"]: (each["round"], each["seconds"], each["lost"]) for each in whole["samples"]}
    assert single == {way: (0, each["seconds"]["median"], each["lost"]) for way, each in found.items()}


def test_wrong_use() -> None:
    done = bench("--only=nothing")
    assert done.returncode == 2
    assert "nothing is not one of warm" in done.stderr


def test_a_way_that_is_not_there_cannot_be_left_out() -> None:
    done = bench("--only=warm", "--engine=systemd", "--no-older", "--without=nothing")
    assert done.returncode == 2
    assert "nothing is not one of sidespawn, systemd; " in done.stderr
