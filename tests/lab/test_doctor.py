"""Broken hosts: `sidespawn doctor` names the cause, and the command that it prints repairs the host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidespawn.setup.systemd import INSTALLED
from sidespawn.system.places import NAMESPACES, POLICIES
from tests.contract.command import sidespawn_command
from tests.lab.networks import SIDESPAWN, Service, command, kill_process, unit_state

AGENT = "localhost/sidespawn-agent:latest"
Cause = dict[str, Any]


def doctor() -> tuple[int, list[Cause]]:
    done = command(*SIDESPAWN, "doctor", "--json", check=False)
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert found["not_looked_at"] == []
    return done.returncode, found["causes"]


def new_causes(before: list[Cause]) -> list[Cause]:
    code, found = doctor()
    assert code == bool(found)
    known = {(each["id"], each["found"]) for each in before}
    return [each for each in found if (each["id"], each["found"]) not in known]


@pytest.fixture(scope="module")
def own() -> list[Cause]:
    """Return the findings that this machine has anyway: the lab's control groups lack controllers."""
    return doctor()[1]


@pytest.fixture(autouse=True)
def no_drop_ins_and_masks(service: Service) -> Iterator[None]:
    yield
    for path in INSTALLED.glob(f"sidespawn@{service.name}*.d"):
        (path / "own.conf").unlink(missing_ok=True)
    command("systemctl", "unmask", socket(service))
    command("systemctl", "unmask", "--runtime", service.unit)
    command("systemctl", "daemon-reload")


def socket(service: Service) -> str:
    return f"sidespawn@{service.name}.socket"


@dataclass(frozen=True)
class Broken:
    """A way to break the host. `consequences` are listed below the cause."""

    how: Callable[[Service], object]
    cause: str
    consequences: tuple[str, ...] = ()
    serves: bool = True  # and after the repair a request is served


def stop_socket(service: Service) -> None:
    command("systemctl", "stop", socket(service))


def unmount_spool(service: Service) -> None:
    service.wait_until_idle()
    command("umount", "--lazy", str(service.places.spool))


def change_unit(service: Service) -> None:
    path = INSTALLED / "sidespawn@.service"
    path.write_text(path.read_text().replace("UMask=0077", "UMask=0022"))


def remove_unit(service: Service) -> None:
    (INSTALLED / "sidespawn@.timer").unlink()


def change_drop_in_without_reload(service: Service) -> None:
    path = INSTALLED / f"{service.unit}.d" / "own.conf"
    path.write_text("[Service]\nNice=1\n")


def let_others_write_the_policy(service: Service) -> None:
    service.places.policy.chmod(0o666)
    stop_socket(service)  # so more than the cause is down


def give_the_policies_away(service: Service) -> None:
    POLICIES.chmod(0o777)


def close_namespaces(service: Service) -> None:
    NAMESPACES.chmod(0o700)


def remove_state(service: Service) -> None:
    shutil.rmtree(service.state)


def change_policy(service: Service) -> None:
    """Install a policy that needs more from its unit."""
    text = service.places.policy.read_text()
    service.places.policy.write_text(f"{text}\n[pace]\nparallel = 7\n")


def damage_wrapper(service: Service) -> None:
    service.wrapper.write_text("#!/bin/sh\n")


def lose_a_namespace(service: Service) -> None:
    network = service.network()
    assert network.start().returncode == 0
    command("ip", "netns", "del", network.netns)


def fail_the_service(service: Service) -> None:
    service.wait_until_idle()
    path = INSTALLED / f"{service.unit}.d" / "own.conf"
    path.write_text("[Service]\nExecStart=\nExecStart=/bin/false\nRestart=no\n")
    command("systemctl", "daemon-reload")
    command("systemctl", "start", service.unit, check=False)
    path.unlink()
    command("systemctl", "daemon-reload")


def stop_timer(service: Service) -> None:
    command("systemctl", "stop", f"sidespawn@{service.name}.timer")


def leave_links(service: Service) -> None:
    """Leave the links of a service whose policy was removed."""
    for kind, target in (("socket", "multi-user"), ("timer", "timers")):
        path = INSTALLED / f"{target}.target.wants" / f"sidespawn@{service.name}-gone.{kind}"
        path.symlink_to(INSTALLED / f"sidespawn@.{kind}")


def leave_drop_ins(service: Service) -> None:
    path = INSTALLED / f"sidespawn@{service.name}-gone.service.d"
    path.mkdir()
    (path / "own.conf").write_text("[Service]\nNice=1\n")


def mask_socket(service: Service) -> None:
    command("systemctl", "mask", "--now", socket(service))


def mask_until_the_next_boot(service: Service) -> None:
    service.wait_until_idle()
    command("systemctl", "mask", "--runtime", service.unit)


def stop_the_directories(service: Service) -> None:
    service.wait_until_idle()
    command("systemctl", "stop", f"sidespawn-spool@{service.name}.service")


