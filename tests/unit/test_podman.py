"""podman's command line has all that a side container gets; nothing that an agent wrote is read as an option."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.core.plan import ConfigurationFile, Plan, Script
from sidespawn.engines import Other, Pins, get_engine, podman
from sidespawn.engines.control_groups import slice_name
from sidespawn.engines.podman import PODMAN, Podman
from sidespawn.errors import LaunchError
from sidespawn.system.processes import Output
from tests.unit.small import NET
from tests.unit.test_plan import PLAN as PLAIN

ID = "0" * 32
PLAN = replace(
    PLAIN,
    environment=(("TAG", f"tool-{NET}"),),
    configuration=(ConfigurationFile(path="/state/tool.conf", beneath="tool.conf", rules="extra", text=""),),
)
pytestmark = pytest.mark.usefixtures("a_host")
PINS = Pins(
    netns=Path("/pins/1.netns"),
    pid_file=Path("/pins/1.pid"),
    mounts=(Path("/pins/1.mount0"),),
    configuration=(Path("/snapshots/1.0"),),
)


def describe(plan: Plan = PLAN, pins: Pins = PINS) -> tuple[str, ...]:
    return Podman().describe(plan, pins, ID)


def split(plan: Plan = PLAN) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return podman's own options, and the arguments after the image."""
    command = describe(plan)
    at = command.index(plan.image)
    return command[2:at], command[at + 1 :]


def test_the_whole_command() -> None:
    """Check that it disables by name what containers.conf or the image could enable to widen access."""
    assert describe() == (
        "/usr/bin/podman",
        "run",
        "--hooks-dir=/run/sidespawn-podman",
        "--default-mounts-file=/dev/null",
        "--detach",
        f"--name=small_{NET}",
        "--pull=never",
        "--restart=no",
        "--replace=false",
        "--pidfile=/pins/1.pid",
        "--cidfile=/pins/1.cid",
        "--network=ns:/pins/1.netns",
        "--pid=private",
        "--ipc=private",
        "--uts=private",
        "--cgroupns=private",
        "--userns=host",
        "--privileged=false",
        "--init=false",
        "--cgroups=enabled",
        "--oom-score-adj=0",
        "--env-host=false",
        "--cap-drop=all",
        "--cap-add=NET_ADMIN",
        "--cap-add=NET_RAW",
        "--security-opt=no-new-privileges",
        "--read-only",
        "--read-only-tmpfs=false",
        "--shm-size=64k",
        "--tmpfs=/run/tool:rw,nosuid,nodev,noexec,size=64k,mode=1777",
        "--image-volume=ignore",
        "--no-hosts",
        "--http-proxy=false",
        "--systemd=false",
        "--sdnotify=ignore",
        "--no-healthcheck",
        "--log-driver=journald",
        "--user=1000:1000",
        "--passwd=false",
        "--umask=0022",
        "--workdir=/",
        "--ulimit=nofile=1024:1024",
        "--ulimit=core=0:0",
        "--ulimit=nproc=63311:63311",
        "--pids-limit=8",
        "--memory=67108864",
        "--memory-swap=67108864",
        "--cgroup-parent=sidespawn-small.slice",
        "--label=io.sidespawn.service=small",
        f"--label=io.sidespawn.instance={NET}",
        f"--label=io.sidespawn.netns=ns-{NET}",
        f"--label=io.sidespawn.request={ID}",
        f"--label=io.sidespawn.plan={PLAN.digest}",
        "--unsetenv-all",
        f"--env=TAG=tool-{NET}",
        f"--mount=type=bind,src=/pins/1.mount0,dst=/state/{NET},rw,bind-propagation=rprivate,nosuid,nodev,noexec",
        "--mount=type=bind,src=/snapshots/1.0,dst=/state/tool.conf,ro,bind-propagation=rprivate,nosuid,nodev,noexec",
        "--entrypoint=/usr/sbin/tool",
        "localhost/tool:1",
        *PLAN.arguments,
    )


def test_a_plan_without_anything_gives_nothing() -> None:
    plan = replace(PLAN, capabilities=(), environment=(), mounts=(), configuration=(), scratch=())
    options = describe(plan, replace(PINS, mounts=(), configuration=()))
    assert not [each for each in options if each.startswith(("--cap-add", "--env=", "--mount", "--tmpfs", "--volume"))]
    assert {"--cap-drop=all", "--read-only", "--unsetenv-all", "--privileged=false"} <= set(options)


