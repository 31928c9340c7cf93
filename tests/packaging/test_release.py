"""A release: its contents, what it declares them to be, and how the checkout gets to it."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from release import packages, publication, sbom, source
from release.errors import BuildError
from tests.packaging.conftest import Built

CHANGELOG = """\
# Changelog

## [Unreleased]

## [1.0.0] - 2026-01-01

### Added

- Everything.
"""
RELEASED = """\
# Changelog

## [Unreleased]

## [1.1.0] - 2026-02-03

### Added

- Something.

### Fixed

- A fault, which
  was there for long.

## [1.0.0] - 2026-01-01

### Added

- Everything.
"""
CHANGES = {"+some.added.md": "Something.\n", "+fault.fixed.md": "A fault, which\n  was there for long.\n"}


def run(*argv: str, directory: Path) -> str:
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository with a version and a changelog that builds nothing."""
    path = tmp_path / "checkout"
    (path / "src/sidespawn").mkdir(parents=True)
    (path / source.PLACE).write_text('__version__ = "1.1.0.dev0"\n')
    (path / "CHANGELOG.md").write_text(CHANGELOG)
    (path / "pyproject.toml").write_text((source.CHECKOUT / "pyproject.toml").read_text())
    (path / "changelog.d").mkdir()
    (path / "changelog.d/README.md").write_text("# What is not released yet\n")
    for name, text in CHANGES.items():
        (path / "changelog.d" / name).write_text(text)
    (path / ".gitignore").write_text("/dist/\n")
    run("git", "init", "--quiet", "--initial-branch=main", directory=path)
    for name, value in (("user.name", "A"), ("user.email", "a@example.org"), ("tag.gpgSign", "false")):
        run("git", "config", name, value, directory=path)
    run("git", "add", "--all", directory=path)
    run("git", "commit", "--quiet", "--message=first", directory=path)
    monkeypatch.setattr(publication, "CHECKOUT", path)
    return path


