"""Agent containers in which real Neutron runs, and the tests' way to talk to it.

Each release of Neutron has a virtual environment, which `./dev` makes and the containers see read-only; what the tests
run in it is in the folder `inside`. The containers have only the privileges of the demo's agent.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import textwrap
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidespawn.recipes import containers
from sidespawn.testing.agent import CAPABILITIES, NEUTRON, AgentContainer
from tests.lab.networks import SIDESPAWN, Service, command
from tests.neutron.releases import AGENT_IMAGE, NEWEST, VENVS

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs/neutron.md"
INSIDE = Path(__file__).parent / "inside"
STATE = "/var/lib/neutron"

# The helpers of each agent: program and preset.
PRESETS = {
    "dhcp": {"dnsmasq": "neutron-dhcp-dnsmasq", "haproxy": "neutron-dhcp-haproxy"},
    "l3": {
        "conntrackd": "neutron-l3-conntrackd",
        "haproxy": "neutron-l3-haproxy",
        "keepalived": "neutron-l3-keepalived",
        "neutron-keepalived-state-change": "neutron-l3-keepalived-state-change",
        "radvd": "neutron-l3-radvd",
    },
    "ovn": {"haproxy": "neutron-ovn-metadata-haproxy"},
}
# Neutron sets sysctls in the namespaces that it creates, and engines mount /proc/sys read-only.
WRITABLE_SYSCTLS = "mount --bind /proc/sys/net /proc/sys/net && mount -o remount,rw,bind /proc/sys/net"
# How Neutron asks for its helpers.
WRAPPERS, MANAGER = "wrappers", "manager"
CONFIGURATION = """\
[DEFAULT]
host = test
state_path = {state}
log_file = {state}/neutron.log
interface_driver = interface.Veth
enable_isolated_metadata = {isolated}
metadata_proxy_socket = {state}/metadata/socket
transport_url = fake://
resync_interval = 1
resync_throttle = 0
{settings}

[agent]
root_helper = {root_helper}
root_helper_daemon = {root_helper_daemon}
kill_scripts_path = {kill_scripts}
check_child_processes_interval = {interval}

[oslo_concurrency]
lock_path = {state}/lock

# Its container has no more capabilities.
[privsep]
helper_command = {privsep} --config-file {state}/neutron.conf
capabilities = CAP_SYS_ADMIN, CAP_NET_ADMIN

[privsep_dhcp_release]
helper_command = {privsep} --config-file {state}/neutron.conf

[privsep_namespace]
helper_command = {privsep} --config-file {state}/neutron.conf

[privsep_link]
helper_command = {privsep} --config-file {state}/neutron.conf

[privsep_conntrack]
helper_command = {privsep} --config-file {state}/neutron.conf
"""


class Conversation:
    """A process in an agent container that answers in lines (inside/lines.py)."""

    def __init__(self, agent: Agent, script: str, *arguments: str) -> None:
        self.agent = agent
        environment = (
            f"--env=PYTHONPATH={INSIDE}:{CHECKOUT / 'src'}",
            f"--env=PATH={agent.venv}/bin:/usr/sbin:/usr/bin",
            "--env=PYTHONWARNINGS=ignore",
        )
        # With the process manager, as docs/client.md says; the script itself does not know about it.
        through = ("-m", "sidespawn.agent.neutron") if agent.way == MANAGER else ()
        interpreter = (*agent.before, f"{agent.venv}/bin/python3", "-B", "-W", "ignore", *through)
        with agent.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                (
                    "podman",
                    "exec",
                    "--interactive",
                    *environment,
                    agent.container.name,
                    *interpreter,
                    script,
                    *arguments,
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.pid = self.read()  # in the agent's pid namespace

    def ask(self, verb: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        print(json.dumps([verb, arguments]), file=self.process.stdin, flush=True)
        return self.read()

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"Neutron ended:\n{self.agent.trouble()}"
        said = json.loads(line)
        assert "error" not in said, f"{said['error']}\n{self.agent.trouble()}"
        return said["result"]

    def close(self) -> None:
        """Close it after the container, or the program in it, was killed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)