@pytest.mark.parametrize(
    "hostile",
    ["--privileged", "-v=/:/host", "--", "", "--entrypoint=/bin/sh", "localhost/tool:1", "a\nb", "$HOME", "%h", "-"],
    ids=ascii,
)
def test_arguments_follow_the_image_unchanged(hostile: str) -> None:
    options, arguments = split(replace(PLAN, arguments=(hostile, "x")))
    assert arguments == (hostile, "x")
    assert options == split()[0][: len(options)] or len(options) == len(split()[0])
    assert hostile not in options


def test_every_option_is_one_argument() -> None:
    """This way, no value is taken for an option, and no option for the image."""
    options, _ = split()
    assert all(each.startswith("--") for each in options)


def test_the_environment_is_given_with_values_and_never_imported() -> None:
    options, _ = split(replace(PLAN, environment=(("A", ""), ("B", "x=y z"))))
    assert [each for each in options if each.startswith("--env=")] == ["--env=A=", "--env=B=x=y z"]


def test_every_mount_is_pinned() -> None:
    with pytest.raises(ValueError, match="shorter"):
        describe(pins=replace(PINS, mounts=()))
    with pytest.raises(ValueError, match="shorter"):
        describe(pins=replace(PINS, configuration=()))


def test_where_the_host_has_no_controllers_no_limit_is_asked_for(a_host: Path) -> None:
    (a_host / "controllers").write_text("cpu\n")
    options, _ = split()
    assert "--pids-limit=0" in options
    assert not [each for each in options if each.startswith("--memory")]
    (a_host / "controllers").unlink()
    assert split()[0] == tuple(options)


def test_an_unlimited_host_stays_so(a_host: Path) -> None:
    (a_host / "limits").write_text("Max processes  unlimited  unlimited  processes\n")
    assert "--ulimit=nproc=-1:-1" in describe()


# ---------------------------------------------------------------- slices


@pytest.mark.parametrize(
    ("service", "expected"),
    [("a", "sidespawn-a.slice"), ("neutron-dhcp-dnsmasq", "sidespawn-neutron_dhcp_dnsmasq.slice")],
)
def test_slice_name(service: str, expected: str) -> None:
    assert slice_name(service) == expected


def test_no_two_services_share_a_slice() -> None:
    services = ["a", "a-b", "ab", "a--b", "a-b-c", "ab-c", "a-bc", "abc"]  # service names contain no underscore
    assert len({slice_name(each) for each in services}) == len(services)


def test_every_slice_is_directly_below_the_one_of_all() -> None:
    assert slice_name("a-b-c").count("-") == 1


# ---------------------------------------------------------------- podman itself agrees


def test_an_engine_is_got_by_its_name() -> None:
    assert isinstance(get_engine("podman", "small"), Podman)
    with pytest.raises(KeyError):
        get_engine("none", "small")


@pytest.mark.skipif(not Path(PODMAN).exists(), reason="needs podman")
def test_podman_knows_every_option() -> None:
    help_text = subprocess.run([PODMAN, "run", "--help"], capture_output=True, text=True, timeout=60, check=True)
    of_any_command = {"--default-mounts-file", "--hooks-dir"}  # the help of one does not show them
    for option in split()[0]:
        assert f"{option.partition('=')[0]} " in help_text.stdout or option.partition("=")[0] in of_any_command
    for option in (*of_any_command, "--not-an-option"):
        done = subprocess.run([PODMAN, "run", f"{option}=x", "--help"], capture_output=True, timeout=60, check=False)
        assert (done.returncode == 0) == (option in of_any_command)


# ---------------------------------------------------------------- containers of others


def test_others_are_those_without_our_label(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"Id": "1", "Names": ["a"], "Image": "i", "Pid": 2, "Labels": {"io.sidespawn.service": "x"}}
    other = {"Id": "3", "Names": ["b"], "Image": "j", "Pid": 4, "Labels": None}
    asked = []

    def fake_run(argv: tuple[str, ...], _timeout: float) -> Output:
        asked.append(argv)
        return Output(0, json.dumps([ours, other, {**other, "Pid": 0}]), "")

    monkeypatch.setattr(podman, "run", fake_run)
    assert Podman().others() == (Other(id="3", name="b", image="j", pid=4),)  # only running ones
    assert asked == [("/usr/bin/podman", "ps", "--all", "--format=json")]


