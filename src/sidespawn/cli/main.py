"""`sidespawn`: reads the verb, runs it, and turns every error into one line and an exit code."""

from __future__ import annotations

import json
import os
import re
import sys

import click

from sidespawn import __version__
from sidespawn.cli.verbs import USAGE, Unfinished, Verbs, did_you_mean
from sidespawn.errors import Denied, PolicyError, Reason, SidespawnError

UNAVAILABLE, FAILED, NO_ANSWER, REFUSED, INVALID = 69, 70, 75, 77, 78  # sysexits.h(3head)
INTERRUPTED, BROKEN_PIPE = 130, 141  # as a shell reports SIGINT and SIGPIPE

# Each verb with its module, which is imported only when the verb is used.
SECTIONS = {
    "Set up": {"enable": "enable", "options": "options", "agent-options": "agent_options", "disable": "disable"},
    "Look": {name: name for name in ("ps", "top", "logs", "check", "doctor", "scan", "metrics")},
    "Act": {"stop": "signal", "signal": "signal", "sync": "sync"},
    "Write policies": {"presets": "presets", "explain": "explain", "learn": "learn"},
    "Try": {"demo": "demo"},
}


@click.group(
    cls=Verbs, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="sidespawn")
def cli() -> None:
    """Privileged helper processes for containers, started on the host by policy.

    An agent container gets one writable directory. A wrapper in place of the helper program writes a request there. The
    host checks it against the service's policy and starts exactly the allowed program as a side container, which
    outlives the agent.

    Exit codes: 0 done, 1 a policy's test case failed or `scan` or `doctor` found something, 2 they could not check
    everything, 64 wrong use, 69 not enabled or host unsuitable, 70 failed, 75 no answer in time, 77 refused by policy,
    78 the policy is invalid, 130 interrupted, 141 the reader of a pipe left.
    """


def exit_code(error: SidespawnError) -> int:
    if isinstance(error, PolicyError):
        return INVALID
    if isinstance(error, Denied):
        return REFUSED
    codes = {
        Reason.EXPIRED: NO_ANSWER,
        Reason.USAGE: USAGE,
        Reason.NOT_ENABLED: UNAVAILABLE,
        Reason.HOST_UNSUITABLE: UNAVAILABLE,
    }
    return codes.get(error.reason, FAILED)


def report(error: SidespawnError, *, as_json: bool) -> int:
    """Print an error as one line and a hint, and return its exit code."""
    return report_unfinished(Unfinished([], [error]), as_json=as_json)


def report_unfinished(work: Unfinished, *, as_json: bool) -> int:
    """Print each error in that form, and return the exit code of the first. JSON has the first, and what was done."""
    first = work.failed[0]
    if as_json:
        found: dict[str, object] = {"error": {"reason": first.reason, "message": first.message, "hint": first.hint}}
        print(json.dumps(found | ({"done": work.done} if work.done else {})))
    for message, reason, hint in dict.fromkeys((each.message, each.reason, each.hint) for each in work.failed):
        click.echo(f"sidespawn: {message} ({reason})", err=True)
        if hint:
            click.echo(f"  {hint}", err=True)
    return exit_code(first)


def of_usage(error: click.ClickException) -> SidespawnError:
    """Return the usage error in the common form, without click's own."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    verb = next((each for each in sys.argv[1:2] if each in cli.commands), "")  # click gives no context for all errors
    see = f"see: {context.command_path if context else f'sidespawn {verb}'.rstrip()} --help"
    if isinstance(error, click.NoSuchOption) and context is not None:
        known = [name for each in context.command.get_params(context) for name in (*each.opts, *each.secondary_opts)]
        hint = did_you_mean(error.option_name, known, otherwise=see)
        return SidespawnError(Reason.USAGE, f"no such option: {context.command_path} {error.option_name}", hint)
    message = readable(error.format_message().rstrip("."))
    return SidespawnError(Reason.USAGE, message[:1].lower() + message[1:], see)


def readable(message: str) -> str:
    """Return click's message with a range and extra arguments in words."""
    message = re.sub(r"is not in the range ([\d.]+)<=x<=([\d.]+)$", r"is not between \1 and \2", message)
    message = re.sub(r"is not in the range x>=([\d.]+)$", r"is less than \1", message)
    return re.sub(r"^Got unexpected extra (arguments?) \((.*)\)$", r"unexpected \1: \2", message)


def of_system(error: OSError) -> SidespawnError:
    """Return the system's error, with the file instead of a number."""
    said = (error.strerror or str(error)).lower()
    what = f"{error.filename}: {said}" if error.filename else said
    if isinstance(error, PermissionError):
        return SidespawnError(Reason.HOST_UNSUITABLE, what, "run it as root")
    return SidespawnError(Reason.INTERNAL, what, "sidespawn check says what is wrong with this host")


def main() -> None:
    as_json = "--json" in sys.argv[1 : sys.argv.index("--") if "--" in sys.argv else None]
    try:
        code = cli.main(prog_name="sidespawn", standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(code)
    except SidespawnError as error:
        sys.exit(report(error, as_json=as_json))
    except Unfinished as work:
        sys.exit(report_unfinished(work, as_json=as_json))
    except click.ClickException as error:
        sys.exit(report(of_usage(error), as_json=as_json))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has seen enough, as in `sidespawn logs … | head`. Python would complain at its end. What verbs
        # print themselves, click looks after.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        sys.exit(report(of_system(error), as_json=as_json))


if __name__ == "__main__":
    main()
