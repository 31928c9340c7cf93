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


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("agent", "docker.io/library/agent:latest"),
        ("neutron/agent:2", "quay.io/neutron/agent:2"),
        ("quay.io/neutron/agent", "quay.io/neutron/agent:latest"),
        ("docker://quay.io/neutron/agent:2", "quay.io/neutron/agent:2"),
    ],
)
def test_a_short_name_becomes_that_of_the_container(agents: ModuleType, given: str, full: str) -> None:
    made = agents.creating(["podman", "run", "--name=x", given, given], full, [])
    assert made == ["create", "--name=x", full, given]
    assert agents.lasting(["create", "--name=x", given, given], "x", full) == made


@pytest.mark.parametrize("given", ["agent:3", "ent", "other/agent", "gent:latest"])
def test_another_image_is_no_short_name(agents: ModuleType, given: str) -> None:
    with pytest.raises(agents.AgentError, match="not known"):
        agents.creating(["podman", "run", "--name=x", given], "docker.io/library/agent:latest", [])
    command = ["create", "--name=x", given]
    assert agents.lasting(command, "x", "docker.io/library/agent:latest") == command


def test_values_are_not_taken_for_the_image_or_for_options(agents: ModuleType) -> None:
    words = ["-itv", "/a:/b", "--name", IMAGE, "--hostname", "run", "-eA=1", "-e", "-v=1", "--label", "--rm", "--init"]
    made = agents.creating(["podman", "run", *words, "--", IMAGE, "--rm"], IMAGE, [])
    kept = ["-i", "-t", "-v", "/a:/b", *words[2:]]
    assert made == ["create", *kept, IMAGE, "--rm"]
    assert agents.creating(["podman", *made], IMAGE, []) == made


FLEETING = [
    ("-e", "TOKEN"),
    ("-eTOKEN",),
    ("-iteTOKEN",),
    ("--env", "TOKEN"),
    ("--env=TOKEN",),
    ("--env=OS_*",),
    ("--env-host",),
    ("--env-host=true",),
    ("--env-file=agent.env",),
    ("--env-file", "./agent.env"),
    ("--label-file=labels",),
    ("--cidfile=/run/agent.cid",),
    ("--cidfile", "/run/agent.cid"),
    ("--conmon-pidfile=agent.pid",),
    ("--pidfile", "agent.pid"),
    ("--preserve-fds=1",),
    ("--passwd",),
    ("--passwd=false",),
    ("--rmi=false",),
    ("-v", "./state:/state"),
    ("-v../state:/state",),
    ("--volume=state/a:/state",),
    ("--volume=.:/state:ro",),
    ("--volume", "~/state:/state"),
    ("--mount=type=bind,src=state,dst=/state",),
    ("--mount", "type=bind,source=./state,target=/state"),
    ("--security-opt=seccomp=profile.json",),
    ("--security-opt", "seccomp=./profile.json"),
]
LASTING = [
    ("-e", "TOKEN=1"),
    ("--env=TOKEN=",),
    ("--env-host=false",),
    ("--env-file=/etc/agent.env",),
    ("--conmon-pidfile=/run/agent.pid",),
    ("-v", "state:/state"),
    ("-v", "/state"),
    ("--volume=/srv/./state:/state",),
    ("--mount=type=volume,src=state,dst=/state",),
    ("--mount=type=tmpfs,dst=/state",),
    ("--security-opt=seccomp=unconfined",),
    ("--security-opt=seccomp=/etc/profile.json",),
    ("--security-opt=label=disable",),
    ("--label", "--env-host"),
]


@pytest.mark.parametrize("options", FLEETING)
def test_what_would_not_last_is_refused(agents: ModuleType, options: tuple[str, ...]) -> None:
    with pytest.raises(agents.AgentError, match="would not last"):
        agents.lasting(["create", "--name=x", *options, IMAGE, "agent"], "x", IMAGE)


@pytest.mark.parametrize("options", LASTING)
def test_what_lasts_stays(agents: ModuleType, options: tuple[str, ...]) -> None:
    command = ["create", "--name", "x", *options, IMAGE, "agent", "--env-host", "-e", "TOKEN"]
    assert agents.lasting(command, "x", IMAGE) == command


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([], "begin with create"),
        (["run", "--name=x", IMAGE], "begin with create"),
        (["create", "--name=x"], "no image"),
        (["create", IMAGE], "--name=x"),
        (["create", "--name=y", IMAGE], "--name=x"),
        (["create", "--name=x", "--name=y", IMAGE], "--name=x"),
        (["create", IMAGE, "--name=x"], "--name=x"),
    ],
)
def test_a_command_of_another_container_is_refused(agents: ModuleType, command: list[str], said: str) -> None:
    with pytest.raises(agents.AgentError, match=said):
        agents.lasting(command, "x", IMAGE)


@pytest.mark.parametrize("start", [("run",), ("container", "create"), ("--log-level=debug", "run")])
def test_proxies_of_the_process_that_created_it(agents: ModuleType, start: tuple[str, ...]) -> None:
    words = ["podman", *start, "--name=x", "--env=http_proxy=http://a", "-e", "NO_PROXY=b", IMAGE]
    environment = ["PATH=/bin", "http_proxy=http://a", "HTTPS_PROXY=http://c", "NO_PROXY=b"]
    assert agents.from_environment(words, environment) == ["HTTPS_PROXY"]
    assert agents.from_environment(words, environment[:2]) == []


def test_files_that_a_command_needs(agents: ModuleType) -> None:
    words = [
        "-v",
        "/a:/b:ro",
        "--volume=named:/c",
        "-v",
        "/anonymous",
        "--env-file",
        "/e",
        "--pidfile=/written",
        OURS[1],
    ]
    mount = "--mount=type=bind,src=/d,dst=/d"
    command = ["create", *words, mount, image_option(IMAGE), IMAGE, "-v", "/no:/no"]
    assert agents.sources(command) == ["/a", "/w", "/d", "/e"]


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
