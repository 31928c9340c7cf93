"""`sidespawn check`: are the policies valid, and what do they allow?"""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from sidespawn import presets
from sidespawn.cli.output import console, enabled_services, json_option, print_json, print_table
from sidespawn.cli.suitability import warnings
from sidespawn.core.policy import Policy, is_service_name
from sidespawn.errors import PolicyError
from sidespawn.host.places import Places
from sidespawn.host.policies import load_policy, policy_of


@click.command()
@click.argument("subjects", metavar="[SERVICE|PRESET|FILE]...", nargs=-1)
@json_option
def check(subjects: tuple[str, ...], as_json: bool) -> int:
    """Validate policies and show at a glance what they allow.

    Without arguments: every policy of this host.
    """
    results = [(subject, *load(subject)) for subject in subjects or enabled_services()]
    if as_json:
        print_json([summary(subject, policy, error) for subject, policy, error in results])
    else:
        for subject, policy, error in results:
            show(subject, policy, error)
        if not results:
            click.echo("no service has a policy on this host; sidespawn enable --help")
    return 78 if any(error for _, _, error in results) else 0


def load(subject: str) -> tuple[Policy | None, PolicyError | None]:
    """A service of this host, as the host would read it; else a preset; else the file of that name."""
    try:
        if is_service_name(subject) and Places(subject).policy.exists():
            return load_policy(Places(subject)), None
        if is_service_name(subject) and subject in presets.names():
            return policy_of(Places(subject), presets.read_preset(subject), source=f"presets/{subject}.toml"), None
        path = Path(subject)
        places = Places(path.stem if is_service_name(path.stem) else "unnamed")
        return policy_of(places, path.read_text(encoding="utf-8"), source=subject), None
    except (OSError, UnicodeDecodeError) as error:
        return None, PolicyError(f"{subject}: no such service, preset or policy file ({error})")
    except PolicyError as error:
        return None, error


def summary(subject: str, policy: Policy | None, error: PolicyError | None) -> dict[str, object]:
    if policy is None:
        message, hint = (error.message, error.hint) if error else ("", "")
        return {"subject": subject, "valid": False, "error": message, "hint": hint}
    return {
        "subject": subject,
        "valid": True,
        "description": policy.description,
        "allows": dict(allows(policy)),
        "options": {name: [pattern.source for pattern in rule.values] for name, rule in policy.options.items()},
        "warnings": warnings(policy),
    }


def allows(policy: Policy) -> list[tuple[str, str]]:
    side_container = policy.side_container
    user = f"{side_container.uid}:{side_container.gid}"
    return [
        ("program", f"{side_container.command} of {side_container.image}, by {side_container.engine}"),
        ("namespace", policy.netns.source),
        ("user", user + (" (root)" if side_container.uid == 0 else "")),
        ("capabilities", " ".join(side_container.capabilities) or "none"),
        ("writable", " ".join(pattern.source for pattern in side_container.mounts) or "nothing"),
        ("readable", " ".join(pattern.source for _, pattern in side_container.reads) or "nothing"),
        ("limits", f"{side_container.limits.memory // 2**20} MiB memory, {side_container.limits.tasks} tasks"),
        ("signals", " ".join(policy.signals) or "none"),
        ("environment", " ".join(policy.environment) or "none"),
        ("options", f"{len(policy.options)} of the {len(policy.table.options)} that {policy.table.program} has"),
    ]


def show(subject: str, policy: Policy | None, error: PolicyError | None) -> None:
    out = console()
    if policy is None:
        assert error is not None  # noqa: S101 - one of the two is there
        out.print(f"[red]invalid[/red] {escape(subject)}: {escape(error.message)}")
        if error.hint:
            out.print(f"  {error.hint}", markup=False)
        return
    out.print(f"[green]valid[/green] [bold]{escape(subject)}[/bold]: {escape(policy.description)}")
    print_table(("  allows", ""), (("  " + name, value) for name, value in allows(policy)), "")
    for note in warnings(policy):
        out.print(f"  [yellow]warning[/yellow] {escape(note)}")
