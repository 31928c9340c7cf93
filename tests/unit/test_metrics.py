"""`sidespawn metrics` of a service, read back by the parser of the official Prometheus library."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from sidespawn.cli import metrics
from sidespawn.cli.main import cli
from sidespawn.core.wire import Status
from sidespawn.errors import Reason
from sidespawn.host_report.units import Unit
from sidespawn.service_report import figures
from sidespawn.service_report.figures import Figures, Limits, PolicyFacts

SMALL = Figures(
    service="small",
    is_active=True,
    policy=PolicyFacts(digest="0123456789abcdef", engine="podman", mode="enforce"),
    limits=Limits(
        used={"instances": 3, "burst": 7}, allowed={"instances": 500, "burst": 200}, waiting=12, backing_off=1
    ),
    side_containers={"running": 2, "adopted": 1, "orphan": 0, "exited": 0},
    unanswered=1,
    oldest=2.5,
    counts={
        "answers running ok": 4,
        "answers rejected option-not-allowed": 2,
        "answers rejected bad-request": 1,
        "answers failed engine-failed": 1,
        "events exited out-of-memory": 1,
        "events internal internal": 1,
        "events internal policy-invalid": 1,
        "runs": 9,
        "starts 0.1": 1,
        "starts 0.5": 2,
        "starts more": 1,
        "seconds": 42.5,
    },
)
Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(*found: Figures) -> Samples:
    """Return samples by name and label values, without the service's. The library sorts labels by name."""
    return {
        (each.name, tuple(value for label, value in each.labels.items() if label != "service")): each.value
        for family in text_string_to_metric_families(metrics.exposition(found))
        for each in family.samples
    }


def named(name: str, found: Samples) -> dict[tuple[str, ...], float]:
    return {labels: value for (each, labels), value in found.items() if each == f"sidespawn_{name}"}


def test_requests_by_verdict_and_reason() -> None:
    found = samples(SMALL)
    wanted = {"running": 4, "done": 0, "rejected": 3, "failed": 1, "expired": 0}
    assert named("requests_total", found) == {(verdict,): count for verdict, count in wanted.items()}
    assert set(wanted) == set(Status)  # exists before the first event of its kind, so that the increase is visible
    assert named("requests_by_reason_total", found) == {
        ("ok", "running"): 4,
        ("option-not-allowed", "rejected"): 2,
        ("bad-request", "rejected"): 1,
        ("engine-failed", "failed"): 1,
        ("no-such-process", "failed"): 0,  # exists before the first one, so that an alert can subtract its increase
    }


def test_what_failed_as_expected_is_counted_and_not_zero() -> None:
    found = samples(replace(SMALL, counts={"answers failed no-such-process": 2}))
    assert named("requests_by_reason_total", found) == {("no-such-process", "failed"): 2}


def test_the_histogram_is_cumulative() -> None:
    found = samples(SMALL)
    buckets = named("start_seconds_bucket", found)
    assert [buckets[bound,] for bound in ("0.1", "0.25", "0.5", "30.0", "+Inf")] == [1, 1, 3, 3, 4]
    assert named("start_seconds_count", found) == {(): 4}
    assert named("start_seconds_sum", found) == {(): 42.5}


def test_the_rest() -> None:
    found = samples(SMALL)
    assert named("side_containers", found) == {("running",): 2, ("adopted",): 1, ("orphan",): 0, ("exited",): 0}
    assert named("side_container_ends_total", found) == {("exited",): 0, ("out-of-memory",): 1}
    assert named("events_total", found)["internal",] == 2
    assert named("limit_used", found) == {("instances",): 3, ("burst",): 7}
    assert named("limit_allowed", found) == {("instances",): 500, ("burst",): 200}
    assert named("policy_info", found) == {("0123456789abcdef", "podman", "enforce"): 1}
    single: dict[str, float] = {
        "runs_total": 9,
        "runs_continued_total": 0,
        "backing_off": 1,
        "waiting_bytes": 12,
        "service_active": 1,
    }
    single |= {"policy_valid": 1, "unanswered_claims": 1, "oldest_claim_seconds": 2.5}
    assert {name: named(name, found) for name in single} == {name: {(): value} for name, value in single.items()}


def test_a_service_with_an_invalid_policy_is_still_listed() -> None:
    found = samples(replace(SMALL, policy=None, limits=None, is_active=False))
    assert named("policy_valid", found) == named("service_active", found) == {(): 0}
    assert named("policy_info", found) == named("limit_used", found) == {}
    assert named("requests_total", found)["running",] == 4


@pytest.mark.parametrize(
    "key",
    ["answers running qdhcp-4711", "answers adopted ok", "answers running ok more", "answers", "answers  ", "x\ny 1"],
)
def test_no_label_has_a_value_that_the_code_does_not_know(key: str) -> None:
    assert samples(replace(SMALL, counts={**SMALL.counts, key: 5})) == samples(SMALL)


def test_the_number_of_series_has_a_bound() -> None:
    """Whatever agents do, there is at most one series for each verdict and reason."""
    everything = {f"answers {status} {reason}": 1.0 for status in Status for reason in Reason}
    by_reason = named("requests_by_reason_total", samples(replace(SMALL, counts=everything)))
    assert len(by_reason) == len(Status) * len(Reason)
    assert len(samples(replace(SMALL, counts={}))) < 60


def unit_states(*active: str) -> Iterable[Unit]:
    names = ("sidespawn@a.socket", "sidespawn@a.timer", "sidespawn-spool@a.service")
    return [Unit(name=name, active="active" if name in active else "inactive") for name in names]


@pytest.mark.parametrize(
    ("active", "is_active"),
    [
        (("sidespawn@a.socket", "sidespawn-spool@a.service"), True),
        (("sidespawn@a.timer", "sidespawn-spool@a.service"), False),
        (("sidespawn@a.socket",), False),
        ((), False),
    ],
)
def test_a_service_is_active_if_requests_would_be_taken(active: tuple[str, ...], is_active: bool) -> None:
    assert figures.is_active("a", unit_states(*active)) is is_active


@pytest.fixture
def nothing_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "gather", lambda: [SMALL])


@pytest.mark.usefixtures("nothing_enabled")
def test_the_file_is_replaced_atomically_and_all_users_may_read_it(tmp_path: Path) -> None:
    (tmp_path / "sidespawn.prom").write_text("old")
    with (tmp_path / "sidespawn.prom").open() as before:
        done = CliRunner().invoke(cli, ["metrics", "--textfile", str(tmp_path)])
        assert before.read() == "old"  # a reader sees one or the other
    assert (done.exit_code, done.output) == (0, "")
    (path,) = tmp_path.iterdir()
    assert path.read_text() == metrics.exposition([SMALL])
    assert path.stat().st_mode & 0o777 == 0o644  # node_exporter is not root


@pytest.mark.usefixtures("nothing_enabled")
@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_missing_directory_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(cli, ["metrics", "--textfile", str(tmp_path / name)])
    assert done.exit_code != 0
    assert "Traceback" not in done.output


@pytest.mark.usefixtures("nothing_enabled")
def test_a_link_in_the_directory_is_replaced_not_followed(tmp_path: Path) -> None:
    """node_exporter's directory may belong to node_exporter's user."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    place = tmp_path / "place"
    place.mkdir()
    (place / "sidespawn.prom").symlink_to(victim)
    (place / ".sidespawn.prom.new").symlink_to(victim)
    assert CliRunner().invoke(cli, ["metrics", "--textfile", str(place)]).exit_code == 0
    assert victim.read_text() == "kept"
    assert (place / "sidespawn.prom").read_text() != "kept"