def disable_socket(service: Service) -> None:
    """Disable it by hand: it serves until the next boot."""
    command("systemctl", "disable", socket(service))


def disable_timer(service: Service) -> None:
    command("systemctl", "disable", f"sidespawn@{service.name}.timer")


HOSTS = {
    "the socket unit is stopped": Broken(stop_socket, "service-units"),
    "the directories were stopped": Broken(stop_the_directories, "service-units"),
    "the spool was unmounted": Broken(unmount_spool, "spool-mounts"),
    "a unit file was changed by hand": Broken(change_unit, "unit-files", ("daemon-reload", "policy-not-applied")),
    "a unit file was removed": Broken(remove_unit, "unit-files", ("policy-not-applied",)),
    "a drop-in was not loaded": Broken(change_drop_in_without_reload, "daemon-reload"),
    "others may write a policy": Broken(let_others_write_the_policy, "policy-unsafe", ("service-units",), serves=False),
    "others may write all policies": Broken(give_the_policies_away, "policy-unsafe"),
    "the namespaces are closed": Broken(close_namespaces, "network-namespaces"),
    "the agent's state is gone": Broken(remove_state, "state-missing"),
    "a policy was changed and not applied": Broken(change_policy, "policy-not-applied"),
    "a wrapper is damaged": Broken(damage_wrapper, "policy-not-applied"),
    "a side container is an orphan": Broken(lose_a_namespace, "orphan"),
    "the service has failed": Broken(fail_the_service, "service-units"),
    "the socket unit is masked": Broken(mask_socket, "service-units"),
    "the service is masked until the next boot": Broken(mask_until_the_next_boot, "service-units"),
    "the socket unit is not started at boot": Broken(disable_socket, "not-enabled", ("leftover-directories",)),
    "the timer is not started at boot": Broken(disable_timer, "policy-not-applied"),
    "the timer is stopped": Broken(stop_timer, "service-units"),
    "links of a service are left": Broken(leave_links, "leftover-links"),
    "drop-ins of a service are left": Broken(leave_drop_ins, "leftover-drop-ins"),
}


@pytest.mark.parametrize("name", HOSTS)
def test_the_printed_command_repairs_the_host(name: str, service: Service, own: list[Cause]) -> None:
    host = HOSTS[name]
    assert new_causes(own) == []
    host.how(service)
    (cause,) = new_causes(own)
    assert cause["id"] == host.cause
    below = [each["id"] for each in cause["consequences"]]
    assert [each for each in below if each in host.consequences] == list(host.consequences), below
    repair(cause)
    left = new_causes(own)
    if host.serves:
        assert left == []
        assert service.network().start().returncode == 0
        assert new_causes(own) == []
    else:  # the consequence is now a cause, with a command for it
        (cause,) = left
        assert cause["id"] in host.consequences
        repair(cause)
        assert new_causes(own) == []


