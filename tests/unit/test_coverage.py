"""A Neutron release with unknown calls is reported, and nothing is done that would cost routers their failover."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.core.policy import Policy
from sidespawn.errors import Reason, SidespawnError
from sidespawn.host_report import agents
from sidespawn.presets import names
from sidespawn.setup import coverage
from tests.attacks.catalogue import attack
from tests.data.releases import MATRIX_CALLS
from tests.unit import small
from tests.unit.shipped import preset
from tests.unit.test_host_report import states

MONITOR, DNSMASQ = preset("neutron-l3-keepalived-state-change"), preset("neutron-dhcp-dnsmasq")
PROGRAM = MONITOR.agent.wrapper


def put(root: Path, *paths: str) -> Path:
    for each in paths:
        (root / each).parent.mkdir(parents=True, exist_ok=True)
        (root / each).touch()
    return root


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make a directory with the files of images by their names; no other image is on the host."""

    @contextmanager
    def mounted(image: str) -> Iterator[Path | None]:
        path = tmp_path / image.replace("/", "_")
        yield path if path.is_dir() else None

    monkeypatch.setattr(coverage, "mounted", mounted)
    return tmp_path


def of_image(policy: Policy, image: str) -> Policy:
    return replace(policy, side_container=replace(policy.side_container, image=image))


def test_what_is_covered_is_what_was_recorded() -> None:
    assert set(coverage.RELEASES.values()) == {release for call in MATRIX_CALLS for release in call.releases}


@pytest.mark.parametrize(
    ("path", "release"),
    [
        ("usr/lib/python3/dist-packages/neutron-21.0.0.egg-info/PKG-INFO", "21.0.0"),
        ("usr/local/lib/python3.11/site-packages/neutron-29.0.0.dist-info/METADATA", "29.0.0"),
        ("var/lib/kolla/venv/lib/python3.12/site-packages/neutron-26.0.2.dist-info/METADATA", "26.0.2"),
        ("usr/lib/python3/dist-packages/neutron-28.0.0-py3.13.egg-info", "28.0.0"),
        ("opt/neutron/lib/python3.11/site-packages/neutron-24.2.2.dist-info/METADATA", "24.2.2"),
        ("usr/lib/python3/dist-packages/neutron_lib-5.0.1.dist-info/METADATA", ""),
        ("usr/lib/python3/dist-packages/neutron-dynamic-routing-21.0.0.egg-info", ""),
        ("usr/lib/python3/dist-packages/neutron-\n[31m.dist-info", ""),
        ("home/neutron-29.0.0.dist-info", ""),
    ],
)
def test_the_release_is_that_of_the_installed_packages(tmp_path: Path, path: str, release: str) -> None:
    assert coverage.release_in(put(tmp_path, path)) == release


@pytest.mark.parametrize("release", ["2023.1", "22", "22.0.0", "26.0.6", "29.0.1", "2026.2", ""])
def test_a_covered_release_needs_no_word(release: str, images: Path) -> None:
    assert coverage.problems(MONITOR, release) == []


@pytest.mark.parametrize("release", ["2022.2", "21.2.1", "30.0.0", "2027.1", "x", "2", "290"])
def test_an_untested_release_is_reported(release: str, images: Path) -> None:
    for policy in (MONITOR, DNSMASQ):
        (said,) = coverage.problems(policy, release)
        assert said.startswith(f"Neutron {release} is not among the releases")
        assert "2023.1 to 2026.2" in said


def test_only_what_would_cost_routers_their_failover_is_refused() -> None:
    coverage.require(MONITOR, [])
    coverage.require(DNSMASQ, ["something"])
    with pytest.raises(SidespawnError, match="routers report no failover") as caught:
        coverage.require(MONITOR, ["something"])
    assert caught.value.reason is Reason.HOST_UNSUITABLE
    assert "--uncovered" in caught.value.hint


def test_the_image_says_which_release_it_is_for(images: Path) -> None:
    put(images / "a:1", PROGRAM.lstrip("/"), "usr/lib/python3/dist-packages/neutron-21.0.0.dist-info/METADATA")
    put(images / "b:1", PROGRAM.lstrip("/"), "usr/lib/python3/dist-packages/neutron-26.0.0.dist-info/METADATA")
    assert "Neutron 21.0.0" in coverage.problems(of_image(MONITOR, "a:1"))[0]
    assert coverage.problems(of_image(MONITOR, "b:1")) == []
    assert coverage.problems(of_image(DNSMASQ, "b:1"), agent_image="a:1") != []
    assert coverage.problems(of_image(DNSMASQ, "a:1"), agent_image="b:1") == []


def test_an_image_without_the_monitor_is_reported(images: Path) -> None:
    (images / "a:1").mkdir()
    assert coverage.problems(of_image(MONITOR, "a:1")) == [f"the image a:1 has no {PROGRAM}"]
    (images / "a:1" / PROGRAM.lstrip("/")).parent.mkdir(parents=True)
    (images / "a:1" / PROGRAM.lstrip("/")).symlink_to("/opt/neutron/bin/monitor")
    assert coverage.problems(of_image(MONITOR, "a:1")) == []
    assert coverage.problems(of_image(MONITOR, "not-there:1")) == [], "that is said by another check"


def test_a_policy_for_another_agent_has_no_release() -> None:
    assert not coverage.is_neutrons(small.load())
    assert coverage.problems(small.load(), "1.0") == []
    assert all(coverage.is_neutrons(preset(name)) for name in names())


@pytest.mark.parametrize(("policy", "state"), [(MONITOR, "problem"), (DNSMASQ, "warning")])
def test_a_running_agent_of_another_release_is_reported(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, state: str
) -> None:
    monkeypatch.setattr(coverage, "release_of_agent", lambda pid: "21.0.0" if pid == 7 else "22.1")
    release = agents.unknown_release(policy, 7)
    agent = agents.Agent(service="a", pid=7, release=release, is_vital=policy is MONITOR)
    found = list(agents.judge((agent,), has_apparmor=False))
    assert states(found) == {"agent-release": state}
    assert "Neutron 21.0.0" in found[0].found
    assert "2023.1 to 2026.2" in found[0].hint
    assert agents.unknown_release(policy, 8) == ""
    assert agents.unknown_release(None, 7) == ""


def test_an_agents_files_are_looked_at_by_another_process() -> None:
    assert coverage.release_of_agent(os.getpid()) == coverage.release_in(Path("/"))
    assert coverage.release_of_agent(2**22) == ""


@attack(198)
def test_an_agent_whose_files_do_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents can cause that with a file system that they serve themselves."""
    monkeypatch.setattr(coverage, "LOOK", "import time; time.sleep(60)")
    monkeypatch.setattr(coverage, "PATIENCE", 0.5)
    began = time.monotonic()
    assert coverage.release_of_agent(os.getpid()) == ""
    assert time.monotonic() - began < 10
