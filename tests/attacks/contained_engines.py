"""The recipe of `sidespawn agent-options` for docker and Quadlet, with the tries as the agent's program.

docker gives processes that are not root no capabilities, so nothing can be run in the agent beside its own program, as
`podman exec` does. With docker the agent's image needs setpriv of util-linux; here it is the host's.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from sidespawn.recipes import containers
from sidespawn.recipes.containers import Agent
from sidespawn.testing.agent import CAPABILITIES, NEUTRON
from tests.host.containers import IMPORT
from tests.lab.dockers import running_docker
from tests.lab.networks import command, wait_until

QUADLET = Path(__file__).parents[2] / ".cache/quadlet/usr/libexec/podman/quadlet"
UNITS = Path("/run/systemd/system")
PLACE = "/opt/tries"  # in the container
LIBRARY = "/lib/x86_64-linux-gnu/libcap-ng.so.0"
SETPRIV = ("/usr/bin/setpriv:/opt/setpriv:ro", f"{LIBRARY}:{LIBRARY}:ro")


@contextmanager
def program(given: dict[str, Any], *modules: ModuleType) -> Iterator[tuple[Agent, Path]]:
    """Run an agent whose program is `main` of the last module, and return the host's path to its answer."""
    place = Path("/var/lib") / f"sidespawn-tries-{uuid.uuid4().hex[:8]}"
    place.mkdir()
    sources = [(each.__name__, Path(str(each.__file__)).read_text()) for each in modules]
    begin = f"import os, sys\nsys.argv[1:] = [{json.dumps(given)!r}]\nos.dup2(os.open('{PLACE}/new', 0o1101), 1)\n"
    end = f"sys.stdout.flush()\nos.rename('{PLACE}/new', '{PLACE}/answer')\n"
    (place / "program.py").write_text(begin + IMPORT.format(sources=sources) + end)
    os.chown(place, NEUTRON, NEUTRON)
    words = ("/usr/bin/python3", "-I", "-S", f"{PLACE}/program.py")
    try:
        yield Agent(uid=NEUTRON, gid=NEUTRON, capabilities=tuple(CAPABILITIES), program=words), place
    finally:
        command("rm", "-r", str(place))


def volumes(options: tuple[str, ...], place: Path) -> list[str]:
    """Return the mounts of a service's options in the form of `--volume`, and that of the tries."""
    found = [each.partition("=")[2] for each in options if each.startswith("--volume=")]
    return [*found, f"{place}:{PLACE}:rw,rprivate"]


def by_docker(image: str, options: tuple[str, ...], given: dict[str, Any], *modules: ModuleType) -> dict[str, str]:
    with program(given, *modules) as (agent, place), running_docker(image):
        mounted = (f"--volume={each}" for each in (*volumes(options, place), *SETPRIV))
        begin = ("/opt/setpriv", *containers.become(agent)[1:])
        name = f"tries-{given['key']}"
        argv = ("docker", "run", "--rm", f"--name={name}", *containers.docker(agent), *mounted, image, *begin)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads((place / "answer").read_text()))


def by_quadlet(image: str, options: tuple[str, ...], given: dict[str, Any], *modules: ModuleType) -> dict[str, str]:
    name = f"tries-{given['key']}"
    unit = UNITS / f"{name}.service"
    with program(given, *modules) as (agent, place):
        lines = (*(f"Volume={each}" for each in volumes(options, place)), "[Service]", "Restart=no")
        text = containers.quadlet(replace(agent, image=image)) + "\n".join(lines) + "\n"
        (place / f"{name}.container").write_text(text)
        environment = {**os.environ, "QUADLET_UNIT_DIRS": str(place)}
        subprocess.run((str(QUADLET), str(place / "made")), env=environment, check=True, timeout=60)
        UNITS.mkdir(exist_ok=True)
        unit.write_text((place / "made" / unit.name).read_text())
        try:
            command("systemctl", "daemon-reload")
            command("systemctl", "start", unit.name)
            wait_until((place / "answer").exists, patience=600)
            return dict(json.loads((place / "answer").read_text()))
        finally:
            command("systemctl", "stop", unit.name, check=False)
            unit.unlink()
            command("systemctl", "daemon-reload")
