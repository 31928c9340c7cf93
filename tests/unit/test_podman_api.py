"""podman's API: what it is asked, and what happens if it does not answer."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidespawn.core.plan import Plan, Script
from sidespawn.engines import NameTaken, Other, api, get_engine, podman, podman_api
from sidespawn.engines.podman import Podman
from sidespawn.engines.podman_api import PAUSE, TRIES, PodmanApi
from sidespawn.errors import LaunchError, Reason
from sidespawn.loading.parse import CAPABILITIES
from sidespawn.system.places import Places
from sidespawn.system.processes import Output
from sidespawn.testing.agent import CAPABILITY_NAMES
from tests.unit.small import NET
from tests.unit.test_docker import Daemon, answer
from tests.unit.test_podman import ID, PINS, PLAN

pytestmark = pytest.mark.usefixtures("a_host")
RUNS = answer(200, {"Id": "abc", "State": {"Status": "running", "Pid": 42}})
CREATED = answer(201, {"Id": "abc", "Warnings": []})
ENDED = b""  # what is read if podman ended before it answered
RESULT = ("abc", 42)
REQUIRE = podman_api.require  # before the fixture replaces it


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PodmanApi:
    monkeypatch.setattr(podman, "confirmed", lambda pid, container: pid)
    monkeypatch.setattr(podman_api, "require", lambda capabilities, pid, unit: None)
    made = PodmanApi("small")
    made.api = replace(made.api, path=str(tmp_path / "podman.sock"))
    return made


@pytest.fixture
def daemon(engine: PodmanApi) -> Iterator[Daemon]:
    daemon = Daemon(Path(engine.api.path))
    yield daemon
    daemon.stop()


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record containers whose processes were ended, and units that were killed."""
    found: list[str] = []

    def run(argv: tuple[str, ...], _timeout: float) -> Output:
        found.append(argv[-1])
        return Output(0, "", "")

    monkeypatch.setattr(podman_api, "end_container", lambda service, container: found.append(container))
    monkeypatch.setattr(podman_api, "run", run)
    monkeypatch.setattr(podman, "run", run)
    return found


def error(cause: str, status: int = 500) -> bytes:
    return answer(status, {"cause": cause, "message": f"podman says: {cause}", "response": status})


def body(plan: Plan = PLAN, **pins: Any) -> dict[str, Any]:
    method, path, text = PodmanApi("small").describe(plan, replace(PINS, **pins), ID)
    assert (method, path) == ("POST", "/containers/create")
    described: dict[str, Any] = json.loads(text)
    return described


# ---------------------------------------------------------------- what it is asked


def test_a_side_container_gets_what_the_plan_says_and_nothing_else() -> None:
    assert body() == {
        "name": f"small_{NET}",
        "image": "localhost/tool:1",
        "entrypoint": ["/usr/sbin/tool"],
        "command": list(PLAN.arguments),
        "env": {"TAG": f"tool-{NET}"},
        "unsetenvall": True,
        "env_host": False,
        "httpproxy": False,
        "user": "1000:1000",
        "manage_password": False,
        "umask": "0022",
        "work_dir": "/",
        "labels": {
            "io.sidespawn.service": "small",
            "io.sidespawn.instance": NET,
            "io.sidespawn.netns": f"ns-{NET}",
            "io.sidespawn.request": ID,
            "io.sidespawn.plan": PLAN.digest,
        },
        "restart_policy": "no",
        "systemd": "false",
        "sdnotifyMode": "ignore",
        "healthconfig": {"Test": ["NONE"]},
        "log_configuration": {"driver": "journald"},
        "init": False,
        "cgroups_mode": "enabled",
        "oom_score_adj": 0,
        "privileged": False,
        "netns": {"nsmode": "path", "value": "/pins/1.netns"},
        **{kind: {"nsmode": "private"} for kind in ("pidns", "ipcns", "utsns", "cgroupns")},
        "userns": {"nsmode": "host"},
        "cap_drop": ["all"],
        "cap_add": ["NET_ADMIN", "NET_RAW"],
        "no_new_privileges": True,
        "read_only_filesystem": True,
        "read_write_tmpfs": False,
        "shm_size": 65536,
        "mounts": [
            {
                "destination": "/run/tool",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["rw", "nosuid", "nodev", "noexec", "size=64k", "mode=1777"],
            },
            {
                "destination": f"/state/{NET}",
                "type": "bind",
                "source": "/pins/1.mount0",
                "options": ["rw", "rprivate", "nosuid", "nodev", "noexec"],
            },
            {
                "destination": "/state/tool.conf",
                "type": "bind",
                "source": "/snapshots/1.0",
                "options": ["ro", "rprivate", "nosuid", "nodev", "noexec"],
            },
        ],
        "image_volume_mode": "ignore",
        "use_image_hosts": True,
        "r_limits": [
            {"type": "nofile", "hard": 1024, "soft": 1024},
            {"type": "core", "hard": 0, "soft": 0},
            {"type": "nproc", "hard": 63311, "soft": 63311},
        ],
        "resource_limits": {"pids": {"limit": 8}, "memory": {"limit": 67108864, "swap": 67108864}},
        "cgroup_parent": "sidespawn-small.slice",
    }


