"""How the Ansible collection builds the command for an agent's container from that of the previous one."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from sidespawn.loading.parse import ENGINES
from sidespawn.setup.agent_options import image_option

COLLECTION = Path(__file__).parents[2] / "integrations/ansible"
SOURCE = COLLECTION / "plugins/module_utils/agents.py"
IMAGE = "registry.example.org/neutron-dhcp-agent:1"
OURS = [
    "--volume=/run/sidespawn/s/spool:/run/sidespawn/s/spool:rw,rprivate",
    "--volume=/w:/usr/sbin/dnsmasq:ro,rprivate",
]
IMAGE_MOUNT = image_option(IMAGE)  # the text that `sidespawn options --agent-image` prints


@pytest.fixture(scope="module")
def agents() -> ModuleType:
    specification = importlib.util.spec_from_file_location("ansible_agents", SOURCE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def creating(agents: ModuleType, *options: str, verb: str = "run", adds: tuple[str, ...] = (IMAGE_MOUNT,)) -> list[str]:
    """Return the remaining options."""
    command = ["podman", verb, "--name=x", *options, IMAGE, "agent", "-v", "/run/podman/podman.sock:/of/its/own"]
    made: list[str] = agents.creating(command, IMAGE, OURS)
    assert made[:2] == ["create", "--name=x"]
    end = [*OURS, *adds, IMAGE, "agent", "-v", "/run/podman/podman.sock:/of/its/own"]
    assert made[-len(end) :] == end
    return made[2 : -len(end)]


@pytest.mark.parametrize(
    "options",
    [
        ("-v", "/run/podman/podman.sock:/run/podman/podman.sock"),
        ("-v/var/run/docker.sock:/var/run/docker.sock:ro",),
        ("--volume", "/run/podman:/run/podman"),
        ("--volume=/var/lib/containers:/var/lib/containers",),
        ("--volume=/var/lib/docker/volumes:/x",),
        ("--mount=type=bind,src=/run/docker.sock,target=/run/docker.sock",),
        ("--mount", "type=bind,source=/run/crio/crio.sock,dst=/x"),
        ("--volume=/var/lib/neutron/dnsmasq_wrapper:/usr/local/bin/dnsmasq:ro",),
        ("--volume=/var/lib/neutron/kill_scripts:/etc/neutron/kill_scripts:shared,z",),
        ("-v", "/elsewhere:/usr/sbin/dnsmasq/:ro"),  # sidespawn's takes that place
        ("--mount=type=bind,source=/elsewhere,target=/usr/sbin/dnsmasq",),
        ("-d",),
        ("--detach", "--rm"),
    ],
)
def test_left_out(agents: ModuleType, options: tuple[str, ...]) -> None:
    assert creating(agents, "--pid", "host", *options, "--privileged") == ["--pid", "host", "--privileged"]


@pytest.mark.parametrize(
    "options",
    [
        ("-v", "/run/netns:/run/netns:shared"),
        ("--volume=/var/lib/containers-of-mine:/x",),
        ("--volume=/var/lib/neutron:/var/lib/neutron:shared",),
        ("--volume=neutron:/var/lib/neutron",),
        ("--volume=/run/openvswitch:/run/openvswitch",),
        ("--volumes-from=other",),
        ("--mount=type=image,src=image,dst=/elsewhere",),
        ("--env=NAME=--privileged",),
    ],
)
@pytest.mark.parametrize("verb", ["run", "create"])
def test_kept(agents: ModuleType, options: tuple[str, ...], verb: str) -> None:
    assert creating(agents, *options, verb=verb) == list(options)


@pytest.mark.parametrize(
    "options",
    [
        ("--mount=type=image,src=image,dst=/run/sidespawn/image",),
        ("--mount", "type=image,src=image,dst=/run/sidespawn/image/"),
        ("-v", "/srv/image:/run/sidespawn/image:ro"),
    ],
)
def test_an_image_that_is_mounted_already_stays(agents: ModuleType, options: tuple[str, ...]) -> None:
    assert creating(agents, *options, adds=()) == list(options)


def test_a_command_that_was_made_before_is_made_again(agents: ModuleType) -> None:
    made = agents.creating(["podman", "run", "--name=x", "-d", "-v/srv:/srv", IMAGE, "agent"], IMAGE, OURS)
    assert agents.creating(["/usr/bin/podman", *made], IMAGE, OURS) == made


def test_a_container_that_gets_no_options_gets_no_image(agents: ModuleType) -> None:
    assert agents.creating(["podman", "run", "--name=x", IMAGE], IMAGE, []) == ["create", "--name=x", IMAGE]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([], "not known"),
        (["podman", "run", "--name=x", "another-image"], "not known"),
        (["podman", "start", IMAGE], "not known"),
        (["podman", "run", "-v", "/run:/run", IMAGE], "all of /run"),
        (["podman", "run", "--volume=/var/run/:/host/run:ro", IMAGE], "all of /run"),
    ],
)
def test_a_command_that_cannot_be_told_is_refused(agents: ModuleType, command: list[str], said: str) -> None:
    with pytest.raises(agents.AgentError, match=said):
        agents.creating(command, IMAGE, OURS)


RUNNING = {"Status": "running", "StartedAt": "2026-11-30T16:00:00Z", "ExitCode": 0}
STARTED_AGAIN = {**RUNNING, "StartedAt": "2026-11-30T16:00:09Z"}
ENDED = {**RUNNING, "Status": "exited", "ExitCode": 3}


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ([(0, RUNNING)], "has not run for 10 seconds"),
        ([(0, RUNNING), (9.5, RUNNING)], "has not run for 10 seconds"),
        ([(0, RUNNING), (10, RUNNING)], ""),
        ([(0, RUNNING), (9, STARTED_AGAIN), (10, STARTED_AGAIN)], "has not run for 10 seconds"),
        ([(0, RUNNING), (9, STARTED_AGAIN), (19, STARTED_AGAIN)], ""),
        ([(0, RUNNING), (10, ENDED)], "is exited, with exit code 3"),
        ([(0, RUNNING), (5, ENDED), (10, RUNNING)], "has not run for 10 seconds"),
        ([(0, RUNNING), (5, None), (10, RUNNING)], "has not run for 10 seconds"),
        ([(0, {**RUNNING, "Status": "created"}), (10, {**RUNNING, "Status": "created"})], "is created"),
        ([(10, None)], "is not known"),
    ],
)
def test_an_agent_is_steady_if_it_runs_without_a_restart(
    agents: ModuleType, looks: list[tuple[float, dict[str, object] | None]], said: str
) -> None:
    steadiness = agents.Steadiness(10)
    found = [steadiness.lacks(state, now) for now, state in looks]
    assert (found[-1].startswith(said) and bool(said)) or found[-1] == said
    assert all(found[:-1])


@pytest.mark.parametrize(
    "path",
    ["plugins/modules/service.py", *(f"roles/{role}/meta/argument_specs.yml" for role in ("service", "migrate"))],
)
def test_a_service_may_have_every_engine(path: str) -> None:
    lists = re.findall(r"choices\W+(podman\b[^\]]*)\]", (COLLECTION / path).read_text(encoding="utf-8"))
    assert lists
    assert [set(re.findall(r"\w+", each)) for each in lists] == [set(ENGINES)] * len(lists)
