"""Kolla-Ansible's real role and modules start the DHCP agent without socket and privileges, and it works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidespawn.testing.network import remove_namespace
from tests.deploy import kolla
from tests.deploy.conftest import CHECKOUT, Ansible
from tests.deploy.kolla import CONTAINER, PATIENCE, RELEASES, Daemon, Operator
from tests.lab.networks import SIDESPAWN, Service, command, wait_until
from tests.neutron import networks
from tests.neutron.helpers import connect, lan

SERVICE = "neutron-dhcp-dnsmasq"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    service = Service(SERVICE, Path("/nonexistent"))
    service.places.policy.parent.mkdir(exist_ok=True)
    service.places.policy.write_text(kolla.own_policy(SERVICE))
    with kolla.host() as made:
        yield made
        service.disable()


@pytest.fixture(params=RELEASES)
def operator(request: pytest.FixtureRequest, tmp_path: Path) -> Operator:
    if not kolla.venv(request.param).exists():
        pytest.skip("needs Kolla-Ansible in .cache, which ./dev test deploy installs")
    made = Operator(request.param, tmp_path)
    made.prepare()
    return made


def role(operator: Operator, **more: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    variables = {
        "kolla_tree": str(operator.tree),
        "kolla_globals": str(operator.globals),
        "kolla_node_config": str(operator.home / "node"),
        "kolla_services": {"dhcp": [SERVICE]},
        "kolla_own_policies": [SERVICE],
        "kolla_controller_become": False,
        "kolla_command": SIDESPAWN[0],
    }
    return [{"name": "role", "ansible.builtin.include_role": {"name": "sidespawn.host.kolla"}}], variables | more


def test_an_agent_without_socket_and_privileges_serves_its_network(
    ansible: Ansible, operator: Operator, daemon: Daemon
) -> None:
    tasks, variables = role(operator, kolla_unprivileged=True)
    ansible.play(tasks, variables=variables)
    unit = kolla.UNIT.with_name(f"{kolla.UNIT.name}.d") / "50-sidespawn.conf"
    assert f"Wants=sidespawn-spool@{SERVICE}.service\n" in unit.read_text()
    operator.deploy()
    daemon.connect()
    held = kolla.inspected()
    assert held["HostConfig"]["Privileged"] is False
    assert set(held["HostConfig"]["CapAdd"]) >= {"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}
    assert not {"CAP_SYS_PTRACE", "CAP_SYS_MODULE"} & set(held["EffectiveCaps"])
    assert_contained(held)
    served(daemon)
    assert changed(operator.deploy()) == set()
    assert kolla.inspected()["Id"] == held["Id"]
    assert not any(ansible.play(tasks, variables=variables).changed.values())


@pytest.mark.parametrize("operator", RELEASES[-1:], indirect=True)
def test_no_patch_takes_the_socket_away_and_only_the_patch_the_privileges(
    ansible: Ansible, operator: Operator, daemon: Daemon
) -> None:
    tasks, variables = role(operator)
    ansible.play(tasks, variables=variables)
    operator.deploy()
    daemon.connect()
    held = kolla.inspected()
    assert held["HostConfig"]["Privileged"] is True
    assert_contained(held)
    served(daemon)
    assert changed(operator.deploy()) == set()
    # Services that say so are not enough: the handlers drop capabilities, and every run starts the agent again.
    handlers = operator.tree / kolla.HANDLERS
    theirs = handlers.read_text()
    ansible.play(tasks, variables=variables | {"kolla_unprivileged": True})
    assert handlers.read_text() != theirs
    handlers.write_text(theirs)
    daemon.close()
    for _ in range(2):
        assert "Restart neutron-dhcp-agent container" in changed(operator.deploy())
        assert "CAP_SYS_ADMIN" not in kolla.inspected()["EffectiveCaps"]


def assert_contained(held: dict[str, Any]) -> None:
    """No engine, and of what sidespawn mounts only the spool can be written: by what podman says, and by trying."""
    sources = {each["Destination"]: each["Source"] for each in held["Mounts"]}
    assert not [each for each in sources.values() if each.endswith(".sock") or "/run/podman".startswith(each)]
    assert not [each for each in sources.values() if "/var/lib/containers/storage/volumes".startswith(each)]
    ours = [
        each
        for each in held["Mounts"]
        if "sidespawn/" in each["Source"] and not each["Source"].startswith(str(CHECKOUT))
    ]
    assert len(ours) >= 6
    for mount in ours:
        target, is_spool = mount["Destination"], mount["Destination"].endswith("/spool")
        assert mount["RW"] is is_spool
        tried = f"{target}/tried" if target.endswith(("/spool", "/replies")) else target
        assert (inside("sh", "-c", 'echo >>"$1" && rm "$1"', "sh", tried) == 0) is is_spool, target
    assert inside("dnsmasq", "--version") == 0


def changed(results: dict[str, dict[str, Any]]) -> set[str]:
    return {name.rpartition(" : ")[2] for name, each in results.items() if each.get("changed")}


def served(daemon: Daemon) -> None:
    """A network's client gets a lease, from a dnsmasq that sidespawn started."""
    network = networks.network(networks.subnet("10.20.0.0/24"))
    port = networks.add_port(network, networks.MACS[0], 10)
    with lan(daemon, network["id"]) as made:  # type: ignore[arg-type]  # of an agent only its state
        try:
            daemon.ask("create_network", network=network)
            wait_until(lambda: port["id"] in daemon.ask("ready"), PATIENCE)
            connect(made)
            lease = made.clients[0].ask(5)
            assert lease is not None, kolla.trouble()
            assert lease.address == "10.20.0.10"
            assert list(Service(SERVICE, daemon.state).containers(every=False)) == [f"{SERVICE}_qdhcp-{network['id']}"]
            daemon.ask("delete_network", network_id=network["id"])
            wait_until(lambda: Service(SERVICE, daemon.state).containers() == {}, PATIENCE)
        except AssertionError as failed:
            failed.add_note(kolla.trouble())
            raise
        finally:
            remove_namespace(f"qdhcp-{network['id']}")


def inside(*argv: str) -> int:
    return command("podman", "exec", CONTAINER, *argv, check=False).returncode
