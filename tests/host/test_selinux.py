"""SELinux and the domains of docs/selinux.md: what each allows containers is tried on an enforcing kernel.

Every container here has all capabilities, the host's pids, the host's root at /host, and no list of system calls. What
fails in it is denied by SELinux alone, and works in one with the same options and label=disable.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidespawn.testing.agent import AgentContainer
from tests.attacks import inside
from tests.attacks.stage import AGENT_IMAGE
from tests.host import avc, reach, tries
from tests.host.containers import run_inside
from tests.host.test_apparmor_recipe import FIRST, WORK
from tests.host.victims import victims
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Service, command

DOCS = Path(__file__).parents[2] / "docs/selinux.md"
EVERYTHING = (
    *("--cap-add=ALL", "--security-opt=seccomp=unconfined", "--security-opt=unmask=ALL", "--pid=host"),
    *("--network=host", "--volume=/:/host:rw,rslave", "--volume=/run/netns:/run/netns:rshared"),
)
LEVEL = "--security-opt=label=level:s0"
UNCONFINED = ("spc_t", "unconfined_t")  # the first if a service starts podman, the second by hand
DOMAINS = {
    "container_t": (LEVEL,),
    "sidespawn_agent_t": (LEVEL, "--security-opt=label=type:sidespawn_agent_t"),
    "sidespawn_side_container_t": (LEVEL, "--security-opt=label=type:sidespawn_side_container_t"),
}
# Granted to a domain by Debian's policy: container_t is one of Kubernetes' domains, which manage container_var_lib_t.
GIVEN = {"container_t": {"make a file in podman's store"}}
# What it would do to a process of the host, not of a side container.
OF_OTHERS = ("signal", "command line")
REFUSED = ("EACCES", "EPERM")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A service, what `enable` prints for its agents, and the targets."""

    service: Service
    enabled: dict[str, Any]
    given: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Found:
    """For one domain: the result of each attempt, and its audit log."""

    label: str
    became: dict[str, str]
    denials: list[avc.Denial]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    service = new_service()
    service.state.chmod(0o777)  # root in a container without DAC_OVERRIDE writes its results there
    places, secret = service.places, Path("/root") / service.name
    try:
        service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
        enabled = json.loads(command(*SIDESPAWN, "enable", "--json", service.name).stdout)
        secret.write_text("secret\n")
        (wrapper,) = (each["target"] for each in enabled["agent_mounts"] if each["program"])
        with victims(service) as given:
            more = {
                "home": str(places.home), "spool": str(places.spool), "wrapper": wrapper, "policy": str(places.policy),
                "wrapper_on_host": str(service.wrapper), "compiled": str(places.compiled),
                "podman": str(places.podman),
                "syscalls": "/run/sidespawn/agent-seccomp.json", "at_home": str(secret),
            }  # fmt: skip
            yield Ground(service=service, enabled=enabled, given=given | more)
    finally:
        secret.unlink(missing_ok=True)
        service.clean()


def tried(ground: Ground, options: tuple[str, ...]) -> Found:
    service, name, since = ground.service, f"{ground.service.name}-{uuid.uuid4().hex[:4]}", avc.position()
    state = (f"--volume={service.state}:/var/lib/neutron:rw,rprivate",)
    mounts = tuple(each for each in ground.enabled["podman_options"] if each.startswith("--volume="))
    command(
        "podman", "run", "--detach", "--pull=never", f"--name={name}", *EVERYTHING, *options, *state, *mounts,
        AGENT_IMAGE, "sleep", "infinity",
    )  # fmt: skip
    became: dict[str, str] = {}
    try:
        for section in ("ALLOWED", "DENIED"):
            output = ("/var/lib/neutron/found", service.state / "found")
            arguments = (section, json.dumps(ground.given))
            became |= run_inside(name, inside, tries, reach, arguments=arguments, output=output)
            output[1].unlink()
        pid = command("podman", "container", "inspect", "--format={{.State.Pid}}", name).stdout.strip()
        label = Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n")
    finally:
        command("podman", "rm", "--force", "--time=0", name)
    return Found(label=label, became=became, denials=avc.denials(since))


@pytest.fixture(scope="module")
def unconfined(ground: Ground) -> Found:
    return tried(ground, ("--security-opt=label=disable",))


@pytest.fixture(scope="module", params=DOMAINS)
def confined(ground: Ground, request: pytest.FixtureRequest) -> Found:
    found = tried(ground, DOMAINS[request.param])
    assert found.label.split(":")[2:] == [request.param, "s0"]
    return found


def test_what_an_agent_is_for_works_in_each_domain(confined: Found, unconfined: Found) -> None:
    for each in (confined, unconfined):
        assert {name: each.became[name] for name in reach.ALLOWED} == dict.fromkeys(reach.ALLOWED, "worked")


def test_the_hosts_own_is_denied_in_each_domain(confined: Found) -> None:
    given = GIVEN.get(confined.label.split(":")[2], set())
    became = {name: confined.became[name] for name in reach.DENIED}
    assert {name: came for name, came in became.items() if came not in REFUSED} == dict.fromkeys(given, "worked")


def test_all_of_it_works_unconfined(unconfined: Found) -> None:
    assert unconfined.label.split(":")[2] in UNCONFINED
    assert {name: came for name in reach.DENIED if (came := unconfined.became[name]) != "worked"} == {}


