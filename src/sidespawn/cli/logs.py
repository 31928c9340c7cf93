"""`sidespawn logs`: decisions and the output of side containers, from the journal."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress

import click

from sidespawn.cli.output import json_option, printable, service_argument
from sidespawn.core.adoption import names_of
from sidespawn.core.pattern import render_first
from sidespawn.core.plan import container_name
from sidespawn.engines.control_groups import slice_name
from sidespawn.engines.kubernetes import NAMESPACE
from sidespawn.errors import PolicyError, Reason, SidespawnError
from sidespawn.host.policies import load_policy
from sidespawn.host_report.journal import JOURNALCTL
from sidespawn.host_report.kubernetes import setting
from sidespawn.service_report.journal import BY_ROOT, require_journalctl
from sidespawn.system.places import Places
from sidespawn.system.processes import last_line, run

JOURNAL_SECONDS = 120
PODS = "/var/log/pods"  # where kubelet stores output, unless its configuration says otherwise


@click.command()
@service_argument
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Keep printing new records.")
@click.option(
    "-n", "--lines", type=click.IntRange(1), default=100, show_default=True, help="Number of newest records to print."
)
@click.option("--since", help="A time as journalctl takes it: '10 min ago', 'today'.")
@click.option("--refused", is_flag=True, help="Show only requests that were rejected, limited, failed or expired.")
@json_option
def logs(
    places: Places, name: str | None, follow: bool, lines: int, since: str | None, refused: bool, as_json: bool
) -> None:
    """Show verdicts of SERVICE, and its side containers' output.

    With NAME, show only the side container of that name.
    """
    if not places.home.is_dir():
        click.echo(f"{places.service} is not enabled; its earlier records, if any:", err=True)
    require_journalctl()
    if writes_files(places):
        place = f"{setting('podLogsDir') or PODS}, in {NAMESPACE}_*/program/0.log"
        click.echo(f"their output is in {place}, and shown by kubectl logs; the rest is here", err=True)
    matching = matches(places, name, refused)
    command = [JOURNALCTL, "--no-pager", "--quiet", *newest(lines, since, matching)]
    command += ["--output=json"] if as_json else ["--output=short-iso"]
    if follow:
        command.append("--follow")
    command += matching
    if as_json:
        os.execv(JOURNALCTL, command)
    # journalctl shows text with terminal controls as a blob, but not text with direction overrides or odd line ends.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        with suppress(KeyboardInterrupt):
            for line in process.stdout:
                click.echo(printable(line.removesuffix("\n").expandtabs()))
    raise SystemExit(max(process.returncode, 0))


def writes_files(places: Places) -> bool:
    """Return whether kubelet stores the output of the service's side containers."""
    with suppress(PolicyError):
        return load_policy(places).side_container.engine == "kubernetes"
    return False


def newest(lines: int, since: str | None, matching: list[str]) -> list[str]:
    """Return journalctl's options for the last `lines` records that match, none of them older than `since`.

    Together with --since, --lines counts from the oldest in some versions (252) and from the newest in others, but with
    --reverse always from the newest. So --reverse finds the first record.
    """
    if since is None:
        return [f"--lines={lines}"]
    command = (JOURNALCTL, "--no-pager", "--quiet", "--reverse", f"--lines={lines}", f"--since={since}")
    fields = ("--output=json", "--output-fields=MESSAGE_ID")  # the cursor is included with any fields
    done = run((*command, *fields, *matching), JOURNAL_SECONDS)
    if done.code != 0:
        raise SidespawnError(
            Reason.USAGE,
            f"journalctl: {last_line(done.stderr)}",
            "--since takes a time as journalctl does: '10 min ago'",
        )
    records = done.stdout.splitlines()
    return ["--no-tail", f"--cursor={json.loads(records[-1])['__CURSOR']}" if records else f"--since={since}"]


def instance_of(places: Places, name: str) -> str:
    """Return the instance of a container, also if it has a name from legacy wrappers."""
    with suppress(PolicyError):
        policy = load_policy(places)
        bindings = policy.adopt and names_of(policy, policy.adopt, name)
        if bindings:
            return render_first(policy.instance, bindings) or name
    return name.removeprefix(container_name(places.service, ""))


def matches(places: Places, name: str | None, refused: bool) -> list[str]:
    """Return journalctl(1)'s matches: different fields must all match; equal ones are alternatives, as are + parts."""
    if refused:
        events = ("rejected", "failed", "expired", "unreadable", "limited", "internal")
        return [BY_ROOT, f"SIDESPAWN_SERVICE={places.service}", *(f"SIDESPAWN_EVENT={event}" for event in events)]
    if name is not None:
        own = f"SIDESPAWN_SERVICE={places.service}"
        instance = instance_of(places, name)
        containers = dict.fromkeys((container_name(places.service, instance), name))
        # podman and docker write it, or a systemd unit, whose program has another user.
        writers = (BY_ROOT, f"_SYSTEMD_SLICE={slice_name(places.service)}")
        outputs = [("+", writer, f"CONTAINER_NAME={each}") for writer in writers for each in containers]
        return [BY_ROOT, own, f"SIDESPAWN_INSTANCE={instance}", *(match for output in outputs for match in output)]
    by_slice, by_label = f"_SYSTEMD_SLICE={slice_name(places.service)}", f"IO_SIDESPAWN_SERVICE={places.service}"
    # docker writes for its containers.
    return [BY_ROOT, f"SIDESPAWN_SERVICE={places.service}", "+", by_slice, "+", BY_ROOT, by_label]
