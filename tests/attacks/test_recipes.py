"""Every escape of an agent with SYS_ADMIN, tried with each recipe for its container, without a security module.

The table in docs/agents.md shows the results; SIDESPAWN_WRITE_TABLE=1 rewrites it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidespawn.testing.agent import NEUTRON, namespaces_of_a_group
from tests.attacks import inside, recipe_tries
from tests.attacks.catalogue import attack
from tests.attacks.contained_engines import by_docker, by_quadlet
from tests.attacks.stage import AGENT_IMAGE, STATE, Hostile
from tests.host import tries
from tests.host.containers import run_inside
from tests.host.victims import heard, victims
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, command

DOCS = Path(__file__).parents[2] / "docs/agents.md"
TABLE = re.compile(r"(?<=<!-- made by tests/attacks/test_recipes.py -->\n\n).*?(?=\n<!-- end -->)", re.DOTALL)
ROOT, LISTED, CONTAINED = "root, podman's list", "root, `agent-seccomp.json`", "`agent-options`"
DOCKER, QUADLET = f"{CONTAINED} with docker", f"{CONTAINED} with Quadlet"
UEVENT = "forge a uevent"
MODULES = (inside, tries, recipe_tries)
Found = dict[str, dict[str, str]]  # by recipe and name: "worked", or why not


@pytest.fixture(scope="module")
def found() -> Iterator[Found]:
    service = new_service()
    try:
        service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
        enabled = json.loads(command(*SIDESPAWN, "enable", "--json", service.name).stdout)
        seccomp = tuple(each for each in enabled["security_options"] if "seccomp=" in each)
        common: dict[str, Any] = {
            "image": AGENT_IMAGE, "state": service.state, "service_options": tuple(enabled["podman_options"]),
        }  # fmt: skip
        with victims(service) as given, namespaces_of_a_group():
            more = (AGENT_IMAGE, (*common["service_options"], f"--volume={service.state}:{STATE}:rw,rprivate"))
            yield {
                ROOT: tried(Hostile(name=f"{service.name}-root", **common), given),
                LISTED: tried(Hostile(name=f"{service.name}-listed", security_options=seccomp, **common), given),
                CONTAINED: tried(Hostile(name=f"{service.name}-contained", contained=True, **common), given),
                DOCKER: heard_of(given, lambda: by_docker(*more, given, *MODULES)),
                QUADLET: heard_of(given, lambda: by_quadlet(*more, given, *MODULES)),
            }
    finally:
        service.clean()


def tried(agent: Hostile, given: dict[str, Any]) -> dict[str, str]:
    # As the container was started: podman's other forms of a non-root user give no capabilities.
    user = f"{NEUTRON}:{NEUTRON}" if agent.contained else "0"
    agent.start()
    try:
        return heard_of(given, lambda: run_inside(agent.name, *MODULES, arguments=(json.dumps(given),), user=user))
    finally:
        agent.remove()


def heard_of(given: dict[str, Any], work: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Uevents count as forged only if the host received them."""
    with heard(given["uevent"]) as uevents:
        made = work()
    if made[UEVENT] == "worked" and not uevents:
        made[UEVENT] = "nobody heard it"
    return made


@attack(
    150, 151, 152, 153, 154, 155, 156, 157, 158, 159, 160, 161, 162, 163, 164, 165, 166, 167,
    168, 169, 170, 171, 172, 173, 174, 175, 251, 252, 253,
)  # fmt: skip
@pytest.mark.parametrize("recipe", [CONTAINED, DOCKER, QUADLET])
def test_the_contained_agent_reaches_nothing(found: Found, recipe: str) -> None:
    worked = {name for name, said in found[recipe].items() if said == "worked"}
    assert worked == POSSIBLE, {name: found[recipe][name] for name in worked ^ POSSIBLE}


# docs/agents.md says so, and what to do.
POSSIBLE = {"show a setuid program of its image to the host's users"}


def test_the_attacks_are_real(found: Found) -> None:
    """Attacks that fail everywhere prove nothing about a recipe. Those few are known."""
    never = {name for name in names() if all(each[name] != "worked" for each in found.values())}
    assert never == NEVER.keys(), {name: found[ROOT][name] for name in never ^ NEVER.keys()}


def test_the_docs_say_what_became_of_each(found: Found) -> None:
    text = DOCS.read_text(encoding="utf-8")
    if os.environ.get("SIDESPAWN_WRITE_TABLE"):
        text = TABLE.sub(lambda _: table(found), text)
        DOCS.write_text(text, encoding="utf-8")
    shown = TABLE.search(text)
    assert shown is not None
    assert shown[0] == table(found)


# What this kernel, its configuration or the engine also refuses to root with SYS_ADMIN.
READ_ONLY_SYSFS = "the lab's sysfs is read-only; tests/host tries it on a machine"
OF_THE_KERNEL = "this kernel has none"
OF_THE_LIST = "podman's own list refuses it"
OF_CAPABILITIES = "it takes a capability that the recipe never had"
NEVER = {
    "mount a fresh sysfs": READ_ONLY_SYSFS,
    "remount /sys": READ_ONLY_SYSFS,
    "write there after unmounting it": READ_ONLY_SYSFS,
    "write there when its mount namespace has ended": READ_ONLY_SYSFS,
    "write sysrq-trigger there": OF_THE_KERNEL,
    "open a socket of another family, such as AF_ALG": OF_THE_KERNEL,
    "open one of AF_KEY": OF_THE_KERNEL,
    "open one of AF_TIPC": OF_THE_KERNEL,
    "io_uring": OF_THE_KERNEL,
    "ask the audit": OF_THE_KERNEL,
    "have the host swap to a file": OF_THE_LIST,
    "move its memory to another node": OF_THE_LIST,
    "userfaultfd": OF_THE_LIST,
    "open a file by its handle": OF_CAPABILITIES,
    "enter its mount namespace": OF_CAPABILITIES,
    "read the kernel's log": OF_CAPABILITIES,
    "leave a setuid file owned by root in the state directory": "root without DAC_OVERRIDE cannot write there",
    "make a device node there": "root without DAC_OVERRIDE cannot write there",
    "read root's keyring": "the lab's root has another session",
    "freeze its control group": "the control group's path is not the container's",
}


def names() -> list[str]:
    return [name for works in recipe_tries.KINDS.values() for name in works]


def table(found: Found) -> str:
    lines = [f"| | tried | {' | '.join(found)} |", f"| --- | --- | {' | '.join('---' for _ in found)} |"]
    for number, works in recipe_tries.KINDS.items():
        for name in works:
            held = "held" if name not in NEVER else "held, always"
            cells = ("**succeeded**" if each[name] == "worked" else held for each in found.values())
            lines.append(f"| {number} | {recipe_tries.SHOWN.get(name, name)} | {' | '.join(cells)} |")
    totals = (f"{sum(said == 'worked' for said in each.values())} of {len(each)}" for each in found.values())
    lines.append(f"| | **succeeded** | {' | '.join(totals)} |")
    return "\n".join(lines) + "\n"