def test_arguments_are_values_and_never_anything_else() -> None:
    hostile = ("--privileged", "$HOME", "%h", "a\nb", '"', "a,b", "", "é")
    assert body(replace(PLAN, arguments=hostile)) == body() | {
        "command": list(hostile),
        "labels": body(replace(PLAN, arguments=hostile))["labels"],
    }


def test_a_script_can_be_executed_and_every_mount_is_pinned() -> None:
    plan = replace(PLAN, scripts=(Script(path="/run/tools/ip", text="#!/bin/sh\n"),))
    mount = body(plan, scripts=(Path("/snapshots/1.1"),))["mounts"][-1]
    assert (mount["source"], mount["options"]) == ("/snapshots/1.1", ["ro", "rprivate", "nosuid", "nodev"])
    for pins in ({}, {"mounts": ()}, {"configuration": ()}):
        with pytest.raises(ValueError, match="zip"):
            body(plan, **pins)


def test_the_hosts_network_is_given_only_where_the_plan_says_so() -> None:
    assert body(replace(PLAN, netns="", host_network=True))["netns"] == {"nsmode": "host"}


def test_profiles_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"apparmor_profile", "seccomp_profile_path", "selinux_opts"} & body().keys()
    monkeypatch.setattr(podman_api, "system_calls", lambda service: f"/run/{service}.json")
    monkeypatch.setattr(podman_api, "domain", lambda service: ("type:x", "level:s0"))
    described = body(replace(PLAN, apparmor="sidespawn-side-container"))
    assert described["apparmor_profile"] == "sidespawn-side-container"
    assert described["seccomp_profile_path"] == "/run/small.json"
    assert described["selinux_opts"] == ["type:x", "level:s0"]


def test_limits_that_the_host_cannot_enforce_are_not_asked_for(a_host: Path) -> None:
    (a_host / "controllers").write_text("cpu\n")
    (a_host / "limits").write_text("Max processes  unlimited  unlimited  processes\n")
    assert body()["resource_limits"] == {"pids": {"limit": 0}}
    assert body()["r_limits"][-1] == {"type": "nproc", "hard": 2**64 - 1, "soft": 2**64 - 1}


def test_it_is_used_where_its_socket_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(get_engine("podman", "small")) is Podman
    monkeypatch.setattr(Places, "__init__", lambda self, service: setattr(self, "podman", tmp_path))
    assert type(get_engine("podman", "small")) is PodmanApi


# ---------------------------------------------------------------- a start


def test_a_start(engine: PodmanApi, daemon: Daemon, ended: list[str]) -> None:
    daemon.answers = [CREATED, answer(204), RUNS]
    assert engine.start(PLAN, PINS, ID) == RESULT
    assert daemon.asked == [
        "POST /v4.0.0/libpod/containers/create",
        "POST /v4.0.0/libpod/containers/abc/start",
        "GET /v4.0.0/libpod/containers/abc/json",
    ]
    assert ended == []


def test_a_program_that_ended_at_once_has_no_pid(engine: PodmanApi, daemon: Daemon, ended: list[str]) -> None:
    daemon.answers = [CREATED, answer(204), answer(200, {"State": {"Status": "exited", "Pid": 42}})]
    assert engine.start(PLAN, PINS, ID) == ("abc", 0)


