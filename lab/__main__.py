"""The command line: python3 -m lab up|exec|down|list.

Exit codes: 0 done, 1 the lab failed, 2 wrong use; of exec, the command's own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lab import boot, enter
from lab.places import PlaceError
from lab.record import all_places

_CHECKOUT = Path(__file__).resolve().parent.parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="A disposable machine with a real systemd.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="default", help="which lab (default: %(default)s)")
    verbs.add_parser("up", parents=[named], help="boot it, unless it runs")
    run = verbs.add_parser("exec", parents=[named], help="run a command in it")
    run.add_argument("command", nargs="+", metavar="CMD")
    verbs.add_parser("down", parents=[named], help="end it and remove all of it")
    verbs.add_parser("list", help="show the labs and whether they run")
    return parser


def main() -> int:
    """Does what the arguments say."""
    arguments = _parser().parse_args()
    try:
        match arguments.verb:
            case "up":
                boot.up(arguments.name, _CHECKOUT)
            case "exec":
                enter.execute(arguments.name, tuple(arguments.command))
            case "down":
                boot.down(arguments.name)
            case "list":
                for place in all_places():
                    record = place.load()
                    state = f"pid {record.pid}" if record and record.alive() else "dead"
                    print(f"{place.name}\t{state}")
    except PlaceError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
