"""The command line: python3 -m vm build|up|exec|copy|down|list|test.

Exit codes: 0 done, 1 the machine failed, 2 wrong use; of exec, the command's own; of test, pytest's.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import uuid
from types import FrameType
from typing import NoReturn

from lab.places import PlaceError
from vm import machines, trials
from vm.checkout import HOME
from vm.recipes import Module, Recipe, Release
from vm.record import all_places

_HANDED_ON = "SIDESPAWN_"
_KEPT_HERE = ("SIDESPAWN_VM_CACHE",)
_END_SECONDS = 60
_COPY_SECONDS = 3600
# Every process that a command has started has its mark in its environment, whatever session it is in.
_END_MARKED = """
for process in /proc/[0-9]*; do
    ! grep --quiet --null-data --line-regexp {mark} "$process/environ" 2>/dev/null || kill -TERM "${{process#/proc/}}"
done
"""


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
    verbs.add_parser("build", parents=[kind], help="make what all machines of this kind share, and boot none")
    verbs.add_parser("up", parents=[named, kind], help="boot it with this checkout, unless it runs")
    run = verbs.add_parser("exec", parents=[named], help="run a command in it")
    run.add_argument("command", nargs="+", metavar="CMD")
    copy = verbs.add_parser("copy", parents=[named], help="copy files; the machine's begin with vm:")
    copy.add_argument("source", metavar="FROM")
    copy.add_argument("target", metavar="TO")
    verbs.add_parser("down", parents=[named], help="end it and remove what it wrote")
    verbs.add_parser("list", help="show the machines and whether they run")
    test = verbs.add_parser(
        "test", parents=[kind], allow_abbrev=False, help="run tests/machine; other arguments go to pytest"
    )
    test.add_argument("--each", action="store_true", help="on every kind of machine, one after the other")
    return parser


def _recipe(arguments: argparse.Namespace) -> Recipe:
    return Recipe(release=arguments.release, module=arguments.module)


def _execute(name: str, argv: tuple[str, ...]) -> int:
    """Runs the command on this process's streams and terminal; its exit code."""
    shell = machines.shell(name)
    mark = f"VM_EXEC={uuid.uuid4().hex}"
    settings = [
        f"{key}={value}" for key, value in os.environ.items() if key.startswith(_HANDED_ON) and key not in _KEPT_HERE
    ]
    words = ("/usr/bin/env", f"--chdir={HOME}", mark, *settings, *argv)
    child = subprocess.Popen(shell.command(words, terminal=os.isatty(0) and os.isatty(1)))
    try:
        return child.wait()
    except BaseException:
        # With a terminal ssh passes Ctrl-C on. Without one the command would run on in the machine.
        child.terminate()
        shell.run(_END_MARKED.format(mark=mark), _END_SECONDS)
        raise


def _copy(name: str, source: str, target: str) -> None:
    if source.startswith("vm:") == target.startswith("vm:"):
        raise PlaceError("one of FROM and TO must begin with vm:, the other not")
    # A colon after a slash is no host's to scp(1).
    source, target = (side if side.startswith("vm:") else os.path.join(os.getcwd(), side) for side in (source, target))
    machines.shell(name).copy(source, target, seconds=_COPY_SECONDS)


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
            case "build":
                machines.build(_recipe(arguments))
            case "up":
                machines.up(_recipe(arguments), arguments.name)
            case "exec":
                return _execute(arguments.name, tuple(arguments.command))
            case "copy":
                _copy(arguments.name, arguments.source, arguments.target)
            case "down":
                machines.down(arguments.name)
            case "list":
                _list()
            case "test":
                recipes = trials.ALL if arguments.each else (_recipe(arguments),)
                return trials.run(recipes, tuple(rest))
    except PlaceError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
