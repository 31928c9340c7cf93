"""The module that replaces an agent's container, on what a podman that was killed has left."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import Ansible
from tests.lab.networks import command, command_lines, wait_until

IMAGE = "localhost/sidespawn-agent:latest"
STORAGE = Path("/var/lib/containers/storage/overlay-containers/containers.json")
# With another directory for its own records, podman shares no more than the storage.
ANOTHER_PODMAN = '[engine]\nstatic_dir = "{0}/static"\ntmp_dir = "{0}/tmp"\n'


@dataclass(frozen=True)
class Agent:
    """A container that stands for an agent's."""

    name: str
    seconds: str  # how long it sleeps, which tells its processes from others
    home: Path

    @property
    def former(self) -> str:
        return f"{self.name}-before-sidespawn"

    @property
    def options(self) -> tuple[str, ...]:
        return (f"--name={self.name}", "--network=host", "--pid=host", IMAGE)

    def create(self, *program: str) -> str:
        created = command("podman", "create", *self.options, *(program or ("sleep", self.seconds)))
        return created.stdout.strip()

    def inspect(self, name: str = "") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(command("podman", "container", "inspect", name or self.name).stdout)[0]
        return found

    def status(self, name: str = "") -> str:
        return str(self.inspect(name)["State"]["Status"])

    def processes(self) -> int:
        return sum(line.rstrip() == f"sleep {self.seconds}" for line in command_lines().values())


@pytest.fixture
def make_agent(tmp_path: Path) -> Iterator[Callable[[], Agent]]:
    made: list[Agent] = []

    def make() -> Agent:
        seconds = str(10**6 + uuid.uuid4().int % 10**8)
        made.append(Agent(f"test-{uuid.uuid4().hex[:8]}", seconds, tmp_path))
        return made[-1]

    yield make
    names = [name for each in made for name in (each.name, each.former)]
    command("podman", "rm", "--force", "--time=0", "--ignore", *names)


def play(ansible: Ansible, state: str, agents: list[Agent]) -> None:
    """Also says beforehand what it then does."""
    tasks = [
        {"name": each.name, "sidespawn.host.agent": {"name": each.name, "state": state, "stop_timeout": 1}}
        for each in agents
    ]
    dry = ansible.play(tasks, "--check").results
    ran = ansible.play(tasks).results
    assert {name: each["steps"] for name, each in ran.items()} == {name: each["steps"] for name, each in dry.items()}
    assert all(each["changed"] for each in ran.values())


def runtime() -> Path:
    """Where the OCI runtime keeps what it knows of containers."""
    path = command("podman", "info", "--format={{.Host.OCIRuntime.Name}}").stdout.strip()
    return Path("/run") / path


def killed_before_podman_knows(agent: Agent) -> None:
    """The OCI runtime has the container."""
    known = runtime() / agent.inspect()["Id"]
    for _ in range(20):
        process = subprocess.Popen(("podman", "start", agent.name), stderr=subprocess.DEVNULL)
        while not known.exists():
            assert process.poll() is None
        process.kill()
        process.wait()
        if agent.status() == "created":
            return
        command("podman", "stop", "--time=0", agent.name)  # it was too late
    pytest.fail("it was never killed in time")


def killed_after_it_was_started(agent: Agent) -> None:
    command("podman", "init", agent.name)
    command(runtime().name, "start", agent.inspect()["Id"])
    assert agent.status() == "initialized"
    wait_until(lambda: agent.processes() == 1)


def killed_while_it_was_stopped(agent: Agent) -> None:
    command("podman", "start", agent.name)
    wait_until(lambda: agent.processes() == 1)
    process = subprocess.Popen(("podman", "stop", "--time=60", agent.name))
    wait_until(lambda: agent.status() == "stopping")
    process.kill()
    process.wait()


def forgotten_storage(agent: Agent) -> None:
    """Of a container with the agent's name, which podman's own records do not have."""
    configuration = agent.home / "containers.conf"
    configuration.write_text(ANOTHER_PODMAN.format(agent.home))
    command("env", f"CONTAINERS_CONF={configuration}", "podman", "create", *agent.options, "true")
    assert command("podman", "create", *agent.options, "true", check=False).returncode != 0


def storage_not_renamed(agent: Agent) -> None:
    rows = json.loads(STORAGE.read_text())
    (row,) = (each for each in rows if each.get("names") == [agent.former])
    row["names"] = [agent.name]
    STORAGE.write_text(json.dumps(rows))
    assert command("podman", "create", *agent.options, "true", check=False).returncode != 0


