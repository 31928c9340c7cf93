"""The part of images.py that runs no command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.testing.images import AGENT, HELPERS, package_sources

DEB822 = """\
Types: deb
URIs: http://mirror.example/debian
Suites: {suites}
Components: main
"""


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("debian.sources", DEB822.format(suites="bookworm bookworm-updates")),
        ("security.sources", DEB822.format(suites="bookworm-security")),
        ("one-line.list", "deb http://mirror.example/debian bookworm main\n"),
    ],
)
def test_sources_of_the_suite_are_used(apt: Path, name: str, text: str) -> None:
    source = apt / "sources.list.d" / name
    source.write_text(text)
    assert package_sources(apt, "bookworm") == (source,)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vendor.list", "deb https://vendor.example/apt tool-bookworm main\n"),
        ("path.list", "deb https://vendor.example/bookworm/apt stable main\n"),
        ("other.sources", DEB822.format(suites="trixie")),
        ("backports.sources", DEB822.format(suites="bookworm-backports")),
        ("debian.sources.disabled", DEB822.format(suites="bookworm")),
    ],
)
def test_other_sources_are_not(apt: Path, name: str, text: str) -> None:
    (apt / "sources.list.d" / name).write_text(text)
    assert package_sources(apt, "bookworm") == ()


def test_the_old_single_list_is_used_too(apt: Path) -> None:
    source = apt / "sources.list"
    source.write_text("deb http://mirror.example/debian bookworm main\n")
    assert package_sources(apt, "bookworm") == (source,)


def test_a_tar_is_reused_only_for_the_same_recipe_and_suite() -> None:
    more = replace(HELPERS, packages=(*HELPERS.packages, "radvd"))
    digests = [HELPERS.digest("bookworm"), HELPERS.digest("trixie"), more.digest("bookworm")]
    assert len({*digests, AGENT.digest("bookworm")}) == 4
    assert replace(HELPERS).digest("bookworm") == digests[0]
