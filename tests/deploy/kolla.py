"""Kolla-Ansible as its users have it: a release from PyPI, its role neutron and its own modules, against podman.

There are no images of Kolla's here, so the agent's is the project's Neutron image with what theirs do at a start: the
script copy-wrappers, then the agent. The agent is root, as what theirs starts by sudo is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.conftest import CHECKOUT
from tests.lab.networks import command, command_lines, kill_process
from tests.neutron.agents import CONFIGURATION, INSIDE, WRITABLE_SYSCTLS, policy
from tests.neutron.releases import AGENT_IMAGE, NEWEST, VENVS

RELEASES = ("20.6.0", "21.3.0", "22.2.0")
VENV = VENVS[NEWEST]
KOLLA_IMAGE = "localhost/kolla/neutron-dhcp-agent:test"
STATE = "/var/lib/neutron/kolla"
VOLUMES = Path("/var/lib/containers/storage/volumes")
CONTAINER = "neutron_dhcp_agent"
UNIT = Path(f"/etc/systemd/system/kolla-{CONTAINER}-container.service")
HANDLERS = "ansible/roles/neutron/handlers/main.yml"
WRAPPERS = "/usr/local/lib/neutron-wrappers"
PATIENCE = 90

# Theirs have an init that hands signals on. The first process of a container gets none that it does not wait for, and
# Kolla's unit waits a minute for it to end.
START = f"""\
#!/bin/sh
set -e
[ "$KOLLA_NEUTRON_WRAPPERS" != true ] || {WRAPPERS}/copy-wrappers
export PYTHONPATH={INSIDE}:{CHECKOUT}/src PATH={VENV}/bin:/usr/local/bin:/usr/sbin:/usr/bin PYTHONWARNINGS=ignore
cd {STATE}
{VENV}/bin/python3 -B -W ignore {INSIDE}/daemon.py --config-file {STATE}/neutron.conf <questions >answers 2>>stderr &
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
    """Who runs Kolla-Ansible: a tree of their own, an inventory with one DHCP agent, and /etc/kolla's files."""

    release: str
    home: Path

    @property
    def tree(self) -> Path:
        return self.home / "tree"

    @property
    def globals(self) -> Path:
        return self.home / "etc/globals.d/sidespawn.yml"

    def prepare(self) -> None:
        shutil.copytree(venv(self.release) / "share/kolla-ansible", self.tree)
        self.globals.parent.mkdir(parents=True)
        given = {
            "kolla_internal_vip_address": "127.0.0.1",
            "kolla_same_external_internal_vip": True,
            "network_interface": "lo",
            "neutron_external_interface": "lo",
            "kolla_container_engine": "podman",
            # Of all agents only that for DHCP is on this host.
            "neutron_plugin_agent": "ovn",
            "neutron_ovn_dhcp_agent": "yes",
            "CONFIG_DIR": str(self.home / "node"),
            "node_config": str(self.home / "node"),
            "node_config_directory": str(self.home / "node"),
            # A lab cannot raise limits.
            "neutron_dhcp_agent_dimensions": {},
            "neutron_dhcp_agent_enable_healthchecks": "no",
            "neutron_dhcp_agent_image_full": KOLLA_IMAGE,
            "neutron_extra_volumes": [f"{each}:{each}:ro" for each in (VENV, INSIDE, CHECKOUT / "src")]
            + [f"{VENV}/etc/neutron/{each}:/etc/neutron/{each}:ro" for each in ("rootwrap.conf", "rootwrap.d")],
        }
        # JSON is YAML.
        (self.home / "etc/globals.yml").write_text(json.dumps(given))
        (self.home / "node/neutron-dhcp-agent").mkdir(parents=True)
        groups = re.findall(
            r"^\[([\w-]+)(?::children)?\]", (self.tree / "ansible/inventory/all-in-one").read_text(), re.MULTILINE
        )
        inventory = "".join(f"[{each}]\n" for each in dict.fromkeys(groups) if each != "neutron-dhcp-agent")
        (self.home / "inventory").write_text(f"{inventory}[neutron-dhcp-agent]\nlocalhost ansible_connection=local\n")
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
            "PYTHONPATH": str(site),  # podman's client, for an interpreter that has dbus
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
        assert done.returncode == 0, done.stdout + done.stderr + trouble()
        return {row["task"]: row["result"] for row in map(json.loads, record.read_text().splitlines())}


