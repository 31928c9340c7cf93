"""`./dev bench`: measure, print a table, write JSON and plots. Needs root and a running systemd, as in a lab."""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from rich.console import Console

from benchmarks import figures, plots, report
from benchmarks.parts import PARTS, QUICK, Note, Sample, measure
from benchmarks.processes import said
from benchmarks.stage import stage
from benchmarks.ways import ENGINES, Way, compared
from tests.lab.networks import Network

ROUNDS, QUICK_ROUNDS = 15, 5
LINGER, QUICK_LINGER = 3, 1  # seconds; the policy's default, and what makes a cold request come sooner
INTERRUPTED = 130
CHECKOUT = Path(__file__).parents[1]
CONTAINER = Path("/run/systemd/container")  # says "lab" in a lab


def outliving(_context: click.Context, _parameter: click.Parameter, given: Any) -> Any:
    """Check that a file or directory survives the lab; outside of a lab, all do."""
    if given is None or not CONTAINER.exists() or CONTAINER.read_text().strip() != "lab":
        return given
    path = given if isinstance(given, Path) else Path(given.name)  # that of stdout is no absolute path
    if not path.resolve().is_relative_to(CHECKOUT):
        raise click.BadParameter(f"{path} would be gone with the lab; name one in {CHECKOUT}")
    return given


@click.command()
@click.option("--quick", is_flag=True, help="A few short rounds, in less than a minute.")
@click.option("--json", "json_file", type=click.File("w"), callback=outliving, help="Write the figures; - for stdout.")
@click.option("--only", "only", multiple=True, metavar="PART", help="Only this part; may be repeated. See --list.")
@click.option("--engine", "engines", multiple=True, metavar="NAME", help="Only this engine; may be repeated.")
@click.option("--rounds", type=click.IntRange(1), help=f"Rounds of each part.  [default: {ROUNDS}]")
@click.option("--limit", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Minutes for each part.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the order of the ways within each round.")
@click.option("--no-older", is_flag=True, help="Leave out the older patterns.")
@click.option(
    "--beside",
    multiple=True,
    metavar="[NAME=]COMMIT",
    help="Measure this earlier commit's podman engine, too; may be repeated.",
)
@click.option("--without", multiple=True, metavar="WAY", help="Leave out this row of the table; may be repeated.")
@click.option(
    "--plots", "plots_directory", type=click.Path(path_type=Path), callback=outliving, help="Write plots (SVG) here."
)
@click.option("--list", "is_list", is_flag=True, help="Name the parts and end.")
def main(
    *, quick: bool, json_file: Any, only: tuple[str, ...], engines: tuple[str, ...], rounds: int | None, limit: float,
    seed: int, no_older: bool, beside: tuple[str, ...], without: tuple[str, ...], plots_directory: Path | None,
    is_list: bool,
) -> None:  # fmt: skip
    """Measure sidespawn, the bare engine and older patterns in the same rounds."""
    known = {part.name: part for part in (QUICK if quick else PARTS)}
    if is_list:
        click.echo("\n".join(f"{part.name:16} {part.what}" for part in known.values()))
        return
    require_known("--only", only, known)
    parts = [part for part in known.values() if not only or part.name in only]
    rows = [row for row in ENGINES if row.is_there and (not engines or row.name in engines)]
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 160)
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    samples: list[Sample] = []
    left_out: dict[str, str] = {}
    words = ""
    complete = False
    try:
        with (
            interruptible(),
            stage(rows, QUICK_LINGER if quick else LINGER, older=not (no_older or quick), beside=beside) as given,
        ):
            staged, networks = given
            ways = compared(staged) if quick else staged
            require_known("--without", without, [way.name for way in ways])
            left_out = {way.name: problem for way in ways if (problem := try_once(way, networks(1)))}
            for name, problem in left_out.items():
                console.print(f"{name} does not work here and is left out:\n{problem}", markup=False)
            able = [way for way in ways if way.name not in {*left_out, *without}]
            for part in sorted(parts, key=lambda part: part.size):
                order = random.Random(seed)
                seconds = part.seconds or limit * 60
                samples.extend(measure(part, able, networks(part.size), rounds, seconds, order, note(console)))
                words = said()
        complete = True
    except KeyboardInterrupt:
        console.print("interrupted; what was measured so far:")
    found = figures.figures(samples)
    report.show(found, console)
    if figures.lost(found):
        console.print(f"what was said of those that were lost:\n{words}", markup=False)
    if json_file is not None:
        whole = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine(), "seed": seed, "complete": complete,
            "left_out": left_out,
            "figures": figures.as_json(found), "growth": figures.growth(found), "lost": figures.lost(found),
            "samples": figures.as_json(samples),
        }  # fmt: skip
        json_file.write(json.dumps(figures.quick(found) if quick else whole) + "\n")
    if plots_directory is not None:
        for path in plots.write(found, plots_directory):
            console.print(f"wrote {path}")
    if not complete:
        sys.exit(INTERRUPTED)


def require_known(option: str, given: Sequence[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            raise click.BadParameter(f"{name} is not one of {'; '.join(known)}", param_hint=option)


def try_once(way: Way, networks: Sequence[Network]) -> str:
    """Return what only the first time costs is not measured. Why the way does not work here, or nothing."""
    try:
        way.prepare(cold=False)
        lost = way.start(networks).lost
    finally:
        way.clear(networks)
    return (said() or "it said nothing") if lost and not way.is_older else ""


def note(console: Console) -> Note:
    return lambda text: console.print(text, style="dim")


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the measuring once; what follows is cleaning up, which they do not end."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def machine() -> dict[str, Any]:
    return {
        "processors": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