def test_a_script_is_mounted_read_only_and_can_be_executed() -> None:
    plan = replace(PLAN, scripts=(Script(path="/run/tools/ip", text="#!/bin/sh\n"),))
    options = describe(plan, replace(PINS, scripts=(Path("/snapshots/1.1"),)))
    mount = "--mount=type=bind,src=/snapshots/1.1,dst=/run/tools/ip,ro,bind-propagation=rprivate,nosuid,nodev"
    assert mount in options
    with pytest.raises(ValueError, match="zip"):
        describe(plan)


def test_the_hosts_network_is_given_only_where_the_plan_says_so() -> None:
    assert "--network=ns:/pins/1.netns" in describe()
    options = describe(replace(PLAN, netns="", host_network=True))
    assert [each for each in options if each.startswith("--network")] == ["--network=host"]


def test_a_profile_of_the_policy_is_named() -> None:
    named = "--security-opt=apparmor=sidespawn-side-container"
    assert named in describe(replace(PLAN, apparmor="sidespawn-side-container"))
    assert not [each for each in describe() if "apparmor" in each]


def test_a_container_that_ends_while_it_is_removed_is_still_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = "Error: sending SIGKILL to container x: container state improper: stopped"
    answers = [Output(2, "", ending), Output(0, "", "")]
    monkeypatch.setattr(podman, "run", lambda argv, timeout: answers.pop(0))
    Podman().remove("x")
    assert answers == []


def torn(pid: int) -> dict[str, object]:
    return {"Id": ID, "Names": ["small_x"], "Pid": pid, "State": "exited", "Labels": None, "ExitCode": 0}


def answer_with(monkeypatch: pytest.MonkeyPatch, row: dict[str, object]) -> None:
    def answer(argv: tuple[str, ...], _timeout: float) -> Output:
        if argv[1] == "ps":
            return Output(0, json.dumps([row]), "")
        return Output(125, "", 'Error: getting graph driver info "x": readlink /overlay: invalid argument')

    monkeypatch.setattr(podman, "run", answer)


def test_a_container_whose_store_is_torn_is_found_as_one_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power failure, a start would otherwise fail instead of removing it."""
    answer_with(monkeypatch, torn(0))
    found = Podman().find("small_x")
    assert found is not None
    assert (found.id, found.name, found.pid) == (ID, "small_x", None)


@pytest.mark.parametrize(("name", "pid"), [("small_x", 4711), ("small_y", 0)], ids=["it runs", "another"])
def test_any_other_trouble_is_reported(monkeypatch: pytest.MonkeyPatch, name: str, pid: int) -> None:
    answer_with(monkeypatch, torn(pid))
    with pytest.raises(LaunchError, match="invalid argument"):
        Podman().find(name)


@pytest.mark.parametrize(
    ("oom_killed", "exit_code", "told", "ran_out"),
    [
        pytest.param(True, 137, "", True, id="podman knows"),
        pytest.param(False, 137, "libpod-abc.scope: A process of this unit has been killed", True, id="systemd knows"),
        pytest.param(False, 137, "", False, id="killed by a signal"),
        pytest.param(False, 143, "of another program", False, id="ended otherwise"),
    ],
)
def test_systemd_is_asked_about_kills_that_podman_did_not_see(
    monkeypatch: pytest.MonkeyPatch, oom_killed: bool, exit_code: int, told: str, ran_out: bool
) -> None:
    asked = []

    def journal(argv: tuple[str, ...], _timeout: float) -> Output:
        asked.append(argv)
        return Output(0, told, "")

    monkeypatch.setattr(podman, "run", journal)
    state = {"OOMKilled": oom_killed, "ExitCode": exit_code}
    assert podman.ran_out_of_memory({"Id": "abc", "State": state}) is ran_out
    # Only PID 1 can send what is believed.
    assert all({"_PID=1", "UNIT=libpod-abc.scope"} < set(argv) for argv in asked)


def test_without_a_journal_a_kill_has_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman, "JOURNALCTL", "/nonexistent/journalctl")
    assert not podman.ran_out_of_memory({"Id": "abc", "State": {"OOMKilled": False, "ExitCode": 137}})
