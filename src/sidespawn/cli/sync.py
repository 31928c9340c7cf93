"""`sidespawn sync`: what the unit runs, by hand."""

from __future__ import annotations

import click

from sidespawn.cli.output import require_enabled, service_argument
from sidespawn.host import sync as host_sync
from sidespawn.system.places import Places


@click.command()
@service_argument
def sync(places: Places) -> int:
    """Serve the requests in the spool of SERVICE now, and exit.

    sidespawn@SERVICE.service does this for each request. A second run waits for the first.
    """
    require_enabled(places)
    return host_sync.main(places.service)
