"""Real Neutron in a deployer's container: its state, what starts there, and the tests' way to talk to it.

The deployers' images are not here: the project's Neutron image does at a start what theirs do, and the agent, in a
virtual environment that it sees read-only, runs as root, as what theirs start by sudo does. What there is to do with
an agent is in tests/neutron.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.conftest import CHECKOUT
from tests.lab.networks import Service, wait_until
from tests.neutron.agents import CONFIGURATION, INSIDE, PRESETS, policy
from tests.neutron.releases import NEWEST, VENVS

VENV = VENVS[NEWEST]
# Read-only in the container.
SEEN = (
    *((path, str(path)) for path in (VENV, INSIDE, CHECKOUT / "src")),
    *((VENV / "etc/neutron" / name, f"/etc/neutron/{name}") for name in ("rootwrap.conf", "rootwrap.d")),
)
PATIENCE = 90


@dataclass(frozen=True)
class Kind:
    """One of Neutron's agents, by the deployers' name and by that of tests/neutron."""

    name: str
    kind: str
    script: str
    settings: str = ""  # more lines of its [DEFAULT]

    @property
    def presets(self) -> dict[str, str]:
        return PRESETS[self.kind]

    def start(self, state: str) -> str:
        """Shell lines that become the agent; `questions` and `answers` are how it talks."""
        environment = (
            f"export PYTHONPATH={INSIDE}:{CHECKOUT}/src"
            f" PATH={VENV}/bin:/usr/local/bin:/usr/sbin:/usr/bin PYTHONWARNINGS=ignore"
        )
        command = f"{VENV}/bin/python3 -B -W ignore {INSIDE}/{self.script} --config-file {state}/neutron.conf"
        return f"{environment}\ncd {state}\nexec {command} <questions >answers 2>>stderr\n"

    def prepare(self, directory: Path, state: str) -> None:
        """Fill a directory of the host that the container has as its state."""
        for name in ("lock", "metadata"):
            (directory / name).mkdir()
        for name in ("questions", "answers"):
            os.mkfifo(directory / name)
        rootwrap = f"{VENV}/bin/neutron-rootwrap"
        text = CONFIGURATION.format(
            state=state,
            privsep=f"{VENV}/bin/privsep-helper",
            isolated=False,
            kill_scripts="/etc/neutron/kill_scripts",
            interval=1,
            settings=self.settings,
            root_helper=f"{rootwrap} /etc/neutron/rootwrap.conf",
            root_helper_daemon=f"{rootwrap}-daemon /etc/neutron/rootwrap.conf" if self.kind == "dhcp" else "",
        )
        (directory / "neutron.conf").write_text(text)

    def policies(self, directory: Path, state: str, engine: str) -> dict[str, str]:
        """By the preset's name: of an agent that is root in its container and has its state in this place."""
        return {preset: own_policy(preset, directory, state, engine) for preset in self.presets.values()}


DHCP = Kind("dhcp", "dhcp", "daemon.py")


def own_policy(preset: str, directory: Path, state: str, engine: str = "podman") -> str:
    text = re.sub(r"(?m)^(state_on_host = .*)", rf'\1\nstate = "{state}"', policy(preset, directory))
    if engine == "podman":
        return text
    table = "[side_container]\n"
    before, _, after = text.partition(table)
    return f'{before}\n{table}engine = "{engine}"\n{after}'


class Daemon:
    """The agent that a deployer's container runs. As tests/neutron's, it has a state on the host and can be asked."""

    release, uid = NEWEST, 0

    def __init__(self, kind: Kind, state: Path, trouble: Callable[[], str], engine: str = "podman") -> None:
        self.kind, self.state, self.trouble = kind, state, trouble
        self.services = {program: Service(name, state, program, engine) for program, name in kind.presets.items()}

    def connect(self) -> None:
        """Once it runs: a pipe that no one reads cannot be opened for writing without waiting."""
        found: list[int] = []

        def opened() -> bool:
            try:
                found.append(os.open(self.state / "questions", os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return False
            return True

        try:
            wait_until(opened, PATIENCE)
        except AssertionError as failed:
            failed.add_note(self.trouble())
            raise
        os.set_blocking(found[0], True)
        self.questions = os.fdopen(found[0], "w")
        self.answers = (self.state / "answers").open()
        self.read()

    def ask(self, verb: str, **arguments: Any) -> Any:
        print(json.dumps([verb, arguments]), file=self.questions, flush=True)
        return self.read()

    def read(self) -> Any:
        line = self.answers.readline()
        assert line, f"the agent ended:\n{self.trouble()}"
        said = json.loads(line)
        assert "error" not in said, f"{said['error']}\n{self.trouble()}"
        return said["result"]

    def close(self) -> None:
        for each in ("questions", "answers"):
            if hasattr(self, each):
                getattr(self, each).close()


def logged(state: Path) -> str:
    """The last that the agent wrote."""
    written = [
        path.read_text().splitlines()[-30:] for name in ("stderr", "neutron.log") if (path := state / name).exists()
    ]
    return "\n".join(line for lines in written for line in lines)
