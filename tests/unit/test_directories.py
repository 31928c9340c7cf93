"""Making a service's directories."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sidespawn.host import directories
from sidespawn.host.places import Places


@pytest.fixture
def namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "netns"
    monkeypatch.setattr(directories, "NAMESPACES", path)
    return path


def test_everybody_may_look_at_the_namespaces_whatever_the_umask(namespaces: Path) -> None:
    before = os.umask(0o077)  # the units'
    try:
        directories.make_namespaces_directory()
    finally:
        os.umask(before)
    assert stat.S_IMODE(namespaces.stat().st_mode) == 0o755


def test_a_directory_that_is_there_stays_as_it_is(namespaces: Path) -> None:
    namespaces.mkdir()
    namespaces.chmod(0o2775)
    directories.make_namespaces_directory()
    assert stat.S_IMODE(namespaces.stat().st_mode) == 0o2775


def test_what_systemd_made_where_nothing_was_mounted_is_removed(tmp_path: Path) -> None:
    """The socket unit makes the doorbell, also when the directories are in a mount namespace that it does not see."""
    places = Places("a", run=tmp_path / "run")
    for doorbell in (places.doorbell, places.operators_doorbell):
        doorbell.parent.mkdir(parents=True)
        os.mkfifo(doorbell)
    directories.remove(places)
    assert not places.run.exists()
    directories.remove(places)


def test_what_nobody_knows_is_not_removed(tmp_path: Path) -> None:
    places = Places("a", run=tmp_path / "run")
    (places.home / "unknown").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        directories.remove(places)
    assert (places.home / "unknown").is_dir()
