"""`sidespawn disable`: removes everything of a service."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from sidespawn.cli.output import json_option, print_json, service_argument
from sidespawn.core.policy import Policy
from sidespawn.engines import Engine, get_engine, systemd_roots
from sidespawn.engines.control_groups import slice_name, slice_path
from sidespawn.engines.podman import PODMAN
from sidespawn.errors import LaunchError
from sidespawn.host import directories
from sidespawn.host_report.engines import DOCKER_PID
from sidespawn.loading.parse import ENGINES
from sidespawn.setup import accounts, hardening, security_modules, systemd
from sidespawn.setup.services import policy_or_none, services_with_policy
from sidespawn.setup.written_policies import is_ours
from sidespawn.system.places import POLICIES, Places


@click.command()
@service_argument
@click.option("--purge", is_flag=True, help="Remove the policy even if it was changed by hand.")
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@json_option
def disable(places: Places, purge: bool, dry_run: bool, as_json: bool) -> None:
    """Stop SERVICE and remove what `enable` made.

    Ends its side containers and removes its units, mounts and directories.

    Keeps a policy in /etc/sidespawn that was changed by hand, unless --purge is given.
    """
    policy = policy_or_none(places)  # disabling must always work
    containers = [name for _, name in side_containers(places, policy)]
    keeps_policy = not purge and places.policy.exists() and not is_ours(places.policy.read_text(encoding="utf-8"))
    result: dict[str, Any] = {
        "service": places.service,
        "side_containers": containers,
        "policy_kept": str(places.policy) if keeps_policy else None,
        "changed": bool(containers) or is_there(places, keeps_policy=keeps_policy),
        "dry_run": dry_run,
    }
    if not dry_run:
        systemd.require_systemd()
        if places.home.is_dir() or is_installed(places):
            # First the units that start the service, then the service itself.
            path = (systemd.path_unit(places.service),) if systemd.wakes_by_path(places.service) else ()
            systemd.systemctl("disable", "--now", *path, *systemd.units(places.service))
            systemd.systemctl("stop", f"sidespawn@{places.service}.service")
            end_starts(places, policy)
            systemd_roots.release_all(places.service)
            systemd.systemctl("stop", *systemd.all_units(places.service))
            systemd.stop_podman(places.service)
            systemd.reset_failed(*systemd.all_units(places.service))
            directories.remove(places)  # units of an earlier version do so in their own mount namespace, or leave files
        containers = end_side_containers(places, policy)
        systemd.systemctl("stop", slice_name(places.service))
        systemd.forget_failed_scopes(slice_name(places.service))
        if not keeps_policy:
            places.policy.unlink(missing_ok=True)
            if POLICIES.is_dir() and not any(POLICIES.iterdir()):
                POLICIES.rmdir()
        result["accounts_removed"] = remove_accounts(places, policy)
        changed = hardening.remove(places.service)
        result["units_removed"] = []
        if not systemd.is_any_enabled():
            result["units_removed"] = systemd.remove_templates()
            result["stays"] = security_modules.remove()
        if changed or result["units_removed"]:
            systemd.systemctl("daemon-reload")
    if as_json:
        print_json(result)
        return
    verb, which = ("would be", "to end") if dry_run else ("is", "ended")
    click.echo(f"{places.service} {verb} disabled; side containers {which}: {', '.join(containers) or 'none'}")
    for each in result.get("stays", ()):
        click.echo(f"  {each}")
    if keeps_policy:
        click.echo(f"  {places.policy} was changed by hand and is kept; --purge removes it")


def engine_name(policy: Policy | None) -> str:
    """Return the engine that must answer. Without a policy that is podman, and none if it is not installed."""
    if policy is not None:
        return policy.side_container.engine
    return "podman" if Path(PODMAN).exists() else ""


def end_starts(places: Places, policy: Policy | None) -> None:
    """End starts, which need their pins. Retry an engine that does not answer once they are gone."""
    name = engine_name(policy)
    if name not in ("", "podman"):  # a start of the service's podman ends with it
        with suppress(LaunchError):
            get_engine(name, places.service).reap(places.service)


def end_side_containers(places: Places, policy: Policy | None) -> list[str]:
    found = side_containers(places, policy)
    for engine, name in found:
        engine.remove(name)
    if own := engine_name(policy):
        get_engine(own, places.service).reap(places.service)
    return [name for _, name in found]


def side_containers(places: Places, policy: Policy | None) -> list[tuple[Engine, str]]:
    """Return side containers with their engines: an earlier policy may have named another one."""
    found = []
    for name in ENGINES:
        if name == "docker" != engine_name(policy) and not docker_may_have_any(places.service):
            continue  # asking would start docker
        engine = get_engine(name, places.service)
        try:
            found += [(engine, each.name) for each in engine.list(places.service)]
        except LaunchError:
            if name == engine_name(policy):
                raise  # the others may be missing
    return found


def docker_may_have_any(service: str) -> bool:
    """Return whether docker may still have some: with live-restore, containers outlive its daemon."""
    return DOCKER_PID.exists() or any(slice_path(service).glob("docker-*.scope"))


def remove_accounts(places: Places, policy: Policy | None) -> list[str]:
    """Remove accounts that were made for this service and that no other service needs."""
    mine = numbers(policy)
    for other in services_with_policy():
        if other != places.service and mine & numbers(policy_or_none(Places(other))):
            return []
    return [] if policy is None or not mine else accounts.remove(policy.side_container.uid, policy.side_container.gid)


def numbers(policy: Policy | None) -> set[int]:
    """Return the ids that need accounts; root's has one."""
    if policy is None or policy.side_container.engine != "systemd":
        return set()
    return {policy.side_container.uid, policy.side_container.gid} - {0}


def is_there(places: Places, *, keeps_policy: bool) -> bool:
    """Return whether anything of the service is left to remove."""
    removes_policy = places.policy.exists() and not keeps_policy
    has_drop_in = any(path.exists() for path in hardening.files(places.service))
    return removes_policy or has_drop_in or places.home.is_dir() or is_installed(places)


def is_installed(places: Places) -> bool:
    return any(systemd.INSTALLED.glob(f"*.wants/sidespawn@{places.service}.*"))