@dataclass
class Agent:
    """One of Neutron's agents with the services for its helpers. `way` is how it requests them."""

    kind: str
    way: str
    interval: int = 0
    name: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")
    services: dict[str, Service] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)  # podman's options for the services
    security_options: tuple[str, ...] = ()
    talk: Conversation | None = None
    contained: bool = False  # not root, with the recipe of `sidespawn agent-options`
    settings: str = ""  # more lines of its [DEFAULT]
    before: tuple[str, ...] = ()  # what its interpreter is run by, such as strace
    more_options: tuple[str, ...] = ()  # podman's options for its container
    release: str = NEWEST
    release_image: str = ""  # with the release's own helper in it; the usual image has the newest one

    @property
    def venv(self) -> Path:
        return VENVS[self.release]

    @property
    def presets(self) -> dict[str, str]:
        return PRESETS[self.kind]

    @property
    def uid(self) -> int:
        """Return the uid of the agent's own processes and files."""
        return NEUTRON if self.contained else 0

    @property
    def state(self) -> Path:
        """Return the host's directory, owned by the agent, root unless `contained`. Only root can write its parent."""
        return Path("/var/lib") / f"sidespawn-{self.name}"

    @property
    def errors(self) -> Path:
        return self.state / "stderr"

    def enable(self) -> None:
        self.state.mkdir()
        for name in ("lock", "metadata"):
            (self.state / name).mkdir()
        for program, preset in self.presets.items():
            short = program.removeprefix("neutron-keepalived-")  # service names have at most 40 characters
            service = Service(f"{self.name}-{short}", self.state, program)
            self.services[program] = service
            service.places.policy.parent.mkdir(exist_ok=True)
            text = policy(preset, self.state, as_root=not self.contained)
            if self.release_image and program == "neutron-keepalived-state-change":
                text = text.replace("[parameters]\n", f'[parameters]\nimage = "{self.release_image}"\n')
            service.places.policy.write_text(text)
            told = json.loads(command(*SIDESPAWN, "enable", service.name, "--json").stdout)
            self.security_options = tuple(told["security_options"])  # the same for all services
            directories = (f":{service.places.spool}:", f":{service.places.replies}:")
            self.options += (
                option
                for option in told["podman_options"]
                if self.way == WRAPPERS or any(each in option for each in directories)
            )
        self.configure()

    def configure(self) -> None:
        rootwrap = f"{self.venv}/bin/neutron-rootwrap"
        with_wrappers = self.way == WRAPPERS
        text = CONFIGURATION.format(
            state=STATE,
            privsep=f"{self.venv}/bin/{'python3 -m sidespawn.agent.privsep' if self.contained else 'privsep-helper'}",
            isolated=self.kind == "dhcp",
            kill_scripts="/etc/neutron/kill_scripts",
            interval=self.interval,
            settings=self.settings,
            # The DHCP agent starts many, so it uses the daemon, which has the same filters.
            root_helper=f"{rootwrap} /etc/neutron/rootwrap.conf",
            root_helper_daemon=f"{rootwrap}-daemon /etc/neutron/rootwrap.conf" if self.kind == "dhcp" else "",
        )
        if not with_wrappers:
            services = ",".join(f"{program}:{service.name}" for program, service in self.services.items())
            text += f"\n[sidespawn]\nservices = {services}\n"
        (self.state / "neutron.conf").write_text(text)
        if self.contained:
            command("chown", "-R", f"{NEUTRON}:{NEUTRON}", str(self.state))

    @property
    def container(self) -> AgentContainer:
        own = (self.venv, INSIDE, CHECKOUT / "src")
        etc = (self.venv / "etc/neutron/rootwrap.conf", self.venv / "etc/neutron/rootwrap.d")
        return AgentContainer(
            name=f"{self.name}-agent",
            image=AGENT_IMAGE,
            state=self.state,
            host_pids=self.way == WRAPPERS,
            contained=self.contained,
            capabilities=containers.CAPABILITIES[self.kind] if self.contained else tuple(CAPABILITIES),
            security_options=self.security_options,
            service_options=(
                *self.options,
                *(f"--volume={path}:{path}:ro,rprivate" for path in own),
                *(f"--volume={path}:/etc/neutron/{path.name}:ro,rprivate" for path in etc),
                *self.more_options,
            ),
        )

    def start(self, script: str = "drivers.py") -> None:
        self.container.start()
        if not self.contained:
            self.container.exec(("sh", "-c", WRITABLE_SYSCTLS), code=0)
        self.run(script)

    def run(self, script: str) -> None:
        """Start Neutron in the running container."""
        arguments = (self.kind,) if script == "drivers.py" else ()
        self.talk = Conversation(self, str(INSIDE / script), *arguments, "--config-file", f"{STATE}/neutron.conf")

    def kill(self) -> None:
        """Kill it as if the host's administrator replaced the container: everything in it ends at once."""
        self.container.kill()
        self.container.remove()
        if self.talk is not None:
            self.talk.close()
            self.talk = None

    def ask(self, verb: str, **arguments: Any) -> Any:
        assert self.talk is not None
        return self.talk.ask(verb, **arguments)

    def do(self, helper: str, verb: str, of: dict[str, Any]) -> Any:
        return self.ask("do", helper=helper, action=verb, of=of)

    def log(self) -> str:
        path = self.state / "neutron.log"
        return path.read_text() if path.exists() else ""

    def trouble(self) -> str:
        errors = self.errors.read_text() if self.errors.exists() else ""
        return "\n".join((*errors.splitlines()[-20:], *self.log().splitlines()[-40:]))

    def clean(self) -> None:
        self.container.remove()
        if self.talk is not None:
            self.talk.close()
        for service in self.services.values():
            service.disable()
        shutil.rmtree(self.state, ignore_errors=True)


def policy(preset: str, state: Path, *, as_root: bool = True) -> str:
    """Return the policy that docs/neutron.md recommends for the agent, root in its container or not."""
    told = [
        example
        for names, example in re.findall(
            r"^  ```toml policy (.*?)\n(.*?)^  ```$", DOCS.read_text(), re.MULTILINE | re.DOTALL
        )
        if preset.endswith(tuple(names.split())) and (as_root or "capabilities" not in example)
    ]
    text = textwrap.dedent(told[0]) if told else 'extends = ""\n[parameters]\nstate_on_host = ""\n'
    text = re.sub("^extends = .*", f'extends = "{preset}"', text)
    text = re.sub("(?m)^state_on_host = .*", f'state_on_host = "{state}"', text)
    if as_root:
        return text
    return re.sub("(?m)^[ug]id = 0\n", "", f"{text}\n[agent]\nspool_uid = {NEUTRON}\n")
