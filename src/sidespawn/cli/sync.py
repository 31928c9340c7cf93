"""`sidespawn sync`: what the unit runs, by hand."""

from __future__ import annotations

import click

from sidespawn.cli.output import require_enabled, service_argument
from sidespawn.host import sync as host_sync
from sidespawn.system.places import Places


@click.command()
@service_argument
def sync(places: Places) -> int:
    """Serve what is in the spool of SERVICE now, and end.

    The unit sidespawn@SERVICE.service does this whenever there is something; a second run waits for the first.
    """
    require_enabled(places)
    return host_sync.main(places.service)
