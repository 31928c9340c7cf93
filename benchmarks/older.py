"""Two patterns in use elsewhere, in a few lines each, for comparison with ours. Only for use in a lab.

`Tripleo` is the pattern of OpenStack's specification as tripleo-ansible's role tripleo_systemd_wrapper shipped it in
2019.  The wrapper appends a line to a file and touches a second one, a .path unit notices that, and a script reads the
lines and starts a privileged container for each, one after the other.  As shipped, wrapper and script lock different
files.  One correction was needed to make it run here at all: podman 4.3 leaves conmon in the service, where it would
end.

`Nsenter` is edpm-ansible's way: the wrapper is root in the host's namespaces while it runs.

Both give the agent root on the host, lose arguments, and are not a model for anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sidespawn.testing.commands import run, wait_until
from tests.lab.networks import unit_state

PATIENCE = 6.0  # seconds without another program running, until the rest counts as lost
IMAGE = "localhost/sidespawn-helpers:latest"
HOME = Path("/run/sidespawn-bench-tripleo")
UNITS = Path("/run/systemd/system")
UNIT = "sidespawn-bench-tripleo"
PRIVILEGED = (
    "--privileged --net=host --pid=host --user=root --volume=/run/netns:/run/netns:shared --volume=/var/lib:/var/lib"
)

WRAPPER = f"""\
#!/bin/bash
exec 9>{HOME}/lock-of-wrapper
flock 9
printf '%s %s %s %s\\n' "$1" "$2" "$3" "${{*:4}}" >>{HOME}/processes
date >{HOME}/processes-timestamp
"""
SYNC = f"""\
#!/bin/bash
unset INVOCATION_ID
exec 9>{HOME}/lock-of-sync
flock 9
while read -r name netns pid arguments; do
    podman ps --all --filter=name=$name --format='{{{{.Names}}}}' >/dev/null
    podman run --detach --name=$name --pidfile=$pid {PRIVILEGED} {IMAGE} ip netns exec $netns dnsmasq $arguments
done <{HOME}/processes
truncate --size=0 {HOME}/processes
"""
NSENTER = f"""\
#!/bin/bash
nsenter="nsenter --target=1 --mount --net --ipc --uts --pid"
name=$1 netns=$2 pid=$3
shift 3
$nsenter podman ps --all --filter=name=$name --format='{{{{.ID}}}}:{{{{.Names}}}}:{{{{.Status}}}}' >/dev/null
exec $nsenter podman run --detach --name=$name --pidfile=$pid {PRIVILEGED} {IMAGE} ip netns exec $netns dnsmasq "$@"
"""


class Pattern(Protocol):
    name: str

    def make(self) -> None: ...

    def remove(self) -> None: ...

    def call(self, container: str, netns: str, pid_file: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the wrapper's command line."""

    def wait_until_idle(self) -> None: ...


class Tripleo:
    name = "TripleO's pattern"

    def make(self) -> None:
        HOME.mkdir(exist_ok=True)
        for name, text in (("wrapper", WRAPPER), ("sync", SYNC)):
            script(HOME / name, text)
        (HOME / "processes").touch()
        (HOME / "processes-timestamp").touch()
        path = f"[Path]\nPathModified={HOME}/processes-timestamp\n"
        (UNITS / f"{UNIT}.path").write_text(path)
        (UNITS / f"{UNIT}.service").write_text(f"[Service]\nType=oneshot\nExecStart={HOME}/sync\n")
        run(("systemctl", "daemon-reload"), code=0)
        run(("systemctl", "start", f"{UNIT}.path"), code=0)

    def remove(self) -> None:
        run(("systemctl", "stop", f"{UNIT}.path", f"{UNIT}.service"))
        for path in (*UNITS.glob(f"{UNIT}.*"), *(HOME.iterdir() if HOME.exists() else ())):
            path.unlink()
        if HOME.exists():
            HOME.rmdir()
        run(("systemctl", "daemon-reload"))
        run(("systemctl", "reset-failed", f"{UNIT}.path", f"{UNIT}.service"))

    def call(self, container: str, netns: str, pid_file: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
        return (str(HOME / "wrapper"), container, netns, pid_file, *arguments)

    def wait_until_idle(self) -> None:
        wait_until(lambda: unit_state(f"{UNIT}.service") in ("inactive", "failed"), "TripleO's service ends", 300)
        (HOME / "processes").write_text("")
        # Its start limit may have ended both units; an operator would start them again.
        run(("systemctl", "reset-failed", f"{UNIT}.path", f"{UNIT}.service"))
        run(("systemctl", "start", f"{UNIT}.path"), code=0)


class Nsenter:
    name = "nsenter"

    def __init__(self) -> None:
        self.wrapper = Path("/run/sidespawn-bench-nsenter")

    def make(self) -> None:
        script(self.wrapper, NSENTER)

    def remove(self) -> None:
        self.wrapper.unlink(missing_ok=True)

    def call(self, container: str, netns: str, pid_file: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
        return (str(self.wrapper), container, netns, pid_file, *arguments)

    def wait_until_idle(self) -> None:
        pass


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