class Daemon:
    """The agent that Kolla's container runs; it talks by two pipes in its state."""

    def __init__(self) -> None:
        self.state = VOLUMES / "neutron_metadata_socket/_data"
        self.uid = 0

    def connect(self) -> None:
        # Each open waits for the other end.
        self.questions = (self.state / "questions").open("w")
        self.answers = (self.state / "answers").open()
        self.read()

    def ask(self, verb: str, **arguments: Any) -> Any:
        print(json.dumps([verb, arguments]), file=self.questions, flush=True)
        return self.read()

    def read(self) -> Any:
        line = self.answers.readline()
        assert line, f"the agent ended:\n{trouble()}"
        said = json.loads(line)
        assert "error" not in said, f"{said['error']}\n{trouble()}"
        return said["result"]

    def close(self) -> None:
        for each in ("questions", "answers"):
            with suppress(OSError, AttributeError):
                getattr(self, each).close()


def trouble() -> str:
    state = VOLUMES / "neutron_metadata_socket/_data"
    logs = [
        path.read_text().splitlines()[-30:] for name in ("stderr", "neutron.log") if (path := state / name).exists()
    ]
    said = command("podman", "logs", "--tail=20", CONTAINER, check=False)
    return "\n".join((said.stdout, said.stderr, *(line for log in logs for line in log)))


def inspected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command("podman", "container", "inspect", CONTAINER).stdout)[0]
    return found


def make_image() -> None:
    scratch, made = Path("/run/kolla-image"), "kolla-image"
    scratch.mkdir(exist_ok=True)
    files = {"/usr/local/bin/kolla_start": START, "/usr/local/bin/kolla_set_configs": "#!/bin/sh\n"}
    files |= {f"{WRAPPERS}/{name}": "#!/bin/sh\nexit 99\n" for name in ("dnsmasq", "haproxy")}
    files |= {f"{WRAPPERS}/copy-wrappers": THEIR_COPY}
    command("podman", "create", f"--name={made}", AGENT_IMAGE, "true")
    for path, text in files.items():
        source = scratch / path.lstrip("/")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text)
        source.chmod(0o755)
    command("podman", "cp", f"{scratch}/.", f"{made}:/")
    changes = ('--change=CMD ["/usr/local/bin/kolla_start"]', "--change=LABEL kolla_version=test")
    command("podman", "commit", "--quiet", *changes, made, KOLLA_IMAGE)
    command("podman", "rm", made)
    shutil.rmtree(scratch)


def remove_agent() -> None:
    if UNIT.exists():
        command("systemctl", "stop", UNIT.name, check=False)
        command("systemctl", "disable", UNIT.name, check=False)
        UNIT.unlink()
    shutil.rmtree(UNIT.with_name(f"{UNIT.name}.d"), ignore_errors=True)
    command("systemctl", "daemon-reload")
    command("podman", "rm", "--force", "--time=0", "--ignore", CONTAINER)
    for volume in ("neutron_metadata_socket", "kolla_logs"):
        command("podman", "volume", "rm", "--force", volume, check=False)


def end_monitors() -> None:
    """podman's API has the monitor of a command that it executed stay for five minutes (podman 4.3)."""
    for pid, line in command_lines().items():
        if "conmon" in line and "--exit-delay 300" in line:
            kill_process(pid)


@contextmanager
def host() -> Iterator[Daemon]:
    """A host for Kolla-Ansible: podman's socket, the image, and the agent's configuration in its volume."""
    command("systemctl", "start", "podman.socket")
    command("ip", "netns", "add", "kolla-first")  # /run/netns is there and shared
    command("ip", "netns", "del", "kolla-first")
    make_image()
    daemon = Daemon()
    try:
        command("podman", "volume", "create", "neutron_metadata_socket")
        command("podman", "volume", "create", "kolla_logs")
        for name in ("lock", "metadata"):
            (daemon.state / name).mkdir()
        for name in ("questions", "answers"):
            os.mkfifo(daemon.state / name)
        rootwrap = f"{VENV}/bin/neutron-rootwrap"
        text = CONFIGURATION.format(
            state=STATE,
            privsep=f"{VENV}/bin/privsep-helper",
            isolated=False,
            kill_scripts="/etc/neutron/kill_scripts",
            interval=1,
            settings="",
            root_helper=f"{rootwrap} /etc/neutron/rootwrap.conf",
            root_helper_daemon=f"{rootwrap}-daemon /etc/neutron/rootwrap.conf",
        )
        (daemon.state / "neutron.conf").write_text(text)
        yield daemon
    finally:
        daemon.close()
        remove_agent()
        command("podman", "rmi", "--force", KOLLA_IMAGE, check=False)
        end_monitors()
        command("systemctl", "stop", "podman.socket", "podman.service")


def own_policy(preset: str) -> str:
    """Of an agent that is root in its container, with Kolla's paths."""
    text = policy(preset, VOLUMES / "neutron_metadata_socket/_data")
    return re.sub(r"(?m)^(state_on_host = .*)", rf'\1\nstate = "{STATE}"', text)
