"""Fuzzes every target in parallel: python -m tests.fuzz [MINUTES] [--target NAME]. `./dev fuzz` runs it.

MINUTES are the sum for all targets. Each runs in a separate process, at the lowest priority, from the kept seeds and
what earlier runs found interesting (.cache/fuzz). A finding ends its target; the input is stored there, and belongs in
tests/fuzz/seeds/TARGET/finding-NAME once it is understood. Prints executions and coverage of each target; exits with 1
if there is a finding.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
CACHE = CHECKOUT / ".cache/fuzz"
SEEDS = Path(__file__).parent / "seeds"
NAMES = ("requests", "policies", "configurations", "arguments", "replies")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    target: str
    executions: int
    edges: int  # in the control flow of the instrumented modules, as libFuzzer counts them
    findings: tuple[Path, ...]
    said: str


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev fuzz", description="Fuzz the readers of untrusted text.")
    parser.add_argument("minutes", nargs="?", type=float, default=5.0, help="of all targets together (default: 5)")
    parser.add_argument("--target", choices=NAMES, action="append", help="only this one; repeatable")
    parser.add_argument("--inside", nargs=3, metavar=("TARGET", "SECONDS", "HOME"), help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return fuzz_one(*arguments.inside)
    if arguments.measure:
        return measure(arguments.measure)
    names = tuple(arguments.target or NAMES)
    outcomes = fuzz(names, arguments.minutes * 60 / len(names), at_once=len(os.sched_getaffinity(0)))
    print(f"{'target':16} {'executions':>12} {'edges':>6}  lines covered by what was found")
    for each in outcomes:
        covered = run("--measure", each.target).stdout.strip()
        print(f"{each.target:16} {each.executions:12,} {each.edges:6}  {covered}")
        for path in each.findings:
            print(f"  finding: {path}\n{each.said}")
    return 1 if any(each.findings for each in outcomes) else 0


def fuzz(names: tuple[str, ...], seconds: float, *, at_once: int, home: Path = CACHE, nice: int = 19) -> list[Outcome]:
    """Fuzz each target for that long, some in parallel, and keep findings in `home`."""
    waiting, outcomes = list(names), []
    running: dict[str, subprocess.Popen[bytes]] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            name = waiting.pop(0)
            running[name] = start(name, seconds, home / name, nice)
        for name, process in list(running.items()):
            if process.poll() is not None:
                outcomes.append(outcome(name, home / name / "log"))
                del running[name]
        time.sleep(0.1)
    return sorted(outcomes, key=lambda each: names.index(each.target))


def start(name: str, seconds: float, home: Path, nice: int) -> subprocess.Popen[bytes]:
    (home / "corpus").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz", "--inside", name, f"{max(1, round(seconds))}", str(home)]
    with (home / "log").open("wb") as log:
        return subprocess.Popen(["/usr/bin/nice", f"-n{nice}", *command], stdout=log, stderr=log, cwd=CHECKOUT)


def outcome(name: str, path: Path) -> Outcome:
    log = path.read_text(errors="replace")
    executions = re.findall(r"stat::number_of_executed_units:\s*(\d+)", log) or re.findall(r"Done (\d+) runs", log)
    edges = re.findall(r"cov: (\d+)", log)
    findings = [CHECKOUT / path for path in re.findall(r"Test unit written to (\S+)", log)]
    if not executions and not findings:
        findings = [path]  # it did not even start
    return Outcome(
        target=name,
        executions=int(executions[-1]) if executions else 0,
        edges=int(edges[-1]) if edges else 0,
        findings=tuple(findings),
        said=log[-3000:] if findings else "",
    )


def fuzz_one(name: str, seconds: str, home: str) -> int:
    """Fuzz in a separate process: atheris never returns."""
    import atheris

    with atheris.instrument_imports(include=["sidespawn", "tomllib"]):
        from tests.fuzz import targets
    options = (
        f"-max_total_time={seconds}",
        "-print_final_stats=1",
        "-timeout=20",
        "-max_len=70000",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={home}/",
        f"-dict={SEEDS / name}.dict",
    )
    atheris.Setup([name, *options, f"{home}/corpus", str(SEEDS / name)], targets.TARGETS[name])
    atheris.Fuzz()
    return 0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)


def measure(name: str) -> int:
    """Measure the coverage of the target's modules by its seeds and its corpus."""
    import coverage

    watch = coverage.Coverage(data_file=None, source=["sidespawn"])
    watch.start()
    from tests.fuzz import targets

    for path in sorted([*(SEEDS / name).iterdir(), *(CACHE / name / "corpus").iterdir()]):
        targets.TARGETS[name](path.read_bytes())
    watch.stop()
    found = []
    for module in targets.MODULES[name]:
        _, statements, _, missing, _ = watch.analysis2(str(CHECKOUT / "src/sidespawn" / module))
        found.append(f"{module} {100 * (1 - len(missing) / len(statements)):.0f} %")
    print(", ".join(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
