"""Evidence, for the Ansible collection, that an agent works with sidespawn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "integrations/ansible/plugins/module_utils/requests.py"
START = 1000.0
SERVES = [
    {"service": "dnsmasq", "program": "dnsmasq", "namespaces": "qdhcp-{network}"},
    {"service": "router-proxy", "program": "haproxy", "namespaces": "qrouter-{router}"},
    {"service": "proxy", "program": "haproxy", "namespaces": "qdhcp-{network}"},
]
WANTED = (("dnsmasq", "qdhcp-1"), ("haproxy", "qdhcp-1"))


@pytest.fixture(scope="module")
def requests() -> ModuleType:
    specification = importlib.util.spec_from_file_location("ansible_requests", SOURCE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def record(service: str, at: float, instance: str = "qdhcp-1", **fields: str) -> dict[str, str]:
    return {
        "__REALTIME_TIMESTAMP": str(int(at * 1e6)),
        "SIDESPAWN_SERVICE": service,
        "SIDESPAWN_INSTANCE": instance,
        "SIDESPAWN_REQUEST": "0" * 32,
        **fields,
    }


NETNS = {"SIDESPAWN_NETNS": "qdhcp-1"}


@pytest.mark.parametrize(
    ("records", "lacking"),
    [
        ([], WANTED),
        ([record("dnsmasq", 1001, **NETNS)], WANTED[1:]),
        ([record("dnsmasq", 1001, **NETNS), record("proxy", 1001, **NETNS)], ()),
        ([record("dnsmasq", 1001, **NETNS), record("router-proxy", 1001, SIDESPAWN_NETNS="qrouter-1")], WANTED[1:]),
        # A signal's record names only the instance.
        ([record("dnsmasq", 1001), record("proxy", 1001)], ()),
        ([record("dnsmasq", 1001, "qdhcp-1-0")], WANTED),
        ([record("dnsmasq", 1001, "qdhcp-12", SIDESPAWN_NETNS="qdhcp-12")], WANTED),
        # Of the container that ran before this one.
        ([record("dnsmasq", 999.9, **NETNS)], WANTED),
        # The signal reached no process.
        ([record("dnsmasq", 1001, SIDESPAWN_REASON="no-such-process", **NETNS)], WANTED),
        # No one has asked for it.
        ([record("dnsmasq", 1001, SIDESPAWN_REQUEST="", **NETNS)], WANTED),
    ],
)
def test_a_helper_counts_if_a_request_for_it_was_completed_since_the_start(
    requests: ModuleType, records: list[dict[str, str]], lacking: tuple[tuple[str, str], ...]
) -> None:
    made = requests.Requests(records, {"qdhcp-1": "qdhcp-1"}, START)
    assert made.lacking(WANTED, SERVES) == list(lacking)


@pytest.mark.parametrize(
    ("records", "latest"),
    [
        ([], 1000),
        ([record("dnsmasq", 990)], 1000),
        ([record("dnsmasq", 1005), record("dnsmasq", 1050)], 1005),
        ([record("dnsmasq", 1005), record("proxy", 1050)], 1050),
        ([record("dnsmasq", 1005), record("dnsmasq", 1050, "qdhcp-2")], 1050),
        ([record("dnsmasq", 1005, SIDESPAWN_REASON="no-such-process")], 1000),
    ],
)
def test_an_agent_asks_for_something_new_if_it_had_not_asked_for_it_since_its_start(
    requests: ModuleType, records: list[dict[str, str]], latest: float
) -> None:
    assert requests.Requests(records, {}, START).latest == latest


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01T00:01:00.5Z", 60.5),
        ("1970-01-01T01:01:00.250000000+01:00", 60.25),
        ("1969-12-31T23:31:00.1-00:30", 60.1),
        ("1970-01-01 01:01:00.123456789 +0100 CET", 60.123456789),
        ("0001-01-01T00:00:00Z", -62135596800),  # of a container that was never started
    ],
)
def test_times_of_podman(requests: ModuleType, text: str, seconds: float) -> None:
    assert requests.unix_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "now", "1970-01-01T00:01:00", "1970-01-01T00:01:00Z\n", "1970-13-01T00:01:00Z"])
def test_what_is_not_a_time(requests: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        requests.unix_time(text)
