"""Times helpers that are static pods beside those of podman and systemd, in the same rounds on one node.

    ./dev bench kubernetes [--rounds 10] [--burst 60] [--output FILE]

prints the table of docs/benchmarks.md. What is measured is what an agent waits for: the wrapper, until its answer. The
node is the one of tests/kubernetes/node, with a real kubelet.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.__main__ import interruptible, outliving
from benchmarks.parts import REST, SYNC_THREADS
from benchmarks.processes import Command, memory_of, parent_of, run
from benchmarks.ways import UNLIMITED
from tests.kubernetes.node import cluster
from tests.lab.conftest import new_service
from tests.lab.networks import Network, Service, wait_until

ENGINES = ("podman", "systemd", "kubernetes")
PATIENCE = 60.0  # seconds for each request
COLUMNS = ("engine", "one", "longest", "{burst}, four at a time", "each of them", "longest", "lost", "memory of each")


@dataclass(frozen=True)
class Measured:
    """Figures of one engine. Times are in seconds."""

    service: Service
    alone: list[float] = field(default_factory=list)
    burst: list[float] = field(default_factory=list)  # each request's
    total: list[float] = field(default_factory=list)  # of all of a burst
    memory: list[float] = field(default_factory=list)  # bytes of what holds a helper
    lost: list[Network] = field(default_factory=list)

    def start(self, networks: Sequence[Network]) -> tuple[float, list[float]]:
        """Request helpers; return the time until the last answer, and each request's."""
        commands = [Command(argv=(str(self.service.wrapper), *each.options()), netns=each.netns) for each in networks]
        took, ended = run(commands, at_once=SYNC_THREADS, timeout=PATIENCE * len(commands))
        self.lost.extend(network for network, each in zip(networks, ended, strict=True) if each.code)
        return took, [each.seconds for each in ended]

    def stop(self, networks: Sequence[Network]) -> None:
        script = str(self.service.kill_script)
        there = [each for each in networks if each.pid_file.exists()]
        run([Command(argv=(script, "9", str(each.pid)), netns=each.netns) for each in there], at_once=SYNC_THREADS)

    def row(self) -> tuple[str, ...]:
        return (
            self.service.engine,
            f"{middle(self.alone)} s",
            f"{max(self.alone):.2f} s",
            f"{statistics.median(self.total):.1f} s",
            f"{middle(self.burst)} s",
            f"{max(self.burst):.2f} s",
            str(len(self.lost)),
            f"{statistics.mean(self.memory) / 2**20:.1f} MiB" if any(self.memory) else "nothing",
        )


def middle(found: Sequence[float]) -> str:
    """Return median and quartiles."""
    if len(found) < 2:
        return f"{found[0]:.2f}"
    low, median, high = statistics.quantiles(found, n=4, method="inclusive")
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


@contextmanager
def services(engines: Sequence[str]) -> Iterator[list[Measured]]:
    with ExitStack() as stack:
        made = []
        for engine in engines:
            service = new_service(engine=engine)
            stack.callback(service.clean)
            service.enable_with(UNLIMITED)
            made.append(Measured(service))
        yield made


def measure(found: Sequence[Measured], rounds: int, burst: int, bursts: int, order: random.Random) -> None:
    ways = list(found)
    for number in range(rounds):
        order.shuffle(ways)
        for each in ways:
            network = each.service.network()
            time.sleep(REST)
            each.alone.append(each.start([network])[0])
            each.stop([network])
        click.echo(f"one: round {number + 1} of {rounds}", err=True)
    for number in range(bursts):
        order.shuffle(ways)
        for each in ways:
            networks = [each.service.network() for _ in range(burst)]
            took, times = each.start(networks)
            each.total.append(took)
            each.burst.extend(times)
            each.memory.extend(beside(network.pid) for network in networks if network not in each.lost)
            each.stop(networks)
        click.echo(f"{burst}: round {number + 1} of {bursts}", err=True)


def beside(pid: int) -> float:
    """Return the memory of a program's parent and its other children: conmon; or a pod's shim and pause container."""
    parent = parent_of(pid)
    if parent == 1:
        return 0
    children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return memory_of(parent) + sum(memory_of(each) for each in children if each != pid)


@click.command()
@click.option("--rounds", type=click.IntRange(2), default=10, show_default=True, help="Starts of one helper.")
@click.option("--burst", type=click.IntRange(2), default=60, show_default=True, help="Helpers, four at a time.")
@click.option("--bursts", type=click.IntRange(1), default=2, show_default=True, help="Rounds of these.")
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES), help="Only this; may be repeated.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the order of the engines within each round.")
@click.option("--output", type=click.Path(path_type=Path), callback=outliving, help="Write the table here as well.")
def main(*, rounds: int, burst: int, bursts: int, engines: tuple[str, ...], seed: int, output: Path | None) -> None:
    """Measure starts and memory with each engine."""
    before = os.getloadavg()[0]
    with interruptible(), cluster.running() as node, services(engines or ENGINES) as found:
        measure(found, rounds, burst, bursts, random.Random(seed))
        after = os.getloadavg()[0]
        about = (
            f"kubelet {cluster.version()}, containerd {node.containerd.version}; {rounds} rounds of one, {bursts} of"
        )
        about += f" {burst}; load {before:.1f} before, {after:.1f} after, {os.cpu_count()} processors"
        head = tuple(each.format(burst=burst) for each in COLUMNS)
        rows = (head, ("---",) * len(head), *(each.row() for each in found))
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        click.echo(f"{about}\n\n{table}")
        if output is not None:
            output.write_text(f"{about}\n\n{table}\n")
        wait_until(lambda: not node.running_pods(), patience=300)


if __name__ == "__main__":
    main()
