"""Kolla-Ansible's real role and modules start Neutron's agents without socket and privileges, and they work."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidespawn.testing.network import has_namespace, remove_namespace
from tests.deploy import kolla
from tests.deploy.conftest import CHECKOUT, Ansible
from tests.deploy.kolla import RELEASES, STATE, Host, Operator
from tests.deploy.neutron import DHCP, PATIENCE, Daemon, Kind
from tests.lab.answers import Answer, serving
from tests.lab.networks import SIDESPAWN, Service, command, wait_until
from tests.neutron import networks, ovn, test_l3, test_ovn
from tests.neutron.helpers import connect, lan

L3 = Kind("l3", "l3", "l3.py", test_l3.SETTINGS.format(conntrackd=True))
OVN = Kind("ovn_metadata", "ovn", "ovn.py", test_ovn.SETTINGS)
# Capabilities that a privileged container has, by their bits.
PRIVILEGES = {"SYS_MODULE": 16, "SYS_PTRACE": 19}
NEEDED = {"NET_ADMIN": 12, "SYS_ADMIN": 21}
LONG = pytest.mark.long


@pytest.fixture
def nova() -> Iterator[int]:
    """The port of Nova's metadata service."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    with serving(server):
        yield server.server_address[1]


@pytest.fixture
def place(request: pytest.FixtureRequest, nova: int) -> Iterator[tuple[Host, Daemon]]:
    """By the agent and the engine."""
    kind, engine = request.param
    if kind is OVN:
        kind = replace(kind, settings=kind.settings.format(state=STATE, nova=nova))
    with kolla.running(kind, engine) as made:
        yield made


@pytest.fixture
def operator(request: pytest.FixtureRequest, place: tuple[Host, Daemon], tmp_path: Path) -> Operator:
    """By the release."""
    if not kolla.venv(request.param).exists():
        pytest.skip("needs Kolla-Ansible in .cache, which ./dev test deploy installs")
    host, _ = place
    made = Operator(request.param, tmp_path, host.kind, host.engine)
    made.prepare()
    return made


