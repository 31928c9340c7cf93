"""`sidespawn check` on a real host explains what an operator or another version did to it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines.control_groups import controllers
from sidespawn.host_report import mount_namespaces, service_manager, units
from sidespawn.setup.systemd import INSTALLED
from sidespawn.system.places import RUN
from tests.lab.conftest import DropIn
from tests.lab.networks import SIDESPAWN, Service, command, wait_until

UNSUITABLE = 69
AGENT = "localhost/sidespawn-agent:latest"


def check(*services: str) -> subprocess.CompletedProcess[str]:
    done = command(*SIDESPAWN, "check", "--json", *services, check=False)
    assert "Traceback" not in done.stderr
    return done


def findings(subject: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the findings by id: those without a subject, and those about this one."""
    found = json.loads(check().stdout)["host"]["findings"]
    return {each["id"]: each for each in found if each["subject"] in ("", subject)}


def spool_unit(service: Service) -> str:
    return f"sidespawn-spool@{service.name}.service"


def test_a_service_that_was_just_enabled_is_as_it_should_be(service: Service) -> None:
    found = json.loads(check().stdout)["host"]["findings"]
    lacking = {f"{each}-controller" for each in ("memory", "pids") if each not in controllers()}
    # Other findings about this machine are left out; docs/operating.md has them.
    own = {"kernel", "systemd", "python", "podman", "units", "spool-mounts", "mount-namespace", "agents", "leftovers"}
    states = {each["id"]: each["state"] for each in found}
    assert {each: states[each] for each in own} == dict.fromkeys(own, "ok")
    assert {each for each in ("memory-controller", "pids-controller") if states[each] == "warning"} == lacking


def test_a_service_of_the_host_says_what_the_host_lacks(service: Service) -> None:
    """For one service it also lists these findings, each once, and omits what is fine."""
    (summary,) = json.loads(check(service.name).stdout)
    for controller in ("memory", "pids"):
        said = [each for each in summary["warnings"] if f"no {controller} controller" in each]
        assert len(said) == (controller not in controllers())
    assert not [each for each in summary["warnings"] if "openat2" in each or "units" in each]


@pytest.mark.parametrize("option", ["PrivateTmp=yes", "ProtectHome=yes"])
def test_an_operators_option_that_hides_the_directories_is_reported(
    service: Service, drop_in: DropIn, option: str
) -> None:
    drop_in(spool_unit(service), option)
    path = INSTALLED / f"{spool_unit(service)}.d" / "test.conf"
    found = findings(service.name)["spool-mounts"]
    assert (found["state"], "when it is started again" in found["found"]) == ("warning", True)
    restart(service, before=path)
    done = check()
    assert done.returncode == UNSUITABLE
    found = findings(service.name)["spool-mounts"]
    assert found["state"] == "problem"
    assert f"{spool_unit(service)} is active, but the host has no mount at {service.places.home}" in found["found"]
    assert f"{option} in {path} gives it a private mount namespace: the host does not see" in found["message"]
    assert found["hint"].startswith(
        f"remove {option.partition('=')[0]}= from {path}; systemctl daemon-reload; systemctl"
    )
    assert f"{option} in {path}" in " ".join(json.loads(check(service.name).stdout)[0]["warnings"])
    # And its advice is sufficient.
    path.write_text("[Service]\nNice=5\n")
    command("systemctl", "daemon-reload")
    command("systemctl", "restart", spool_unit(service))
    assert findings(service.name)["spool-mounts"]["state"] == "ok"
    assert service.network().start().returncode == 0


def restart(service: Service, before: Path) -> None:
    """Restart as after a boot: nothing is mounted, and the options in this file hold from the start."""
    text = before.read_text()
    before.write_text("")
    command("systemctl", "daemon-reload")
    command("systemctl", "stop", spool_unit(service))
    before.write_text(text)
    command("systemctl", "daemon-reload")
    units = (f"sidespawn@{service.name}.{kind}" for kind in ("socket", "timer"))
    command("systemctl", "start", spool_unit(service), *units)


def test_a_running_process_that_cannot_see_the_pins_is_reported(service: Service, drop_in: DropIn) -> None:
    service.wait_until_idle()
    drop_in(service.unit, "PrivateTmp=yes")
    assert "will run in a private mount namespace" in findings(service.name)["mount-namespace"]["found"]
    seen: list[Any] = []

    def is_reported() -> bool:
        """Look without the command, since the service may end before the command has looked; ring until it is seen."""
        with service.places.doorbell.open("w") as doorbell:
            doorbell.write("\n")
        facts = mount_namespaces.look({service.name: "systemd"}, units.loaded([service.name]), 0)
        (found,) = (each for each in mount_namespaces.judge(facts) if each.id == "mount-namespace")
        seen.append(found)
        return found.found == f"{service.unit} runs in a private mount namespace"

    wait_until(is_reported, patience=30)
    assert seen[-1].state == "problem"
    assert "PrivateTmp=yes in" in seen[-1].message


def test_unmounted_directories_are_reported(service: Service) -> None:
    command("umount", "--lazy", str(service.places.replies))
    found = findings(service.name)["spool-mounts"]
    assert (found["state"], str(service.places.replies) in found["found"]) == ("warning", True)
    command("umount", "--lazy", str(service.places.spool))
    found = findings(service.name)["spool-mounts"]
    assert (found["state"], "unmounted" in found["message"]) == ("problem", True)
    command("systemctl", "restart", spool_unit(service))
    assert findings(service.name)["spool-mounts"]["state"] == "ok"


