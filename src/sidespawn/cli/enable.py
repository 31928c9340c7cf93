"""`sidespawn enable`: policy, directories and units for a service."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace

import click
from rich.markup import escape

from sidespawn.authoring.served_namespaces import served_namespaces
from sidespawn.cli import syntaxes
from sidespawn.cli.output import console, json_option, print_json, service_argument
from sidespawn.cli.presets import complete_preset, parameters_of_preset, require_preset
from sidespawn.core.policy import Policy
from sidespawn.engines import systemd_roots
from sidespawn.errors import LaunchError, PolicyError, Reason, SidespawnError
from sidespawn.host.directories import IMAGE_IN_AGENT
from sidespawn.host.policies import policy_of
from sidespawn.host_report.suitability import host_findings, policy_warnings
from sidespawn.loading.parse import ENGINES, MODES
from sidespawn.setup import accounts, changes, coverage, hardening, security_modules, selinux, systemd
from sidespawn.setup.agent_options import (
    AgentOptions,
    image_option,
    options_beside_others,
    podman_options,
    security_options,
)
from sidespawn.setup.written_policies import Written, is_ours, marked, read_written, with_mode
from sidespawn.system.files import POLICY_BYTES, directory, read_trusted, write_whole
from sidespawn.system.places import POLICIES, Places

BY_HAND = "edit it and run `sidespawn enable` without options, or remove it; only --mode can be changed this way"


@click.command()
@service_argument
@click.option(
    "--preset",
    help="The preset to extend; see `sidespawn presets`. Default: the service's name.",
    shell_complete=complete_preset,
)
@click.option("--image", help="Image of the side containers.")
@click.option("--engine", type=click.Choice(ENGINES), help="Engine that starts the side containers.")
@click.option("--mode", type=click.Choice(MODES), help="Refuse what the policy does not allow, or only report it.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a parameter of the preset. Repeatable."
)
@click.option(
    "--policy",
    "file",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Make FILE the policy instead of the existing one. `-` reads standard input.",
)
@click.option(
    "--agent-release", default="", metavar="RELEASE", help="The agent's Neutron release, such as 26.0.6 or 2025.1."
)
@click.option("--uncovered", is_flag=True, help="Enable the service even if calls of this release may be refused.")
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@syntaxes.print_option
@syntaxes.image_option
@json_option
def enable(
    places: Places,
    preset: str | None,
    image: str | None,
    engine: str | None,
    mode: str | None,
    settings: tuple[str, ...],
    file: str | None,
    agent_release: str,
    uncovered: bool,
    dry_run: bool,
    syntax: str | None,
    agent_image: str,
    as_json: bool,
) -> None:
    """Enable SERVICE for an agent container.

    Writes /etc/sidespawn/SERVICE.toml, makes the service's directories, starts its units, and prints the mounts for the
    agent. If the policy exists, options change only what they name: without any, it is used unchanged. Run it again to
    apply a changed policy, or with --policy to replace it. For an agent with several services, see `sidespawn options`.
    """
    syntaxes.require_one_form(syntax, as_json=as_json)
    if file is None:
        text, is_new = policy_text(places, preset, image, engine, mode, settings)
        policy = policy_of(places, text)
    elif preset or image or engine or mode or settings:
        raise click.UsageError("--policy excludes --preset, --image, --engine, --mode and --set: FILE says all of it")
    else:
        text, is_new = given_text(file), True
        policy = policy_of(places, text, name_of(file))
    gaps = coverage.problems(policy, agent_release, agent_image)
    if not uncovered:
        coverage.require(policy, gaps)
    failed = []
    pending = changes.pending(places, policy, text if is_new else None)
    if not dry_run:
        systemd.require_systemd()
        failed = security_modules.install()  # before the agent's options are chosen
    notes = [*policy_warnings(policy), *gaps, *failed]
    has_module = selinux.is_installed() or (dry_run and selinux.is_installable())
    options = options_beside_others(places, policy, image=agent_image, has_module=has_module)
    result = {
        "service": places.service,
        "policy": str(places.policy),
        "namespaces": served_namespaces(policy),
        "units": [*enabled_units(policy), *systemd.started_units(places.service)],
        "agent_mounts": [each.as_json() for each in options.mounts],
        "podman_options": podman_options(options),
        "security_options": security_options(options),
        "warnings": notes,
        "changed": bool(pending),
        "diff": [asdict(each) for each in pending],
        "dry_run": dry_run,
    }
    if not dry_run:
        apply(places, policy, text if is_new else None)
    notes += [each.sentence for each in host_findings(policy)]  # of the current units
    if as_json:
        print_json(result)
    elif syntax is not None:
        syntaxes.show(options, syntax, notes)
    else:
        show(places, policy, options, notes, dry_run=dry_run)
        if dry_run:
            click.echo(f"  would change: {', '.join(each.what for each in pending) or 'nothing'}")


def policy_text(
    places: Places,
    preset: str | None,
    image: str | None,
    engine: str | None,
    mode: str | None,
    settings: tuple[str, ...],
) -> tuple[str, bool]:
    """Return the policy to use, and whether it must be written. What no option gives stays as in the present one."""
    given = Written(preset=preset, mode=mode, engine=engine, parameters=parameters_of(image, settings))
    asked = preset or image or engine or mode or settings
    if places.policy.exists():
        present = read_trusted(places.policy)
        if not asked:
            return present, False
        if not is_ours(present):
            if given != Written(mode=mode):
                raise SidespawnError(Reason.USAGE, f"{places.policy} exists and was changed by hand", BY_HAND)
            return text_with_mode(places, present, str(mode)), True
        given = kept(given, read_written(str(places.policy), present))
    require_preset(given.preset or places.service)
    return written_text(places.service, given), True


def parameters_of(image: str | None, settings: tuple[str, ...]) -> dict[str, str]:
    parameters = dict(setting(each) for each in settings)
    return parameters if image is None else {**parameters, "image": image}


def kept(given: Written, present: Written) -> Written:
    """Return what is given over what there is, without the parameters that another preset does not have."""
    whole = given.over(present)
    if whole.preset in (None, present.preset):
        return whole
    known = {*parameters_of_preset(str(whole.preset)), *given.parameters}
    return replace(whole, parameters={name: whole.parameters[name] for name in whole.parameters if name in known})


def text_with_mode(places: Places, present: str, mode: str) -> str:
    """Return a policy that is not ours with another mode, and otherwise as it is."""
    if policy_of(places, present).is_monitor is (mode == "monitor"):
        return present
    text = with_mode(str(places.policy), present, mode)
    if text is None:
        raise SidespawnError(
            Reason.USAGE, f"{places.policy}: no line sets the mode alone", f'set mode = "{mode}" there'
        )
    return text


def written_text(service: str, what: Written) -> str:
    lines = [f'extends = "{what.preset or service}"', *([f'mode = "{what.mode}"'] if what.mode else [])]
    lines += ["", "[parameters]", *(f"{name} = {toml(value)}" for name, value in what.parameters.items())]
    if what.engine is not None:
        lines += ["", "[side_container]", f'engine = "{what.engine}"']
    return marked("\n".join(lines) + "\n")


def given_text(file: str) -> str:
    """Return the text of a policy that the operator gives. Raises PolicyError."""
    try:
        with click.open_file(file, encoding="utf-8") as opened:
            text: str = opened.read(POLICY_BYTES + 1)
    except UnicodeDecodeError:
        raise PolicyError(f"{name_of(file)} cannot be read: it is not UTF-8") from None
    except OSError as error:
        raise PolicyError(f"{name_of(file)} cannot be read: {str(error.strerror).lower()}") from None
    if len(text.encode()) > POLICY_BYTES:
        raise PolicyError(f"{name_of(file)} cannot be read: it is larger than {POLICY_BYTES} bytes")
    return text


def name_of(file: str) -> str:
    """Return the file's name for messages."""
    return "standard input" if file == "-" else file


def setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.replace("_", "").isalnum():
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
    return name, value


def toml(value: str) -> str:
    if value.isdecimal():
        return value
    if '"' in value or "\\" in value or not value.isprintable():
        raise click.BadParameter(f"{value!r} cannot be a parameter", param_hint="--set")
    return f'"{value}"'


def apply(places: Places, policy: Policy, text: str | None) -> None:
    if text is not None and any(each.before != each.after for each in changes.of_policy(places.policy, text)):
        POLICIES.mkdir(mode=0o755, exist_ok=True)
        with directory(POLICIES) as held:  # in one step, since a run may read it now
            write_whole(held, places.policy.name, text.encode(), mode=0o644)
    if policy.side_container.engine == "systemd":
        accounts.make(policy.side_container.uid, policy.side_container.gid)
    is_changed = hardening.install(policy) | bool(systemd.install_templates())
    if is_changed:
        systemd.systemctl("daemon-reload")
    systemd.renew_podman(places.service, is_changed=is_changed)
    spool_unit = f"sidespawn-spool@{places.service}.service"
    # Forced, since the links may lead to files of another installation; see systemd.py.
    wanted = enabled_units(policy)
    systemd.systemctl("enable", "--force", *wanted)
    if systemd.wakes_by_path(places.service) and not policy.agent.wakes_by_path:
        systemd.systemctl("disable", "--now", systemd.path_unit(places.service))
    if places.home.is_dir():
        systemd.systemctl("reload", spool_unit)  # a second run: the wrappers may have changed
    systemd.systemctl("start", spool_unit, *wanted)
    if not places.operators_doorbell.exists():  # the socket unit runs with an earlier version's settings
        systemd.systemctl("restart", f"sidespawn@{places.service}.socket")
    if hardening.engine_of(policy) != "podman":  # an earlier policy may have used it
        systemd.stop_podman(places.service)
    if policy.side_container.engine == "systemd":
        with suppress(LaunchError):  # a warning was printed; the first request tries again
            systemd_roots.prepare(places.service, policy.side_container.image, refresh=True)


def enabled_units(policy: Policy) -> tuple[str, ...]:
    path = (systemd.path_unit(policy.service),) if policy.agent.wakes_by_path else ()
    return (*systemd.units(policy.service), *path)


def show(places: Places, policy: Policy, options: AgentOptions, notes: list[str], *, dry_run: bool) -> None:
    out = console()
    verb = "would be enabled" if dry_run else "is enabled"
    out.print(f"[bold]{places.service}[/bold] {verb}: {escape(policy.description)}")
    out.print(f"  policy   {places.policy}  (what it allows: sidespawn check {places.service})")
    out.print(f"  units    {' '.join(enabled_units(policy))}")
    out.print("  options for the agent's container:")
    for option in podman_options(options):
        out.print(f"    {option}", markup=False)
    if options.answers_itself and not options.has_image_mount:
        out.print(f"  for calls that the agent answers itself, its own image at {IMAGE_IN_AGENT}:")
        out.print(f"    {image_option('AGENT-IMAGE')}", markup=False)
    out.print(
        "  what the agent itself needs, such as --volume=/run/netns:/run/netns:rw,rshared and --pid=host for Neutron"
    )
    if security := security_options(options):
        out.print("  if the agent creates namespaces:")
        for option in security:
            out.print(f"    {option}", markup=False)
    out.print("  restart running agents to pick up these mounts")
    for note in notes:
        out.print(f"  [yellow]warning[/yellow] {escape(note)}")
