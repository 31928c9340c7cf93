"""`sidespawn disable`: nothing of a service is left."""

from __future__ import annotations

import click

from sidespawn.cli import systemd
from sidespawn.cli.enable import is_ours
from sidespawn.cli.output import json_option, print_json, service_argument
from sidespawn.engines import get_engine
from sidespawn.engines.control_groups import slice_name
from sidespawn.errors import PolicyError
from sidespawn.host.places import POLICIES, Places
from sidespawn.host.policies import load_policy


@click.command()
@service_argument
@click.option("--purge", is_flag=True, help="Remove the policy even if it was changed by hand.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
def disable(places: Places, purge: bool, dry_run: bool, as_json: bool) -> None:
    """Stop SERVICE and its side containers, and remove its units, mounts and directories.

    Without --purge a policy that was changed by hand stays in /etc/sidespawn.
    """
    engine = get_engine(engine_name(places))
    containers = [each.name for each in engine.list(places.service)]
    keeps_policy = not purge and places.policy.exists() and not is_ours(places.policy.read_text(encoding="utf-8"))
    result: dict[str, object] = {
        "service": places.service,
        "side_containers": containers,
        "policy_kept": str(places.policy) if keeps_policy else None,
        "dry_run": dry_run,
    }
    if not dry_run:
        systemd.require_systemd()
        if places.home.is_dir() or is_installed(places):
            # The path before the service, so that nothing starts it again.
            systemd.systemctl("disable", "--now", *systemd.units(places.service))
            systemd.systemctl("stop", *systemd.all_units(places.service))
        containers = [each.name for each in engine.list(places.service)]
        for name in containers:
            engine.remove(name)
        engine.reap(places.service)
        systemd.systemctl("stop", slice_name(places.service))
        if not keeps_policy:
            places.policy.unlink(missing_ok=True)
            if POLICIES.is_dir() and not any(POLICIES.iterdir()):
                POLICIES.rmdir()
        result["units_removed"] = systemd.remove_templates()
    if as_json:
        print_json(result)
        return
    verb = "would be" if dry_run else "is"
    click.echo(f"{places.service} {verb} disabled; side containers ended: {', '.join(containers) or 'none'}")
    if keeps_policy:
        click.echo(f"  {places.policy} was changed by hand and stays; --purge removes it")


def engine_name(places: Places) -> str:
    """Also when the policy is broken or gone: disabling must always work."""
    try:
        return load_policy(places).side_container.engine
    except PolicyError:
        return "podman"


def is_installed(places: Places) -> bool:
    return any(systemd.INSTALLED.glob(f"*.wants/sidespawn@{places.service}.*"))
