"""Making a service's directories."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sidespawn.host import directories


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
