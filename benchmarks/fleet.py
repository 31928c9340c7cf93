"""A fleet on paper: how long a rolling migration takes, what a gate's failures do to it, what the metrics cost.

    python -m benchmarks.fleet [--hosts 10000] [--rounds 20] [--seed 1]

prints the tables of docs/fleet.md.  A batch of hosts is migrated in parallel.  After each host, a gate decides whether
it is well.  One host that is not well stops the run after its batch, until a person has looked and restarts it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

import click

from sidespawn.cli import metrics
from sidespawn.core.wire import Status
from sidespawn.errors import Reason
from sidespawn.host.tally import BOUNDS
from sidespawn.service_report.figures import STATES, Figures, Limits, PolicyFacts

HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Seconds, unless said otherwise. docs/fleet.md says where each is from."""

    hosts: int = 10_000
    forks: int = 50  # hosts that are worked on side by side, however large the batch is
    install: float = 40  # package, policies and `enable` on one host
    restart: float = 45  # an agent, until it is in sync
    agents: tuple[int, ...] = (1, 1, 1, 1, 1, 1, 1, 1, 1, 3)  # of nine compute nodes and a network node
    gate: float = 60  # how long a host is watched before it counts as well
    spread: float = 0.3  # of the logarithm of a host's time: the slowest of fifty takes about twice the median
    person: float = 30 * 60  # until an operator has looked, decided and restarted the run


@dataclass(frozen=True, kw_only=True)
class Outcome:
    seconds: float
    stops: int
    waited: float  # of those seconds, for a person


def host_seconds(of: Assumptions, chance: random.Random) -> float:
    typical = of.install + chance.choice(of.agents) * of.restart
    return typical * chance.lognormvariate(0, of.spread) + of.gate


def batches(hosts: int, sizes: Sequence[int]) -> Iterator[int]:
    """Yield the batches' sizes. The last size is repeated, as in Ansible's `serial`."""
    number = 0
    while hosts > 0:
        size = min(hosts, sizes[min(number, len(sizes) - 1)])
        yield size
        hosts, number = hosts - size, number + 1


def batch_seconds(size: int, of: Assumptions, chance: random.Random) -> float:
    """Return a batch's time: one host per fork in parallel; each wave takes as long as its slowest host."""
    waves = [min(of.forks, size - first) for first in range(0, size, of.forks)]
    return sum(max(host_seconds(of, chance) for _ in range(wave)) for wave in waves)


def roll(sizes: Sequence[int], failing: float, of: Assumptions, chance: random.Random) -> Outcome:
    """`failing` is the probability that the gate stops a host, rightly or not."""
    seconds = waited = 0.0
    stops = 0
    for size in batches(of.hosts, sizes):
        seconds += batch_seconds(size, of, chance)
        if chance.random() < 1 - (1 - failing) ** size:
            stops += 1
            waited += chance.expovariate(1 / of.person)
    return Outcome(seconds=seconds + waited, stops=stops, waited=waited)


@dataclass(frozen=True, kw_only=True)
class Damage:
    """When a defect that only some hosts show stops the run."""

    broken: int
    migrated: int  # those included


def damage(sizes: Sequence[int], affected: float, of: Assumptions, chance: random.Random) -> Damage:
    migrated = 0
    for size in batches(of.hosts, sizes):
        broken = sum(chance.random() < affected for _ in range(size))
        migrated += size
        if broken:
            return Damage(broken=broken, migrated=migrated)
    return Damage(broken=0, migrated=migrated)


# ---------------------------------------------------------------- what the metrics cost


def figures_of(service: str, reasons: int) -> Figures:
    """Return the figures of a service that has answered with this many reasons so far."""
    found = [f"answers {Status.REJECTED} {reason}" for reason in list(Reason)[:reasons]]
    counts = dict.fromkeys(found, 12345.0) | {f"starts {bound}": 12345.0 for bound in BOUNDS} | {"seconds": 12345.678}
    return Figures(
        service=service,
        is_active=True,
        policy=PolicyFacts(digest="0123456789abcdef", engine="podman", mode="enforce"),
        limits=Limits(
            used={"instances": 100, "burst": 1}, allowed={"instances": 1000, "burst": 2000}, waiting=0, backing_off=0
        ),
        side_containers=dict.fromkeys(STATES, 100),
        counts=counts,
    )


@dataclass(frozen=True, kw_only=True)
class Cost:
    series: int
    size: int  # bytes of the text