def test_an_agent_is_replaced_whatever_a_podman_that_was_killed_has_left(
    ansible: Ansible, make_agent: Callable[[], Agent]
) -> None:
    formers: dict[Agent, str] = {}

    def prepare(leave: Callable[[Agent], None], *, renamed: bool, created: bool = False) -> None:
        agent = make_agent()
        stubborn = ("sh", "-c", f"trap '' TERM; while :; do sleep {agent.seconds}; done")
        formers[agent] = agent.create(*(stubborn if leave is killed_while_it_was_stopped else ()))
        if renamed:
            command("podman", "rename", agent.name, agent.former)
        if created:
            agent.create()
        leave(agent)

    prepare(killed_before_podman_knows, renamed=True, created=True)
    prepare(killed_after_it_was_started, renamed=True, created=True)
    prepare(killed_after_it_was_started, renamed=False)
    prepare(killed_while_it_was_stopped, renamed=False)
    prepare(forgotten_storage, renamed=True)
    prepare(storage_not_renamed, renamed=True)
    play(ansible, "replaced", list(formers))
    for agent, former in formers.items():
        assert agent.status() == "running"
        assert agent.inspect(agent.former)["Id"] == former
        assert agent.status(agent.former) in ("created", "exited")
        wait_until(lambda each=agent: each.processes() == 1)  # type: ignore[misc]


def test_the_former_agent_comes_back_whatever_a_podman_that_was_killed_has_left(
    ansible: Ansible, make_agent: Callable[[], Agent]
) -> None:
    formers: dict[Agent, str] = {}
    for leave in (killed_before_podman_knows, killed_after_it_was_started):
        agent = make_agent()
        formers[agent] = agent.create()
        leave(agent)
    play(ansible, "restored", list(formers))
    for agent, former in formers.items():
        assert (agent.inspect()["Id"], agent.status()) == (former, "running")
        wait_until(lambda each=agent: each.processes() == 1)  # type: ignore[misc]


@pytest.mark.parametrize("step", ["stop", "rm", "create", None])
def test_an_agent_whose_options_change_is_created_again(
    ansible: Ansible, make_agent: Callable[[], Agent], step: str | None
) -> None:
    agent = make_agent()
    former = agent.create()
    play(ansible, "replaced", [agent])
    before = agent.inspect()["Id"]
    options = {"name": agent.name, "options": ["--env=NEW=1"], "stop_timeout": 1}
    tasks = [{"name": "it", "sidespawn.host.agent": options}]
    if step is None:
        dry = ansible.play(tasks, "--check", "--diff").results["it"]
        assert agent.inspect()["Id"] == before
        real = ansible.play(tasks, "--diff").results["it"]
        steps = [f"stop {agent.name}", f"remove {agent.name}", f"create {agent.name}", f"start {agent.name}"]
        assert dry["steps"] == real["steps"] == steps
        assert dry["diff"] == real["diff"]
        assert "--env=NEW=1" not in real["diff"]["before"].splitlines()
        assert "--env=NEW=1" in real["diff"]["after"].splitlines()
    else:
        ansible.interrupt_after(step, tasks, {})
        assert ansible.play(tasks).changed == {"it": True}
    made = agent.inspect()
    assert "NEW=1" in made["Config"]["Env"]
    assert (agent.status(), agent.inspect(agent.former)["Id"]) == ("running", former)
    wait_until(lambda: agent.processes() == 1)
    assert ansible.play(tasks, "--check").changed == ansible.play(tasks).changed == {"it": False}
    assert agent.inspect()["Id"] == made["Id"]


@pytest.fixture
def restarter() -> Iterator[None]:
    """Have podman's unit start containers at boot, as on Debian."""
    command("systemctl", "enable", "podman-restart.service")
    yield
    command("systemctl", "disable", "podman-restart.service")


@pytest.mark.usefixtures("restarter")
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--rm", "podman removes {} when it stops"),
        ("--label=PODMAN_SYSTEMD_UNIT=agent.service", "agent.service creates {} at each start"),
        # Debian 12's podman cannot change it.
        ("--restart=always", "podman-restart.service would start the former agent at the next boot"),
        ("--env=HOME", "--env=HOME would not last"),
    ],
)
def test_an_agent_that_could_not_be_kept_is_not_stopped(
    ansible: Ansible, make_agent: Callable[[], Agent], option: str, said: str
) -> None:
    agent = make_agent()
    command("podman", "run", "--detach", option, *agent.options, "sleep", agent.seconds)
    before = agent.inspect()["Id"]
    tasks = [{"name": "it", "sidespawn.host.agent": {"name": agent.name}}]
    for options in (("--check",), ()):
        ran = ansible.play(tasks, *options, check=False)
        assert ran.code != 0
        assert said.format(agent.name) in ran.results["it"]["msg"]
        assert ran.results["it"]["steps"] == []
        assert (agent.inspect()["Id"], agent.status(), agent.processes()) == (before, "running", 1)


# A podman that can change restart policies, as 5.1 can: it writes down what it is told, and says so when asked.
UPDATING = """\
#!/bin/sh
case "$1 $2" in
"update --help") echo '      --restart string   Restart policy' ;;
update*) echo "$@" >> "$UPDATES" ;;
"container inspect")
    if grep -qs -- "=no $3\\$" "$UPDATES" && /usr/bin/podman container exists "$3"; then
        /usr/bin/podman "$@" | sed '/RestartPolicy/,/}/s/"always"/"no"/'
    else
        exec /usr/bin/podman "$@"
    fi ;;
*) exec /usr/bin/podman "$@" ;;
esac
"""


