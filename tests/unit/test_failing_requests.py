"""Which failing requests `sidespawn doctor` reports, by the service's records in the journal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from sidespawn.core.policy import Policy
from sidespawn.host_report.findings import State
from sidespawn.service_report.diagnosis.ailments import Ailment
from sidespawn.service_report.diagnosis.requests import MOST_SINGLE, judge, outcomes
from tests.unit.shipped import preset

NOW = 1_000_000.0
DNSMASQ = preset("neutron-dhcp-dnsmasq")
ROUTER = "qrouter-4f3c1f4e-8a5b-4f2e-9a36-2f1d7b0c5e11"


def record(event: str, ago: float, name: str = "", **fields: str) -> dict[str, Any]:
    """Return a record of that many seconds ago; of a success in a namespace, or of a failure from there."""
    where = {"NETNS": name, "INSTANCE": name} if event in ("started", "answered", "stopped") else {"LANE": name}
    every = {"EVENT": event, "REQUEST": "1"} | where | fields
    found = {f"SIDESPAWN_{key}": value for key, value in every.items() if value}
    return {**found, "__REALTIME_TIMESTAMP": str(int((NOW - ago) * 1e6))}


def failed(ago: float, name: str, reason: str = "exited", **fields: str) -> dict[str, Any]:
    return record("failed", ago, name, REASON=reason, **fields)


def found(records: Iterable[dict[str, Any]], policy: Policy = DNSMASQ) -> list[Ailment]:
    return list(judge("a", outcomes(records, policy), NOW))


def busy(count: int, name: str = "qdhcp-2", ago: float = 1) -> list[dict[str, Any]]:
    return [record("started", ago, name) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 30])
def test_an_instance_whose_every_request_failed_is_named_whatever_else_works(count: int) -> None:
    for ago in (60, 3000):
        (one,) = found([*(failed(ago, "qdhcp-1") for _ in range(count)), *busy(1000)])
        assert (one.id, one.instance, one.state) == ("requests-fail", "qdhcp-1", State.PROBLEM)
        assert one.found == f"requests for qdhcp-1 of a have all failed: {count} exited"


def test_expired_requests_count_as_failed() -> None:
    (one,) = found([record("expired", 60, "qdhcp-1", REASON="expired"), *busy(5)])
    assert "1 expired" in one.found


@pytest.mark.parametrize(
    ("failures", "successes", "told"),
    [(2, 1, False), (3, 1, True), (3, 26, True), (3, 27, False), (4, 27, True), (10, 1000, False)],
)
def test_an_instance_is_reported_from_three_failures_and_a_tenth_on(failures: int, successes: int, told: bool) -> None:
    records = [*(failed(60, "qdhcp-1") for _ in range(failures)), *busy(successes, "qdhcp-1"), *busy(1000)]
    those = found(records)
    assert [each.instance for each in those] == ["qdhcp-1"] * told
    assert not told or f"{failures} of {failures + successes} in the last 10 minutes" in those[0].found
    assert not told or those[0].state is State.WARNING  # it works by now


def test_what_is_older_than_ten_minutes_does_not_count_if_something_worked() -> None:
    assert found([*(failed(700, "qdhcp-1") for _ in range(5)), *busy(1, "qdhcp-1")]) == []


def test_a_service_is_reported_if_failures_are_spread_over_its_instances() -> None:
    names = [f"qdhcp-{number}" for number in range(4)]
    records = [each for name in names for each in (failed(60, name), *busy(5, name))]
    (one,) = found(records)
    assert (one.instance, one.state) == ("", State.PROBLEM)
    assert one.found == "requests for a failed, 4 of 24 in the last 10 minutes: 4 exited"
    assert found([*records, *busy(20)]) == []


def test_all_that_failed_since_the_last_success_is_told_with_the_instances() -> None:
    (one,) = found([*busy(5, ago=100), failed(60, "qdhcp-1"), failed(50, "qdhcp-3", "not-ready")])
    assert one.found == (
        "requests for a have failed since the last success: 1 exited, 1 not-ready; of qdhcp-1, qdhcp-3"
    )


def test_more_instances_than_a_person_reads_one_by_one_are_told_together() -> None:
    names = [f"qdhcp-{number:02}" for number in range(MOST_SINGLE + 1)]
    (one,) = found([*(failed(60, name) for name in names), *busy(1000, "other")])
    assert all(name in one.found for name in names)


def test_a_program_that_was_ended_and_does_not_start_again_has_failed() -> None:
    records = [*busy(1, "qdhcp-1", 900), record("stopped", 800, "qdhcp-1"), failed(700, "qdhcp-1"), *busy(9)]
    (one,) = found(records)
    assert one.found == "requests for qdhcp-1 of a have all failed since it was stopped: 1 exited"
    assert found([*records, *busy(1, "qdhcp-1")]) == []
    assert found(records[:2]) == []


def test_one_instance_of_two_in_a_namespace_is_told_apart() -> None:
    segments = [f"qdhcp-1-{number}" for number in range(2)]
    works = [record("started", 5, "qdhcp-1", INSTANCE=segments[0]) for _ in range(50)]
    (one,) = found([*works, failed(60, "qdhcp-1", INSTANCE=segments[1])])
    assert one.instance == segments[1]
    # Which of them it was is not known; others in the namespace work.
    assert found([*works, failed(60, "qdhcp-1", INSTANCE=segments[1]), failed(6, "qdhcp-1"), *works])[0].instance
    assert found([*works, record("started", 5, "qdhcp-1", INSTANCE=segments[1]), failed(60, "qdhcp-1")]) == []


def test_failures_before_and_after_the_instance_was_known_are_added() -> None:
    known = [failed(60, "qdhcp-1", INSTANCE="qdhcp-1-0"), failed(50, "qdhcp-1"), failed(40, "qdhcp-1", "expired")]
    (one,) = found([*known, record("started", 30, "qdhcp-1", INSTANCE="qdhcp-1-0"), *busy(100)])
    assert (one.instance, "3 of 4" in one.found) == ("qdhcp-1-0", True)


@pytest.mark.parametrize("reason", ["backing-off", "no-such-process"])
def test_what_is_expected_or_told_otherwise_is_no_failure(reason: str) -> None:
    assert found([failed(60, "qdhcp-1", reason)] * 5) == []
    assert found([record("answered", 60, "qdhcp-1", REASON=reason), failed(50, "qdhcp-1"), *busy(20)])[0].instance


def test_a_cleanup_that_failed_is_no_request() -> None:
    assert found([{k: v for k, v in failed(60, "").items() if k != "SIDESPAWN_REQUEST"}] * 5 + busy(1)) == []


@pytest.mark.parametrize(
    ("policy", "lane", "name"),
    [
        (preset("neutron-l3-keepalived-state-change"), f"x --router_id=1 --namespace={ROUTER} --pid=2", ROUTER),
        (preset("neutron-l3-keepalived-state-change"), f"x {ROUTER}", ROUTER),
        (preset("neutron-l3-keepalived-state-change"), "x -a -b", "x -a -b"),
        (preset("neutron-ovs-metadata-haproxy"), "haproxy -f /x", "host"),
        (DNSMASQ, "qdhcp-1", "qdhcp-1"),
        (DNSMASQ, f"dnsmasq {'x' * 200}", f"dnsmasq {'x' * 91}…"),
    ],
)
def test_a_request_from_no_namespace_is_named_after_what_it_is_for(policy: Policy, lane: str, name: str) -> None:
    (one,) = found([failed(60, lane), *busy(20)], policy)
    assert one.instance == name


def test_without_a_policy_or_a_name_the_service_is_reported() -> None:
    records = [failed(60, lane) for lane in ("", "4711", "4712")]
    (one,) = list(judge("a", outcomes([*records, *busy(3)], None), NOW))
    assert one.instance == ""
    assert "3 of 6" in one.found


def test_a_field_that_is_given_twice_is_not_believed() -> None:
    odd = failed(60, "qdhcp-1") | {"SIDESPAWN_LANE": ["a", "b"]}
    assert [each.instance for each in found([odd, *busy(20)])] == []


def test_a_router_s_state_change_counts_for_its_namespace() -> None:
    policy = replace(preset("neutron-l3-keepalived-state-change"))
    lane = f"x --namespace={ROUTER}"
    works = [record("started", 5, ROUTER, INSTANCE="qrouter-1") for _ in range(50)]
    assert found([failed(60, lane), *works], policy) == []
