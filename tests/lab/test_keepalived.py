"""keepalived for a highly available router, as Neutron's L3 agent uses it: it takes its address and returns it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.core.plan import container_name
from sidespawn.system.processes import identify
from tests.lab.conftest import new_service
from tests.lab.networks import SIDESPAWN, Router, command, kill_process, wait_until

STATE = "/var/lib/neutron"
CONFIGURATION = """\
global_defs {{
    notification_email_from neutron@openstack.local
    router_id neutron
}}
vrrp_instance VR_7 {{
    state BACKUP
    interface ha-test
    virtual_router_id 7
    priority 50
    garp_master_delay 60
    nopreempt
    advert_int 1
    track_interface {{
        ha-test
    }}
    virtual_ipaddress {{
        169.254.0.7/24 dev ha-test
    }}
    virtual_ipaddress_excluded {{
        {address}/24 dev ha-test
        fe80::7/64 dev ha-test scope link
    }}
    virtual_routes {{
        198.51.100.0/24 via 169.254.0.99 dev ha-test no_track protocol static
    }}
}}
"""
SCRIPT = "vrrp_script check {\n    script /tmp/check\n}\n"


class HaRouter(Router):
    """A router whose namespace has the interface on which routers of one group announce themselves."""

    @property
    def pid_file(self) -> Path:
        return self.service.state / "ha_confs" / f"{self.id}.pid.keepalived"

    @property
    def vrrp_pid_file(self) -> Path:
        return self.pid_file.with_name(f"{self.pid_file.name}-vrrp")

    @property
    def vrrp_pid(self) -> int:
        return int(self.vrrp_pid_file.read_text())

    def write(self, address: str, *changes: tuple[str, str]) -> None:
        text = CONFIGURATION.format(address=address)
        for old, new in changes:
            text = text.replace(old, new)
        (self.service.state / "ha_confs" / self.id / "keepalived.conf").write_text(text)

    def start(self) -> tuple[int, str]:
        confs = f"{STATE}/ha_confs/{self.id}"
        files = (
            "-f",
            f"{confs}/keepalived.conf",
            "-p",
            f"{confs}.pid.keepalived",
            "-r",
            f"{confs}.pid.keepalived-vrrp",
        )
        return self.run(str(self.service.wrapper), "-P", *files)

    def kill_vrrp(self, name: str, pid: int) -> tuple[int, str]:
        return self.run(str(self.service.places.agent / "default-service-kill"), name, str(pid))

    def addresses(self) -> str:
        return command("ip", "-n", self.netns, "address", "show", "dev", "ha-test").stdout

    def has(self, address: str) -> bool:
        return f" {address}/" in self.addresses()

    def assert_pid_files_are_right(self) -> None:
        for pid in (self.pid, self.vrrp_pid):
            assert identify(pid) is not None
            assert self.id in Path(f"/proc/{pid}/cmdline").read_text()  # Neutron recognises both by this
        assert status(self.vrrp_pid)["PPid"] == str(self.pid)
        assert os.stat(f"/proc/{self.pid}/ns/net").st_ino == os.stat(f"/run/netns/{self.netns}").st_ino
        for name in ("net", "pid", "cgroup"):
            first, second = (os.readlink(f"/proc/{pid}/ns/{name}") for pid in (self.pid, self.vrrp_pid))
            assert first == second != os.readlink(f"/proc/self/ns/{name}")


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def router() -> Iterator[HaRouter]:
    service = new_service("keepalived")
    service.enable("--preset=neutron-l3-keepalived", f"--set=state_on_host={service.state}")
    made = HaRouter(service, str(uuid.uuid4()))
    (service.state / "ha_confs" / made.id).mkdir(parents=True)
    command("ip", "netns", "add", made.netns)
    command("ip", "-n", made.netns, "link", "add", "ha-test", "type", "veth", "peer", "name", "far")
    command("ip", "-n", made.netns, "address", "add", "169.254.192.1/18", "dev", "ha-test")
    for name in ("lo", "far", "ha-test"):
        command("ip", "-n", made.netns, "link", "set", name, "up")
    made.write("203.0.113.1")
    yield made
    service.clean()
    command("ip", "netns", "del", made.netns)


@pytest.fixture
def master(router: HaRouter) -> HaRouter:
    """Make a router whose keepalived has taken its addresses."""
    assert router.start() == (0, "")
    wait_until(lambda: router.has("169.254.0.7") and router.has("203.0.113.1"), patience=30)
    return router


def test_it_takes_its_addresses_and_both_pid_files_are_right(master: HaRouter) -> None:
    master.assert_pid_files_are_right()
    wait_until(lambda: master.has("fe80::7"))
    route = "198.51.100.0/24 via 169.254.0.99 dev ha-test proto static"
    wait_until(lambda: route in command("ip", "-n", master.netns, "route").stdout)
    for pid in (master.pid, master.vrrp_pid):
        bits = (1 << 12) | (1 << 13)  # NET_ADMIN, NET_RAW
        assert [int(status(pid)[name], 16) for name in ("CapEff", "CapBnd")] == [bits, bits]
    for path in (master.pid_file, master.vrrp_pid_file):
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o644)


def test_it_logs_to_the_journal(master: HaRouter) -> None:
    container = f"CONTAINER_NAME={container_name(master.service.name, master.netns)}"

    def output() -> str:
        command("journalctl", "--sync", check=False)
        return command("journalctl", "--output=cat", "--quiet", container).stdout

    wait_until(lambda: "Entering MASTER STATE" in output())
    assert "Unknown" not in output()


def test_a_reload_keeps_the_pids_and_brings_another_address(master: HaRouter) -> None:
    pids = (master.pid, master.vrrp_pid)
    master.write("203.0.113.2")
    assert master.kill("HUP") == (0, "")
    wait_until(lambda: master.has("203.0.113.2") and not master.has("203.0.113.1"), patience=30)
    assert (master.pid, master.vrrp_pid) == pids
    master.assert_pid_files_are_right()
    assert master.has("169.254.0.7")


def test_a_host_that_fails_or_does_not_answer_costs_no_router(router: HaRouter) -> None:
    """Neutron would take a failed router down, working parts included: the wrapper prints the error and exits 0."""
    policy = router.service.places.policy
    proper = policy.read_text()
    policy.write_text(proper + '[side_container]\nimage = "localhost/there-is-none:1"\n')
    code, complaint = router.start()
    assert (code, "(image-missing)" in complaint) == (0, True)
    assert router.service.containers() == {}
    policy.write_text(proper)
    assert router.start() == (0, "")
    pid = router.pid
    policy.write_text(proper + "[agent]\ntimeout = 2\n")
    command(*SIDESPAWN, "enable", router.service.name)
    units = [f"sidespawn@{router.service.name}.{kind}" for kind in ("socket", "service", "timer")]
    command("systemctl", "stop", *units)
    code, complaint = router.kill("HUP")
    assert (code, "no answer within 2 s" in complaint) == (0, True)
    assert router.kill("15")[0] == 75  # a running program is not reported as ended
    assert identify(pid) is not None
    command("systemctl", "start", units[0], units[2])


@pytest.mark.parametrize(
    "change",
    [("    nopreempt\n", "    nopreempt\n    notify_master /tmp/x\n"), ("vrrp_instance", f"{SCRIPT}vrrp_instance")],
    ids=["notify_master", "vrrp_script"],
)
def test_a_file_that_runs_programs_is_refused_and_keepalived_keeps_running(
    router: HaRouter, change: tuple[str, str]
) -> None:
    router.write("203.0.113.2", change)
    code, complaint = router.start()
    assert code == 0  # refusals_fail is false
    assert "(configuration-not-allowed)" in complaint
    assert router.service.containers() == {}
    assert not router.pid_file.exists()

    router.write("203.0.113.1")
    assert router.start() == (0, "")
    wait_until(lambda: router.has("203.0.113.1"), patience=30)
    pids = (router.pid, router.vrrp_pid)
    router.write("203.0.113.2", change)
    code, complaint = router.kill("HUP")
    assert code == 0  # refusals_fail is false
    assert "(configuration-not-allowed)" in complaint
    assert (router.pid, router.vrrp_pid) == pids
    router.assert_pid_files_are_right()
    assert router.has("203.0.113.1")


def test_a_vrrp_process_that_died_is_replaced_and_the_next_start_tells_its_pid(master: HaRouter) -> None:
    pid, vrrp_pid = master.pid, master.vrrp_pid
    kill_process(vrrp_pid)
    assert master.start() == (0, "")
    assert master.pid == pid
    assert master.vrrp_pid != vrrp_pid
    master.assert_pid_files_are_right()


def test_the_timer_tells_the_pid_of_a_vrrp_process_that_was_replaced(master: HaRouter) -> None:
    pid, vrrp_pid = master.pid, master.vrrp_pid
    kill_process(vrrp_pid)
    wait_until(lambda: bool(children(pid)))
    master.service.wait_until_idle()
    wait_until(lambda: sweep(master) != vrrp_pid)
    assert [master.vrrp_pid] == children(pid)
    assert master.pid == pid
    master.assert_pid_files_are_right()
    assert master.kill_vrrp("HUP", master.vrrp_pid) == (0, "")  # its new pid is known


def sweep(router: HaRouter) -> int:
    command("systemctl", "start", router.service.unit)  # like the timer's run
    return router.vrrp_pid


def test_a_pid_file_that_neutron_removed_is_written_again(master: HaRouter) -> None:
    pids = (master.pid, master.vrrp_pid)
    master.pid_file.unlink()
    master.vrrp_pid_file.unlink()
    assert master.start() == (0, "")
    assert (master.pid, master.vrrp_pid) == pids


@pytest.mark.parametrize("name", ["9", "15"])
def test_a_signal_to_the_vrrp_process_reaches_it_alone(master: HaRouter, name: str) -> None:
    pid, vrrp_pid = master.pid, master.vrrp_pid
    assert master.kill_vrrp(name, vrrp_pid) == (0, "")
    assert identify(vrrp_pid) is None
    assert identify(pid) is not None
    assert len(master.service.containers(every=False)) == 1
    code, complaint = master.kill_vrrp(name, vrrp_pid)
    assert code != 0
    assert "No such process" in complaint
    assert master.start() == (0, "")
    assert master.pid == pid
    master.assert_pid_files_are_right()


def test_a_pid_that_was_never_reported_is_not_signalled(master: HaRouter) -> None:
    old = master.vrrp_pid
    kill_process(old)
    wait_until(lambda: bool(children(master.pid)))
    (new,) = children(master.pid)
    code, complaint = master.kill_vrrp("9", new)
    assert code != 0
    assert "No such process" in complaint
    assert identify(new) is not None


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_child_that_does_not_come_fails_the_start_and_nothing_is_left(router: HaRouter) -> None:
    with router.service.places.policy.open("a") as policy:
        policy.write('[side_container.child_pid_files]\n"{pid}-vrrp" = "/run/keepalived/never"\n')
        policy.write("[side_container.ready]\nwithin = 2\n")
    code, complaint = router.start()
    assert code == 0  # refusals_fail is false
    assert "(not-ready)" in complaint
    assert "/run/keepalived/never" in complaint
    assert not router.pid_file.exists()
    wait_until(lambda: router.service.containers() == {})


@pytest.mark.parametrize("name", ["15", "9"])
def test_its_end_leaves_nothing(master: HaRouter, name: str) -> None:
    pids = (master.pid, master.vrrp_pid)
    assert master.kill(name) == (0, "")
    assert [identify(pid) for pid in pids] == [None, None]
    assert not master.pid_file.exists()
    assert not master.vrrp_pid_file.exists()
    assert master.service.containers() == {}
    if name == "15":
        assert not master.has("169.254.0.7")
        assert not master.has("203.0.113.1")
    code, complaint = master.kill_vrrp("9", pids[1])
    assert code != 0
    assert "No such process" in complaint


def test_the_operator_can_stop_it(master: HaRouter) -> None:
    command(*SIDESPAWN, "stop", master.service.name, master.netns)
    assert master.service.containers() == {}
    assert not master.vrrp_pid_file.exists()


def test_one_that_another_wrapper_started_is_adopted_with_its_child(router: HaRouter) -> None:
    image, name = "localhost/sidespawn-test/neutron-l3-agent:1", f"neutron_l3_agent_keepalived_{router.netns}"
    confs = f"{STATE}/ha_confs/{router.id}"
    command("podman", "tag", "localhost/sidespawn-helpers", image)
    try:
        command(
            "nsenter", f"--net=/run/netns/{router.netns}", "podman", "run", "--detach", "--rm", f"--name={name}",
            "--net=host", "--pid=host", "--cgroupns=host", "--privileged", "--user=root",
            f"--volume={router.service.state}:{STATE}:shared", image, "/usr/sbin/keepalived", "-n", "-l", "-D", "-P",
            "-f", f"{confs}/keepalived.conf", "-p", f"{confs}.pid.keepalived", "-r", f"{confs}.pid.keepalived-vrrp",
        )  # fmt: skip
        wait_until(lambda: router.vrrp_pid_file.exists() and router.vrrp_pid_file.read_text().endswith("\n"))
        old, child = router.pid, router.vrrp_pid
        assert router.kill_vrrp("0", child) == (0, "")
        assert router.kill("HUP") == (0, "")
        router.write("203.0.113.1", ("vrrp_instance", SCRIPT + "vrrp_instance"))
        code, complaint = router.kill("HUP")
        assert (code, "(configuration-not-allowed)" in complaint) == (0, True)
        router.write("203.0.113.1")
        assert router.start() == (0, "")
        assert (identify(old), identify(child)) == (None, None)
        router.assert_pid_files_are_right()
    finally:
        command("podman", "rm", "--force", "--time=0", "--ignore", name)
        command("podman", "untag", "localhost/sidespawn-helpers", image)
