"""The command line: python3 -m vm up|exec|copy|down|list.

Exit codes: 0 done, 1 the machine failed, 2 wrong use; of exec, the command's own.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from lab.places import PlaceError
from vm import machines
from vm.machine import HOME
from vm.recipes import Module, Release

_HANDED_ON = "SIDESPAWN_"
_KEPT_HERE = ("SIDESPAWN_VM_CACHE",)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vm", description="Real machines for tests, in QEMU.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="default", help="which machine (default: %(default)s)")
    kind = argparse.ArgumentParser(add_help=False)
    kind.add_argument("--release", choices=tuple(Release), default=Release.TRIXIE, help="default: %(default)s")
    kind.add_argument("--module", choices=tuple(Module), default=Module.APPARMOR, help="default: %(default)s")
    verbs.add_parser("up", parents=[named, kind], help="boot it with this checkout, unless it runs")
    run = verbs.add_parser("exec", parents=[named], help="run a command in it")
    run.add_argument("command", nargs="+", metavar="CMD")
    copy = verbs.add_parser("copy", parents=[named], help="copy files; the machine's begin with vm:")
    copy.add_argument("source", metavar="FROM")
    copy.add_argument("target", metavar="TO")
    verbs.add_parser("down", parents=[named], help="end it and remove what it wrote")
    verbs.add_parser("list", help="show the machines and whether they run")
    return parser


def _execute(name: str, argv: tuple[str, ...]) -> NoReturn:
    """Becomes ssh(1): its exit code, standard streams and terminal are this process's."""
    _, shell = machines.running(name)
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
    _, shell = machines.running(name)
    shell.copy(source, target, seconds=3600)


def _list() -> None:
    for name, record in machines.listed():
        if record is not None:
            state = f"pid {record.pid}" if record.process().alive() else "dead"
            print(f"{name}\t{state}\t{record.release}\t{record.module}\t{record.checkout}")


def _end(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def main() -> int:
    """Does what the arguments say."""
    arguments = _parser().parse_args()
    # As exceptions they end what was started on their way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        machines.remove_stale()
        match arguments.verb:
            case "up":
                machines.up(machines.recipe_of(arguments.release, arguments.module), arguments.name)
            case "exec":
                _execute(arguments.name, tuple(arguments.command))
            case "copy":
                _copy(arguments.name, arguments.source, arguments.target)
            case "down":
                machines.down(arguments.name)
            case "list":
                _list()
    except PlaceError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
