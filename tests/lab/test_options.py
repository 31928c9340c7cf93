"""podman and docker do what `sidespawn options` prints: the mounts exist, and are really read-only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest

from sidespawn.testing.agent import CAPABILITIES
from tests.lab import dockers
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Service, command

AGENT = "localhost/sidespawn-agent:latest"
WHERE = "{{range .Mounts}}{{println .Destination .RW .Propagation}}{{end}}"


@pytest.fixture
def of_one_agent() -> Iterator[list[Service]]:
    """Enable two services that share a kill script."""
    made = [new_service(program) for program in ("conntrackd", "keepalived")]
    for each in made:
        each.enable(f"--preset=neutron-l3-{each.program}", f"--set=state_on_host={made[0].state}")
    yield made
    for each in made:
        each.clean()


@pytest.mark.parametrize(
    ("engine", "ready"),
    [("podman", nullcontext), ("docker", lambda: dockers.running_docker(AGENT))],
    ids=["podman", "docker"],
)
def test_an_engine_takes_the_options(
    of_one_agent: list[Service], engine: str, ready: Callable[[], AbstractContextManager[None]]
) -> None:
    names = [each.name for each in of_one_agent]
    printed = command(*SIDESPAWN, "options", *names, f"--print={engine}").stdout.splitlines()
    assert len(printed) == len(set(printed))
    container = f"{names[0]}-agent"
    capabilities = [f"--cap-add={each}" for each in CAPABILITIES]
    call = (engine, "run", "--detach", f"--name={container}", "--network=none", *capabilities, *printed)
    with ready():
        try:
            command(*call, AGENT, "sleep", "600")
            mounts = command(engine, "inspect", f"--format={WHERE}", container).stdout.split("\n")
            writable = [each.split()[0] for each in mounts if each.endswith(" true rprivate")]
            assert sorted(writable) == sorted(str(each.places.spool) for each in of_one_agent)
            assert all(each.endswith(" rprivate") for each in mounts if each)
            for path in ("/usr/sbin/keepalived", "/etc/neutron/kill_scripts/default-service-kill"):
                write = command(engine, "exec", container, "sh", "-c", f"echo x >> {path}", check=False)
                assert write.returncode != 0
                assert "Read-only file system" in write.stderr
            touch = (engine, "exec", container, "touch", f"{of_one_agent[0].places.spool}/processes")
            command(*touch)
        finally:
            command(engine, "rm", "--force", container, check=False)


def test_docker_makes_no_directory_where_a_source_is_missing(service: Service) -> None:
    printed = command(*SIDESPAWN, "options", service.name, "--print=docker").stdout.splitlines()
    printed = [each for each in printed if not each.startswith("--security-opt=")]  # its file is missing, too
    service.disable()
    with dockers.running_docker(AGENT):
        name = f"{service.name}-agent"
        done = command("docker", "run", "--rm", f"--name={name}", *printed, AGENT, "true", check=False)
        command("docker", "rm", "--force", name, check=False)
    assert done.returncode != 0
    assert "does not exist" in done.stderr
    assert not service.places.home.exists()


def test_json_has_the_same_in_parts(of_one_agent: list[Service]) -> None:
    names = [each.name for each in of_one_agent]
    printed = command(*SIDESPAWN, "options", *names, "--print=podman").stdout.splitlines()
    told = json.loads(command(*SIDESPAWN, "options", *names, "--json").stdout)
    assert told["services"] == sorted(names)
    assert told["units"] == [f"sidespawn-spool@{name}.service" for name in sorted(names)]
    assert printed == told["podman_options"] + told["security_options"]
    assert {each["propagation"] for each in told["agent_mounts"]} == {"rprivate"}
    assert sorted(each["program"] for each in told["agent_mounts"] if each["program"]) == ["conntrackd", "keepalived"]


def test_enable_prints_nothing_else(service: Service) -> None:
    done = command(*SIDESPAWN, "enable", service.name, "--print=podman")
    assert done.stdout == command(*SIDESPAWN, "options", service.name).stdout
    assert "--version" in done.stderr
    assert ".real" in done.stderr
