"""Makes a release: a commit with the version and its heading in the changelog, everything built from it, and a tag.

Everything happens in a work tree beside the checkout. The checkout gets the commit and the tag last, when nothing can
fail any more; a dry run stops before that.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from release import packages, sbom
from release.bundle import ensure_bundle
from release.errors import BuildError
from release.programs import run, say
from release.root import building
from release.source import CHECKOUT, export, git, read_version, write_version

CHANGELOG = "CHANGELOG.md"
SUMS = "SHA256SUMS"


def publish(version: str, *, dry_run: bool) -> Path:
    """Make the release `version`, or that of the source's version; return the directory with its files."""
    if git(CHECKOUT, "status", "--porcelain"):
        raise BuildError("the checkout has changes that are not committed")
    with work_tree() as tree:
        version = version or read_version(tree)
        tag = f"v{version}"
        if git(CHECKOUT, "tag", "--list", tag):
            raise BuildError(f"{tag} has been released")
        write_version(tree, version)
        write_changelog(tree, version, datetime.now(UTC).date().isoformat())
        if git(tree, "status", "--porcelain"):
            git(tree, "commit", "--quiet", "--all", f"--message=release: {version}")
        files = build_all(tree, CHECKOUT / "dist" / f"sidespawn-{version}")
        if dry_run:
            say(f"dry run: no commit, no tag {tag}")
            return files
        commit = git(tree, "rev-parse", "HEAD").strip()
        git(CHECKOUT, "merge", "--quiet", "--ff-only", commit)
        git(
            CHECKOUT, "tag", "--annotate", tag, f"--message=sidespawn {version}\n\n{(files / SUMS).read_text()}", commit
        )
    say(f"made {tag}; publish it by: git push --follow-tags")
    return files


@contextmanager
def work_tree() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sidespawn-release-") as scratch:
        tree = Path(scratch) / "tree"
        git(CHECKOUT, "worktree", "add", "--quiet", "--detach", str(tree), "HEAD")
        try:
            yield tree
        finally:
            git(CHECKOUT, "worktree", "remove", "--force", str(tree))


def write_changelog(tree: Path, version: str, day: str) -> None:
    """Collect what the files in changelog.d say under a heading for the version, unless it has one already."""
    changelog = (tree / CHANGELOG).read_text(encoding="utf-8")
    if re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        return
    if not list((tree / "changelog.d").glob("+*.md")):
        raise BuildError(f"changelog.d has no changes, and {CHANGELOG} no heading for {version}")
    towncrier = (sys.executable, "-m", "towncrier", "build", "--yes", f"--version={version}", f"--date={day}")
    run(*towncrier, seconds=60, directory=tree)
    written = (tree / CHANGELOG).read_text(encoding="utf-8")
    (tree / CHANGELOG).write_text(re.sub(r"\n{3,}", "\n\n", written), encoding="utf-8")


def build_all(tree: Path, target: Path) -> Path:
    """Everything that is published, in `target`, which is made or replaced."""
    bundle = ensure_bundle()
    with building() as root:
        source = export(tree, root.build / "source")
        sdist, wheel = packages.build_python(root, source)
        deb = packages.build_deb(root, source, sdist)
        complaints = packages.complaints(packages.lint_deb(root, deb))
        if complaints:
            raise BuildError("lintian complains about the Debian package:\n" + "\n".join(complaints))
        built = [sdist, wheel, deb, *packages.build_rpms(root, source, sdist, bundle)]
        if target.exists():
            shutil.rmtree(target)
        target.mkdir(parents=True)
        published = [Path(shutil.copy(path, target)) for path in sorted(built, key=lambda path: path.name)]
        listed = target / f"sidespawn-{source.version}.cdx.json"
        listed.write_text(sbom.bill(source, published, bundle, sbom.read_wheel(wheel)), encoding="utf-8")
        sums = "".join(f"{sbom.sha256(path)}  {path.name}\n" for path in (*published, listed))
        (target / SUMS).write_text(sums, encoding="ascii")
    return target