def test_a_pid_that_another_process_has_by_now_is_not_the_programs(
    engine: PodmanApi, daemon: Daemon, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """podman says what conmon told it; the process may have ended since."""
    monkeypatch.setattr(podman, "confirmed", api.confirmed)
    other = {"Status": "running", "Pid": os.getpid(), "OOMKilled": False, "ExitCode": 0}
    daemon.answers = [CREATED, answer(204), answer(200, {"State": other})]
    assert engine.start(PLAN, PINS, ID) == ("abc", 0)
    daemon.answers = [answer(200, container("running", os.getpid())), answer(200, [row("abc", os.getpid())])]
    found = engine.find("small_x")
    assert found is not None
    assert found.pid is None
    assert [each.pid for each in engine.list("small")] == [None]


@pytest.mark.parametrize(
    ("state", "pid"),
    [("running", 42), ("paused", 42), ("stopping", 42), ("initialized", None), ("created", None), ("exited", None)],
)
def test_a_container_is_the_same_alone_and_in_a_list(
    engine: PodmanApi, daemon: Daemon, state: str, pid: int | None
) -> None:
    daemon.answers = [answer(200, container(state, 42)), answer(200, [row("abc", 42, state)])]
    found = engine.find("small_x")
    assert found is not None
    assert [found.pid, *(each.pid for each in engine.list("small"))] == [pid, pid]


# ---------------------------------------------------------------- capabilities that the unit lacks


def test_a_start_without_a_capability_of_the_plan_is_undone_and_reported(
    engine: PodmanApi, daemon: Daemon, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Report what the runtime would leave out without a word, because podman's unit lacks it."""
    bounds = {b"PPid:": [b"41"], b"CapBnd:": [b"%x" % (1 << 13)]}  # NET_RAW alone
    monkeypatch.setattr(podman_api, "require", REQUIRE)
    monkeypatch.setattr(podman_api, "status_of", lambda pid, field: bounds[field])
    daemon.answers = [CREATED, answer(204), RUNS, answer(200, [])]
    with pytest.raises(LaunchError, match="cannot give the side container NET_ADMIN: ") as caught:
        engine.start(PLAN, PINS, ID)
    assert caught.value.reason is Reason.ENGINE_FAILED
    assert "sidespawn enable" in caught.value.hint
    assert ended == ["abc"]


def test_each_capability_that_a_policy_can_give_is_known_by_its_bit() -> None:
    assert {name: CAPABILITY_NAMES.index(name) for name in CAPABILITIES} == podman_api.BITS


def test_a_program_that_has_ended_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    REQUIRE(("NET_ADMIN",), 2**22 + 1, "x")  # beyond the largest pid
    monkeypatch.setattr(podman_api, "status_of", lambda pid, field: [])
    REQUIRE(("NET_ADMIN",), 1, "x")


@pytest.mark.parametrize(
    "cause", ['the container name "x" is already in use by 1: that name is already in use', "container already exists"]
)
def test_a_name_that_is_taken(engine: PodmanApi, daemon: Daemon, cause: str) -> None:
    daemon.answers = [error(cause)]
    with pytest.raises(NameTaken):
        engine.start(PLAN, PINS, ID)


@pytest.mark.parametrize(
    ("answers", "reason", "said"),
    [
        ([error("image not known")], Reason.IMAGE_MISSING, "the host has no image"),
        ([error("no such image", 404)], Reason.IMAGE_MISSING, "the host has no image"),
        ([error("no such file or directory")], Reason.ENGINE_FAILED, "podman create ended with 500"),
        ([CREATED, error("not \x1b[2J found")], Reason.ENGINE_FAILED, "podman start ended with 500"),
    ],
)
def test_a_failed_start_says_why(
    engine: PodmanApi, daemon: Daemon, ended: list[str], answers: list[bytes], reason: Reason, said: str
) -> None:
    daemon.answers = list(answers)
    with pytest.raises(LaunchError, match=said) as caught:
        engine.start(PLAN, PINS, ID)
    assert caught.value.reason is reason
    assert caught.value.message.isprintable()
    assert ended == (["abc"] if len(answers) == 2 else [])


# ---------------------------------------------------------------- podman ends halfway


ASKED_TWICE = error(
    f"crun: sd-bus call: Unit libpod-{'a' * 64}.scope was already loaded or has a fragment file.: File exists: "
    "OCI runtime error"
)


@pytest.mark.parametrize("failed", [ENDED, ASKED_TWICE])
def test_a_start_that_was_not_answered_is_undone_and_done_again(
    engine: PodmanApi, daemon: Daemon, ended: list[str], failed: bytes
) -> None:
    """Undo and repeat what podman did not answer, or PID 1 when the runtime asked it for a control group."""
    again = answer(201, {"Id": "def"})
    daemon.answers = [CREATED, failed, answer(200, []), answer(200, []), again, answer(204), RUNS]
    assert engine.start(PLAN, PINS, ID) == ("def", 42)
    assert ended == ["abc"]
    assert [each.removeprefix("DELETE ").partition("?")[0] for each in daemon.asked if each.startswith("DELETE")] == [
        "/v4.0.0/libpod/containers/abc"
    ]


def test_a_program_that_a_killed_podman_left_is_ended_when_its_container_is_removed(
    engine: PodmanApi, daemon: Daemon, ended: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(podman_api, "slice_path", lambda service: tmp_path / service)
    (tmp_path / "small/libpod-abc.scope").mkdir(parents=True)
    daemon.answers = [ENDED, answer(200, [{"Id": "abc", "Err": None}])]
    engine.remove("small_a")
    daemon.answers = [answer(200, [{"Id": "def", "Err": None}])]
    engine.remove("small_b")
    assert ended == ["abc"]


def test_a_start_without_a_reported_pid_is_undone(engine: PodmanApi, daemon: Daemon, ended: list[str]) -> None:
    """Incomplete answers count as none."""
    daemon.answers = [CREATED, answer(204), b'HTTP/1.0 200 OK\r\n\r\n{"Id": "a', RUNS]
    assert engine.start(PLAN, PINS, ID) == RESULT
    assert ended == []


def test_what_is_asked_twice_without_harm_is_asked_again(engine: PodmanApi, daemon: Daemon) -> None:
    daemon.answers = [ENDED, ENDED, CREATED, answer(204), RUNS]
    assert engine.start(PLAN, PINS, ID) == RESULT
    daemon.answers = [ENDED] * TRIES
    with pytest.raises(LaunchError, match="podman ended before it answered") as caught:
        engine.rows()
    assert caught.value.reason is Reason.ENGINE_FAILED
    assert daemon.answers == []


@pytest.mark.parametrize("cause", ["is already in use", "container already exists"])
def test_what_an_unanswered_request_may_have_made_has_the_name(engine: PodmanApi, daemon: Daemon, cause: str) -> None:
    """Leave it to the launch, which frees the name, whichever list of podman has it."""
    daemon.answers = [ENDED, error(cause)]
    with pytest.raises(NameTaken):
        engine.start(PLAN, PINS, ID)


def test_an_answer_that_is_too_long_is_a_failure_and_not_asked_for_again(
    engine: PodmanApi, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "ANSWER_BYTES", 1000)
    daemon.answers = [answer(200, [{"Command": ["x" * 1000]}])]
    with pytest.raises(LaunchError, match=r"answers GET .* with more than 1000 bytes") as caught:
        engine.rows()
    assert caught.value.reason is Reason.ENGINE_FAILED
    assert len(daemon.asked) == 1


def test_a_start_during_which_podman_ends_each_time_fails(engine: PodmanApi, daemon: Daemon, ended: list[str]) -> None:
    daemon.answers = [CREATED, ENDED, answer(200, []), answer(200, [])] * TRIES
    with pytest.raises(LaunchError, match="podman ended before it answered"):
        engine.start(PLAN, PINS, ID)
    assert ended == ["abc"] * TRIES


@contextmanager
def rejecting(path: str) -> Iterator[list[str]]:
    """Close each connection unread, as systemd does after podman has ended (FlushPending=yes), and count them."""
    found: list[str] = []
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def serve() -> None:
        with suppress(OSError):  # shut down
            while True:
                listening.accept()[0].close()
                found.append("rejected")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield found
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        listening.close()


def test_a_podman_that_cannot_start_is_a_failure_and_not_a_timeout(engine: PodmanApi, ended: list[str]) -> None:
    with rejecting(engine.api.path) as rejected, pytest.raises(LaunchError, match="podman ended before it") as caught:
        engine.start(PLAN, PINS, ID)
    assert caught.value.reason is Reason.ENGINE_FAILED
    assert caught.value.hint == "see: journalctl --unit=sidespawn-podman@small.service"
    assert len(rejected) == TRIES
    assert ended == []


def test_a_podman_that_hangs_is_killed(engine: PodmanApi, ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman, "QUERY_TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(engine.api.path)
        listening.listen()
        with pytest.raises(LaunchError, match="took more than") as caught:
            engine.find("x")
    assert caught.value.reason is Reason.ENGINE_TIMEOUT
    assert "sidespawn-podman@small.service" in caught.value.hint
    assert ended == ["sidespawn-podman@small.service"]


def test_without_its_socket_it_says_where_it_looked(engine: PodmanApi) -> None:
    with pytest.raises(LaunchError, match=r"podman\.sock: No such file or directory"):
        engine.find("x")


@pytest.mark.parametrize("refused", [False, True], ids=["missing", "refused"])
def test_a_socket_that_systemd_restarts_is_waited_for(engine: PodmanApi, refused: bool) -> None:
    """Ask again while systemd restarts the unit that an operator changed."""
    if refused:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(engine.api.path)  # no one listens
    made: list[Daemon] = []

    def make() -> None:
        Path(engine.api.path).unlink(missing_ok=True)
        made.append(Daemon(Path(engine.api.path)))
        made[0].answers = [answer(200, [])]

    timer = threading.Timer(PAUSE * 2.5, make)
    timer.start()
    try:
        assert engine.rows() == []
    finally:
        timer.join()
        made[0].stop()


# ---------------------------------------------------------------- what exists


def container(state: str, pid: int = 0) -> dict[str, Any]:
    said = {"Running": state == "running", "Pid": pid, "Status": state, "OOMKilled": False, "ExitCode": 0}
    return {"Id": "abc", "Name": "small_x", "Config": {"Labels": {}}, "State": said}


def test_a_container_is_found_or_not(engine: PodmanApi, daemon: Daemon) -> None:
    daemon.answers = [answer(200, container("running", 42)), error("no such container", 404)]
    found = engine.find("small_x")
    assert found is not None
    assert (found.id, found.name, found.pid, found.state) == ("abc", "small_x", 42, "running")
    assert engine.find("a b/..") is None
    assert daemon.asked[-1] == "GET /v4.0.0/libpod/containers/a%20b%2F../json"


def test_one_that_only_one_of_podmans_lists_has_is_not_there(engine: PodmanApi, daemon: Daemon) -> None:
    daemon.answers = [error("container not known")]
    assert engine.find("x") is None


def row(name: str, pid: int, state: str = "running", **more: Any) -> dict[str, Any]:
    return {"Id": name, "Names": [name], "Image": "i", "Pid": pid, "State": state, "Labels": {}, "ExitCode": 0} | more


def test_lists(engine: PodmanApi, daemon: Daemon) -> None:
    daemon.answers = [answer(200, [row("a", 1), row("b", 0, "exited")])]
    assert [(each.name, each.pid) for each in engine.list("small")] == [("a", 1), ("b", None)]
    wanted = "%7B%22label%22%3A%20%5B%22io.sidespawn.service%3Dsmall%22%5D%7D"
    assert daemon.asked == [f"GET /v4.0.0/libpod/containers/json?all=true&filters={wanted}"]
    ours = row("c", 5, Labels={"io.sidespawn.service": "small"})
    daemon.answers = [answer(200, [row("a", 1), row("b", 0, "exited"), ours])]
    assert engine.others() == (Other(id="a", name="a", image="i", pid=1),)


def test_removing(engine: PodmanApi, daemon: Daemon, ended: list[str]) -> None:
    shm = error("unmounting /var/lib/x/userdata/shm: device or resource busy")
    daemon.answers = [answer(200, []), error("no such container", 404), shm, answer(200, [])]
    for _ in range(3):
        engine.remove("x")
    assert ended == ["/var/lib/x/userdata/shm"]  # unmounted
    daemon.answers = [error("improper state"), error("improper state")]
    with pytest.raises(LaunchError, match="improper state"):
        engine.remove("x")


def test_recovery_ends_the_podman_that_a_killed_run_had_asked_and_removes_what_it_made(
    engine: PodmanApi, daemon: Daemon, ended: list[str]
) -> None:
    rows = [row("a", 1), row("b", 0, "created"), row("c", 0, "exited")]
    daemon.answers = [answer(200, rows), answer(200, rows), answer(200, [])]
    engine.reap("small")
    assert ended[0] == "sidespawn-podman@small.service"
    assert [each.partition("?")[0] for each in daemon.asked if each.startswith("DELETE")] == [
        "DELETE /v4.0.0/libpod/containers/b"
    ]