def test_what_starts_at_boot_is_the_new_agent_and_then_the_former_one(
    ansible: Ansible, make_agent: Callable[[], Agent], tmp_path: Path
) -> None:
    agent, updates, mounted = make_agent(), tmp_path / "updates", tmp_path / "state"
    mounted.mkdir()
    script = tmp_path / "podman"
    script.write_text(UPDATING)
    script.chmod(0o755)
    given = {"name": agent.name, "services": ["one", "two"], "stop_timeout": 1, "record": f"{tmp_path}/record"}

    def run(state: str, *options: str, check: bool = True) -> dict[str, Any]:
        tasks = [{"name": "it", "sidespawn.host.agent": given | {"state": state}}]
        path = f"{tmp_path}:{ansible.environment['PATH']}"
        return ansible.play(tasks, *options, check=check, PATH=path, UPDATES=str(updates)).results["it"]

    def waits_for() -> set[str]:
        shown = command("systemctl", "show", "--property=Wants", "--value", "podman-restart.service").stdout
        return {each for each in shown.split() if each.startswith("sidespawn-spool@")}

    always = ("--restart=always", f"--volume={mounted}:/state")
    former = command("podman", "create", *always, *agent.options, "sleep", agent.seconds).stdout.strip()
    dry = run("replaced", "--check")["steps"]
    assert not updates.exists()
    assert run("replaced")["steps"] == dry
    assert updates.read_text() == f"update --restart=no {agent.former}\n"
    assert run("replaced")["changed"] is False
    assert waits_for() == {"sidespawn-spool@one.service", "sidespawn-spool@two.service"}
    assert agent.inspect()["HostConfig"]["RestartPolicy"]["Name"] == "always"
    # The former one would not start: it is not brought back.
    mounted.rename(tmp_path / "elsewhere")
    new = agent.inspect()["Id"]
    failed = run("restored", check=False)
    assert f"it mounts what is not there: {mounted}" in failed["msg"]
    assert (agent.inspect()["Id"], agent.status(), failed["steps"]) == (new, "running", [])
    (tmp_path / "elsewhere").rename(mounted)
    dry = run("restored", "--check")["steps"]
    steps = run("restored")["steps"]
    assert steps == dry
    assert updates.read_text().splitlines()[1:] == [f"update --restart=always {agent.name}"]
    assert agent.inspect()["Id"] == former
    assert waits_for() == set()
    assert not (tmp_path / f"record/restart-{agent.name}").exists()


UNIT = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/podman start {0}
ExecStop=/usr/bin/podman stop --time=0 {0}
"""


def test_the_unit_of_a_new_agent_waits_for_its_services(ansible: Ansible, make_agent: Callable[[], Agent]) -> None:
    agent = make_agent()
    former, unit = agent.create(), Path(f"/etc/systemd/system/{agent.name}.service")
    given = {"name": agent.name, "unit": agent.name, "services": ["one"], "record": f"{agent.home}/record"}

    def run(state: str) -> set[str]:
        """Return the spool units that the unit waits for then."""
        # A proxy of Ansible's environment is not the agent's.
        ansible.play([{"name": "it", "sidespawn.host.agent": given | {"state": state}}], http_proxy="http://192.0.2.1")
        shown = command("systemctl", "show", "--property=After", "--value", agent.name).stdout.split()
        return {each for each in shown if each.startswith("sidespawn-")}

    unit.write_text(UNIT.format(agent.name))
    try:
        command("systemctl", "daemon-reload")
        command("systemctl", "start", agent.name)
        assert run("replaced") == {"sidespawn-spool@one.service"}
        assert (agent.status(), agent.inspect(agent.former)["Id"]) == ("running", former)
        assert not [each for each in agent.inspect()["Config"]["Env"] if "192.0.2.1" in each]
        assert run("restored") == set()
        assert (agent.status(), agent.inspect()["Id"]) == ("running", former)
        assert not unit.with_suffix(".service.d").exists()
    finally:
        command("systemctl", "stop", agent.name)
        unit.unlink()
        command("systemctl", "daemon-reload")


@pytest.mark.parametrize("state", ["replaced", "restored", "settled"])
def test_a_podman_that_fails_is_not_one_without_such_a_container(ansible: Ansible, tmp_path: Path, state: str) -> None:
    (tmp_path / "podman").write_text("#!/bin/sh\necho 'Error: database is locked' >&2\nexit 125\n")
    (tmp_path / "podman").chmod(0o755)
    tasks = [{"name": "it", "sidespawn.host.agent": {"name": "no-such-agent", "state": state}}]
    ran = ansible.play(tasks, check=False, PATH=f"{tmp_path}:{ansible.environment['PATH']}")
    assert ran.code != 0
    assert "database is locked" in ran.results["it"]["msg"]
