"""`sidespawn demo`: shows everything on this host, for real, and removes it afterwards."""

from __future__ import annotations

import json
import time

import click

from sidespawn.cli.demo.show import Teller
from sidespawn.cli.demo.stage import AGENT_IMAGE, ENGINES, IMAGE, Stage, remove_what_was_kept, require_host
from sidespawn.cli.demo.stops import Stopped, Stops
from sidespawn.cli.demo.story import KEPT_STEPS, REMOVE, STEPS, Step
from sidespawn.errors import SidespawnError
from sidespawn.testing.commands import Unexpected

FAILED = 70  # as in `sidespawn --help`


@click.command()
@click.option("--image", default=IMAGE, show_default=True, help="Image of the side container.")
@click.option(
    "--engine", type=click.Choice(ENGINES), default=ENGINES[0], show_default=True, help="Engine that starts it."
)
@click.option("--agent-image", default=AGENT_IMAGE, show_default=True, help="Image of the agent container.")
@click.option("--keep", is_flag=True, help="Leave everything running for inspection.")
@click.option("--remove", is_flag=True, help="Only remove what --keep or a killed demo left.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
def demo(image: str, engine: str, agent_image: str, keep: bool, remove: bool, as_json: bool) -> int:
    """Show sidespawn at work on this host.

    Shows an unprivileged agent, its dnsmasq, leases, a crash and a refusal.

    Starts an agent container like Neutron's DHCP agent, and does in it what Neutron does. Uses separate names (service
    demo-dnsmasq), changes nothing else, and removes everything at the end. Needs root, systemd, podman,
    busybox and two images; from a checkout, `./dev demo` installs all of that. Exit code 70 if a step fails.
    """
    if remove:
        remove_what_was_kept()
        click.echo("nothing of the demo is left")
        return 0
    require_host(image, engine, agent_image)
    teller = Teller(as_json=as_json)
    stage = Stage(image=image, engine=engine, agent_image=agent_image)
    began, code = time.monotonic(), 0
    with Stops() as stops:
        try:
            for step in KEPT_STEPS if keep else STEPS:
                code = code or play(step, stage, teller)
        except Stopped as stopped:
            stage.result["stopped"], code = str(stopped), 128 + stopped.signal
        finally:  # even if no one reads the output any more
            stops.hold()
            stage.stop_renewing()
            if not keep:
                code = play(REMOVE, stage, teller) or code
    stage.result |= {"steps": teller.steps, "seconds": round(time.monotonic() - began, 3), "ok": code == 0}
    teller.summary(stage, keep=keep)
    if as_json:
        click.echo(json.dumps(stage.result))
    return code


def play(step: Step, stage: Stage, teller: Teller) -> int:
    """Run a step and report its outcome; return an exit code."""
    with teller.step(step.name, step.title) as outcome:
        try:
            step.act(stage, teller)
            return 0
        except Unexpected as failure:
            outcome.failed(failure.expected, failure.came, failure.look or stage.look)
        except SidespawnError as error:
            outcome.failed("no error", f"{error.message} ({error.reason})", error.hint or stage.look)
        except (OSError, ValueError, KeyError) as error:
            outcome.failed("no error", f"{type(error).__name__}: {error}", stage.look)
    stage.result["error"] = stage.result["error"] or {"step": step.name, **outcome.trouble}
    return FAILED