def repair(cause: Cause) -> None:
    assert cause["command"], cause
    environment = {"PATH": f"{Path(SIDESPAWN[0]).parent}:{os.defpath}:/usr/sbin:/sbin"}
    done = subprocess.run(
        ["/bin/sh", "-ec", cause["command"]], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{cause['command']}: {done.stderr}"


@dataclass(frozen=True)
class Several:
    """Several faults, and the causes that it lists, in this order, each with its consequences.

    `repaired` are the causes that are repaired one after the other, if they are not the same.
    """

    hows: tuple[Callable[[Service], object], ...]
    causes: tuple[tuple[str, ...], ...]
    repaired: tuple[str, ...] = ()


COMBINED = {
    "a changed unit, a stopped socket, no state": Several(
        (change_unit, stop_socket, remove_state),
        (("unit-files", "daemon-reload", "policy-not-applied", "service-units"), ("state-missing",)),
        ("unit-files", "state-missing"),
    ),
    "an orphan, no spool, a stopped timer": Several(
        (lose_a_namespace, unmount_spool, stop_timer),
        (("spool-mounts", "service-units"), ("orphan",)),
        ("spool-mounts", "orphan", "service-units"),
    ),
    "a policy that others may write, a stopped socket, closed namespaces": Several(
        (let_others_write_the_policy, close_namespaces),
        (("policy-unsafe", "service-units"), ("network-namespaces",)),
        ("policy-unsafe", "service-units", "network-namespaces"),
    ),
    "a missing unit file, a changed policy, a drop-in that was not loaded": Several(
        (remove_unit, change_policy, change_drop_in_without_reload),
        (("unit-files", "daemon-reload", "policy-not-applied"),),
    ),
    "a masked socket, no state": Several((mask_socket, remove_state), (("state-missing",), ("service-units",))),
    "a stopped socket, a damaged wrapper, no state": Several(
        (stop_socket, damage_wrapper, remove_state),
        (("state-missing",), ("policy-not-applied",), ("service-units",)),
        ("state-missing", "policy-not-applied"),
    ),
    "a stopped timer, what a service has left": Several(
        (stop_timer, leave_links, leave_drop_ins), (("service-units",), ("leftover-links",), ("leftover-drop-ins",))
    ),
    "no start at boot, a stopped socket, a damaged wrapper": Several(
        (disable_socket, stop_socket, damage_wrapper), (("not-enabled", "leftover-directories"),)
    ),
}


@pytest.mark.parametrize("name", COMBINED)
def test_several_faults_are_repaired_in_the_order_that_it_lists(name: str, service: Service, own: list[Cause]) -> None:
    """Run only the first command in each round."""
    faults = COMBINED[name]
    assert new_causes(own) == []
    for how in faults.hows:
        how(service)
    left, repaired = new_causes(own), []
    assert [(each["id"], *(below["id"] for below in each["consequences"])) for each in left] == list(faults.causes)
    while left:
        first = left[0]
        repair(first)
        repaired.append(first["id"])
        left = new_causes(own)
        assert first["found"] not in [each["found"] for each in left]
    assert repaired == list(faults.repaired or [each[0] for each in faults.causes])
    assert service.network().start().returncode == 0
    assert new_causes(own) == []


@contextmanager
def agent(service: Service) -> Iterator[None]:
    name = f"agent-{service.name}"
    mount = f"--volume={service.places.spool}:{service.places.spool}:rw,rprivate"
    command("podman", "run", "--detach", "--network=none", f"--name={name}", mount, AGENT, "sleep", "600")
    try:
        yield
    finally:
        command("podman", "rm", "--force", "--time=0", name)


def test_an_agent_with_old_directories_is_restarted(service: Service, own: list[Cause]) -> None:
    with agent(service):
        service.disable()
        service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
        (cause,) = new_causes(own)
        assert (cause["id"], cause["command"].split()[:2]) == ("agent-mounts", ["podman", "restart"])
        repair(cause)
        assert new_causes(own) == []


def test_an_invalid_policy_is_for_people(service: Service, own: list[Cause]) -> None:
    with service.places.policy.open("a") as policy:
        policy.write("nonsense = 1\n")
    (cause,) = new_causes(own)
    assert (cause["id"], cause["command"]) == ("policy-invalid", "")
    assert f"sidespawn check {service.name}" in cause["advice"]


def test_a_read_only_file_system_is_the_cause_of_what_fails(service: Service, own: list[Cause]) -> None:
    storage = "/var/lib/containers"
    command("mount", "--bind", storage, storage)
    try:
        command("mount", "--options=remount,bind,ro", storage)
        found = json.loads(command(*SIDESPAWN, "doctor", "--json", check=False).stdout)
        cause = found["causes"][0]
        assert (cause["id"], cause["found"]) == ("file-systems", f"the file system of {storage} is read-only")
        assert cause["command"] == ""
        assert "podman" in {each["id"] for each in cause["consequences"]}
        assert [each for each in found["not_looked_at"] if service.name in each]  # its side containers, by podman
    finally:
        command("umount", storage)
    assert new_causes(own) == []
    assert service.network().start().returncode == 0


def test_crashes_and_failures_are_reported_until_it_works(service: Service, own: list[Cause]) -> None:
    """Start from an image that does not exist: the failures are consequences of that."""
    text = service.places.policy.read_text()
    service.places.policy.write_text(text.replace("[parameters]", '[parameters]\nimage = "localhost/no-such:1"'))
    network = service.network()
    assert network.start().returncode == 70
    (cause,) = new_causes(own)
    assert (cause["id"], cause["command"]) == ("image-missing", "")  # no registry runs on localhost
    assert [each["id"] for each in cause["consequences"]] == ["requests-fail"]
    assert "1 image-missing" in cause["consequences"][0]["found"]
    service.places.policy.write_text(text)
    assert network.start().returncode == 0
    assert new_causes(own) == []
    while network.start().returncode == 0:
        kill_process(network.pid)
    (cause,) = new_causes(own)
    assert cause["id"] == "keeps-ending"
    assert f"sidespawn logs {service.name} {network.netns}" in cause["advice"]


def test_a_network_that_always_fails_is_named_while_others_work(service: Service, own: list[Cause]) -> None:
    works, fails = service.network(), service.network()
    shutil.rmtree(fails.home)
    assert (fails.start().returncode, works.start().returncode) == (70, 0)
    (cause,) = new_causes(own)
    assert (cause["id"], cause["instance"]) == ("requests-fail", fails.netns)
    assert "have all failed: 1 state-unusable" in cause["found"]


def test_for_people_it_prints_the_order_and_the_commands(service: Service) -> None:
    stop_socket(service)
    done = command(*SIDESPAWN, "doctor", check=False)
    assert done.returncode == 1
    assert f"-> systemctl start {socket(service)}\n" in done.stdout
    command("systemctl", "start", socket(service))
    assert unit_state(socket(service)) == "active"


def test_a_user_without_rights_gets_a_message(service: Service) -> None:
    done = sidespawn_command("doctor", as_nobody=True)
    assert done.returncode in (1, 2)
    assert "not checked: this was not run as root" in done.stdout
