"""EDPM's unit of the DHCP agent under a real systemd, by the generator of the machine's own podman, with our drop-in.

Ansible reaches the machine by ssh, as it does a data plane node. Neutron and its image are of this side's Debian, and
run in a container there.
"""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.testing import images
from tests.deploy.conftest import BIN, COLLECTION, Ansible
from tests.deploy.neutron import VENV
from vm.cache import CHECKOUT
from vm.machine import Machine
from vm.recipes import Recipe, Release

NAME = "edpm"
SERVICE = "neutron-dhcp-dnsmasq"
NODE = ".venv/bin/python -m tests.deploy.inside.edpm_node"
COPY_SECONDS = 600


@pytest.fixture
def with_drop_ins(recipe: Recipe) -> None:
    if recipe.release is Release.BOOKWORM:
        pytest.skip("its podman has no Quadlet that reads drop-ins")


@pytest.fixture
def ansible(fresh_machine: Machine, tmp_path: Path) -> Ansible:
    """With the collection, and the machine as its only host."""
    if not BIN.exists() or not VENV.exists():
        pytest.skip("needs Ansible and Neutron in .cache, which ./dev vm test makes")
    made = Ansible(tmp_path)
    made.call("ansible-galaxy", "collection", "build", str(COLLECTION), f"--output-path={tmp_path}")
    (archive,) = tmp_path.glob("*.tar.gz")
    made.call("ansible-galaxy", "collection", "install", "--offline", str(archive))
    shell = fresh_machine.shell
    reached = {
        "ansible_connection": "ssh",
        "ansible_host": "127.0.0.1",
        "ansible_port": shell.port,
        "ansible_user": "root",
        "ansible_ssh_args": shlex.join(shell.options),
        "ansible_ssh_transfer_method": "piped",
        "ansible_ssh_pipelining": True,
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"node": reached}}}))
    return replace(made, inventory=inventory)


@pytest.mark.slow
@pytest.mark.part("edpm")
@pytest.mark.usefixtures("with_drop_ins")
def test_an_agent_of_edpm_serves_its_network_without_privileges(
    fresh_machine: Machine, ansible: Ansible, tmp_path: Path
) -> None:
    send_neutron(fresh_machine, tmp_path)
    # Nodes have this directory from their boot on.
    fresh_machine.run("echo 'd /run/netns 0755 root root -' >/etc/tmpfiles.d/netns.conf")
    state = fresh_machine.run(f"{NODE} prepare {NAME}", timeout=300).stdout.strip()
    variables = {
        "edpm_sidespawn_services": {"dhcp": [SERVICE]},
        "edpm_sidespawn_state_directory": state,
    }
    role = [{"name": "role", "ansible.builtin.include_role": {"name": "sidespawn.host.edpm"}}]
    ansible.play(role, variables=variables)
    served = json.loads(serve(fresh_machine))
    assert served["address"] == "10.20.0.10"
    assert served["helpers"] == [f"{SERVICE}_qdhcp-{served['network']}"]
    assert served["privileged"] is False
    assert "--privileged" not in served["starts"]
    assert not {"CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_MKNOD"} & set(served["capabilities"])
    assert not [each for each in served["sources"] if "wrapper" in each or "kill_scripts" in each or ".sock" in each]
    # systemd has the unit from podman's own generator.
    assert "FragmentPath=/run/systemd/generator/" in served["unit"]
    assert "ActiveState=active" in served["unit"]
    assert not any(ansible.play(role, variables=variables).changed.values())
    found = json.loads(fresh_machine.run("sidespawn scan --json", check=False).stdout)["findings"]
    assert not [each for each in found if served["container"] in each["where"]]

    # All of it is there after a reboot.
    fresh_machine.reboot()
    assert json.loads(serve(fresh_machine))["address"] == "10.20.0.10"


def serve(machine: Machine) -> str:
    slowness = f"env SIDESPAWN_SLOWNESS={machine.accelerator.factor}"
    return machine.run(f"{slowness} {NODE} serve {NAME}", timeout=400).stdout.splitlines()[-1]


def send_neutron(machine: Machine, scratch: Path) -> None:
    """The image and, at the path that its scripts name, the virtual environment."""
    (image,) = images.build_tars(CHECKOUT / ".cache/images", (images.NEUTRON_AGENT,))
    packed = scratch / "image.tar.gz"
    with image.open("rb") as source, gzip.open(packed, "wb", compresslevel=1) as target:
        shutil.copyfileobj(source, target)
    venv = scratch / "venv.tar.gz"
    subprocess.run(("tar", "--create", "--gzip", f"--file={venv}", "--directory=/", str(VENV).lstrip("/")), check=True)
    for each in (packed, venv):
        machine.shell.copy(str(each), f"vm:/root/{each.name}", machine.scaled(COPY_SECONDS))
    machine.run(
        f"tar --extract --gzip --file=/root/{venv.name} --directory=/ && ln -sfn {VENV} .cache/neutron"
        f" && podman import --quiet /root/{packed.name} {images.NEUTRON_AGENT.name}:latest"
        f" && rm /root/{venv.name} /root/{packed.name}",
        timeout=COPY_SECONDS,
    )
