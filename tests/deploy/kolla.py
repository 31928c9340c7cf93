"""Kolla-Ansible as its users have it: a release from PyPI, its role neutron and its own modules, against an engine.

There are no images of Kolla's here, so the agent's is the project's Neutron image with what theirs do at a start: the
script copy-wrappers, then the agent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy import neutron
from tests.deploy.conftest import CHECKOUT
from tests.deploy.neutron import DHCP, Daemon, Kind
from tests.lab import dockers
from tests.lab.networks import command, command_lines, kill_process
from tests.neutron.agents import WRITABLE_SYSCTLS
from tests.neutron.releases import AGENT_IMAGE

RELEASES = ("20.6.0", "21.3.0", "22.2.0")
STATE = "/var/lib/neutron/kolla"
HANDLERS = "ansible/roles/neutron/handlers/main.yml"
WRAPPERS = "/usr/local/lib/neutron-wrappers"
VOLUMES = {"podman": Path("/var/lib/containers/storage/volumes"), "docker": Path("/var/lib/docker/volumes")}
# Which of its settings has Kolla-Ansible start that agent.
ENABLING = {
    "dhcp": {"neutron_plugin_agent": "ovn", "neutron_ovn_dhcp_agent": "yes"},
    "l3": {"neutron_plugin_agent": "another"},  # with openvswitch its agent would be on the host, too
    "ovn_metadata": {"neutron_plugin_agent": "ovn"},
}

# Theirs have an init that hands signals on. The first process of a container gets none that it does not wait for, and
# Kolla's unit waits a minute for it to end.
START = """\
#!/bin/sh
set -e
[ "$KOLLA_NEUTRON_WRAPPERS" != true ] || {wrappers}/copy-wrappers
({agent}) &
trap 'kill "$!"' TERM
wait "$!"
"""
# What stands in Kolla's images where sidespawn's is mounted. A privileged container can write sysctls anyway.
THEIR_COPY = f"#!/bin/sh\n{WRITABLE_SYSCTLS} || true\n"
PLAY = [
    {
        "hosts": "all",
        "connection": "local",
        "gather_facts": True,
        "vars": {"kolla_action": "deploy", "project_name": "neutron"},
        "tasks": [
            {"name": "check", "ansible.builtin.import_role": {"name": "neutron", "tasks_from": "check-containers.yml"}},
            {"name": "flush", "ansible.builtin.meta": "flush_handlers"},
        ],
    }
]


def venv(release: str) -> Path:
    return (CHECKOUT / ".cache" / f"kolla-{release.partition('.')[0]}").resolve()


@dataclass(frozen=True)
class Operator:
    """Who runs Kolla-Ansible: a tree of their own, an inventory with one agent, and /etc/kolla's files."""

    release: str
    home: Path
    kind: Kind = DHCP
    engine: str = "podman"

    @property
    def tree(self) -> Path:
        return self.home / "tree"

    @property
    def globals(self) -> Path:
        return self.home / "etc/globals.d/sidespawn.yml"

    def prepare(self) -> None:
        shutil.copytree(venv(self.release) / "share/kolla-ansible", self.tree)
        self.globals.parent.mkdir(parents=True)
        agent, group = f"neutron_{self.kind.name}_agent", group_of(self.kind)
        given = {
            "kolla_internal_vip_address": "127.0.0.1",
            "kolla_same_external_internal_vip": True,
            "network_interface": "lo",
            "neutron_external_interface": "lo",
            "kolla_container_engine": self.engine,
            **ENABLING[self.kind.name],
            "CONFIG_DIR": str(self.home / "node"),
            "node_config": str(self.home / "node"),
            "node_config_directory": str(self.home / "node"),
            # A lab cannot raise limits.
            f"{agent}_dimensions": {},
            f"{agent}_enable_healthchecks": "no",
            f"{agent}_image_full": image_of(self.kind),
            "neutron_extra_volumes": [f"{source}:{target}:ro" for source, target in neutron.SEEN],
        }
        # JSON is YAML.
        (self.home / "etc/globals.yml").write_text(json.dumps(given))
        (self.home / "node" / group).mkdir(parents=True)
        groups = re.findall(
            r"^\[([\w-]+)(?::children)?\]", (self.tree / "ansible/inventory/all-in-one").read_text(), re.MULTILINE
        )
        # Of all agents only that one is on this host.
        inventory = "".join(f"[{each}]\n" for each in dict.fromkeys(groups) if each != group)
        (self.home / "inventory").write_text(f"{inventory}[{group}]\nlocalhost ansible_connection=local\n")
        (self.tree / "ansible/test.yml").write_text(json.dumps(PLAY))  # beside its group_vars

    def deploy(self, *options: str) -> dict[str, dict[str, Any]]:
        """Have Kolla's role start what is to be started; the results of its tasks by name."""
        share, record = self.tree / "ansible", self.home / "record"
        record.unlink(missing_ok=True)
        site = next(venv(self.release).glob("lib/python3*/site-packages"))
        environment = {
            "PATH": f"{venv(self.release)}/bin:{os.defpath}:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(site),  # the engines' clients, for an interpreter that has dbus
            "ANSIBLE_HOME": str(self.home / "ansible"),
            "ANSIBLE_ROLES_PATH": str(share / "roles"),
            "ANSIBLE_LIBRARY": str(share / "library"),
            "ANSIBLE_MODULE_UTILS": str(share / "module_utils"),
            "ANSIBLE_FILTER_PLUGINS": str(share / "filter_plugins"),
            "ANSIBLE_ACTION_PLUGINS": str(share / "action_plugins"),
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "record",
            "RECORD": str(record),
        }
        variables = [self.home / "etc/globals.yml", *sorted(self.globals.parent.glob("*.yml"))]
        argv = (
            f"{venv(self.release)}/bin/ansible-playbook",
            f"--inventory={self.home}/inventory",
            f"--extra-vars=@{self.tree}/etc_examples/kolla/passwords.yml",
            *(f"--extra-vars=@{each}" for each in variables),
            "--extra-vars=ansible_python_interpreter=/usr/bin/python3",
            *options,
            str(self.tree / "ansible/test.yml"),
        )
        done = subprocess.run(
            argv, env=environment, cwd=self.home, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr + Host(self.kind, self.engine).trouble()
        return {row["task"]: row["result"] for row in map(json.loads, record.read_text().splitlines())}


def group_of(kind: Kind) -> str:
    """Of the inventory; the agent's images and directories are called the same."""
    return f"neutron-{kind.name.replace('_', '-')}-agent"


def image_of(kind: Kind) -> str:
    return f"localhost/kolla/{group_of(kind)}:test"


@dataclass(frozen=True)
class Host:
    """On which Kolla-Ansible starts an agent."""

    kind: Kind
    engine: str

    @property
    def container(self) -> str:
        return f"neutron_{self.kind.name}_agent"

    @property
    def unit(self) -> Path:
        return Path(f"/etc/systemd/system/kolla-{self.container}-container.service")

    @property
    def state(self) -> Path:
        """The volume that the agent has at STATE."""
        return VOLUMES[self.engine] / "neutron_metadata_socket/_data"

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(command(self.engine, "container", "inspect", self.container).stdout)[0]
        return found

    def inside(self, *argv: str) -> int:
        return command(self.engine, "exec", self.container, *argv, check=False).returncode

    def trouble(self) -> str:
        said = command(self.engine, "logs", "--tail=20", self.container, check=False)
        return "\n".join((said.stdout, said.stderr, neutron.logged(self.state)))

    def make_image(self) -> None:
        """With podman, which has the images of all tests."""
        scratch, made = Path("/run/kolla-image"), "kolla-image"
        scratch.mkdir(exist_ok=True)
        start = START.format(wrappers=WRAPPERS, agent=self.kind.start(STATE))
        files = {"/usr/local/bin/kolla_start": start, "/usr/local/bin/kolla_set_configs": "#!/bin/sh\n"}
        files |= {f"{WRAPPERS}/{name}": "#!/bin/sh\nexit 99\n" for name in self.kind.presets}
        files |= {f"{WRAPPERS}/copy-wrappers": THEIR_COPY}
        command("podman", "create", f"--name={made}", AGENT_IMAGE, "true")
        for path, text in files.items():
            source = scratch / path.lstrip("/")
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(text)
            source.chmod(0o755)
        command("podman", "cp", f"{scratch}/.", f"{made}:/")
        changes = ('--change=CMD ["/usr/local/bin/kolla_start"]', "--change=LABEL kolla_version=test")
        command("podman", "commit", "--quiet", *changes, made, image_of(self.kind))
        command("podman", "rm", made)
        shutil.rmtree(scratch)

    def prepare(self) -> None:
        """Fill the agent's volume."""
        for volume in ("neutron_metadata_socket", "kolla_logs"):
            command(self.engine, "volume", "create", volume)
        self.kind.prepare(self.state, STATE)

    def remove_agent(self) -> None:
        if self.unit.exists():
            command("systemctl", "stop", self.unit.name, check=False)
            command("systemctl", "disable", self.unit.name, check=False)
            self.unit.unlink()
        shutil.rmtree(self.unit.with_name(f"{self.unit.name}.d"), ignore_errors=True)
        command("systemctl", "daemon-reload")
        command(self.engine, "rm", "--force", self.container, check=False)
        for volume in ("neutron_metadata_socket", "kolla_logs"):
            command(self.engine, "volume", "rm", "--force", volume, check=False)


def end_monitors() -> None:
    """podman's API has the monitor of a command that it executed stay for five minutes (podman 4.3)."""
    for pid, line in command_lines().items():
        if "conmon" in line and "--exit-delay 300" in line:
            kill_process(pid)


@contextmanager
def directories() -> Iterator[None]:
    """What agents mount that hosts of Kolla-Ansible have: modules, and Open vSwitch's, on a mount that is shared."""
    openvswitch = Path("/run/openvswitch")
    Path("/lib/modules").mkdir(exist_ok=True)
    openvswitch.mkdir()
    command("mount", "--bind", str(openvswitch), str(openvswitch))
    try:
        command("mount", "--make-shared", str(openvswitch))
        yield
    finally:
        command("umount", str(openvswitch))
        openvswitch.rmdir()


@contextmanager
def running(kind: Kind, engine: str) -> Iterator[tuple[Host, Daemon]]:
    """A host for Kolla-Ansible: the engine, the image, the agent's configuration in its volume, and its policies."""
    host = Host(kind, engine)
    command("ip", "netns", "add", "kolla-first")  # /run/netns is there and shared
    command("ip", "netns", "del", "kolla-first")
    with ExitStack() as around:
        around.enter_context(directories())
        command("systemctl", "start", "podman.socket")
        around.callback(command, "systemctl", "stop", "podman.socket", "podman.service")
        around.callback(end_monitors)
        around.callback(command, "podman", "rmi", "--force", image_of(kind), check=False)
        host.make_image()
        if engine == "docker":
            around.enter_context(dockers.running_docker(dockers.HELPERS, image_of(kind)))
        around.callback(host.remove_agent)
        host.prepare()
        daemon = Daemon(kind, host.state, host.trouble, engine)
        around.callback(daemon.close)
        for name, text in kind.policies(host.state, STATE, engine).items():
            policy = daemon.services[{preset: program for program, preset in kind.presets.items()}[name]].places.policy
            policy.parent.mkdir(exist_ok=True)
            policy.write_text(text)
        try:
            yield host, daemon
        finally:
            for service in daemon.services.values():
                service.disable()
