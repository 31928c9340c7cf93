"""`sidespawn options`: the container options that an agent needs for its services."""

from __future__ import annotations

import click

from sidespawn.cli import syntaxes
from sidespawn.cli.output import complete_service, hint_at_services, json_option, print_json, to_all_places
from sidespawn.errors import Reason, SidespawnError
from sidespawn.host.policies import load_policy
from sidespawn.setup.agent_options import options_of, podman_options, security_options
from sidespawn.system.places import Places


@click.command()
@click.argument(
    "agents_services",
    metavar="SERVICE...",
    nargs=-1,
    required=True,
    callback=to_all_places,
    shell_complete=complete_service,
)
@syntaxes.print_option
@syntaxes.image_option
@json_option
def options(agents_services: tuple[Places, ...], syntax: str | None, agent_image: str, as_json: bool) -> None:
    """Print the container options for an agent with these services.

    Changes nothing. Prints shared options once, and refuses services of different agents. The default syntax is
    podman's.
    """
    syntaxes.require_one_form(syntax, as_json=as_json)
    for places in agents_services:
        if not places.policy.exists():
            message = f"service {places.service} has no policy on this host"
            raise SidespawnError(Reason.NOT_ENABLED, message, hint_at_services(places.service))
    found = options_of(map(load_policy, agents_services), image=agent_image)
    if not as_json:
        syntaxes.show(found, syntax or "podman")
        return
    print_json(
        {
            "services": found.services,
            "units": found.units,
            "agent_mounts": [each.as_json() for each in found.mounts],
            "podman_options": podman_options(found),
            "security_options": security_options(found),
        }
    )