def test_the_audit_log_names_who_was_denied_what(confined: Found, unconfined: Found) -> None:
    domain = confined.label.split(":")[2]
    targets = {each.target for each in confined.denials if each.source == domain}
    assert {"sidespawn_runtime_t", "sidespawn_pins_t", "container_ro_file_t"} - targets == set()
    assert [each for each in unconfined.denials if each.source in UNCONFINED] == []


def test_the_docs_name_all_of_it() -> None:
    rows = re.findall(r"^\| ([^|]+) \| SELinux(?:; `(\w+)` may)? \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert [tried for tried, _ in rows] == [*reach.DENIED]
    assert {(domain, tried) for tried, domain in rows if domain} == {(d, each) for d in GIVEN for each in GIVEN[d]}


# ---------------------------------------------------------------- agents and side containers in production form


@contextmanager
def running_agent(service: Service, enabled: dict[str, Any]) -> Iterator[AgentContainer]:
    """Run one with the mounts that `enable` prints and the recipe's capabilities. The host must load kernel modules."""
    command("modprobe", "veth")
    agent = AgentContainer(
        name=f"{service.name}-agent", image=AGENT_IMAGE, state=service.state,
        service_options=tuple(enabled["podman_options"]),
        security_options=tuple(enabled["security_options"]),
    )  # fmt: skip
    agent.start()
    try:
        yield agent
    finally:
        agent.remove()


@pytest.fixture(scope="module")
def agent(ground: Ground) -> Iterator[AgentContainer]:
    with running_agent(ground.service, ground.enabled) as agent:
        yield agent


@pytest.fixture(params=["podman", "systemd"])
def pair(
    ground: Ground, agent: AgentContainer, request: pytest.FixtureRequest
) -> Iterator[tuple[Service, AgentContainer]]:
    """Return a service whose side containers this engine starts, and its agent."""
    if request.param == "podman":
        yield ground.service, agent
        return
    service = new_service(engine=request.param)
    try:
        service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
        enabled = json.loads(command(*SIDESPAWN, "enable", "--json", service.name).stdout)
        with running_agent(service, enabled) as other:
            yield service, other
    finally:
        service.clean()


def test_enable_and_a_dry_run_and_options_name_the_same(ground: Ground) -> None:
    name = ground.service.name
    dry = json.loads(command(*SIDESPAWN, "enable", "--dry-run", "--json", name).stdout)
    options = json.loads(command(*SIDESPAWN, "options", "--json", name).stdout)
    for each in (dry, options):
        assert each["podman_options"] == ground.enabled["podman_options"]
        assert each["security_options"] == ground.enabled["security_options"]
    assert LEVEL in ground.enabled["podman_options"]
    assert "--security-opt=label=type:sidespawn_agent_t" in ground.enabled["security_options"]
    assert command(*SIDESPAWN, "enable", "--dry-run", name).stdout.count(LEVEL) == 1


def test_an_agent_makes_namespaces(agent: AgentContainer) -> None:
    assert FIRST is not None
    label = Path(f"/proc/{agent.pid()}/attr/current").read_text().rstrip("\0\n")
    assert label.split(":")[2:] == ["sidespawn_agent_t", "s0"]
    unique = uuid.uuid4().hex[:8]
    for what, script in WORK.items():
        if what in OF_OTHERS:
            assert agent.exec(("sh", "-c", script)).code != 0
            continue
        filled = script.format(netns=f"test-{unique}", port=f"t{unique}", first=FIRST[1])
        done = agent.exec(("sh", "-c", filled))
        assert done.code == 0, f"{what}: {done.stdout}{done.stderr}"


def test_an_agent_of_container_t_makes_none(ground: Ground, agent: AgentContainer) -> None:
    options = tuple(each for each in agent.options() if "label=type" not in each)
    done = command("podman", "run", "--rm", *options, AGENT_IMAGE, "ip", "netns", "add", "refused", check=False)
    assert done.returncode != 0


def test_its_side_container_has_a_domain_and_no_categories(pair: tuple[Service, AgentContainer]) -> None:
    service, agent = pair
    network, since = service.network(), avc.position()
    done = agent.exec_in(network.netns, f"dnsmasq-{network.id}", ("dnsmasq", *network.options()))
    assert (done.code, done.stderr) == (0, "")
    label = Path(f"/proc/{network.pid}/attr/current").read_text().rstrip("\0\n")
    assert label.split(":")[2:] == ["sidespawn_side_container_t", "s0"]
    pid = str(network.pid)
    agent.exec(("grep", "-q", network.id, f"/proc/{pid}/cmdline"), code=0)
    kill = ("/etc/neutron/kill_scripts/dnsmasq-kill", "9", pid)
    assert agent.exec_in(network.netns, f"dnsmasq-{network.id}", kill).code == 0
    assert [each.row for each in avc.denials(since) if each.source != "sidespawn_agent_t"] == []


def test_everything_that_is_given_to_an_agent_has_no_categories(ground: Ground) -> None:
    for mount in ground.enabled["agent_mounts"]:
        label = command("stat", "--format=%C", mount["source"]).stdout.strip()
        assert label.split(":")[3:] == ["s0"], f"{mount['source']}: {label}"