@pytest.fixture
def built_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return version and changelog of each tree that was to be built."""
    trees = []

    def build_all(tree: Path, target: Path) -> Path:
        trees.append((source.read_version(tree), (tree / "CHANGELOG.md").read_text()))
        target.mkdir(parents=True)
        (target / publication.SUMS).write_text("0" * 64 + "  a file\n")
        return target

    monkeypatch.setattr(publication, "build_all", build_all)
    return trees


def state(checkout: Path) -> tuple[str, str, str]:
    """Return commit, tags, and uncommitted changes."""
    return tuple(  # type: ignore[return-value]
        run("git", *arguments, directory=checkout)
        for arguments in (("rev-parse", "HEAD"), ("tag", "--list"), ("status", "--porcelain"))
    )


# ---------------------------------------------------------------- the checkout


def test_a_release_is_a_commit_and_an_annotated_tag(checkout: Path, built_of: list[tuple[str, str]]) -> None:
    made = publication.publish("1.1.0", dry_run=False)
    assert made == checkout / "dist/sidespawn-1.1.0"
    ((version, changelog),) = built_of
    assert version == "1.1.0"
    assert re.sub(r"1\.1\.0\] - .*", "1.1.0] - 2026-02-03", changelog) == RELEASED
    assert source.read_version(checkout) == "1.1.0"
    assert (checkout / "CHANGELOG.md").read_text() == changelog
    assert [path.name for path in (checkout / "changelog.d").iterdir()] == ["README.md"]
    assert run("git", "log", "--format=%s", directory=checkout).splitlines() == ["release: 1.1.0", "first"]
    assert run("git", "cat-file", "-t", "v1.1.0", directory=checkout) == "tag"
    assert run("git", "rev-parse", "v1.1.0^{commit}", directory=checkout) == state(checkout)[0]
    assert "a file" in run("git", "tag", "--list", "--format=%(contents)", "v1.1.0", directory=checkout)
    assert state(checkout)[2] == ""
    assert run("git", "worktree", "list", directory=checkout).count("\n") == 0


def test_a_dry_run_changes_nothing(checkout: Path, built_of: list[tuple[str, str]]) -> None:
    before = state(checkout)
    publication.publish("1.1.0", dry_run=True)
    assert built_of
    assert state(checkout) == before


def test_a_failure_changes_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tree: Path, target: Path) -> Path:
        raise BuildError("no")

    monkeypatch.setattr(publication, "build_all", fail)
    before = state(checkout)
    with pytest.raises(BuildError):
        publication.publish("1.1.0", dry_run=False)
    assert state(checkout) == before
    assert run("git", "worktree", "list", directory=checkout).count("\n") == 0


def test_without_a_version_it_is_the_current_one(checkout: Path, built_of: list[tuple[str, str]]) -> None:
    publication.publish("", dry_run=False)
    assert built_of[0][0] == "1.1.0.dev0"
    assert state(checkout)[1] == "v1.1.0.dev0"


def test_a_heading_that_is_there_needs_no_commit(checkout: Path, built_of: list[tuple[str, str]]) -> None:
    (checkout / source.PLACE).write_text('__version__ = "1.1.0"\n')
    (checkout / "CHANGELOG.md").write_text(RELEASED)
    run("git", "commit", "--quiet", "--all", "--message=by hand", directory=checkout)
    commit = state(checkout)[0]
    publication.publish("1.1.0", dry_run=False)
    assert state(checkout)[:2] == (commit, "v1.1.0")


def test_uncommitted_changes_are_refused(checkout: Path, built_of: list[tuple[str, str]]) -> None:
    (checkout / "new").touch()
    with pytest.raises(BuildError, match="not committed"):
        publication.publish("1.1.0", dry_run=False)
    assert built_of == []


def test_a_version_is_released_once(checkout: Path, built_of: list[tuple[str, str]]) -> None:
    publication.publish("1.1.0", dry_run=False)
    with pytest.raises(BuildError, match="has been released"):
        publication.publish("1.1.0", dry_run=False)


@pytest.mark.parametrize("version", ["1", "v1.1.0", "1.1.0-1", "1.1.0\n", "", "1.1.0 ", "1.1.0+local", "../1.1.0"])
def test_not_every_word_is_a_version(version: str) -> None:
    with pytest.raises(BuildError):
        source.check_version(version)


@pytest.mark.parametrize("heading", ["", "## [1.1.0]\n\n- Something.\n"], ids=["none", "without a day"])
def test_a_release_without_a_word_in_the_changelog_is_refused(checkout: Path, heading: str) -> None:
    for name in CHANGES:
        (checkout / "changelog.d" / name).unlink()
    (checkout / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n{heading}")
    run("git", "commit", "--quiet", "--all", "--message=nothing", directory=checkout)
    with pytest.raises(BuildError, match="no changes"):
        publication.publish("1.1.0", dry_run=True)


def test_distributions_sort_what_comes_before_a_version_before_it() -> None:
    versions = ["1.1.0.dev0", "1.1.0a1", "1.1.0rc1", "1.1.0"]
    named = [
        source.Source(tree=Path(), version=each, epoch=0, maintainer="").distributions_version for each in versions
    ]
    assert named == ["1.1.0~dev0", "1.1.0~a1", "1.1.0~rc1", "1.1.0"]


def test_packages_name_only_the_person_who_built_them(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEBEMAIL", raising=False)
    monkeypatch.setenv("DEBFULLNAME", "B. Builder")
    assert source.maintainer(checkout) == "A <a@example.org>"  # a name without an address is not a person
    monkeypatch.setenv("DEBEMAIL", "b@example.org")
    assert source.maintainer(checkout) == "B. Builder <b@example.org>"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("B", "not an address"),
        ("B", "b@example.org>, C <c@example.org"),
        ("B\nDepends: other", "b@example.org"),
        ("B, C", "b@example.org"),
        ("B", "@"),
    ],
)
def test_an_invalid_maintainer_is_refused(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    monkeypatch.setenv("DEBFULLNAME", name)
    monkeypatch.setenv("DEBEMAIL", address)
    with pytest.raises(BuildError, match="DEBEMAIL"):
        source.maintainer(checkout)


# ---------------------------------------------------------------- what is published


def test_the_sdist_is_the_whole_source(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in ("dev", "packaging/debian/rules", "packaging/rpm/sidespawn.spec", "docs/operating.md", "LICENSE"):
        assert path in names
    assert {"src/sidespawn/units/sidespawn@.socket", "tests/packaging/test_release.py"} <= names
    assert not [name for name in names if name.startswith((".git/", ".cache", ".venv", "dist/"))]


def test_the_sdist_says_nothing_of_who_made_it_and_when(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        members = archive.getmembers()
    assert {(each.uid, each.gid, each.uname, each.mtime) for each in members} == {(0, 0, "", built.source.epoch)}
    assert built.sdist.read_bytes()[4:8] == built.source.epoch.to_bytes(4, "little")


def test_the_wheel_holds_what_the_package_needs(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = archive.namelist()
    for path in ("run.py", "units/sidespawn@.socket", "presets/programs/dnsmasq.toml", "apparmor/sidespawn-agent"):
        assert f"sidespawn/{path}" in names
    assert f"sidespawn-{built.source.version}.dist-info/METADATA" in names


def test_the_bill_of_materials_is_valid_and_complete(built: Built) -> None:
    published = [built.sdist, built.wheel, built.deb, *built.rpms.values()]
    text = sbom.bill(built.source, published, built.bundle, sbom.read_wheel(built.wheel))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert bill["metadata"]["component"]["version"] == built.source.version
    components = {each["name"]: each for each in bill["components"]}
    for path in published:
        assert components[path.name]["hashes"] == [{"alg": "SHA-256", "content": sbom.sha256(path)}]
    for name, version in built.bundle.versions:
        assert components[name]["version"] == version
        assert components[name]["licenses"]
    needs = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert needs["sidespawn"] == ["click", "prometheus-client", "pyyaml", "rich"]
    assert components["pyyaml"]["licenses"]
    assert "version" not in components["pyyaml"]  # the host's
    assert needs["rich"] == ["markdown-it-py", "pygments"]
    assert needs["markdown-it-py"] == ["mdurl"]
    assert sbom.bill(built.source, published, built.bundle, sbom.read_wheel(built.wheel)) == text


def test_the_rpms_bring_along_what_the_command_line_needs_and_no_more(built: Built) -> None:
    wheels = {each.name: each for each in map(sbom.read_wheel, built.bundle.wheels)}
    needed: set[str] = set()
    of_the_host = {"pyyaml"}  # test_rpm.py tests that the rpms require it
    waiting = sbom.read_wheel(built.wheel).needs - of_the_host
    while waiting - needed:
        needed |= waiting
        waiting = set().union(*(wheels[name].needs for name in needed))
    assert set(wheels) == needed


def test_lintians_complaints_are_found() -> None:
    said = "N:\nW: sidespawn: a\nI: sidespawn: b\nE: sidespawn: c\nO: sidespawn: d\nP: sidespawn: e\n"
    assert packages.complaints(said) == ["W: sidespawn: a", "E: sidespawn: c"]
