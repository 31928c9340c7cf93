"""`sidespawn metrics`: this host's metrics in Prometheus' text format.

Every label value comes from this code or from the operator: services, engines, reasons, states. Text from an agent,
such as a network's id, never becomes one, so no agent can increase the number of time series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidespawn import __version__
from sidespawn.core.wire import Status
from sidespawn.errors import Reason, SidespawnError
from sidespawn.host.journal import Event
from sidespawn.host.tally import BOUNDS
from sidespawn.service_report.figures import STATES, Figures, Limits, answers_of, gather
from sidespawn.system.files import directory, write_whole
from sidespawn.system.places import RUN

if TYPE_CHECKING:
    from prometheus_client import Metric

FILE = "sidespawn.prom"
# Events that the verdicts do not include, and that are worth a line on a dashboard. Ends have their own metric.
EVENTS = (
    Event.ADOPTED, Event.NOT_ADOPTED, Event.REPLACED, Event.MONITORED, Event.UNREADABLE, Event.LIMITED, Event.INTERNAL,
)  # fmt: skip
ENDS = (Reason.EXITED, Reason.OUT_OF_MEMORY)
# No fault, so an alert subtracts it. A series that begins at 1 has no increase that could be subtracted.
EXPECTED = (str(Status.FAILED), str(Reason.NO_SUCH_PROCESS))


@click.command()
@click.option(
    "--textfile",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help=f"Write {FILE} to this directory, for node_exporter, instead of printing.",
)
def metrics(textfile: Path | None) -> None:
    """Print metrics of all services for Prometheus.

    sidespawn-metrics.timer runs it each minute for node_exporter's textfile collector.
    """
    if RUN.is_dir():
        next(RUN.iterdir(), None)  # without permission this fails, instead of reporting nothing
    content = exposition(gather())
    if textfile is None:
        click.echo(content, nl=False)
        return
    try:
        with directory(textfile) as held:
            write_whole(held, FILE, content.encode(), mode=0o644)
    except OSError as error:
        hint = (
            "use the directory in node_exporter's --collector.textfile.directory; for the timer, set DIRECTORY= in a "
            "drop-in of its service"
        )
        raise SidespawnError(Reason.HOST_UNSUITABLE, f"{textfile}: {str(error.strerror).lower()}", hint) from None


def exposition(found: Iterable[Figures]) -> str:
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.registry import Collector
    except ImportError as error:
        hint = "install python3-prometheus-client, or: pip install prometheus-client"
        raise SidespawnError(Reason.HOST_UNSUITABLE, f"this installation cannot write metrics: {error}", hint) from None
    known = list(found)

    class Everything(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from (*of_host(), *of_policies(known), *of_requests(known), *of_containers(known), *of_limits(known))

    registry = CollectorRegistry()
    registry.register(Everything())
    return generate_latest(registry).decode()


def gauge(name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    made = GaugeMetricFamily(f"sidespawn_{name}", text, labels=labels)
    for values, number in rows:
        made.add_metric(values, number)
    return made


def counter(name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    made = CounterMetricFamily(f"sidespawn_{name}", text, labels=labels)
    for values, number in rows:
        made.add_metric(values, number)
    return made


def of_host() -> Iterator[Metric]:
    yield gauge("build_info", "The version of sidespawn; always 1.", ("version",), [((__version__,), 1)])


def of_policies(known: list[Figures]) -> Iterator[Metric]:
    service = ("service",)
    text = "1 if the service accepts requests: socket and directories are active."
    yield gauge("service_active", text, service, (((each.service,), float(each.is_active)) for each in known))
    text = "0 if the policy is invalid, so that every request is refused."
    yield gauge("policy_valid", text, service, (((each.service,), each.policy is not None) for each in known))
    text = "The policy in effect, its preset included; always 1."
    rows = [((each.service, p.digest, p.engine, p.mode), 1.0) for each in known if (p := each.policy) is not None]
    yield gauge("policy_info", text, ("service", "digest", "engine", "mode"), rows)


def of_requests(known: list[Figures]) -> Iterator[Metric]:
    answers = [(each, answers_of(each)) for each in known]
    text = "Requests that were answered, by verdict."
    rows = (
        ((each.service, str(status)), sum((count for (verdict, _), count in found.items() if verdict == status), 0.0))
        for each, found in answers
        for status in Status
    )
    yield counter("requests", text, ("service", "verdict"), rows)
    text = "Requests that were answered, by verdict and reason; most series begin with the first of their kind."
    reasons = (
        ((each.service, *key), count)
        for each, found in answers
        for key, count in sorted({EXPECTED: 0.0, **found}.items())
    )
    yield counter("requests_by_reason", text, ("service", "verdict", "reason"), reasons)
    yield of_starts(known)
    text = "Journal records by kind, including those that were only counted."
    events = (
        ((each.service, event.name.lower()), events_of(each, event.name.lower())) for each in known for event in EVENTS
    )
    yield counter("events", text, ("service", "event"), events)
    text = "Runs of the service that serves requests."
    yield counter("runs", text, ("service",), (((each.service,), each.counts.get("runs", 0)) for each in known))
    text = "Runs that picked up requests from a killed run."
    continued = (((each.service,), each.counts.get("runs continued", 0)) for each in known)
    yield counter("runs_continued", text, ("service",), continued)
    text = "Claims, of one or more requests each, that are not answered yet."
    yield gauge("unanswered_claims", text, ("service",), (((each.service,), each.unanswered) for each in known))
    text = "How long the oldest claim has waited."
    yield gauge("oldest_claim_seconds", text, ("service",), (((each.service,), each.oldest) for each in known))


def of_starts(known: list[Figures]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    text = "Time from reading a request until its program is ready, if it started a side container."
    made = HistogramMetricFamily("sidespawn_start_seconds", text, labels=("service",))
    for each in known:
        total, buckets = 0.0, []
        for bound in (*BOUNDS, "more"):
            total += each.counts.get(f"starts {bound}", 0)
            buckets.append(("+Inf" if bound == "more" else str(bound), total))
        made.add_metric((each.service,), buckets, each.counts.get("seconds", 0))
    return made


def of_containers(known: list[Figures]) -> Iterator[Metric]:
    text = (
        "Side containers, each in one state. Adopted: of a legacy wrapper. Orphan: the namespace has no name any more."
    )
    rows = (((each.service, state), each.side_containers.get(state, 0)) for each in known for state in STATES)
    yield gauge("side_containers", text, ("service", "state"), rows)
    text = "Side containers that ended without being asked to, by reason."
    ends = (((each.service, str(end)), each.counts.get(f"events exited {end}", 0)) for each in known for end in ENDS)
    yield counter("side_container_ends", text, ("service", "reason"), ends)
    text = "Side containers that keep ending and wait for their backoff."
    yield gauge("backing_off", text, ("service",), (((s,), limits.backing_off) for s, limits in with_limits(known)))


def of_limits(known: list[Figures]) -> Iterator[Metric]:
    labels = ("service", "limit")
    used = (((s, name), count) for s, limits in with_limits(known) for name, count in limits.used.items())
    yield gauge("limit_used", "How much of a limit of the policy is used.", labels, used)
    rows = (((s, name), count) for s, limits in with_limits(known) for name, count in limits.allowed.items())
    yield gauge("limit_allowed", "How much the policy allows.", labels, rows)
    text = "Bytes of requests in the spool that have not been taken yet."
    yield gauge("waiting_bytes", text, ("service",), (((s,), limits.waiting) for s, limits in with_limits(known)))


def with_limits(known: list[Figures]) -> list[tuple[str, Limits]]:
    return [(each.service, each.limits) for each in known if each.limits is not None]


def events_of(each: Figures, name: str) -> float:
    return sum((count for key, count in each.counts.items() if key.split(" ")[:2] == ["events", name]), 0.0)