# Values in effect, if this systemd knows the option.
VALUES = {
    "ProtectProc": "invisible", "ProcSubset": "pid", "MountFlags": "slave", "LogNamespace": "test",
    "IPCNamespacePath": "/proc/1/ns/ipc", "NetworkNamespacePath": "/proc/1/ns/net",
    **dict.fromkeys(("RootDirectory", "ReadWritePaths", "ReadOnlyPaths", "ExecPaths", "BindPaths"), "/usr"),
    **dict.fromkeys(("InaccessiblePaths", "NoExecPaths", "TemporaryFileSystem", "BindReadOnlyPaths"), "/mnt"),
}  # fmt: skip
NEED_AN_IMAGE = {"RootImage", "MountImages", "ExtensionImages", "ExtensionDirectories"}


@pytest.mark.parametrize(
    "option", sorted({*mount_namespaces.IMPLYING, *mount_namespaces.SINCE, "PrivateUsers"} - NEED_AN_IMAGE)
)
def test_the_options_are_those_that_give_a_mount_namespace_in_this_version(option: str) -> None:
    setting = f"--property={option}={VALUES.get(option, 'yes')}"
    done = command(
        "systemd-run", "--quiet", "--wait", "--pipe", setting, "/bin/readlink", "/proc/self/ns/mnt", check=False
    )
    if "Unknown assignment" in done.stderr:
        return
    assert done.returncode == 0, done.stderr
    has_one = done.stdout.strip() != str(Path("/proc/1/ns/mnt").readlink())
    options = {option: mount_namespaces.Option(name=option, value=VALUES.get(option, "yes"), path="")}
    assert bool(mount_namespaces.implying(options, service_manager.look().number)) == has_one


# ---------------------------------------------------------------- units, interpreters, leftovers


def test_a_stopped_socket_is_reported(service: Service) -> None:
    command("systemctl", "stop", f"sidespawn@{service.name}.socket")
    found = findings(service.name)["service-units"]
    assert (found["state"], f"sidespawn@{service.name}.socket is inactive" in found["found"]) == ("problem", True)
    command("systemctl", "start", f"sidespawn@{service.name}.socket")
    assert "service-units" not in findings(service.name)


def test_a_missing_interpreter_is_reported_until_the_units_are_renewed(service: Service) -> None:
    """Upgrades of the host's Python can cause this."""
    unit = INSTALLED / "sidespawn@.service"
    before = unit.read_text()
    python = before.partition("ExecStart=")[2].split()[0]
    unit.write_text(before.replace(python, "/usr/bin/python3.0"))
    found = findings("/usr/bin/python3.0")["python"]
    assert (found["state"], found["found"]) == ("problem", f"{unit} names /usr/bin/python3.0, which does not exist")
    assert "sidespawn enable" in found["hint"]
    assert findings()["daemon-reload"]["state"] == "warning"
    service.enable()
    assert unit.read_text() == before
    assert findings(python)["python"]["state"] == "ok"
    assert "daemon-reload" not in findings()


@contextmanager
def removed_afterwards(*paths: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for path in paths:
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)


def test_leftovers_of_others_are_reported(service: Service) -> None:
    link = INSTALLED / "multi-user.target.wants/sidespawn@no-such.socket"
    old, drop_ins, home = INSTALLED / "sidespawn-old@.path", INSTALLED / "sidespawn@no-such.service.d", RUN / "no-such"
    with removed_afterwards(link, old, drop_ins, home):
        link.symlink_to(INSTALLED / "sidespawn@.socket")
        old.write_text("[Path]\n")
        drop_ins.mkdir()
        home.mkdir()
        found = findings("no-such") | findings(str(old))
    expected = {"leftover-links", "leftover-drop-ins", "leftover-directories", "unit-files"}
    assert {each: found[each]["state"] for each in expected} == dict.fromkeys(expected, "warning")
    assert found["unit-files"]["hint"].startswith(f"rm {old}")
    assert findings()["leftovers"]["state"] == "ok"


def test_a_unit_file_that_overrides_the_packages_is_reported(service: Service) -> None:
    packaged = Path("/usr/local/lib/systemd/system/sidespawn@.timer")
    packaged.parent.mkdir(parents=True, exist_ok=True)
    with removed_afterwards(packaged):
        packaged.write_text((INSTALLED / packaged.name).read_text())
        found = findings(str(INSTALLED / packaged.name))["unit-files"]
    assert found["found"] == f"{INSTALLED / packaged.name} hides {packaged}"


# ---------------------------------------------------------------- agents


@contextmanager
def agent(service: Service, *options: str) -> Iterator[None]:
    name = f"agent-{service.name}"
    mount = f"--volume={service.places.spool}:{service.places.spool}:rw,rprivate"
    command("podman", "run", "--detach", "--network=none", f"--name={name}", mount, *options, AGENT, "sleep", "600")
    try:
        yield
    finally:
        command("podman", "rm", "--force", "--time=0", name)


def test_an_agent_with_old_directories_is_reported(service: Service) -> None:
    with agent(service):
        found = findings(service.name)
        assert (found["agents"]["state"], found["agents"]["found"].split()[0]) == ("ok", "1")
        service.disable()
        service.enable("--preset=neutron-dhcp-dnsmasq", f"--set=state_on_host={service.state}")
        old = findings(service.name)["agent-mounts"]
        assert (old["state"], f"the agent of {service.name}" in old["found"]) == ("problem", True)
        assert old["hint"] == "restart the agent"
    with agent(service):
        assert findings(service.name)["agents"]["state"] == "ok"
