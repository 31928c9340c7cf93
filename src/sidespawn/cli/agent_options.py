"""`sidespawn agent-options`: the container of an agent that is contained without a security module."""

from __future__ import annotations

import click

from sidespawn.cli.output import complete_service, json_option, print_json, require_enabled, to_all_places
from sidespawn.host.policies import load_policy
from sidespawn.recipes import containers
from sidespawn.recipes.containers import Agent, Mount
from sidespawn.setup.agent_options import AgentOptions, mounts_of, options_of, podman_options, security_options
from sidespawn.system.places import Places

USER = "42435"  # neutron in Kolla's images


def to_user(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, int]:
    uid, colon, gid = value.partition(":")
    numbers = [each for each in (uid, gid if colon else uid) if each.isascii() and each.isdecimal() and len(each) <= 9]
    if len(numbers) != 2:
        raise click.BadParameter(
            "must be UID or UID:GID, as numbers: names on the host may differ from those in the image"
        )
    if "0" in {each.lstrip("0") or "0" for each in numbers}:
        raise click.BadParameter("root is not contained without a security module; see docs/agents.md")
    return int(numbers[0]), int(numbers[1])


@click.command("agent-options")
@click.argument("services", metavar="[SERVICE]...", nargs=-1, callback=to_all_places, shell_complete=complete_service)
@click.option(
    "--for", "engine", type=click.Choice(containers.ENGINES), default="podman", show_default=True,
    help="What runs the agent.",
)  # fmt: skip
@click.option(
    "--agent", "kind", type=click.Choice(tuple(containers.CAPABILITIES)), default="dhcp", show_default=True,
    help="The kind of Neutron agent, which selects the capabilities.",
)  # fmt: skip
@click.option(
    "--user", default=USER, show_default=True, metavar="UID[:GID]", callback=to_user,
    help="User and group of the agent.",
)  # fmt: skip
@json_option
def agent_options(services: tuple[Places, ...], engine: str, kind: str, user: tuple[int, int], as_json: bool) -> None:
    """Print options that confine an agent, with its mounts.

    The recipe confines an agent that makes network namespaces, even on a host without a security module. The agent
    runs as a user other than root, with ambient capabilities, a strict list of system calls, and without the host's
    pids. Such an agent uses sidespawn's process manager for Neutron or its client, not wrappers.
    """
    for each in services:
        require_enabled(each)
    agent = Agent(
        uid=user[0],
        gid=user[1],
        capabilities=containers.CAPABILITIES[kind],
        mounts=tuple(mount for each in services for mount in asking(each)),
        more=tuple(security_modules_of(options_of(()))),
        name=containers.NAMES[kind],
    )
    made = containers.recipe(agent, engine)
    made["notes"] += [
        f"set spool_uid = {agent.uid} under [agent] in {each.policy}, then run `sidespawn enable {each.service}`:"
        " the spool belongs to another user"
        for each in services
        if load_policy(each).agent.spool_uid != agent.uid
    ]
    if as_json:
        print_json(made)
    else:
        click.echo(containers.shown(made))


def security_modules_of(options: AgentOptions) -> list[str]:
    """Return the options without the list of system calls, which the recipe replaces."""
    return [each for each in (*podman_options(options), *security_options(options)) if "seccomp=" not in each]


def asking(places: Places) -> list[Mount]:
    """Return what a client or the process manager needs of a service: its spool and its replies, and no wrapper."""
    return [
        Mount(source=each.source, target=each.target, writable=each.writable)
        for each in mounts_of(places, load_policy(places))
        if each.target in {str(places.spool), str(places.replies)}
    ]