def cost(services: int, reasons: int) -> Cost:
    text = metrics.exposition(figures_of(f"neutron-dhcp-dnsmasq-{number}", reasons) for number in range(services))
    return Cost(series=sum(not line.startswith("#") for line in text.splitlines()), size=len(text))


# ---------------------------------------------------------------- tables

SIZES: tuple[tuple[int, ...], ...] = ((1,), (20,), (50,), (100,), (500,), (1, 10, 50, 100))
FAILING = (0.0, 0.0001, 0.001, 0.01)
AFFECTED = (1.0, 0.1, 0.01, 0.001)
COMPUTE, NETWORK = 1, 6  # services of a compute node with OVN's metadata agent, and of a network node
INTERVAL = 60  # seconds between scrapes
SAMPLE_BYTES = 1.5  # on Prometheus' disk
SERIES_BYTES = 4096  # of Prometheus' memory


def named(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))


def durations(of: Assumptions, rounds: int, seed: int) -> Iterator[str]:
    yield f"| batches of | {' | '.join(f'{each:.2%} fail' for each in FAILING)} |"
    yield f"| --- |{' --- |' * len(FAILING)}"
    for sizes in SIZES:
        cells = []
        for failing in FAILING:
            chance = random.Random(f"{seed} {sizes} {failing}")
            found = [roll(sizes, failing, of, chance) for _ in range(rounds)]
            hours, stops = mean(each.seconds for each in found) / HOUR, mean(each.stops for each in found)
            cells.append(f"{hours:.0f} h, {stops:.0f} stops")
        yield f"| {named(sizes)} | {' | '.join(cells)} |"


def damages(of: Assumptions, rounds: int, seed: int) -> Iterator[str]:
    yield f"| batches of | {' | '.join(f'{each:.1%} of hosts' for each in AFFECTED)} |"
    yield f"| --- |{' --- |' * len(AFFECTED)}"
    for sizes in SIZES:
        cells = []
        for affected in AFFECTED:
            chance = random.Random(f"{seed} {sizes} {affected}")
            found = [damage(sizes, affected, of, chance) for _ in range(rounds * 10)]
            broken, migrated = mean(each.broken for each in found), mean(each.migrated for each in found)
            cells.append(f"{broken:.0f} of {migrated:.0f}")
        yield f"| {named(sizes)} | {' | '.join(cells)} |"


def costs(of: Assumptions) -> Iterator[str]:
    yield "| | series on a host | text | series in the fleet | samples a second | memory | disk a month | traffic |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    network = of.hosts // len(of.agents)
    for what, compute_hosts, network_hosts, reasons in (
        ("a compute node", 1, 0, 3),
        ("a network node", 0, 1, 3),
        (f"{of.hosts:,} hosts", of.hosts - network, network, 3),
        ("the same, after every reason", of.hosts - network, network, len(Reason)),
    ):
        kinds = ((compute_hosts, cost(COMPUTE, reasons)), (network_hosts, cost(NETWORK, reasons)))
        series, size = (sum(hosts * amount for hosts, amount in each) for each in (
            [(hosts, each.series) for hosts, each in kinds], [(hosts, each.size) for hosts, each in kinds],
        ))  # fmt: skip
        hosts, samples = compute_hosts + network_hosts, series / INTERVAL
        yield (
            f"| {what} | {series / hosts:.0f} | {size / hosts / 1000:.0f} kB | {series:,} | {samples:,.0f} |"
            f" {in_units(series * SERIES_BYTES)} | {in_units(samples * SAMPLE_BYTES * 30 * 86400)} |"
            f" {in_units(size / INTERVAL)}/s |"
        )


def in_units(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def tables(of: Assumptions, rounds: int, seed: int) -> dict[str, str]:
    return {
        "How long it takes": "\n".join(durations(of, rounds, seed)),
        "How many hosts a defect reaches": "\n".join(damages(of, rounds, seed)),
        "What the metrics cost": "\n".join(costs(of)),
    }


@click.command()
@click.option("--hosts", type=click.IntRange(1), default=Assumptions.hosts, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def main(hosts: int, rounds: int, seed: int) -> None:
    """Print the tables of docs/fleet.md."""
    for title, table in tables(Assumptions(hosts=hosts), rounds, seed).items():
        click.echo(f"{title}\n\n{table}\n")


if __name__ == "__main__":
    main()
