"""The collection as its users have it: built, and installed in an empty place. `./dev test deploy` provides Ansible."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import engine, nothing_left_behind, service  # noqa: F401 - fixtures
from tests.lab.networks import SIDESPAWN

CHECKOUT = Path(__file__).parents[2]
BIN = CHECKOUT / ".cache/ansible/bin"
COLLECTION = CHECKOUT / "integrations/ansible"
# podman, which says when it has done what INTERRUPT_AFTER names, and then waits to be killed.
PODMAN = """\
#!/bin/sh
/usr/bin/podman "$@" || exit
[ "$1" != "$INTERRUPT_AFTER" ] || { touch "$INTERRUPT_SAYS"; exec sleep 1000; }
"""


@dataclass(frozen=True)
class Ran:
    """A playbook's run: each task's result by its name, on the last host that had it, and all that was printed."""

    code: int
    results: dict[str, dict[str, Any]]
    output: str
    hosts: frozenset[str] = frozenset()

    @property
    def changed(self) -> dict[str, bool]:
        return {name: bool(each.get("changed")) for name, each in self.results.items()}

    def differences(self, task: str) -> set[tuple[str, str, str]]:
        """What differs, before and after, of all items of a task that calls the module service."""
        result = self.results[task]
        return {
            (diff["after_header"], diff["before"], diff["after"])
            for item in result.get("results", [result])
            for diff in item["diff"]
        }


@dataclass(frozen=True)
class Ansible:
    home: Path
    inventory: Path | None = None  # by default, this machine
    batches: tuple[tuple[str, object], ...] = ()  # keywords of a play

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{BIN}:{os.defpath}:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_HOME": str(self.home / "home"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.home / "collections"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        }

    def call(self, *argv: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            (str(BIN / argv[0]), *argv[1:]), env=self.environment | more, cwd=self.home, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def play(
        self,
        tasks: list[dict[str, Any]],
        *options: str,
        check: bool = True,
        variables: Mapping[str, object] | None = None,
        **environment: str,
    ) -> Ran:
        record = self.home / "record"
        record.unlink(missing_ok=True)
        done = self.call(
            *self.playbook(tasks, variables, *options), check=check, **self.recording(record) | environment
        )
        rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
        hosts = frozenset(each["host"] for each in rows)
        return Ran(done.returncode, {each["task"]: each["result"] for each in rows}, done.stdout + done.stderr, hosts)

    def interrupt_after(self, verb: str, tasks: list[dict[str, Any]], variables: Mapping[str, object]) -> None:
        """Run the tasks, and kill everything that runs for them once a module's podman has done that."""
        podman, says = self.home / "bin/podman", self.home / "interrupted"
        podman.parent.mkdir(exist_ok=True)
        podman.write_text(PODMAN)
        podman.chmod(0o755)
        says.unlink(missing_ok=True)
        path = f"{podman.parent}:{self.environment['PATH']}"
        self.interrupt(tasks, variables, says.exists, PATH=path, INTERRUPT_AFTER=verb, INTERRUPT_SAYS=str(says))

    def interrupt(
        self,
        tasks: list[dict[str, Any]],
        variables: Mapping[str, object],
        when: Callable[[], bool],
        *options: str,
        **environment: str,
    ) -> None:
        """Run the tasks, and kill everything that runs for them once something is so."""
        argv = self.playbook(tasks, variables, *options)
        mark = f"SIDESPAWN_INTERRUPTED={uuid.uuid4()}"  # Ansible's workers have sessions of their own
        environment = self.environment | environment | dict([mark.split("=")])
        process = subprocess.Popen(
            (str(BIN / argv[0]), *argv[1:]), env=environment, cwd=self.home,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not when():
                assert process.poll() is None, "it has ended"
                time.sleep(0.005)
        finally:
            for path in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    # conmon is the container's.
                    if mark.encode() in (path / "environ").read_bytes() and (path / "comm").read_text() != "conmon\n":
                        os.kill(int(path.name), signal.SIGKILL)
            process.wait()

    def playbook(
        self, tasks: list[dict[str, Any]], variables: Mapping[str, object] | None, *options: str
    ) -> tuple[str, ...]:
        """JSON is YAML."""
        where = {"hosts": "all"} if self.inventory else {"hosts": "localhost", "connection": "local"}
        play = {**where, "gather_facts": False, "tasks": tasks, **dict(self.batches)}
        book = self.home / "play.yml"
        book.write_text(json.dumps([play]))
        given = json.dumps(
            {"ansible_python_interpreter": "/usr/bin/python3", "sidespawn": SIDESPAWN[0], **(variables or {})}
        )
        inventory = (f"--inventory={self.inventory}",) if self.inventory else ()
        return ("ansible-playbook", *inventory, "--extra-vars", given, *options, str(book))

    def recording(self, record: Path) -> dict[str, str]:
        plugins = str(Path(__file__).parent / "callback")
        return {"RECORD": str(record), "ANSIBLE_CALLBACKS_ENABLED": "record", "ANSIBLE_CALLBACK_PLUGINS": plugins}


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not BIN.exists():
        pytest.skip("needs Ansible in .cache/ansible, which ./dev test deploy makes")
    place = tmp_path_factory.mktemp("archive")
    Ansible(place).call("ansible-galaxy", "collection", "build", str(COLLECTION), f"--output-path={place}")
    (built,) = place.glob("*.tar.gz")
    return built


@pytest.fixture(scope="session")
def ansible(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    """With the collection, and nothing else."""
    made = Ansible(tmp_path_factory.mktemp("ansible"))
    made.call("ansible-galaxy", "collection", "install", "--offline", str(archive))
    return made
