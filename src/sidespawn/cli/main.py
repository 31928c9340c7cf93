"""`sidespawn`: reads the verb, runs it, and turns every error into one line and an exit code."""

from __future__ import annotations

import json
import sys

import click

from sidespawn import __version__
from sidespawn.cli.check import check
from sidespawn.cli.contained import agent_options
from sidespawn.cli.demo import demo
from sidespawn.cli.disable import disable
from sidespawn.cli.doctor import doctor
from sidespawn.cli.enable import enable
from sidespawn.cli.explain import explain
from sidespawn.cli.learn import learn
from sidespawn.cli.logs import logs
from sidespawn.cli.metrics import metrics
from sidespawn.cli.options import options
from sidespawn.cli.ps import ps
from sidespawn.cli.scan import scan
from sidespawn.cli.signal import signal, stop
from sidespawn.cli.sync import sync
from sidespawn.errors import Denied, PolicyError, Reason, SidespawnError

USAGE, UNAVAILABLE, FAILED, NO_ANSWER, REFUSED, INVALID = 64, 69, 70, 75, 77, 78  # sysexits.h(3head)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sidespawn")
def cli() -> None:
    """Privileged helper processes for containers, started on the host by policy.

    An agent container gets one writable directory. A wrapper in the place of the helper program writes a request into
    it; the host checks the request against the service's policy and starts exactly the allowed program as a side
    container, which outlives the agent.

    Exit codes: 0 done, 1 a policy's test case failed or `scan` or `doctor` found something, 2 they could not look,
    64 wrong use, 69 not enabled or host unsuitable, 70 failed, 75 no answer in time, 77 refused by policy, 78 the
    policy is invalid.
    """


VERBS = (
    enable, options, agent_options, disable, check, doctor, scan, explain, learn, ps, logs, metrics, signal, stop, sync,
    demo,
)  # fmt: skip
for verb in VERBS:
    cli.add_command(verb)


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


def main() -> None:
    as_json = "--json" in sys.argv[1 : sys.argv.index("--") if "--" in sys.argv else None]
    try:
        sys.exit(cli.main(prog_name="sidespawn", standalone_mode=False) or 0)
    except SidespawnError as error:
        if as_json:
            print(json.dumps({"error": {"reason": error.reason, "message": error.message, "hint": error.hint}}))
        click.echo(f"sidespawn: {error.message} ({error.reason})", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        sys.exit(exit_code(error))
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except PermissionError as error:
        click.echo(f"sidespawn: {error.filename}: permission denied; this needs root", err=True)
        sys.exit(UNAVAILABLE)


if __name__ == "__main__":
    main()
