"""The command line: python -m release deb|rpm|release|prepare.

Exit codes: 0 done, 1 nothing was built, 2 wrong use.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from release import packages, publication
from release.bundle import ensure_bundle
from release.errors import BuildError
from release.root import building, ensure_root
from release.source import CHECKOUT, export
from sidespawn.testing.images import ImageError
from vm.errors import VmError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="release", description="Builds packages and releases of this checkout.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for kind, what in (("deb", "Debian's package"), ("rpm", "rpms for Enterprise Linux")):
        package = verbs.add_parser(kind, help=f"{what}, as the checkout stands, into --output")
        package.add_argument("--as", dest="version", default="", metavar="VERSION", help="as if it were this version")
        package.add_argument("--output", type=Path, default=CHECKOUT / "dist", help="(default: %(default)s)")
    whole = verbs.add_parser("release", help="commit, everything that is published, and a tag")
    whole.add_argument("version", nargs="?", default="", metavar="VERSION", help="(default: the one in the source)")
    whole.add_argument("--dry-run", action="store_true", help="only build")
    verbs.add_parser("prepare", help="only make what needs the network")
    return parser


def build(kind: str, version: str, output: Path) -> list[Path]:
    """Build the packages of one kind, in `output`."""
    bundle = ensure_bundle() if kind == "rpm" else None
    with building() as root:
        source = export(CHECKOUT, root.build / "source", version)
        sdist, _ = packages.build_python(root, source)
        if bundle is None:
            built = [packages.build_deb(root, source, sdist)]
        else:
            built = packages.build_rpms(root, source, sdist, bundle)
        output.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copy(path, output)) for path in built]


def main() -> int:
    """Does what the arguments say, and prints the paths of what was made."""
    arguments = _parser().parse_args()
    try:
        match arguments.verb:
            case "prepare":
                ensure_root()
                ensure_bundle()
                made = []
            case "release":
                made = sorted(publication.publish(arguments.version, dry_run=arguments.dry_run).iterdir())
            case kind:
                made = build(kind, arguments.version, arguments.output)
    except (BuildError, ImageError, VmError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    for path in made:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
