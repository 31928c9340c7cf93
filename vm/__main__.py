"""The command line: python3 -m vm up|exec|copy|down|list|test.

Exit codes: 0 done, 1 the machine failed, 2 wrong use; of exec, the command's own; of test, pytest's.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from lab.places import PlaceError
from vm import machines, trials
from vm.machine import HOME
from vm.recipes import Module, Recipe, Release
from vm.record import all_places

_HANDED_ON = "SIDESPAWN_"
_KEPT_HERE = ("SIDESPAWN_VM_CACHE",)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vm", description="Real machines for tests, in QEMU.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="default", help="which machine (default: %(default)s)")
    kind = argparse.ArgumentParser(add_help=False)
    kind.add_argument(
        "--release", type=Release, choices=tuple(Release), default=Release.TRIXIE, help="default: %(default)s"
    )
    kind.add_argument(
        "--module", type=Module, choices=tuple(Module), default=Module.APPARMOR, help="default: %(default)s"
    )
    verbs.add_parser("up", parents=[named, kind], help="boot it with this checkout, unless it runs")
    run = verbs.add_parser("exec", parents=[named], help="run a command in it")
    run.add_argument("command", nargs="+", metavar="CMD")
    copy = verbs.add_parser("copy", parents=[named], help="copy files; the machine's begin with vm:")
    copy.add_argument("source", metavar="FROM")
    copy.add_argument("target", metavar="TO")
    verbs.add_parser("down", parents=[named], help="end it and remove what it wrote")
    verbs.add_parser("list", help="show the machines and whether they run")
    test = verbs.add_parser("test", parents=[kind], help="run tests/machine; other arguments go to pytest")
    test.add_argument("--all", action="store_true", help="on every kind of machine, one after the other")
    return parser


def _recipe(arguments: argparse.Namespace) -> Recipe:
    return Recipe(release=arguments.release, module=arguments.module)


def _execute(name: str, argv: tuple[str, ...]) -> NoReturn:
    """Becomes ssh(1): its exit code, standard streams and terminal are this process's."""
    shell = machines.shell(name)
    settings = (
        f"{key}={value}" for key, value in os.environ.items() if key.startswith(_HANDED_ON) and key not in _KEPT_HERE
    )
    command = shell.command(
        ("/usr/bin/env", f"--chdir={HOME}", *settings, *argv), terminal=os.isatty(0) and os.isatty(1)
    )
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    os.execvp(command[0], command)


def _copy(name: str, source: str, target: str) -> None:
    if source.startswith("vm:") == target.startswith("vm:"):
        raise PlaceError("one of FROM and TO must begin with vm:, the other not")
    machines.shell(name).copy(source, target, seconds=3600)


def _list() -> None:
    for place in all_places():
        record = place.load()
        if record is not None:
            state = f"pid {record.pid}" if record.process.alive() else "dead"
            print(f"{place.name}\t{state}\t{record.release}\t{record.module}\t{record.checkout}")


def _end(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def main() -> int:
    """Does what the arguments say."""
    arguments, rest = _parser().parse_known_args()
    if rest and arguments.verb != "test":
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    # As exceptions they end what was started on their way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        machines.remove_stale()
        match arguments.verb:
            case "up":
                machines.up(_recipe(arguments), arguments.name)
            case "exec":
                _execute(arguments.name, tuple(arguments.command))
            case "copy":
                _copy(arguments.name, arguments.source, arguments.target)
            case "down":
                machines.down(arguments.name)
            case "list":
                _list()
            case "test":
                recipes = trials.ALL if arguments.all else (_recipe(arguments),)
                return trials.run(recipes, tuple(rest))
    except PlaceError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
