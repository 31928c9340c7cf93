"""Runs tests/machine for one kind of machine after another, and prints the results of each in a line of JSON."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from vm import machines
from vm.cache import CHECKOUT, say
from vm.recipes import Module, Recipe, Release

_TESTS = "tests/machine"
_END_SECONDS = 120

# Each release as its users have it, and SELinux once.
ALL = (
    *(Recipe(release=release, module=Module.APPARMOR) for release in Release),
    Recipe(release=Release.TRIXIE, module=Module.SELINUX),
)


def run(recipes: tuple[Recipe, ...], arguments: tuple[str, ...]) -> int:
    """Run the tests; return the worst of pytest's exit codes. `arguments` are pytest's."""
    machines.remove_stale()
    with tempfile.TemporaryDirectory(prefix="sidespawn-vm-") as scratch:
        reports = [Path(scratch, f"{recipe.release}-{recipe.module}.json") for recipe in recipes]
        codes = [_run_one(recipe, report, arguments) for recipe, report in zip(recipes, reports, strict=True)]
        for report in reports:
            if report.exists():
                print(report.read_text(), end="", flush=True)
    return max(codes)


def _run_one(recipe: Recipe, report: Path, arguments: tuple[str, ...]) -> int:
    say(f"testing on {recipe}")
    where = () if any(each.startswith(_TESTS) for each in arguments) else (_TESTS,)
    options = (f"--release={recipe.release}", f"--module={recipe.module}", f"--report={report}")
    child = subprocess.Popen((sys.executable, "-m", "pytest", *options, *where, *arguments), cwd=CHECKOUT)
    try:
        return child.wait()
    except BaseException as reason:
        # On SIGINT, pytest ends its machines first. Ctrl-C has already reached it; a second makes it leave them.
        if not isinstance(reason, KeyboardInterrupt):
            child.send_signal(signal.SIGINT)
        child.wait(timeout=_END_SECONDS)
        raise
