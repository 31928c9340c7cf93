"""The pattern as TripleO first shipped it, as a target: a wrapper, a `.path` unit on a file, a script, podman.

Rewritten and as short as possible; what matters is kept. All of it is in one directory that is shared with the agent,
including the script that the host runs. The wrapper writes the arguments into `processes` and the time into
`processes-timestamp`, under a separate lock, and returns. systemd watches the timestamp; the script reads `processes`
line by line, lets the shell split it, starts a privileged container for each line, and empties the file.

For the sake of the test machine, this one has a timeout and a memory limit, unlike the original.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from tests.attacks import inside
from tests.attacks.stage import AGENT_IMAGE, Attacker, Files, Succeeded, expect_pid_1_answers
from tests.lab.networks import command, unit_state

WRAPPER = """\
#!/bin/bash
netns=$(ip netns identify)
(
    flock 200
    echo "$netns $*" >>@DIR@/processes
    date +%s.%N >@DIR@/processes-timestamp
) 200>@DIR@/wrapper.lock
"""
SYNC = """\
#!/bin/bash
unset INVOCATION_ID NOTIFY_SOCKET
(
    flock 200
    sed -e '/^$/d' @DIR@/processes | while read -r line; do
        set -- $line
        netns=$1
        shift
        name=@NAME@-$netns
        podman ps --quiet --filter name=$name | grep -q . && continue
        podman rm --force --time=0 --ignore $name
        podman run --detach --name $name --user root --privileged --net host --pid host --log-driver none \\
            --volume @STATE@:/var/lib/neutron:shared --volume /run/netns:/run/netns:shared \\
            @IMAGE@ ip netns exec $netns /usr/sbin/dnsmasq -k $*
    done
    : >@DIR@/processes
) 200>@DIR@/sync.lock
"""
PATH_UNIT = "[Path]\nPathModified=@DIR@/processes-timestamp\n"
# Both limits only protect the test machine.
SERVICE_UNIT = "[Service]\nType=oneshot\nExecStart=@DIR@/process-sync\nTimeoutStartSec=4\nLimitDATA=512M\n"
UNITS = Path("/run/systemd/system")
SERVED_WITHIN = 15.0  # seconds; a request that it serves takes half a second on an idle machine
IDLE_FOR = 2.0  # while its unit is inactive, nothing is being processed
WRAPPER_WITHIN = 5.0


class TripleO:
    name = "theirs"

    def __init__(self, files: Files, home: Path, state: Path, attacker: Attacker | None = None) -> None:
        self.files, self.state = files, state
        self.unit = f"sidespawn-{home.name}-theirs"
        self.directory = home / "theirs"
        self.spool = str(self.directory)
        self.requests = f"{self.spool}/processes"
        self.wrapper = f"{self.spool}/wrapper"
        self.namespaces: list[str] = []
        if attacker is not None:
            self.attacker = attacker

    def text(self, template: str) -> str:
        fields = {"DIR": self.spool, "NAME": self.unit, "STATE": str(self.state), "IMAGE": AGENT_IMAGE}
        for name, value in fields.items():
            template = template.replace(f"@{name}@", value)
        return template

    def install(self) -> None:
        """Install units and directory in their first state, whatever was done to them."""
        self.remove()
        self.directory.mkdir(exist_ok=True)
        for name, template in (("wrapper", WRAPPER), ("process-sync", SYNC)):
            (self.directory / name).write_text(self.text(template))
            (self.directory / name).chmod(0o755)
        for name in ("processes", "processes-timestamp"):
            (self.directory / name).touch()
        (UNITS / f"{self.unit}.path").write_text(self.text(PATH_UNIT))
        (UNITS / f"{self.unit}.service").write_text(self.text(SERVICE_UNIT))
        command("systemctl", "daemon-reload")
        command("systemctl", "start", f"{self.unit}.path")

    def remove(self) -> None:
        units = [f"{self.unit}.{kind}" for kind in ("path", "service")]
        command("systemctl", "stop", *units, check=False)
        command("systemctl", "reset-failed", *units, check=False)
        for unit in units:
            (UNITS / unit).unlink(missing_ok=True)
        names = [name for name in self.containers() if name]
        if names:
            command("podman", "rm", "--force", "--time=0", *names)
        for name in self.namespaces:
            command("ip", "netns", "del", name, check=False)
        self.namespaces.clear()
        if self.directory.exists():
            for path in self.directory.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def containers(self, *, running: bool = False) -> list[str]:
        options = [] if running else ["--all"]
        done = command("podman", "ps", *options, f"--filter=name=^{self.unit}-", "--format={{.Names}}")
        return done.stdout.split()

    def new_namespace(self) -> str:
        name = f"theirs-{len(self.namespaces)}-{os.urandom(3).hex()}"
        command("ip", "netns", "add", name)
        self.namespaces.append(name)
        return name

    def call(self, netns: str, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", netns, self.wrapper, *(arguments or ("--port=0", "--conf-file=/dev/null"))]

    def ask(self, netns: str, *arguments: str) -> None:
        """Use the wrapper in the agent, as Neutron does."""
        self.attacker(inside.run, self.call(netns, *arguments), WRAPPER_WITHIN)

    def runs(self, netns: str) -> bool:
        """Return whether it runs, after waiting for requests in progress."""
        began = busy = time.monotonic()
        while time.monotonic() - began < SERVED_WITHIN and time.monotonic() - busy < IDLE_FOR:
            if f"{self.unit}-{netns}" in self.containers(running=True):
                return True
            if unit_state(f"{self.unit}.service") == "activating":
                busy = time.monotonic()
            time.sleep(0.1)
        return False

    def arguments(self, netns: str) -> list[str]:
        """Return the arguments of the program in that container."""
        done = command("podman", "container", "inspect", f"{self.unit}-{netns}")
        command_line: list[str] = json.loads(done.stdout)[0]["Config"]["Cmd"]
        return command_line

    def expect_not_started(self, netns: str, *asked: str) -> None:
        # Started is enough: what the shell made of it may have ended immediately.
        if self.runs(netns) or f"{self.unit}-{netns}" in self.containers():
            got = self.arguments(netns)[6:]
            if list(asked) != got[-len(asked) :]:
                raise Succeeded(
                    f"the host's shell made other arguments of it, {len(asked)} asked, {len(got) - 1} given"
                )
            raise Succeeded("a privileged program was started with it")
        self.expect_held()

    def put(self, untrusted_content: bytes) -> None:
        self.attacker(inside.write, self.requests, untrusted_content)
        self.wake()

    def wake(self) -> None:
        self.attacker(inside.append, f"{self.spool}/processes-timestamp", b"now\n")

    def wait_until_idle(self, seconds: float = 6.0) -> None:
        give_up = time.monotonic() + seconds
        time.sleep(0.2)
        while unit_state(f"{self.unit}.service") == "activating" and time.monotonic() < give_up:
            time.sleep(0.05)

    def expect_held(self) -> None:
        self.wait_until_idle()
        self.files.expect_untouched()
        expect_pid_1_answers()
        state = unit_state(f"{self.unit}.path")
        if state != "active":
            raise Succeeded(f"the .path unit is {state}: no request is ever served again")
        netns = self.new_namespace()
        self.ask(netns)
        if not self.runs(netns):
            raise Succeeded("no request is served any more")
        self.files.expect_untouched()