def role(operator: Operator, **more: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    services = list(operator.kind.presets.values())
    variables = {
        "kolla_tree": str(operator.tree),
        "kolla_agents": [operator.kind.name],
        "kolla_engine": operator.engine,
        "kolla_globals": str(operator.globals),
        "kolla_node_config": str(operator.home / "node"),
        "kolla_script_directory": str(operator.home / "node/sidespawn"),
        "kolla_services": {operator.kind.name: services},
        "kolla_own_policies": services,
        "kolla_controller_become": False,
        "kolla_command": SIDESPAWN[0],
    }
    return [{"name": "role", "ansible.builtin.include_role": {"name": "sidespawn.host.kolla"}}], variables | more


def combined(kind: Kind, engine: str, release: str, *marks: pytest.MarkDecorator) -> Any:
    return pytest.param((kind, engine), release, marks=marks, id=f"{kind.name}-{engine}-{release}")


@pytest.mark.parametrize(
    ("place", "operator"),
    [
        *(combined(DHCP, "podman", each) for each in RELEASES),
        combined(DHCP, "docker", RELEASES[-1]),
        *(combined(DHCP, "docker", each, LONG) for each in RELEASES[:-1]),
        *(combined(L3, engine, of, LONG) for engine in kolla.VOLUMES for of in RELEASES),
        # OVN's agent in 2025.1 has no socket and no wrappers, so there is nothing to replace.
        *(combined(OVN, engine, of, LONG) for engine in kolla.VOLUMES for of in RELEASES[1:]),
    ],
    indirect=True,
)
def test_an_agent_without_socket_and_privileges_serves_its_network(
    ansible: Ansible, operator: Operator, place: tuple[Host, Daemon]
) -> None:
    host, daemon = place
    tasks, variables = role(operator, kolla_unprivileged=True)
    ansible.play(tasks, variables=variables)
    unit = host.unit.with_name(f"{host.unit.name}.d") / "50-sidespawn.conf"
    for service in daemon.services:
        assert f"Wants=sidespawn-spool@{daemon.services[service].name}.service\n" in unit.read_text()
    with ExitStack() as around:
        served = SERVED[host.kind.name](daemon, around)
        operator.deploy()
        daemon.connect()
        held = host.inspect()
        assert held["HostConfig"]["Privileged"] is False
        assert has(held, NEEDED) == NEEDED.keys()
        assert has(held, PRIVILEGES) == set()
        assert_contained(host, held)
        try:
            served()
        except AssertionError as failed:
            failed.add_note(host.trouble())
            raise
        assert changed(operator.deploy()) == set()
    assert host.inspect()["Id"] == held["Id"]
    assert not any(ansible.play(tasks, variables=variables).changed.values())


@pytest.mark.parametrize(
    ("place", "operator"),
    [combined(DHCP, "podman", RELEASES[-1]), combined(L3, "podman", RELEASES[-1], LONG)],
    indirect=True,
)
def test_no_patch_takes_the_socket_away_and_only_the_patch_the_privileges(
    ansible: Ansible, operator: Operator, place: tuple[Host, Daemon]
) -> None:
    host, daemon = place
    tasks, variables = role(operator)
    tree = [operator.tree / name for name in ("ansible/roles/neutron/defaults/main.yml", kolla.HANDLERS)]
    before = [each.read_bytes() for each in tree]
    script = operator.home / "node/sidespawn/copy-wrappers"
    script.mkdir(parents=True)  # as docker does if it is missing
    told = changed(ansible.play(tasks, "--check", variables=variables).results)
    assert not operator.globals.exists()
    assert changed(ansible.play(tasks, variables=variables).results) == told
    assert script.is_file()
    with ExitStack() as around:
        served = SERVED[host.kind.name](daemon, around)
        operator.deploy()
        daemon.connect()
        held = host.inspect()
        assert held["HostConfig"]["Privileged"] is True
        assert_contained(host, held)
        served()
    assert changed(operator.deploy()) == set()
    # Services that say so are not enough: the handlers drop capabilities, and every run starts the agent again.
    handlers = operator.tree / kolla.HANDLERS
    theirs = handlers.read_text()
    ansible.play(tasks, variables=variables | {"kolla_unprivileged": True})
    assert handlers.read_text() != theirs
    handlers.write_text(theirs)
    daemon.close()
    for _ in range(2):
        assert f"Restart {kolla.group_of(host.kind)} container" in changed(operator.deploy())
        assert has(host.inspect(), NEEDED) == set()
    # The way back.
    gone = variables | {"kolla_state": "absent"}
    told = changed(ansible.play(tasks, "--check", variables=gone).results)
    assert operator.globals.exists()
    assert changed(ansible.play(tasks, variables=gone).results) == told
    assert [each.read_bytes() for each in tree] == before
    assert not operator.globals.exists()
    assert changed(ansible.play(tasks, variables=gone).results) == set()
    operator.deploy()
    held = host.inspect()
    assert held["HostConfig"]["Privileged"] is True
    assert not [each for each in held["Mounts"] if "sidespawn/" in each["Source"] and "/spool" in each["Source"]]
    assert [each for each in held["Mounts"] if each["Source"].endswith(f"/{host.engine}.sock")]


@LONG
def test_the_presets_hold_with_the_paths_of_kolla_ansible(ansible: Ansible, tmp_path: Path) -> None:
    """All agents of a host, as docs/ansible.md has it: without policies of one's own."""
    if not kolla.venv(RELEASES[-1]).exists():
        pytest.skip("needs Kolla-Ansible in .cache, which ./dev test deploy installs")
    operator = Operator(RELEASES[-1], tmp_path)
    operator.prepare()
    tasks, variables = role(operator, kolla_image="localhost/sidespawn-helpers:latest", kolla_own_policies=[])
    del variables["kolla_services"]
    variables["kolla_agents"] = agents = ["dhcp", "l3", "ovn_metadata"]
    services = [Service(each, kolla.VOLUMES["podman"]) for kind in (DHCP, L3, OVN) for each in kind.presets.values()]
    units = [Path(f"/etc/systemd/system/kolla-neutron_{each}_agent-container.service.d") for each in agents]
    try:
        ansible.play(tasks, variables=variables)
        written = operator.globals.read_text()
        for service in services:
            assert command(*SIDESPAWN, "check", service.name, check=False).returncode == 0
            assert "neutron_metadata_socket/_data" in service.places.policy.read_text()
            assert f'"{service.places.spool}:{service.places.spool}"' in written
        assert ".sock" not in written
        assert changed(ansible.play(tasks, variables=variables).results) == set()
    finally:
        for service in services:
            if service.places.policy.exists():
                service.disable()
        for each in units:
            shutil.rmtree(each, ignore_errors=True)
        command("systemctl", "daemon-reload")


def has(held: dict[str, Any], wanted: dict[str, int]) -> set[str]:
    """Of these capabilities, by what the kernel says of the container's first process."""
    lines = Path(f"/proc/{held['State']['Pid']}/status").read_text().splitlines()
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return {name for name, bit in wanted.items() if mask >> bit & 1}


def assert_contained(host: Host, held: dict[str, Any]) -> None:
    """No engine, and of what sidespawn mounts only the spool can be written: by what the engine says, and by trying."""
    sources = {each["Destination"]: each["Source"] for each in held["Mounts"]}
    assert not [each for each in sources.values() if each.endswith(".sock") or "/run/podman".startswith(each)]
    assert not [each for each in sources.values() if str(kolla.VOLUMES[host.engine]).startswith(each)]
    ours = [
        each
        for each in held["Mounts"]
        if "sidespawn/" in each["Source"] and not each["Source"].startswith(str(CHECKOUT))
    ]
    assert len(ours) >= 5
    for mount in ours:
        target, is_spool = mount["Destination"], mount["Destination"].endswith("/spool")
        assert mount["RW"] is is_spool
        tried = f"{target}/tried" if target.endswith(("/spool", "/replies")) else target
        assert (host.inside("sh", "-c", 'echo >>"$1" && rm "$1"', "sh", tried) == 0) is is_spool, target
    for program in {"dnsmasq", "keepalived"} & host.kind.presets.keys():
        assert host.inside(program, "--version") == 0


def changed(results: dict[str, dict[str, Any]]) -> set[str]:
    return {name.rpartition(" : ")[2] for name, each in results.items() if each.get("changed")}


def dhcp_serves(daemon: Daemon, around: ExitStack) -> Callable[[], None]:
    """A network's client gets a lease, from a dnsmasq that sidespawn started."""
    network = networks.network(networks.subnet("10.20.0.0/24"))
    port = networks.add_port(network, networks.MACS[0], 10)
    service = daemon.services["dnsmasq"]

    def served() -> None:
        around.callback(remove_namespace, f"qdhcp-{network['id']}")
        made = around.enter_context(lan(daemon, network["id"]))  # type: ignore[arg-type]  # of an agent only its state
        daemon.ask("create_network", network=network)
        wait_until(lambda: port["id"] in daemon.ask("ready"), PATIENCE)
        connect(made)
        lease = made.clients[0].ask(5)
        assert lease is not None
        assert lease.address == "10.20.0.10"
        assert list(service.containers(every=False)) == [f"{service.name}_qdhcp-{network['id']}"]
        daemon.ask("delete_network", network_id=network["id"])
        wait_until(lambda: service.containers() == {}, PATIENCE)

    return served


def l3_serves(daemon: Daemon, around: ExitStack) -> Callable[[], None]:
    """A highly available router with all its helpers: a machine gets an address by radvd and metadata by haproxy."""
    router = around.enter_context(test_l3.made_router(daemon))  # type: ignore[arg-type]

    def served() -> None:
        daemon.ask("put_router", router=router.described)
        router.wait_until("active")
        wait_until(router.is_complete, PATIENCE)
        connect(router.lan)
        assert router.works()
        for program, pid in router.pids().items():
            (container,) = daemon.services[program].containers().values()
            assert container.pid == pid
        daemon.ask("delete_router", router_id=router.id)
        wait_until(lambda: not has_namespace(router.netns), PATIENCE)
        wait_until(lambda: not any(each.containers(every=False) for each in daemon.services.values()), PATIENCE)

    return served


def ovn_serves(daemon: Daemon, around: ExitStack) -> Callable[[], None]:
    """A machine whose port is bound gets metadata, through a haproxy that sidespawn started."""
    chassis = ovn.Chassis("kolla-chassis", daemon.state / "ovn")
    around.callback(chassis.remove)
    chassis.start()
    network = ovn.Network(chassis)
    around.callback(remove_namespace, network.netns)
    network.make()
    service = daemon.services["haproxy"]

    def served() -> None:
        network.bind()
        wait_until(lambda: len(service.containers(every=False)) == 1, PATIENCE)
        with network.connected():
            wait_until(lambda: test_ovn.metadata(network) == f"X-Instance-ID {network.instance}", PATIENCE)
        network.unbind()
        wait_until(network.is_gone, PATIENCE)
        wait_until(lambda: service.containers() == {}, PATIENCE)

    return served


# What is around the agent before it starts, and then what it does.
SERVED = {"dhcp": dhcp_serves, "l3": l3_serves, "ovn_metadata": ovn_serves}
